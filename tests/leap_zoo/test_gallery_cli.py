"""`leap-zoo index` and `search`, as processes; and `index_photos`, which they call."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo.cli import main
from leap_zoo.errors import InvalidGallery
from leap_zoo.folders import find_photos
from leap_zoo.gallery import Kind, open_gallery
from leap_zoo.gallery.indexing import index_photos

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent


@pytest.fixture
def holiday(colour_photos: dict[str, Path], tmp_path: Path) -> Path:
    """A folder per colour, two photos in each."""
    folder = tmp_path / "holiday"
    for name, path in colour_photos.items():
        (folder / name).mkdir(parents=True)
        shutil.copy(path, folder / name / path.name)
        Image.open(path).rotate(180).save(folder / name / "turned.png")
    return folder


@pytest.fixture
def call(tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on the tiny model and one gallery; gives exit code, stdout (of --json, parsed), stderr."""

    def one(*words: object) -> tuple[int, Any, str]:
        arguments = [str(word) for word in words]
        code = main([*arguments, "--gallery", str(tmp_path / "gallery"), "--zoo", str(tiny_zoo)])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in words and out else out, err

    return one


def hits(answer: tuple[int, Any, str]) -> list[str]:
    """Folder and name of what was found for the first photo."""
    return ["/".join(Path(hit["metadata"]["path"]).parts[-2:]) for hit in answer[1]["photos"][0]["hits"]]


def test_index__then_search(call: Any, holiday: Path, colour_photos: dict[str, Path]) -> None:
    code, out, _ = call("index", holiday, "--model", TINY)
    assert (code, out.split(";")[0]) == (0, "6 embedded, 0 unchanged")
    code, out, _ = call("search", colour_photos["red"], "-k", 2)  # the model is the gallery's
    assert code == 0
    assert [line.split()[1].split("/")[-2] for line in out.splitlines()] == ["red", "red"]
    answer = call("search", colour_photos["green"], "--json", "-k", 1)
    assert hits(answer) == ["green/green.png"]
    assert answer[1]["photos"][0]["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert (answer[1]["model"], answer[1]["space"]) == (TINY, "student")
    metadata = answer[1]["photos"][0]["hits"][0]["metadata"]
    assert metadata["label"] == "green"
    assert metadata["bytes"] == (holiday / "green" / "green.png").stat().st_size


def test_search__where(call: Any, holiday: Path, colour_photos: dict[str, Path]) -> None:
    call("index", holiday, "--model", TINY)
    found = hits(call("search", colour_photos["red"], "--json", "--where", "label=blue"))
    assert sorted(found) == ["blue/blue.webp", "blue/turned.png"]
    size = (holiday / "blue" / "blue.webp").stat().st_size
    narrow = ("--where", "label=blue", "--where", f"bytes:={size}")
    assert hits(call("search", colour_photos["red"], "--json", *narrow)) == ["blue/blue.webp"]
    assert hits(call("search", colour_photos["red"], "--json", "--where", f"bytes={size}")) == []


def test_index__again_embeds_only_what_is_new_or_changed(call: Any, holiday: Path) -> None:
    call("index", holiday, "--model", TINY)
    shutil.copy(holiday / "red" / "red.jpg", holiday / "red" / "new.jpg")
    shutil.copy(holiday / "red" / "red.jpg", holiday / "green" / "green.png")
    (holiday / "blue" / "turned.png").unlink()
    _, out, _ = call("index", holiday, "--model", TINY, "--json")
    assert {key: out[key] for key in ("added", "unchanged", "removed", "count")} == {
        "added": 2, "unchanged": 4, "removed": 0, "count": 7
    }  # fmt: skip
    _, out, _ = call("index", holiday / "red", "--model", TINY, "--json", "--prune")  # says nothing of the others
    assert (out["removed"], out["count"]) == (0, 7)
    _, out, _ = call("index", holiday, "--model", TINY, "--json", "--prune")
    assert (out["added"], out["removed"], out["count"]) == (0, 1, 6)


def test_index__reports_bad_photos_and_goes_on(call: Any, holiday: Path) -> None:
    (holiday / "red" / "bad.jpg").write_bytes(b"no photo")
    code, out, err = call("index", holiday, "--model", TINY, "--json")
    assert (code, out["added"], len(out["bad"])) == (2, 6, 1)
    assert err.count("\n") == 1
    assert "bad.jpg" in err


def test_index__without_a_readable_photo_leaves_no_gallery(call: Any, tmp_path: Path, holiday: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    code, out, _ = call("index", tmp_path / "bad.jpg", "--model", TINY, "--json")
    assert (code, out["added"], out["count"]) == (2, 0, 0)
    assert not (tmp_path / "gallery").exists()
    assert call("index", holiday, "--model", TINY)[0] == 0
    assert call("index", tmp_path / "bad.jpg", "--model", TINY)[0] == 2
    assert (tmp_path / "gallery" / "manifest.json").exists()


def test_index__of_another_space_or_model_is_refused(call: Any, holiday: Path, colour_photos: dict[str, Path]) -> None:
    call("index", holiday, "--model", TINY, "--space", "teacher")
    assert hits(call("search", colour_photos["blue"], "--json", "-k", 1)) == ["blue/blue.webp"]
    code, _, err = call("index", holiday, "--model", TINY)
    assert (code, "teacher space" in err, err.count("\n")) == (2, True, 1)


def test_search__in_a_gallery_of_the_teacher(
    call: Any, tiny_zoo: Path, tmp_path: Path, colour_photos: dict[str, Path]
) -> None:
    model = leap_zoo.load(TINY, zoo=tiny_zoo)
    with open_gallery(tmp_path / "gallery", kind=Kind.of_teacher(model)) as gallery:
        paths = [{"path": str(path)} for path in colour_photos.values()]
        gallery.add(list(colour_photos), model.embed(list(colour_photos.values()), space="teacher"), paths)
        with pytest.raises(InvalidGallery, match="give another gallery"):
            index_photos(gallery, model, find_photos(colour_photos["red"]))
    answer = call("search", colour_photos["green"], "--json", "-k", 1, "--model", TINY)
    assert answer[1]["photos"][0]["hits"][0]["id"] == "green"


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_index_and_search__on_a_server(
    tiny_zoo: Path, holiday: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")
    from qdrant_stand_in import KEY, stand_in

    monkeypatch.setenv("LEAP_ZOO_QDRANT_KEY", KEY)
    with stand_in() as host:
        common = ["--gallery", f"qdrant://{host}/photos", "--zoo", str(tiny_zoo), "--json"]
        for added, unchanged in ((6, 0), (0, 6)):
            assert main(["index", str(holiday), "--model", TINY, *common]) == 0
            answer = json.loads(capsys.readouterr().out)
            assert (answer["added"], answer["unchanged"], answer["count"]) == (added, unchanged, 6)
        assert main(["search", str(holiday / "red" / "red.jpg"), "--where", "label=red", *common]) == 0
        found = json.loads(capsys.readouterr().out)["photos"][0]["hits"]
        assert [hit["metadata"]["label"] for hit in found] == ["red", "red"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "{red}"], "no gallery can be read in"),
        (["index", "{red}", "-"], "stdin"),
        (["index", "{red}", "--prune"], "folders only"),
        (["search", "{red}", "--where", "label"], "KEY=VALUE"),
        (["search", "{red}", "--where", "x:=half"], "whole number"),
        (["index", "absent.jpg", "--model", TINY], "absent.jpg"),
        (["index", "{red}", "--model", "leap-tiny"], "did you mean 'leap-tiny-test'"),
    ],
)
def test_errors__are_one_line(call: Any, colour_photos: dict[str, Path], words: list[str], message: str) -> None:
    code, _, err = call(*(word.replace("{red}", str(colour_photos["red"])) for word in words))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize("words", [["absent.jpg"], ["absent.jpg", "{tmp}/absent.png"]])
def test_index__of_nothing_leaves_no_gallery(call: Any, tmp_path: Path, words: list[str]) -> None:
    code, _, err = call("index", *(word.replace("{tmp}", str(tmp_path)) for word in words), "--model", TINY)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not exist" in err
    assert list(tmp_path.iterdir()) == []


def test_index__interrupted_keeps_what_is_embedded(tiny_zoo: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(700):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photos / f"{number:04}.png")
    gallery = tmp_path / "gallery"
    words = ["index", str(photos), "--gallery", str(gallery), "--model", TINY, "--zoo", str(tiny_zoo)]
    process = subprocess.Popen([sys.executable, "-m", "leap_zoo.cli", *words], cwd=ROOT, env=os.environ)
    manifest = gallery / "manifest.json"
    while process.poll() is None and not (manifest.is_file() and '"count": 0' not in manifest.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (0, 130)
    kept = open_gallery(gallery).count()
    assert kept > 0
    model = leap_zoo.load(TINY, zoo=tiny_zoo)
    with open_gallery(gallery, model=model) as opened:
        report = index_photos(opened, model, find_photos(photos))
        assert (report.unchanged, report.added, opened.count()) == (kept, 700 - kept, 700)
