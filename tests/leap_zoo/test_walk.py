"""What a walk over folders finds and skips; and that one odd file or folder spoils nothing for the others."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo import InvalidArgument, Model, NotAnImage, decode, preprocess
from leap_zoo.cli import main
from leap_zoo.folders import find_photos, name_of
from leap_zoo.gallery import Gallery, open_gallery
from leap_zoo.gallery.indexing import index_photos
from leap_zoo.progress import Progress

TINY = "leap-tiny-test"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))


@pytest.fixture(scope="module")
def model(tiny_zoo: Path) -> Model:
    return leap_zoo.load(TINY, zoo=tiny_zoo, threads=1)


@pytest.fixture
def gallery(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    with open_gallery(tmp_path_factory.mktemp("gallery"), model=model) as opened:
        yield opened


def draw(path: Path, channel: int = 0) -> Path:
    pixels = np.random.default_rng(list(os.fsencode(path))).integers(0, 100, (40, 50, 3), dtype=np.uint8)
    pixels[..., channel] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return path


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder unreadable, which file permissions cannot do to root."""
    scandir, denied = os.scandir, set()

    def guarded(path: Any) -> Any:
        if str(path) in denied:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return lambda path: denied.add(str(path))


def names(root: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, root) for path in paths]


def test_find_photos__counts_what_it_skips(tmp_path: Path) -> None:
    seen = ["a.JPG", "b.jfif", "c.jpe", "d.mpo", "e.heic", "f.HEIF", "g.avif", "sub/h.webp", "sub/x.y/i.tiff"]
    skipped = [".hidden.png", "._a.JPG", "list.txt", "jpg", "sub/movie.mp4", ".thumbnails/a.png", ".Trash-1000/a.png"]
    junk = ["@eaDir/a.png", "sub/__MACOSX/deep/a.png", ".ipynb_checkpoints/a.png", "lost+found/a.png", "#recycle/a.png"]
    for name in [*seen, *skipped, *junk]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    found = find_photos(tmp_path)
    assert names(tmp_path, found.photos) == seen
    assert found.skipped == {"hidden_files": 2, "other_files": 3, "hidden_folders": 3, "junk_folders": 4}
    assert found.bad == {}
    assert found.folders == [str(tmp_path)]


def test_find_photos__hidden_and_junk_folders_may_be_asked_for(tmp_path: Path) -> None:
    photo = draw(tmp_path / ".cache" / "a.png")
    assert find_photos(tmp_path / ".cache").photos == [str(photo)]
    assert find_photos(draw(tmp_path / ".b.png")).photos == [str(tmp_path / ".b.png")]


def test_find_photos__links_to_files_are_read_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    draw(tmp_path / "real" / "a.png")
    root = tmp_path / "root"
    draw(root / "b.png")
    (root / "link.png").symlink_to(tmp_path / "real" / "a.png")
    (root / "broken.png").symlink_to(tmp_path / "absent.png")
    (root / "album").symlink_to(tmp_path / "real")
    (root / "up").symlink_to(root)
    (root / "circle").symlink_to("circle")
    found = find_photos(root)
    assert names(root, found.photos) == ["b.png", "broken.png", "link.png"]
    assert found.skipped == {"linked_folders": 2, "other_files": 1}
    assert names(root, find_photos(root / "album").photos) == ["album/a.png"]


def test_find_photos__an_unreadable_folder_is_reported(tmp_path: Path, deny: Callable[[Path], None]) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "locked" / "b.png")
    deny(tmp_path / "locked")
    found = find_photos(tmp_path)
    assert names(tmp_path, found.photos) == ["a.png"]
    assert found.skipped == {"unreadable_folders": 1}
    assert "Permission denied" in found.bad[str(tmp_path / "locked")]
    with pytest.raises(InvalidArgument, match=r"locked' cannot be read \(Permission denied\)"):
        find_photos(tmp_path / "locked")


def test_find_photos__folders_deeper_than_any_path_are_reported(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    here, depth = os.open(tmp_path, os.O_RDONLY), 0
    try:
        for depth in range(20):  # noqa: B007
            os.mkdir("x" * 250, dir_fd=here)
            below = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    found = find_photos(tmp_path)
    assert names(tmp_path, found.photos) == ["a.png"]
    assert found.skipped == {"unreadable_folders": 1}


def test_find_photos__an_empty_folder_spoils_nothing_for_the_others(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a" / "a.png")
    (tmp_path / "empty").mkdir()
    found = find_photos(tmp_path / "empty", tmp_path / "a", "absent.png")
    assert found.photos == [str(photo), "absent.png"]
    assert found.skipped == {"empty_folders": 1}
    assert "no photos in the folder" in found.bad[str(tmp_path / "empty")]
    with pytest.raises(InvalidArgument, match="no photos in the folder"):
        find_photos(tmp_path / "empty")


def test_embed_folder__is_of_a_folder(model: Model, tmp_path: Path) -> None:
    for place in (draw(tmp_path / "a.png"), tmp_path / "absent"):
        with pytest.raises(InvalidArgument, match="is not a folder"):
            leap_zoo.embed_folder(model, place)
    for odd in (None, 5, [tmp_path]):
        with pytest.raises(InvalidArgument, match="str or a Path"):
            leap_zoo.embed_folder(model, odd)  # type: ignore[arg-type]


ODD = [
    b"line\nbreak.png",
    b"esc\x1b[31m\x07.png",
    b"tab\t.png",
    b"bytes\xff\xfe.png",
    "\u202egnp.png".encode(),
    b"a\\b.png",
]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Photos with odd names, bytes, kinds and times, in folders that cannot be read, are linked, or are junk."""
    root = tmp_path / "odd"
    for name in [*ODD, DECOMPOSED.encode()]:
        os.rename(draw(root / "drawn.png"), os.fsencode(root) + b"/" + name)
    for name, year in (("old.png", -2_000_000_000), ("new.png", 2**33)):
        os.utime(draw(root / name), (year, year))
    os.mkfifo(root / "pipe.png")
    (root / "bad.jpg").write_bytes(b"no photo")
    (root / "none.png").touch()
    (root / "gone.png").symlink_to("absent")
    draw(root / "locked" / "a.png")
    draw(root / "@eaDir" / "a.png")
    (root / "again").symlink_to(root)
    return root


SKIPPED = {"junk_folders": 1, "linked_folders": 1, "unreadable_folders": 1, "unreadable_photos": 4}


def test_embed_folder__odd_files_spoil_nothing(model: Model, odd: Path, deny: Callable[[Path], None]) -> None:
    deny(odd / "locked")
    found = leap_zoo.embed_folder(model, odd)
    expected = {name_of(os.fsdecode(os.fsencode(odd) + b"/" + name)) for name in ODD}
    assert set(found.photos) == expected | {str(odd / name) for name in (COMPOSED, "old.png", "new.png")}
    assert found.skipped == SKIPPED
    assert set(found.bad) == {str(odd / name) for name in ("pipe.png", "bad.jpg", "none.png", "gone.png", "locked")}
    assert all(name.encode() for name in found.photos)  # valid Unicode


def test_commands__have_the_same_report_format(
    tiny_zoo: Path, odd: Path, deny: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deny(odd / "locked")
    zoo = ["--model", TINY, "--zoo", str(tiny_zoo)]
    gallery = ["--gallery", str(tmp_path / "gallery")]
    npz = ["--out", str(tmp_path / "all.npz")]
    for words in (["classify"], ["embed"], ["embed", *npz], ["index", *gallery], ["search", *gallery]):
        command = [words[0], str(odd), *words[1:], *zoo]
        assert main([*command, "--json"]) == 2
        answer = json.loads(capsys.readouterr().out)
        assert (answer["read"], answer["skipped"]) == (9, SKIPPED)
        bad = answer["bad"] if words[0] == "index" else [row for row in answer["photos"] if "error" in row]
        assert sorted(os.path.basename(row["photo"]) for row in bad) == [
            "bad.jpg", "gone.png", "locked", "none.png", "pipe.png"
        ]  # fmt: skip
        assert main(command) == 2
        lines = capsys.readouterr().err.removesuffix("\n").split("\n")
        assert len(lines) == 6
        assert all(line.startswith("leap-zoo: ") for line in lines)
        read = 0 if words[0] == "index" else 9  # unchanged
        assert lines[-1] == (
            f"leap-zoo: photos read: {read}; skipped: junk folders (1), linked folders (1), unreadable folders (1), "
            "unreadable photos (4)"
        )
    with np.load(tmp_path / "all.npz") as saved:
        assert len(saved["photos"]) == 9


def test_classify__of_single_photos_needs_no_counts(
    tiny_zoo: Path, colour_photos: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(colour_photos["red"]), "--model", TINY, "--zoo", str(tiny_zoo)]) == 0
    assert capsys.readouterr().err == ""


def test_progress__without_a_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Progress(2) as progress:
        progress.step()
    assert progress.done == 1


# --- heads


def test_fit__reports_as_the_other_commands_do(
    model: Model, tiny_zoo: Path, tmp_path: Path, deny: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "train"
    for number in range(3):
        draw(root / "red" / f"{number}.png", 0)
        draw(root / "green" / f"{number}.png", 1)
    draw(root / "green" / "locked" / "a.png", 1)
    draw(root / "beside.png")
    draw(root / ".thumbnails" / "a.png")
    draw(root / "@eaDir" / "a.png")
    (root / "red" / "list.txt").touch()
    (root / "red" / "bad.png").touch()
    deny(root / "green" / "locked")
    counts = {
        "hidden_folders": 1, "junk_folders": 1, "other_files": 1, "photos_beside_classes": 1, "unreadable_folders": 1,
        "unreadable_photos": 1,
    }  # fmt: skip
    found = leap_zoo.fit(model, root)
    assert found.head.labels == ["green", "red"]
    assert found.skipped == counts
    assert set(found.bad) == {str(root / "red" / "bad.png"), str(root / "green" / "locked")}
    words = ["fit", str(tmp_path / "a.head"), "--images", str(root), "--model", TINY, "--zoo", str(tiny_zoo)]
    assert main([*words, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert (answer["skipped"], answer["read"]) == (counts, 6)
    assert main(words) == 2
    assert "photos read: 6; skipped: hidden folders (1), junk folders (1), other files (1)" in capsys.readouterr().err


def test_fit__two_spellings_of_a_class_are_one_and_linked_classes_are_read(model: Model, tmp_path: Path) -> None:
    draw(tmp_path / "a" / "red" / "0.png")
    for name in (COMPOSED, DECOMPOSED):
        draw(tmp_path / "a" / name / f"{len(name)}.png", 1)
    draw(tmp_path / "elsewhere" / "b.png", 2)
    (tmp_path / "a" / "blue").symlink_to(tmp_path / "elsewhere")
    found = leap_zoo.fit(model, tmp_path / "a")
    assert found.head.labels == ["blue", COMPOSED, "red"]
    assert found.head.card.photos == [1, 2, 1]


def test_fit__an_unreadable_class_is_an_error(model: Model, tmp_path: Path, deny: Callable[[Path], None]) -> None:
    for name in ("red", "green", "blue"):
        draw(tmp_path / name / "0.png")
    deny(tmp_path / "blue")
    with pytest.raises(InvalidArgument, match=r"blue' cannot be read \(Permission denied\)"):
        leap_zoo.fit(model, tmp_path)


# --- galleries


def ids(gallery: Gallery, root: Path) -> set[str]:
    return {os.path.relpath(item.id, root) for item in gallery.items()}


def test_index__prune_removes_only_photos_known_to_be_deleted(
    gallery: Gallery, model: Model, tmp_path: Path, deny: Callable[[Path], None]
) -> None:
    root = tmp_path / "photos"
    gone = ["a.png", "removed/b.png"]
    kept = ["c.png", "locked/d.png", "@eaDir/e.png", ".trash/f.png", "linked/g.png", "mount/h.png", "now/link/i.png"]
    kept += [".hidden.png", "no_suffix", "dead.png"]
    for name in [*gone, *kept, "stays.png"]:
        draw(root / name)
    index_photos(gallery, model, find_photos(*(root / name for name in [*gone, *kept])))
    assert ids(gallery, root) == {*gone, *kept}
    for name in ("a.png", "removed/b.png", "@eaDir/e.png", ".trash/f.png", "locked/d.png", "mount/h.png", "dead.png"):
        (root / name).unlink()
    (root / "removed").rmdir()
    (root / "linked").rename(tmp_path / "elsewhere")
    (root / "linked").symlink_to(tmp_path / "unmounted")
    (root / "now" / "link").rename(tmp_path / "other")
    (root / "now" / "link").symlink_to(tmp_path / "other")
    (root / "dead.png").symlink_to(tmp_path / "unmounted" / "dead.png")
    deny(root / "locked")
    report = index_photos(gallery, model, find_photos(root), prune=True)
    assert (report.added, report.unchanged, report.removed) == (1, 1, 2)
    assert ids(gallery, root) == {*kept, "stays.png"}
    assert index_photos(gallery, model, find_photos(root / "now" / "link"), prune=True).removed == 0


def test_index__prune_of_an_unreadable_or_empty_folder_removes_nothing(
    gallery: Gallery, model: Model, tmp_path: Path, deny: Callable[[Path], None]
) -> None:
    for name in ("a/a.png", "b/b.png", "c/c.png"):
        draw(tmp_path / name)
    places = [tmp_path / name for name in "abc"]
    index_photos(gallery, model, find_photos(*places))
    deny(tmp_path / "a")
    (tmp_path / "b" / "b.png").unlink()
    found = find_photos(*places)
    assert index_photos(gallery, model, found, prune=True).removed == 0
    assert len(found.bad) == 2
    (tmp_path / "b").rmdir()
    assert index_photos(gallery, model, find_photos(tmp_path), prune=True).removed == 1


def test_index__odd_files_spoil_nothing_and_are_known_the_next_time(
    gallery: Gallery, model: Model, odd: Path, deny: Callable[[Path], None]
) -> None:
    deny(odd / "locked")
    for added, unchanged in ((9, 0), (0, 9)):
        found = find_photos(odd)
        report = index_photos(gallery, model, found, prune=True)
        assert (report.added, report.unchanged, report.removed) == (added, unchanged, 0)
        assert found.skipped == SKIPPED
    assert str(odd / COMPOSED) in {item.id for item in gallery.items()}


def test_index__times_beyond_64_bits(
    gallery: Gallery, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, far = os.stat, {str(draw(tmp_path / "a.png")): 10**30, str(draw(tmp_path / "b.png")): -(10**30)}

    class Status:
        st_size = 7

        def __init__(self, time: int) -> None:
            self.st_mtime_ns = time

    monkeypatch.setattr(os, "stat", lambda path, **rest: Status(far[path]) if path in far else stat(path, **rest))
    for added, unchanged in ((2, 0), (0, 2)):
        report = index_photos(gallery, model, find_photos(tmp_path))
        assert (report.added, report.unchanged) == (added, unchanged)


def test_index__two_spellings_of_a_name_are_one_id(gallery: Gallery, model: Model, tmp_path: Path) -> None:
    draw(tmp_path / DECOMPOSED)
    index_photos(gallery, model, find_photos(tmp_path))
    (tmp_path / DECOMPOSED).rename(tmp_path / COMPOSED)
    report = index_photos(gallery, model, find_photos(tmp_path, tmp_path / COMPOSED), prune=True)
    assert (report.added, report.unchanged, report.removed) == (0, 1, 0)
    draw(tmp_path / DECOMPOSED)
    found = find_photos(tmp_path)
    report = index_photos(gallery, model, found)
    assert (report.added + report.unchanged, gallery.count(), len(found.bad)) == (1, 1, 1)
    assert "two spellings of one name" in found.bad[str(tmp_path / COMPOSED)]


def test_index__a_name_that_cannot_be_stored_spoils_nothing(
    gallery: Gallery, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "a.png")
    long = draw(tmp_path / f"{'b' * 100}.png")
    monkeypatch.setattr("leap_zoo.gallery.MAX_ID", len(str(long)) - 1)
    found = find_photos(tmp_path)
    assert index_photos(gallery, model, found).added == 1
    assert "cannot be stored" in found.bad[str(long)]


# --- HEIC


@pytest.fixture
def forgetful() -> Iterator[None]:
    caches = (decode.readable_formats, decode._register_heif)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_heic__without_the_extra_is_named_as_skipped(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: None
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    draw(tmp_path / "a.png")
    for brand in (b"heic", b"mif1"):
        (tmp_path / f"{brand.decode()}.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(99))
    found = leap_zoo.embed_folder(model, tmp_path)
    assert (len(found.photos), found.skipped) == (1, Counter(unreadable_photos=2))
    assert all('pip install "leap-zoo[heic]"' in error for error in found.bad.values())
    assert "HEIF" not in decode.readable_formats()
    with pytest.raises(NotAnImage):
        model.embed(tmp_path / "heic.heic")


def test_heic__with_the_extra_is_read_as_phones_turn_it(model: Model, tmp_path: Path, forgetful: None) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is the extra `heic`")
    assert "HEIF" in decode.readable_formats()
    pillow_heif.register_heif_opener()
    photo = Image.new("RGB", (64, 32), "red")
    photo.paste("blue", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x112] = 6
    photo.save(tmp_path / "a.heic", exif=exif.tobytes())
    photo.save(tmp_path / "b.png", exif=exif)
    heic, png = (preprocess.open_image(tmp_path / name) for name in ("a.heic", "b.png"))
    assert heic.size == png.size == (32, 64)
    assert np.abs(np.asarray(heic, int) - np.asarray(png, int)).mean() < 5
    data = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "cut.heic").write_bytes(data[:-20])
    assert list(leap_zoo.embed_folder(model, tmp_path).bad) == [str(tmp_path / "cut.heic")]


@pytest.mark.skipif(not importlib.util.find_spec("pillow_heif"), reason="pillow-heif is the extra `heic`")
def test_heic__is_imported_by_the_first_one_only(tmp_path: Path) -> None:
    program = (
        "import sys; from leap_zoo.preprocess import open_image, readable_formats; readable_formats(); "
        "open_image(sys.argv[1]); sys.exit('pillow_heif' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(draw(tmp_path / "a.png"))]).returncode == 0
