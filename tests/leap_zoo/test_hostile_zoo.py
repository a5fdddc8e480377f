"""Zoos that are broken or hostile: each is refused with one clear line, and leaves nothing behind."""

import gzip
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from zoo_server import Behaviour, Handler, ZooServer, serve_until, serving

import leap_zoo
from leap_zoo import download
from leap_zoo.cli import main
from leap_zoo.pull import pull
from leap_zoo.web import Patience

TINY = "leap-tiny-test"
INDEX, CARD, FILE = "/index.json", f"/{TINY}/card.json", f"/{TINY}/model_int8.onnx"
SIGNATURE = f"/{TINY}/model.sig"
PATIENT = download.PATIENCE


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        download,
        "PATIENCE",
        Patience(connect=2, silence=0.3, window=0.2, least=1000, attempts=2, back_off=0.01, longest=0.02),
    )


def answer(status: int = 200, body: bytes | None = None, **headers: object) -> Behaviour:
    """Always this answer; without a body, the file's."""

    def behave(handler: Handler, data: bytes) -> None:
        content = data if body is None else body
        handler.head(status, **({"content_length": len(content)} | headers))
        handler.body(content)

    return behave


def changed(change: Callable[[bytes], bytes]) -> Behaviour:
    return lambda handler, data: answer(body=change(data))(handler, data)


def endless(handler: Handler, data: bytes) -> None:
    """No length; noise until the connection breaks."""
    handler.head(200, connection="close")
    handler.close_connection = True
    for _ in range(2000):
        handler.body(bytes(65536))
    raise AssertionError("nobody stopped reading")


def endless_chunks(handler: Handler, data: bytes) -> None:
    handler.head(200, transfer_encoding="chunked")
    for _ in range(2000):
        handler.body(b"10000\r\n" + bytes(65536) + b"\r\n")
    raise AssertionError("nobody stopped reading")


def short_chunks(handler: Handler, data: bytes) -> None:
    handler.head(200, transfer_encoding="chunked")
    handler.body(b"10\r\n" + data[:16] + b"\r\n0\r\n\r\n")


def stalling(handler: Handler, data: bytes) -> None:
    serve_until(handler, data, 100)
    time.sleep(1)


def dripping(handler: Handler, data: bytes) -> None:
    """A byte now and then: no timeout between two bytes ends it."""
    handler.head(200, content_length=len(data), etag='"drip"')
    for position in range(200):
        handler.body(data[position : position + 1])
        time.sleep(0.02)


def cut(handler: Handler, data: bytes) -> None:
    serve_until(handler, data, 100)


def silent(handler: Handler, data: bytes) -> None:
    time.sleep(1)


def no_http(handler: Handler, data: bytes) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    handler.close_connection = True


def endless_headers(handler: Handler, data: bytes) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        handler.wfile.write(b"x-%d: " % number + b"y" * 1000 + b"\r\n")


def loop(handler: Handler, data: bytes) -> None:
    handler.head(302, content_length=0, location=handler.path)


def to(location: str) -> Behaviour:
    return lambda handler, data: handler.head(302, content_length=0, location=location)


HTML = b"<!doctype html><title>Welcome</title>" + b"<p>" * 200
BOMB: bytes = gzip.compress(bytes(50_000_000))

# what | path | behaviour | what the line says | may a part be kept to go on later
ANSWERS: list[tuple[str, str, Behaviour, str, bool]] = [
    ("file too short", FILE, changed(lambda data: data[:-1]), "its card says", False),
    ("file too long", FILE, changed(lambda data: data + b"x"), "its card says", False),
    ("file empty", FILE, answer(body=b""), "its card says", False),
    ("file of the right size", FILE, changed(lambda data: data[:-1] + b"x"), "expected sha256", False),
    ("file is a page", FILE, answer(body=HTML), "its card says", False),
    ("file without end", FILE, endless, "larger than", False),
    ("file without end, chunked", FILE, endless_chunks, "larger than", False),
    ("file ends early, chunked", FILE, short_chunks, "ends after 16 of", False),
    ("file stalls", FILE, stalling, "timed out", True),
    ("file drips", FILE, dripping, "only .* bytes in", True),
    ("file is cut each time", FILE, cut, "2 times", True),
    ("file never answers", FILE, silent, "timed out", False),
    ("file is gzip", FILE, answer(content_encoding="gzip"), "not requested", False),
    ("file is a gzip bomb", FILE, answer(body=BOMB, content_encoding="gzip"), "not requested", False),
    ("file is a part that nobody asked for", FILE, answer(206, content_range="bytes 0-1/2"), "206", False),
    ("file is out of range", FILE, answer(416, b""), "416", False),
    ("file is not there", FILE, answer(404, b""), "does not have it", False),
    ("file is forbidden", FILE, answer(403, b""), "403 Forbidden", False),
    ("file fails", FILE, answer(500, b"", retry_after=9999), "500 Internal Server Error, 2 times", False),
    ("file has an odd status", FILE, answer(299, b""), "299", False),
    ("file is not modified", FILE, answer(304, b""), "304", False),
    ("golden file fails", f"/{TINY}/golden.npz", answer(500, b""), "500", True),
    ("golden file is not there", f"/{TINY}/golden.npz", answer(404, b""), "does not have it", False),
    ("redirect to a file", FILE, to("file:///etc/passwd"), "not on the web", False),
    ("redirect of the index to a file", INDEX, to("file:///etc/passwd"), "not on the web", False),
    ("redirect to another scheme", FILE, to("gopher://localhost/1"), "not on the web", False),
    ("redirect to data", CARD, to("data:application/json,{}"), "not on the web|check the URL", False),
    ("redirect in a circle", INDEX, loop, "redirects", False),
    ("redirect to nowhere", INDEX, to("http://[::1"), "location header", False),
    ("redirect to no port", INDEX, to("http://localhost:99999999/"), "2 times|check the URL", False),
    ("index without end", INDEX, endless, "larger than", False),
    ("index huge", INDEX, answer(body=b"[" + b" " * 5_000_000 + b"]"), "larger than", False),
    ("index nested", INDEX, answer(body=b"[" * 1_000_000), "JSON|Expected", False),
    ("index nested in a key", INDEX, answer(body=b'{"models":' + b"[" * 1_000_000), "JSON|Expected", False),
    ("index is no JSON", INDEX, answer(body=b'{"models": ['), "JSON", False),
    ("index is a page", INDEX, answer(body=HTML), "JSON", False),
    ("index is no text", INDEX, answer(body=b"\xff\xfe\x00"), "JSON", False),
    ("index empty", INDEX, answer(body=b""), "JSON", False),
    ("index is another document", INDEX, answer(body=b'{"a\\nb": 1}'), "unknown key|missing", False),
    ("index of a later schema", INDEX, answer(body=b'{"schema": 2}'), "pip install -U", False),
    ("index is a gzip bomb", INDEX, answer(body=BOMB, content_encoding="gzip"), "not requested", False),
    ("index is not there", INDEX, answer(404, HTML), "is not a zoo", False),
    ("index is forbidden", INDEX, answer(403, HTML), "403", False),
    ("index fails", INDEX, answer(503, HTML), "503", False),
    ("index drips", INDEX, dripping, "bytes in", False),
    ("index is no HTTP", INDEX, no_http, "2 times", False),
    ("index has headers without end", INDEX, endless_headers, "2 times|check the URL", False),
    ("card is another", CARD, changed(lambda data: data.replace(b"red", b"rad")), "expected sha256", False),
    ("card is not there", CARD, answer(404, b""), "cannot be read", False),
    ("card is longer than the index says", CARD, changed(lambda data: data + b" "), "larger than", False),
    ("card without end", CARD, endless, "larger than", False),
    ("signature without end", SIGNATURE, endless, "larger than", False),
    ("signature fails", SIGNATURE, answer(500, b""), "500", False),
]


@pytest.mark.parametrize(
    ("path", "behaviour", "says", "kept"), [case[1:] for case in ANSWERS], ids=[c[0] for c in ANSWERS]
)
def test_hostile_server__is_refused(
    server: ZooServer,
    capsys: pytest.CaptureFixture[str],
    no_pulled_models: Path,
    path: str,
    behaviour: Behaviour,
    says: str,
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.behaviours[path] = behaviour
    line, left = refused(capsys, server.url, no_pulled_models)
    assert re.search(says, line), line
    assert bool(left) == kept
    assert {file.parent.name for file in left} <= {"partial", "blobs"}
    del server.behaviours[path]
    monkeypatch.setattr(download, "PATIENCE", PATIENT)
    assert main(["pull", TINY, "--from", server.url]) == 0  # and none of it is in the way later
    assert leap_zoo.load(TINY).card.id == TINY


def test_hostile_redirect__from_https_to_http_is_refused(
    zoo_copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_pulled_models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("cryptography")
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(zoo_copy, context) as secure, serving(zoo_copy) as plain:
        line, left = refused(capsys, secure.url, no_pulled_models)
        assert "certificate" in line.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        secure.behaviours[FILE] = to(plain.url + FILE)
        line, left = refused(capsys, secure.url, no_pulled_models)
        assert "from https to" in line
        assert left == []
        assert plain.requests == []
        del secure.behaviours[FILE]
        assert main(["pull", TINY, "--from", secure.url]) == 0


def self_signed(folder: Path) -> Path:
    """A PEM file with key and certificate for 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    "location",
    [
        *(
            "ftp://localhost/zoo",
            "hf://",
            "http://",
            "http://[",
            "https://localhost/?a=b",
            "\0",
            "http://-ü",
            "http://\x7f",
        ),
        *("http://localhost/a b", "http://localhost/\udcff", "http://\udcff", "hf://org/one@\udcff", "file:\udcff"),
    ],
)
def test_hostile_location__is_refused(
    capsys: pytest.CaptureFixture[str], no_pulled_models: Path, location: str
) -> None:
    assert refused(capsys, location, no_pulled_models)[1] == []


def test_password__is_in_no_message(
    server: ZooServer, capsys: pytest.CaptureFixture[str], no_pulled_models: Path
) -> None:
    server.behaviours[FILE] = answer(403, b"")
    line, _ = refused(capsys, server.url.replace("http://", "http://me:secret@"), no_pulled_models)
    assert "secret" not in line


STATUS = st.sampled_from([b"HTTP/1.1 %d x" % code for code in (200, 206, 302, 416, 503, 999)] + [b"HTTP/9 2", b""])
VALUE = st.binary(max_size=20) | st.sampled_from(
    [b"0", b"-1", b"9" * 30, b"gzip", b"chunked", b"bytes 0-0/1", b"//[", b"ht!tp://x", b"\xc3\xa9", b"http://a\x00b/"]
)
NAMES = ("content-length", "transfer-encoding", "content-encoding", "location", "retry-after", "etag", "connection")
HEADER = st.tuples(st.sampled_from([name.encode() for name in NAMES]) | st.binary(max_size=10), VALUE)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=STATUS | st.binary(max_size=30), headers=st.lists(HEADER, max_size=4), body=st.binary(max_size=50))
@pytest.mark.parametrize("path", [INDEX, FILE])
def test_hostile_server__any_answer_raises_one_of_our_errors(
    server: ZooServer, path: str, status: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    def say(handler: Handler, data: bytes) -> None:
        lines = [status, *(b"%s: %s" % header for header in headers), b"", body]
        handler.wfile.write(b"\r\n".join(lines))
        handler.close_connection = True

    server.behaviours[path] = say
    with pytest.raises(leap_zoo.LeapZooError) as caught:
        pull(TINY, server.url)
    assert "\n" not in str(caught.value)
