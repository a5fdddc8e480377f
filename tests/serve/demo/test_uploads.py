"""What visitors may send to the page, and how much of it is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from starlette.testclient import TestClient

from leap_zoo import InvalidArgument
from serve.demo.page import MAX_STORED_BYTES
from serve.demo.uploads import SAMPLES, explain, gather, read_upload, uploaded
from serve.engine import Engine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's upload folder."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    assert Path(get_upload_folder()) == tmp_path / "uploads"
    return tmp_path / "uploads"


def test_uploaded__takes_uploads_and_samples_only(folder: Path) -> None:
    sample = str(SAMPLES["pier 1"])
    assert uploaded(sample) == sample
    assert uploaded(folder / "a" / "b.jpg") == str(folder / "a" / "b.jpg")
    (folder / "link").symlink_to("/etc")
    for path in ("/etc/passwd", folder / ".." / "secret", folder / "link" / "passwd", "https://example.org/a.jpg"):
        with pytest.raises(gr.Error, match="Only uploaded photos"):
            uploaded(path)


def test_read_upload__reports_a_deleted_photo(folder: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_upload(str(folder / "gone.jpg"))
    assert explain(caught.value) == "The photo was deleted in the meantime: drop it again."


def test_gather__keeps_good_photos_and_lists_bad_ones(
    engine: Engine, folder: Path, colour_photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("serve.demo.uploads.warn", notes.append)
    paths = [str(folder / f"{name}.png") for name in colour_photos]
    for path, photo in zip(paths, colour_photos.values(), strict=True):
        Path(path).write_bytes(photo.read_bytes())
    for number in range(5):
        paths.insert(1, str(folder / f"lie {number}.jpg"))
        Path(paths[1]).write_bytes(b"not a photo")
    good = asyncio.run(gather(engine, paths, room=7))
    assert [photo.path for photo in good] == [paths[0], paths[6]]
    assert all(photo.thumbnail.size == (256, 256) for photo in good)
    assert notes[0] == "There is room for 7 more photos: 1 of the 8 were left out."
    assert notes[1].startswith("lie 4: Not a photo in a supported format")
    assert notes[4:] == ["2 more photos cannot be used."]
    assert not any(str(folder) in text for text in notes)


def test_quota__refuses_uploads_while_the_disk_has_enough(client: TestClient, folder: Path) -> None:
    photo = {"files": ("a.jpg", SAMPLES["turtle 1"].read_bytes(), "image/jpeg")}
    assert client.post("/ui/gradio_api/upload", files=photo).status_code == 200
    with (folder / "old").open("wb") as file:
        file.truncate(MAX_STORED_BYTES)  # sparse: it takes no room
    answer = client.post("/ui/gradio_api/upload", files=photo)
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert client.get("/ui/config").status_code == 200
