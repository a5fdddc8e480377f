"""Photos without labels from each kind of place, and which places are refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from train.__main__ import main
from train.data.sources import Source, find_photos
from train.data.splits import find_splits, unlabelled
from train.data.store import Whole, in_memory
from train.errors import TrainError
from train.recipe import Data, MoreData


def photo(shade: int) -> bytes:
    """A PNG of one grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (shade,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def shades(found: list[Source]) -> list[int]:
    """The greys of photos, decoded."""
    return in_memory(unlabelled(found), Whole(8)).pixels[:, 0, 0, 0].tolist()


def pack(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar of these members."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_folder__is_searched_to_any_depth(tmp_path: Path) -> None:
    for name, shade in (("a.png", 10), ("x/b.PNG", 20), ("x/y/c.png", 30)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(shade))
    (tmp_path / "notes.txt").write_text("no photo")
    assert shades(find_photos(tmp_path)) == [10, 20, 30]


def test_folder__thumbnails_and_other_junk_are_skipped(tmp_path: Path) -> None:
    for name, shade in (("a.jfif", 10), ("@eaDir/a.png", 20), (".thumbnails/a.png", 30), ("._a.png", 40)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(shade))
    (tmp_path / "folder.png").mkdir()
    assert shades(find_photos(tmp_path)) == [10]


def test_folder__that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "locked/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photo(10))
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(TrainError, match=r"locked' cannot be read \(Permission denied\)"):
        find_photos(tmp_path)


def test_tar__is_read_in_place(tmp_path: Path) -> None:
    members = [("0001.png", photo(10)), ("0001.cls", b"3"), ("deep/0002.png", photo(20)), ("0002.json", b"{}")]
    found = find_photos(pack(tmp_path / "shard.tar", members))
    assert shades(found) == [10, 20]
    assert [source.name for source in found] == ["0001.png", "0002.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["shard.tar"]


def test_tar__links_and_devices_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
    with pytest.raises(TrainError, match="holds no photos"):
        find_photos(path)


def test_tar__names_that_climb_and_members_that_lie_do_no_harm(tmp_path: Path) -> None:
    path = pack(tmp_path / "shard.tar", [("../../up.png", photo(10)), ("/abs.png", photo(20)), ("last.png", photo(30))])
    assert shades(find_photos(path)) == [10, 20, 30]


@pytest.mark.parametrize("kept", [700, 1100])
def test_tar__cut_short_says_so(tmp_path: Path, kept: int) -> None:
    path = pack(tmp_path / "shard.tar", [("a.png", b"\x89PNG" * 120), ("b.png", photo(20))])
    path.write_bytes(path.read_bytes()[:kept])  # within a photo, within the header behind it
    with pytest.raises(TrainError, match="pack it again"):
        find_photos(path)


def test_tar__compressed_is_refused_with_the_mend(tmp_path: Path) -> None:
    path = pack(tmp_path / "shard.tar.gz", [("a.png", photo(1))], "w:gz")
    with pytest.raises(TrainError, match="decompress"):
        find_photos(path)
    fake = path.rename(tmp_path / "renamed.tar")
    with pytest.raises(TrainError, match="pack it again"):
        find_photos(fake)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("x"), lambda path: None])
def test_place__that_holds_no_photos_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "place")
    with pytest.raises(TrainError, match="place"):
        find_photos(tmp_path / "place")


def test_more__leaves_out_the_held_out_ones_of_every_kind(photo_folders: Path, tmp_path: Path) -> None:
    pack(tmp_path / "shard.tar", [("keep_1.png", photo(10)), ("away_1.png", photo(20))])
    (tmp_path / "flat").mkdir()
    for name, shade in (("keep_2.png", 30), ("away_2.png", 40)):
        (tmp_path / "flat" / name).write_bytes(photo(shade))
    more = [str(tmp_path / "shard.tar"), MoreData(path=str(tmp_path / "flat"), weight=0.5)]
    folders = {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    splits = find_splits(Data(name="x", head="x", held_out="away_*", more=more, **folders))
    assert [(shades(split.sources), weight) for split, weight in splits.more] == [([10], 1.0), ([30], 0.5)]
    assert all(set(split.labels) == {-1} for split, _ in splits.more)


@pytest.mark.usefixtures("no_pictures")
def test_run__distils_on_more_photos_and_reports_the_broken_ones(
    tree: Callable[[], dict], photo_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pack(tmp_path / "more.tar", [(f"{number}.png", photo(number)) for number in range(7)] + [("bad.png", b"no photo")])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(msgspec.yaml.encode({**tree(), "epochs": 1, "monitor": 0}))
    data = [f"data.train={photo_folders / 'train'}", f"data.val={photo_folders / 'val'}"]
    out = tmp_path / "run"
    assert main([str(recipe), *data, f"data.more=[{tmp_path / 'more.tar'}]", "--out", str(out)]) == 0
    assert "43 photos to learn from" in capsys.readouterr().out  # 3 x 12 labelled, 7 of 8
    assert "bad.png" in (out / "skipped.csv").read_text()
    assert json.loads((out / "metrics.json").read_text())["train_photos"] == 43
