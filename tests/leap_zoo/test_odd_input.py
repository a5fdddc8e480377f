"""Odd input that users give by accident: unset variables, `~` after `=`, pasted addresses, a folder that is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leap_zoo
from leap_zoo import Embeddings, InvalidArgument, UnknownModel
from leap_zoo.cli import main
from leap_zoo.gallery import Gallery, Kind, open_gallery
from leap_zoo.preprocess import Limits
from leap_zoo.pull import pull
from leap_zoo.settings import read_settings, zoo_location

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent
KIND = Kind(model="m", revision="1", space="student", dim=2)

posix = pytest.mark.skipif(os.name == "nt", reason="links and the current folder as POSIX has them")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the single line on stderr, or ""."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(str(end.code))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 1
    return code, "".join(lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["pull", ""],
        ["pull", TINY, "--to", ""],
        ["pull", TINY, "--from", " "],
        ["list", "--zoo", ""],
        ["show", "", "--zoo", "{zoo}"],
        ["classify", "{photo}", "--model", ""],
        ["classify", "{photo}", "--head", "", "--zoo", "{zoo}", "--model", TINY],
        ["embed", "{photo}", "--out", ""],
        ["fit", "", "--images", "."],
        ["fit", "a.head", "--images", ""],
        ["index", "{photo}", "--gallery", ""],
        ["search", "{photo}", "--gallery", ""],
        ["verify", TINY, "--zoo", "{zoo}", "--key", ""],
    ],
    ids=" ".join,
)
def test_empty_argument__is_not_the_current_folder_nor_the_default(
    arguments: list[str],
    tiny_zoo: Path,
    colour_photos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [one.format(zoo=tiny_zoo, photo=colour_photos["red"]) for one in arguments]
    code, line = run(capsys, *filled)
    assert code == 2
    assert "it is empty" in line or "unknown model ''" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: leap_zoo.load(TINY, zoo=""),
        lambda: leap_zoo.models(" "),
        lambda: pull(TINY, ""),
        lambda: pull(TINY, to=""),
        lambda: open_gallery("", kind=KIND),
        lambda: leap_zoo.embed_folder(leap_zoo.load("leap-nano"), ""),
    ],
)
def test_empty_path__is_refused(call: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="is empty"):
        call()
    with pytest.raises(UnknownModel):
        pull("")
    assert os.listdir(tmp_path) == []


def test_home__is_meant_by_a_tilde_after_an_equals_sign_too(
    tiny_zoo: Path,
    colour_photos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    shutil.copytree(tiny_zoo, home / "zoo")
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(work)
    photo = str(colour_photos["red"])
    model = ["--zoo=~/zoo", f"--model={TINY}"]
    assert run(capsys, "list", "--from=~/zoo")[0] == 0
    assert run(capsys, "pull", TINY, "--from=~/zoo", "--to=~/to")[0] == 0
    assert run(capsys, "classify", photo, f"--model=~/to/{TINY}")[0] == 0
    assert run(capsys, "embed", photo, *model, "--out=~/a.npz")[0] == 0
    assert main(["index", photo, *model, "--gallery=~/gallery"]) == 0
    monkeypatch.setenv("LEAP_ZOO_URL", "~/zoo")
    assert leap_zoo.load(TINY).card.id == TINY
    assert read_settings().zoo == home / "zoo"
    assert os.listdir(work) == []
    assert {"to", "a.npz", "gallery"} <= set(os.listdir(home))


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        ("http://host/zoo/index.json", "http://host/zoo"),
        ("http://host/zoo/leap-nano/card.json", "http://host/zoo/leap-nano"),
        ("zoo/index.json", Path("zoo")),
        ("file:///zoo/leap-nano/card.json", Path("/zoo/leap-nano")),
        ("https://huggingface.co/owner/name", "hf://owner/name"),
        ("https://huggingface.co/owner/name/", "hf://owner/name"),
        ("https://huggingface.co/owner/name/tree/v2", "hf://owner/name@v2"),
        ("https://huggingface.co/owner/name/resolve/main", "https://huggingface.co/owner/name/resolve/main"),
        ("http://host/myindex.json", "http://host/myindex.json"),
    ],
)
def test_zoo_location__of_pasted_addresses(pasted: str, meant: str | Path) -> None:
    assert zoo_location(pasted) == meant


@posix
def test_load__a_snapshot_of_the_hubs_cache(tiny_zoo: Path, tmp_path: Path) -> None:
    """Its files are links to blobs beside the folder of snapshots; links that lead further out are refused."""
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in (tiny_zoo / TINY).iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs", file.name))
    assert leap_zoo.load(snapshot).verified
    assert leap_zoo.load(snapshot / "model_int8.onnx").verified
    pulled = pull(None, snapshot, to=tmp_path / "to", everything=True)
    assert all(not Path(file.path).is_symlink() for file in pulled.files)
    (blobs / "model_int8.onnx").rename(tmp_path / "outside")
    (blobs / "model_int8.onnx").symlink_to(tmp_path / "outside")
    with pytest.raises(leap_zoo.ArtifactCorrupt, match="link to outside"):
        leap_zoo.load(snapshot, precision="int8")


@posix
@pytest.mark.parametrize("command", ["embed {photo} --out a.npz", "fit a.head --images {classes}"])
def test_current_folder__that_was_removed_is_named(
    command: str, tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    filled = command.format(photo=colour_photos["red"], classes=colour_photos["red"].parent)
    code = f"import os, sys; os.rmdir(os.getcwd()); from leap_zoo.cli import main; sys.exit(main({filled.split()!r}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LEAP_ZOO_URL": str(tiny_zoo)}
    done = subprocess.run([sys.executable, "-c", code], cwd=gone, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("leap-zoo: the current folder cannot be used")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("limits", [{"pixels": 0}, {"bytes": -1}, {"pixels": "a"}, {"bytes": None}, {"pixels": 1e6}])
def test_limits__are_whole_numbers(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"the limit of (pixels|bytes) must be a whole number"):
        Limits(**limits)


def test_run__of_outputs_that_are_no_list(tiny_zoo: Path) -> None:
    with leap_zoo.load(TINY, zoo=tiny_zoo) as model:
        size = model.card.preprocessing.size
        for outputs in (None, 5):
            with pytest.raises(InvalidArgument, match="unknown output"):
                model.run(np.zeros((1, size, size, 3), np.uint8), outputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("photos", [None, 5, b"folder", {"\udcff": ["a.jpg"], "b": ["b.jpg"]}])
def test_fit__of_what_is_no_folder_and_no_text(photos: Any, tiny_zoo: Path) -> None:
    with leap_zoo.load(TINY, zoo=tiny_zoo) as model, pytest.raises(InvalidArgument):
        leap_zoo.fit(model, photos)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = open_gallery(tmp_path / "gallery", kind=KIND)
    made.add(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, {"n": 11}])
    return made


def test_items__of_numbers_below_zero(gallery: Gallery) -> None:
    for numbers in ((-1, None), (0, -1), ("0", None), (0, 1.0)):
        with pytest.raises(InvalidArgument, match="must be a whole number of at least 0"):
            gallery.items(*numbers)  # type: ignore[arg-type]
    assert [item.id for item in gallery.items(1, 5)] == ["b"]


def test_add__of_huge_numbers_has_no_warning(gallery: Gallery) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidArgument, match="not finite"):
            gallery.add(["c"], [[1e300, 1e300]])


@pytest.mark.parametrize("value", ["1_1", "\u0661", " 1", "+1", "0x1", "1.0", "", "9" * 20])
def test_where__takes_plain_whole_numbers(value: str, gallery: Gallery, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = run(capsys, "search", "a.jpg", "--gallery", str(gallery.folder), "--where", f"n:={value}")  # type: ignore[attr-defined]
    assert code == 2
    assert "needs a whole number, true or false" in line


def test_embeddings__that_could_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    for vectors, photos in ((np.eye(2, dtype=np.float32), ["a"]), (np.zeros((1, 2), np.float32), ["a"])):
        with pytest.raises(InvalidArgument, match="could not be read back"):
            Embeddings(photos, vectors, "m", "1", "student").save(tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []


def test_restore__of_a_missing_file_names_it_before_the_server_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    code, line = run(capsys, "snapshot", "restore", "absent.snapshot", "--gallery", "qdrant://127.0.0.1:9/photos")
    assert code == 2
    assert "cannot read 'absent.snapshot'" in line


def test_shard__is_named_as_the_user_gave_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = run(capsys, "embed", "a.jpg", "--engine", "ray", "--out", "o", "--shard", "0")
    assert (code, "--shard must be" in line) == (2, True)


def test_show__a_file_of_a_known_card_needs_no_runtime(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise leap_zoo.MissingExtra("not installed")

    monkeypatch.setattr("leap_zoo.loading.open_session", fails)
    assert main(["show", str(tiny_zoo / TINY / "model_int8.onnx")]) == 0
    assert "verified    yes" in capsys.readouterr().out
