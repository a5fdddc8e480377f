"""Requests that are broken or hostile around the photo: forms, JSON, headers, options, and the wire itself.

`REQUESTS`: what an HTTP client can send, and the statuses that it may get (a set: none of them a 5xx).
`WIRE`: bytes for a plain socket, which no client library would send.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

MULTIPART = "multipart/form-data; boundary=x"
OK = 200


def photo() -> bytes:
    """A small valid JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Sent:
    """One request. `body` makes what is sent; `statuses` are the ones that it may get."""

    body: Callable[[], bytes | Iterator[bytes]]
    statuses: frozenset[int]
    kind: str = "image/jpeg"
    path: str = "/v1/classify"
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def part(content: bytes, disposition: str = 'form-data; name="image"; filename="a.jpg"', *more: str) -> bytes:
    """One part of a form whose boundary is x."""
    head = "".join(f"{line}\r\n" for line in (f"Content-Disposition: {disposition}", *more))
    return b"--x\r\n" + head.encode("utf-8", "surrogateescape") + b"\r\n" + content + b"\r\n"


def _form(make: Callable[[], bytes], *statuses: int, kind: str = MULTIPART, end: bytes = b"--x--\r\n") -> Sent:
    return Sent(lambda: make() + end, frozenset(statuses), kind)


def _json(value: object, *statuses: int, path: str = "/v1/classify") -> Sent:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Sent(lambda: raw, frozenset(statuses), "application/json", path)


def _openai(value: object, *statuses: int) -> Sent:
    return _json({"model": None, "input": value} if not isinstance(value, bytes) else value, *statuses, path=OPENAI)


def _asked(query: str, *statuses: int, path: str = "/v1/classify") -> Sent:
    return Sent(photo, frozenset(statuses), path=f"{path}?{query}")


def _zipped_body(wbits: int) -> bytes:
    squeeze = zlib.compressobj(9, wbits=wbits)
    return squeeze.compress(bytes(1 << 28)) + squeeze.flush()


OPENAI = "/v1/embeddings"
_B64 = base64.b64encode(photo()).decode()
_NAMES = "form-data; name="

FORMS: dict[str, Sent] = {
    "form without a boundary": _form(lambda: part(photo()), 400, kind="multipart/form-data"),
    "form with an empty boundary": _form(lambda: part(photo()), 400, kind="multipart/form-data; boundary="),
    "form with another boundary": _form(lambda: part(photo()), 400, kind="multipart/form-data; boundary=y"),
    "form with a boundary of 100 KB": _form(
        lambda: part(photo()), 400, 431, kind="multipart/form-data; boundary=" + "y" * 30_000
    ),
    "form without an end": _form(lambda: part(photo()), OK, 400, end=b""),
    "form cut within its photo": _form(lambda: part(photo())[:300], 400, end=b""),
    "form that is a JPEG": _form(photo, 400, end=b""),
    "form of nothing": _form(lambda: b"", 400),
    "form with 1,000 photos": _form(lambda: part(photo()) * 1000, 400, 413),
    "form with 1,000 texts": _form(lambda: part(b"x", _NAMES + '"t"') * 1000, 400, 413, 422),
    "form with 100,000 empty parts": _form(lambda: part(b"", _NAMES + '"image"; filename=""') * 100_000, 400, 413, 422),
    "form with a part's head of 1 MB": _form(lambda: part(photo(), _NAMES + '"image"', "X-A: " + "a" * (1 << 20)), 400),
    "form with 10,000 heads in a part": _form(lambda: part(photo(), _NAMES + '"image"', *["X-A: b"] * 10_000), 400),
    "form with a part without a name": _form(lambda: part(photo(), "form-data"), 400, 422),
    "form with a part without a head": _form(lambda: b"--x\r\n\r\n" + photo() + b"\r\n", 400),
    "form in a form": _form(
        lambda: part(part(photo()), _NAMES + '"image"; filename="a"', "Content-Type: multipart/mixed; boundary=x"),
        400,
        415,
        422,
    ),
    "form with a path for a name": _form(lambda: part(photo(), _NAMES + '"image"; filename="../../etc/passwd"'), OK),
    "form with a name of 60 KB": _form(lambda: part(photo(), _NAMES + f'"image"; filename="{"n" * 60_000}"'), OK, 400),
    "form with a null in a name": _form(lambda: part(photo(), _NAMES + '"image"; filename="a\0.jpg"'), OK, 400),
    "form with a name that is no UTF-8": _form(
        lambda: part(photo(), _NAMES + '"image"; filename="\udcff\udcfe"'), OK, 400
    ),
    "form with a charset of its own": _form(lambda: part(photo(), _NAMES + '"_charset_"') + part(photo()), 400, 422),
    "form whose photo is text": _form(lambda: part(b"../../etc/passwd", _NAMES + '"image"'), 400, 415, 422),
    "form whose photo is an address": _form(lambda: part(b"http://127.0.0.1:1/", _NAMES + '"image"'), 400, 415, 422),
    "form whose photo is empty": _form(lambda: part(b""), 400, 415),
    "form with a text of 10 MB": _form(lambda: part(bytes(10 << 20), _NAMES + '"image"'), 400, 413, 415, 422),
    "form with an encoding": _form(
        lambda: part(_B64.encode(), _NAMES + '"image"; filename="a"', "Content-Transfer-Encoding: base64"), OK, 400, 415
    ),
    "form with one bad photo": _form(lambda: part(photo()) + part(b"nothing"), 415),
}

DOCUMENTS: dict[str, Sent] = {
    "JSON 100,000 deep": _json(b"[" * 100_000 + b"]" * 100_000, 400, 422),
    "JSON 100,000 deep in images": _json(b'{"images":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, 422),
    "JSON that is a list": _json([_B64], 400, 422),
    "JSON that is a number": _json(b"1e999999", 400, 422),
    "JSON that is NaN": _json(b'{"images": NaN}', 400, 422),
    "JSON that is null": _json(None, 400, 422),
    "JSON that is empty": _json(b"", 400, 422),
    "JSON that is no JSON": _json(b"{images: ['x']}", 400, 422),
    "JSON cut short": _json(b'{"images": ["' + _B64[:100].encode(), 400, 422),
    "JSON that is no UTF-8": _json(b'{"images": ["\xff\xfe"]}', 400, 422),
    "JSON with half a surrogate": _json(b'{"images": ["\\ud800"]}', 400, 422),
    "JSON in UTF-16": _json('{"images": []}'.encode("utf-16"), 400, 422),
    "JSON with images twice": _json(f'{{"images": [], "images": ["{_B64}"]}}'.encode(), OK, 400, 422),
    "JSON with a strange field": _json({"images": [_B64], "url": "http://127.0.0.1:1/"}, 400, 422),
    "JSON without images": _json({"image": _B64}, OK, 400, 422),
    "JSON with no images": _json({"images": []}, 400, 422),
    "JSON with 1,000 images": _json({"images": [_B64] * 1000}, 400, 413, 422),
    "JSON with a million empty images": _json({"images": [""] * 1_000_000}, 400, 413, 422),
    "JSON whose images are numbers": _json({"images": [1, 2.5, None, True]}, 400, 422),
    "JSON whose images are text": _json({"images": _B64}, OK, 400, 422),
    "JSON with wrong base64": _json({"images": ["*" * 1000]}, 400, 422),
    "JSON with base64 of the wrong length": _json({"images": [_B64[:-3]]}, OK, 400, 422),
    "JSON with base64 of text": _json({"images": [base64.b64encode(b"hello").decode()]}, 415),
    "JSON with an address": _json({"images": ["http://127.0.0.1:1/photo.jpg"]}, 400, 422),
    "JSON with a file's address": _json({"images": ["file:///etc/passwd"]}, 400, 422),
    "JSON with a path": _json({"images": ["/etc/passwd"]}, 400, 415, 422),
    "OpenAI: text": _openai("hello world", 400, 422),
    "OpenAI: an address": _openai("http://127.0.0.1:1/photo.jpg", 400, 422),
    "OpenAI: tokens": _openai([[1, 2, 3]], 400, 422),
    "OpenAI: data of text": _openai("data:text/html;base64,PGI+", 400, 415, 422),
    "OpenAI: data without base64": _openai("data:image/jpeg,hello", 400, 415, 422),
    "OpenAI: data without a comma": _openai("data:image/jpeg;base64", 400, 415, 422),
    "OpenAI: data with wrong base64": _openai("data:image/jpeg;base64,****", 400, 422),
    "OpenAI: a data URI within a data URI": _openai("data:image/jpeg;base64,data:image/jpeg;base64," + _B64, 400, 422),
    "OpenAI: nothing": _openai([], 400, 422),
    "OpenAI: 1,000 photos": _openai(["data:image/jpeg;base64," + _B64] * 1000, 400, 413, 422),
    "OpenAI: deep": _openai(b'{"input":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, 400, 422),
}

OPTIONS: dict[str, Sent] = {
    "option top: not a number": _asked("top=NaN", 422),
    "option top: huge": _asked("top=" + "9" * 5000, 422),
    "option top: negative": _asked("top=-1", 422),
    "option top: twice": _asked("top=1&top=2", OK, 400, 422),
    "option head: a path": _asked("head=../../../etc/passwd", 400, 404, 422),
    "option head: a file": _asked("head=/etc/passwd.head", 400, 404, 422),
    "option head: null": _asked("head=%00", 400, 404, 422),
    "option head: no UTF-8": _asked("head=%ff%fe", 400, 404, 422),
    "option head: long": _asked("head=" + "h" * 20_000, 400, 404, 414, 422),
    "option model: a path": _asked("model=../../zoo", 400, 404, 422),
    "option model: an address": _asked("model=http://127.0.0.1:1/", 400, 404, 422),
    "option space: unknown": _asked("space=outer", 400, 422, path="/v1/embed"),
    "option encoding: unknown": _asked("encoding=pickle", 400, 422, path="/v1/embed"),
    "option that nobody knows": _asked("debug=1", 400, 422),
    "10,000 options": _asked("&".join(f"a{i}=1" for i in range(5_000)), 400, 414, 422, 431),
    "path that climbs": Sent(photo, frozenset({404, 405}), path="/v1/%2e%2e/%2e%2e/etc/passwd"),
    "path of the zoo that climbs": Sent(
        lambda: b"", frozenset({400, 404, 405}), path="/zoo/..%2f..%2fetc/passwd", method="GET"
    ),
    "gallery that climbs": Sent(photo, frozenset({400, 404, 405, 422}), path="/v1/galleries/..%2f..%2fetc"),
    "gallery of null": Sent(photo, frozenset({400, 404, 405, 422}), path="/v1/galleries/%00"),
    "head that climbs": Sent(photo, frozenset({400, 404, 405, 415, 422}), path="/v1/heads/..%2f..%2fx"),
    "wrong method": Sent(photo, frozenset({405}), method="PUT"),
    "method that nobody knows": Sent(photo, frozenset({400, 405, 501}), method="BREW"),
    "kind: none": Sent(photo, frozenset({OK, 400, 415}), ""),
    "kind: text": Sent(photo, frozenset({415}), "text/plain"),
    "kind: another image's": Sent(photo, frozenset({OK}), "image/png"),
    "kind: nonsense": Sent(photo, frozenset({400, 415}), ";;;===\x01"),
    "kind: a form of fields": Sent(lambda: b"image=abc", frozenset({400, 415}), "application/x-www-form-urlencoded"),
    "kind: XML": Sent(lambda: b"<!DOCTYPE a><a/>", frozenset({415}), "application/xml"),
    "body squeezed: 256 MB in 256 KB": Sent(
        lambda: _zipped_body(31), frozenset({400, 415}), headers={"content-encoding": "gzip"}
    ),
    "body in 5,000 chunks": Sent(
        lambda: (photo()[i : i + 1] for i in range(len(photo()))), frozenset({OK}), headers={}
    ),
    "body of 40 MB": Sent(lambda: bytes(40 << 20), frozenset({413})),
    "key that is wrong": Sent(photo, frozenset({OK, 400, 401}), headers={"authorization": "Bearer \x7f" + "k" * 5000}),
    "host that is another": Sent(photo, frozenset({421}), headers={"host": "evil.example"}),
    "range that is nonsense": Sent(
        lambda: b"",
        frozenset({OK, 206, 416}),
        path="/zoo/index.json",
        method="GET",
        headers={"range": "bytes=9-1,-0,x"},
    ),
    "range of 1,000 pieces": Sent(
        lambda: b"",
        frozenset({OK, 206, 400, 416}),
        path="/zoo/index.json",
        method="GET",
        headers={"range": "bytes=" + ",".join(["0-1"] * 1000)},
    ),
}

_GRADIO = "/ui/gradio_api"
_FUNCTION = {"data": [1], "fn_index": 9999, "session_hash": "x"}

PAGE: dict[str, Sent] = {
    "call of a function that is not there": _json({"data": [1]}, 422, path=f"{_GRADIO}/call/nope"),
    "run of a function that is not there": _json({"data": [1]}, 422, path=f"{_GRADIO}/run/nope"),
    "run past the queue": _json({"data": [None], "fn_index": 0}, 404, path=f"{_GRADIO}/run/predict"),
    "queue for a function that is not there": _json(_FUNCTION, 422, path=f"{_GRADIO}/queue/join"),
    "component that is not there": _json(
        {"data": [], "component_id": 999, "fn_name": "x", "session_hash": "y"}, 422, path=f"{_GRADIO}/component_server"
    ),
    "file of this machine": Sent(bytes, frozenset({403}), "", f"{_GRADIO}/file=/etc/passwd", method="GET"),
    "address to fetch": Sent(bytes, frozenset({400}), "", f"{_GRADIO}/proxy=http://localhost/", method="GET"),
}

REQUESTS = FORMS | DOCUMENTS | OPTIONS | PAGE

_POST = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"

# What a socket sends before it waits for an answer or, where `leave`, goes away without one.
WIRE: dict[str, tuple[Callable[[], bytes], bool]] = {
    "left before the body": (lambda: _POST + b"Content-Length: 5000\r\n\r\n", True),
    "left within the body": (lambda: _POST + b"Content-Length: 5000\r\n\r\n" + photo()[:300], True),
    "left before the answer": (lambda: _POST + f"Content-Length: {len(photo())}\r\n\r\n".encode() + photo(), True),
    "left within the head": (lambda: _POST[:40], True),
    "left at once": (lambda: b"", True),
    "length that is negative": (lambda: _POST + b"Content-Length: -1\r\n\r\n" + photo(), False),
    "length that is text": (lambda: _POST + b"Content-Length: many\r\n\r\n" + photo(), False),
    "length of 2^80": (lambda: _POST + b"Content-Length: %d\r\n\r\n" % (1 << 80) + photo(), False),
    "length twice": (lambda: _POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + photo(), False),
    "length and chunks": (
        lambda: _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        False,
    ),
    "chunk of no size": (lambda: _POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", False),
    "chunk of 2^80": (lambda: _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 20 + b"\r\n", False),
    "head of 1 MB": (lambda: _POST + b"X-A: " + b"a" * (1 << 20) + b"\r\n\r\n", False),
    "10,000 heads": (lambda: _POST + b"".join(b"X-%d: a\r\n" % i for i in range(10_000)) + b"\r\n", False),
    "null in a head": (lambda: _POST + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n", False),
    "no HTTP": (lambda: b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500), False),
    "HTTP/2 without asking": (lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50), False),
    "a path of 100 KB": (lambda: b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", False),
    "HTTP/0.9": (lambda: b"GET /\r\n\r\n", False),
    "1,000 requests in one go": (lambda: b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, True),
}
