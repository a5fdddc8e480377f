"""A Qdrant server for tests: the HTTP calls that the gallery makes, answered by qdrant-client's own local mode."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client import QdrantClient, models

KEY = "the-key"


@contextmanager
def stand_in() -> Iterator[str]:
    """Yields HOST:PORT. A request without the API key gets 401."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.client, server.lock = QdrantClient(":memory:"), threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("api-key") != KEY:
            self._send(401, {"status": {"error": "Must provide an API key"}})
            return
        _, _, *named = self.path.partition("?")[0].split("/")
        collection, *rest = named or [""]
        try:
            with self.server.lock:  # type: ignore[attr-defined]
                result = _carry_out(
                    self.server.client,  # type: ignore[attr-defined]
                    collection, f"{self.command} {'/'.join(rest)}", json.loads(body) if body else {},
                )  # fmt: skip
            self._send(200, {"result": result, "status": "ok", "time": 0.0})
        except ValueError as error:
            self._send(404, {"status": {"error": str(error)}, "time": 0.0})

    def _send(self, status: int, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _carry_out(client: QdrantClient, name: str, call: str, body: dict[str, Any]) -> Any:
    match call:
        case "GET " if not name:
            return _plain(client.get_collections())
        case "DELETE ":
            return client.delete_collection(name)
        case "GET exists":
            return {"exists": client.collection_exists(name)}
        case "PUT ":
            wanted = models.CreateCollection.model_validate(body)
            return client.create_collection(name, wanted.vectors, metadata=wanted.metadata)
        case "GET ":
            return _plain(client.get_collection(name))
        case "PUT index":
            return _plain(client.create_payload_index(name, body["field_name"], body["field_schema"]))
        case "PUT points":
            return _plain(client.upsert(name, models.PointsList.model_validate(body).points))
        case "POST points":
            asked = models.PointRequest.model_validate(body)
            return [_plain(one) for one in client.retrieve(name, asked.ids, with_payload=bool(asked.with_payload))]
        case "POST points/delete":
            return _plain(client.delete(name, models.PointIdsList.model_validate(body)))
        case "POST points/query/batch":
            batch = models.QueryRequestBatch.model_validate(body)
            return [_plain(one) for one in client.query_batch_points(name, batch.searches)]
        case "POST points/count":
            return {"count": client.count(name).count}
        case "POST points/scroll":
            asked_page = models.ScrollRequest.model_validate(body)
            page, following = client.scroll(
                name,
                limit=asked_page.limit or 10,
                offset=asked_page.offset,
                with_payload=bool(asked_page.with_payload),
                with_vectors=bool(asked_page.with_vector),
            )
            return {"points": [_plain(one) for one in page], "next_page_offset": following}
    raise ValueError(f"the stand-in knows no {call!r}")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True)
