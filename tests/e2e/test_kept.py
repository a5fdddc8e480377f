"""What clients leave in a real server is there after kill -9."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from leap_zoo.gallery.flat import MANIFEST, read_manifest

IMAGE = {"content-type": "image/png"}


@pytest.fixture
def variables(tiny_zoo: Path) -> dict[str, str]:
    return {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": "leap-tiny-test", "OMP_NUM_THREADS": "1"}


def drawn(channel: int, seed: int) -> bytes:
    """A small photo in which one colour is strongest."""
    pixels = np.random.default_rng(seed).integers(0, 60, (36, 36, 3), dtype=np.uint8)
    pixels[..., channel] += 180
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labelled() -> list[tuple[str, bytes]]:
    """A form with two photos of each of two classes."""
    return [(label, drawn(channel, seed)) for label, channel in (("cold", 2), ("warm", 0)) for seed in range(2)]


class Writer:
    """A client that adds, deletes and makes heads until the server is gone; it notes what was acknowledged."""

    def __init__(self, url: str, name: str, seed: int) -> None:
        self.url, self.gallery, self.seed = url, name, seed
        self.kept: set[str] = set()
        self.deleted: set[str] = set()
        self.heads: set[str] = set()
        self.unsure: set[str] = set()  # asked, and not answered
        self.wrong: list[str] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as http:
            for number in range(10_000):
                try:
                    self._step(http, f"{self.seed}-{number}", number)
                except httpx.TransportError:
                    return

    def _step(self, http: httpx.Client, name: str, number: int) -> None:
        if number % 10 == 5:
            self.unsure.add(f"h{name}")
            answer = http.post(f"/v1/heads/h{name}", files=labelled())
            if answer.status_code == 201:
                self.heads.add(f"h{name}")
            elif answer.json()["code"] != "busy":
                self.wrong.append(answer.text)
            return
        if number % 10 == 8 and self.kept:
            gone = min(self.kept)
            self.kept.discard(gone)
            self.unsure.add(gone)
            if http.delete(f"/v1/galleries/{self.gallery}/items", params={"id": gone}).json() == {"deleted": 1}:
                self.deleted.add(gone)
            else:
                self.wrong.append(f"{gone} had not been kept")
            return
        self.unsure.add(name)
        files = [("image", ("photo", drawn(number % 3, number))), ("id", (None, name))]
        answer = http.post(f"/v1/galleries/{self.gallery}/items?create=true", files=files)
        if answer.status_code == 200:
            self.kept.add(name)
        else:
            self.wrong.append(answer.text)


def kill(process: psutil.Process) -> None:
    """kill -9 of the server and of all its processes, at once."""
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.suspend()  # so that none sees another's death
    for member in family:
        member.kill()


def test_kill__loses_nothing_that_was_acknowledged(start, variables: dict[str, str], tmp_path: Path) -> None:
    """The whole server is killed while clients write."""
    data = tmp_path / "data"
    kept: dict[str, set[str]] = {"shared": set(), "own": set()}
    deleted: dict[str, set[str]] = {"shared": set(), "own": set()}
    unsure, heads = set[str](), set[str]()
    with start(**variables, LEAP_ZOO_SERVE_DATA=str(data)) as server:
        writers = [Writer(server.url, name, seed) for seed, name in enumerate(("shared", "shared", "own"))]
        deadline = time.monotonic() + 120
        while min(len(writer.kept) for writer in writers) < 8 or not any(writer.heads for writer in writers):
            assert time.monotonic() < deadline, [writer.wrong for writer in writers]
            time.sleep(0.01)
        kill(psutil.Process(server.process.pid))
        for writer in writers:
            writer.thread.join(120)
            assert writer.wrong == []
            kept[writer.gallery] |= writer.kept
            deleted[writer.gallery] |= writer.deleted
            unsure |= writer.unsure
            heads |= writer.heads
    with (
        start(**variables, LEAP_ZOO_SERVE_DATA=str(data)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        for name in kept:
            page = http.get(f"/v1/galleries/{name}/items?limit=1000").json()
            there = {item["id"] for item in page["items"]}
            assert page["total"] == len(there)
            assert kept[name] <= there
            assert not deleted[name] & there
            assert there - kept[name] <= unsure  # kept before they could be answered
            red = http.post(f"/v1/galleries/{name}/search?k=1", content=drawn(0, 0), headers=IMAGE)
            assert red.json()["hits"][0][0]["score"] > 0.9
            with np.load(io.BytesIO(http.get(f"/v1/galleries/{name}/export").content), allow_pickle=False) as file:
                assert set(file["ids"].tolist()) == there
                assert np.linalg.norm(file["embeddings"], axis=1) == pytest.approx(1, abs=1e-5)
        listed = {one["name"] for one in http.get("/v1/heads").json()["heads"]}
        assert heads <= listed <= heads | unsure
        assert len(listed) == len(list((data / "heads").glob("*.head")))  # a damaged one would not be listed
        for one in listed:
            path = f"/v1/classify?head={one}&top=1"
            answer = http.post(path, content=drawn(0, 7), headers=IMAGE).json()
            assert answer["predictions"][0][0]["label"] == "warm"
        files = [("image", ("photo", drawn(0, 1))), ("id", (None, "last"))]
        for name in kept:
            assert http.post(f"/v1/galleries/{name}/items?create=true", files=files).status_code == 200
        assert http.post("/v1/heads/last", files=labelled()).status_code == 201
        assert leftovers(data) == []
        assert "Traceback" not in server.log.read_text()


def leftovers(data: Path) -> list[str]:
    """Files that nobody needs: those of a writer that was killed, and locks that nobody holds."""
    parts = []
    for folder in (data / "galleries").iterdir():
        manifest = read_manifest(folder)
        named = {file.file for file in manifest.files()} | {MANIFEST}
        parts += [path for path in folder.iterdir() if path.name not in named]
    hidden = [path for path in data.rglob("*") if path.name.startswith(".")]
    return [str(path.relative_to(data)) for path in [*hidden, *parts, *data.rglob("*.lock"), *data.rglob("*.tmp")]]
