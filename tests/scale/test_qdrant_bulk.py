"""Bulk load, quantized vectors and snapshots of a Qdrant collection, by the REST calls that its reference documents."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

qdrant_client = pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow (of the extra ray) is not installed")

from leap_zoo.cli import main  # noqa: E402
from leap_zoo.errors import InvalidArgument, InvalidGallery  # noqa: E402
from leap_zoo.gallery import Kind, bulk, open_gallery  # noqa: E402
from leap_zoo.gallery.qdrant import QdrantGallery  # noqa: E402
from leap_zoo.shards import to_table, write_table  # noqa: E402

KIND = Kind(model="some-model", revision="1", space="student", dim=4)


class Recorder(BaseHTTPRequestHandler):
    """Answers the calls about snapshots as Qdrant's reference says, and keeps what it was asked."""

    def do_GET(self) -> None:
        self.answer(b"the snapshot", raw=True)

    def do_POST(self) -> None:
        self.answer(True if "upload" in self.path else {"name": "photos-1.snapshot", "size": 12})

    def do_DELETE(self) -> None:
        self.answer(True)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def answer(self, result: object, *, raw: bool = False) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, self.headers.get("api-key"), body))  # type: ignore[attr-defined]
        known = self.path.startswith("/collections/photos/")
        document = {"result": result, "status": "ok", "time": 0.1}
        data = result if raw else json.dumps(document if known else {"status": {"error": "Not found"}}).encode()
        assert isinstance(data, bytes)
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_snapshot__is_saved_and_restored(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEAP_ZOO_QDRANT_KEY", "the-key")
    url, file = f"qdrant://127.0.0.1:{server.server_port}/photos", tmp_path / "photos.snapshot"
    assert main(["snapshot", "save", str(file), "--gallery", url]) == 0
    assert file.read_bytes() == b"the snapshot"
    assert main(["snapshot", "restore", str(file), "--gallery", url]) == 0
    said = server.asked  # type: ignore[attr-defined]
    assert [(method, path) for method, path, _, _ in said] == [
        ("POST", "/collections/photos/snapshots"),
        ("GET", "/collections/photos/snapshots/photos-1.snapshot"),
        ("DELETE", "/collections/photos/snapshots/photos-1.snapshot"),
        ("POST", "/collections/photos/snapshots/upload?priority=snapshot&wait=true"),
    ]
    assert {key for _, _, key, _ in said} == {"the-key"}
    assert b"the snapshot" in said[-1][3]
    assert b'name="snapshot"' in said[-1][3]
    assert main(["snapshot", "save", str(file), "--gallery", url.replace("photos", "other")]) == 2
    assert "Not found" in capsys.readouterr().err
    assert file.read_bytes() == b"the snapshot"  # as it was before the call that failed


def test_snapshot__of_no_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidGallery, match="does not answer"):
        bulk.save_snapshot("qdrant://127.0.0.1:9/photos", tmp_path / "file")


def test_vectors__are_loaded_into_a_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(bulk, "open_gallery", lambda place, kind: QdrantGallery(client, "photos", kind))
    rows = np.eye(4, dtype=np.float32)
    table = to_table([("a", rows[0], None), ("bad", None, "torn"), ("b", rows[1], None), ("a", rows[2], None)], KIND)
    write_table(table, str(tmp_path), "vectors.parquet")
    gallery, added = bulk.load_vectors("qdrant://host/photos", str(tmp_path / "vectors.parquet"))
    assert (added, gallery.count(), gallery.kind) == (2, 2, KIND)
    assert gallery.search(rows[2], k=1)[0].id == "a"  # the later row
    with pytest.raises(InvalidArgument, match="not of another-model"):
        bulk.load_vectors("x", str(tmp_path), Kind(model="another-model", revision="1", space="student", dim=4))
    write_table(table.replace_schema_metadata(None), str(tmp_path), "vectors.parquet")
    with pytest.raises(InvalidArgument, match="does not say whose"):
        bulk.load_vectors("x", str(tmp_path))


@pytest.mark.parametrize(("how", "expected"), [("int8", {"scalar"}), ("binary", {"binary"})])
def test_quantize__asks_the_server_for_it(how: str, expected: set[str]) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    gallery = QdrantGallery(client, "photos", KIND)
    asked = {}
    client.update_collection = lambda name, **settings: asked.update(settings, name=name)
    bulk.quantize(gallery, how)
    assert asked["name"] == "photos"
    assert set(asked["quantization_config"].model_dump()) == expected
    # What goes over the wire is a valid request of the client's own model of the API.
    del asked["name"]
    asked["vectors"] = asked.pop("vectors_config")
    wire = qdrant_client.models.UpdateCollection(**asked).model_dump(exclude_none=True)
    assert wire["vectors"][""] == {"on_disk": True}


def test_quantize__needs_a_server(tmp_path: Path) -> None:
    with open_gallery(tmp_path / "gallery", kind=KIND) as gallery, pytest.raises(InvalidArgument, match="Qdrant"):
        bulk.quantize(gallery, "int8")
