"""Downloads that are cut, killed, or continued by a server that has changed its mind."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zoo_server import FILE, SIZE, TINY, Handler, ZooServer, serve, serve_until, serving, start_of

import leap_zoo
from leap_zoo import download
from leap_zoo.documents import read_card
from leap_zoo.errors import DownloadFailed, UnknownModel
from leap_zoo.pull import pull
from leap_zoo.web import Patience

ROOT = Path(leap_zoo.__file__).parent.parent


def start(url: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "leap_zoo.cli", "pull", TINY, "--from", url, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=6))
def test_pull__cut_anywhere_goes_on_there(
    big_server: ZooServer, tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    left = list(cuts)

    def cut(handler: Handler, data: bytes) -> None:
        if left:
            serve_until(handler, data, max(left.pop(0), start_of(handler, data)))
        else:
            serve(handler, data)

    big_server.behaviours[FILE] = cut
    big_server.served.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAP_ZOO_HOME", str(tmp_path_factory.mktemp("cut")))
        patch.setattr(download, "PATIENCE", Patience(attempts=99, back_off=0.001, longest=0.001))
        path = next(file for file in pull(TINY, big_server.url).files if file.file == FILE.rpartition("/")[2]).path
        assert Path(path).read_bytes() == (big_server.folder / FILE[1:]).read_bytes()
    assert big_server.served[FILE] == SIZE


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("position", [0, 123_457, SIZE - 1])
def test_pull__killed_goes_on_there(big_server: ZooServer, no_pulled_models: Path, position: int) -> None:
    reached, killed = threading.Event(), threading.Event()

    def wait(handler: Handler, data: bytes) -> None:
        serve_until(handler, data, position)
        reached.set()
        killed.wait(120)

    big_server.behaviours[FILE] = wait
    process = start(big_server.url)
    try:
        assert reached.wait(60)
        digest = read_card(big_server.folder / TINY / "card.json").artifacts[1].sha256
        partial = no_pulled_models / "partial" / digest
        until = time.monotonic() + 60
        while position and not (partial.exists() and partial.stat().st_size == position):
            assert time.monotonic() < until, "the bytes that were served are not on the disk"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
    assert leap_zoo.load("leap-nano").card.id == "leap-nano"  # the others are not disturbed
    with pytest.raises(UnknownModel):
        leap_zoo.load(TINY)
    del big_server.behaviours[FILE]
    big_server.served.clear()
    again = start(big_server.url)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert digest.encode() in out
    assert hashlib.sha256((no_pulled_models / "blobs" / digest).read_bytes()).hexdigest() == digest
    assert big_server.ranges(FILE)[-1] == (f"bytes={position}-" if position else None)
    assert big_server.served[FILE] == SIZE - position
    assert not list((no_pulled_models / "partial").iterdir())


def interrupted(server: ZooServer, home: Path) -> Path:
    """Leave the first half of the file in the cache."""

    def half(handler: Handler, data: bytes) -> None:
        serve_until(handler, data, max(start_of(handler, data), SIZE // 2))

    server.behaviours[FILE] = half
    with pytest.raises(DownloadFailed, match="the part that arrived is kept"):
        pull(TINY, server.url)
    del server.behaviours[FILE]
    server.requests.clear()
    server.served.clear()
    (partial,) = [path for path in (home / "partial").iterdir() if path.suffix == ""]
    assert partial.stat().st_size == SIZE // 2
    return partial


def whole(handler: Handler, data: bytes) -> None:
    """As `python -m http.server` does."""
    handler.head(200, content_length=len(data), last_modified="Tue, 24 Nov 2026 14:00:00 GMT")
    handler.body(data)


def wrong_range(handler: Handler, data: bytes) -> None:
    start = start_of(handler, data)
    if not start:
        return serve(handler, data)
    handler.head(206, content_length=len(data) - start, content_range=f"bytes {start - 1}-{len(data) - 2}/{len(data)}")
    return handler.body(data[start - 1 : -1])


def other_version(handler: Handler, data: bytes) -> None:
    """Ignores If-Range, and says so."""
    if not handler.headers["Range"]:
        return serve(handler, data)
    start = SIZE // 2
    handler.head(206, content_length=SIZE - start, content_range=f"bytes {start}-{SIZE - 1}/{SIZE}", etag='"another"')
    return handler.body(bytes(SIZE - start))


def silently_other_version(handler: Handler, data: bytes) -> None:
    """Ignores If-Range, and does not say so."""
    if not handler.headers["Range"]:
        return serve(handler, data)
    start = SIZE // 2
    handler.head(206, content_length=SIZE - start, content_range=f"bytes {start}-{SIZE - 1}/{SIZE}")
    return handler.body(bytes(SIZE - start))


def not_satisfiable(handler: Handler, data: bytes) -> None:
    if not handler.headers["Range"]:
        return serve(handler, data)
    return handler.head(416, content_length=0, content_range=f"bytes */{SIZE}")


@pytest.mark.parametrize("behaviour", [whole, wrong_range, other_version, silently_other_version, not_satisfiable])
def test_pull__that_cannot_go_on_starts_over(big_server: ZooServer, no_pulled_models: Path, behaviour) -> None:
    partial = interrupted(big_server, no_pulled_models)
    big_server.behaviours[FILE] = behaviour
    pull(TINY, big_server.url)
    assert big_server.ranges(FILE)[0] == f"bytes={SIZE // 2}-"
    assert (no_pulled_models / "blobs" / partial.name).read_bytes() == (big_server.folder / FILE[1:]).read_bytes()


def test_pull__goes_on_from_another_server(big_server: ZooServer, no_pulled_models: Path) -> None:
    interrupted(big_server, no_pulled_models)
    with serving(big_server.folder) as mirror:
        pull(TINY, mirror.url)
        assert mirror.served[FILE] == SIZE - SIZE // 2


def test_pull__server_that_changes_its_mind_in_the_middle_starts_over(
    big_server: ZooServer, no_pulled_models: Path
) -> None:
    answers = [lambda handler, data: serve_until(handler, bytes(SIZE), 1000), serve, serve]
    big_server.behaviours[FILE] = lambda handler, data: answers.pop(0)(handler, data)
    path = next(file.path for file in pull(TINY, big_server.url).files if file.file == FILE.rpartition("/")[2])
    assert Path(path).read_bytes() == (big_server.folder / FILE[1:]).read_bytes()
    assert big_server.ranges(FILE) == [None, "bytes=1000-", None]


@pytest.mark.parametrize("damage", [lambda data: bytes(len(data)), lambda data: data + bytes(SIZE)])
def test_pull__damaged_partial_starts_over(big_server: ZooServer, no_pulled_models: Path, damage) -> None:
    partial = interrupted(big_server, no_pulled_models)
    partial.write_bytes(damage(partial.read_bytes()))
    pull(TINY, big_server.url)
    assert (no_pulled_models / "blobs" / partial.name).read_bytes() == (big_server.folder / FILE[1:]).read_bytes()


def test_pull__by_several_processes_at_once_downloads_once(big_server: ZooServer, no_pulled_models: Path) -> None:
    def slowly(handler: Handler, data: bytes) -> None:
        time.sleep(0.5)  # so that the others find it in progress
        serve(handler, data)

    big_server.behaviours[FILE] = slowly
    processes = [start(big_server.url, *extra) for extra in ((), ("--all",), ("--precision", "fp32"))]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert big_server.served[FILE] == SIZE
    assert not list((no_pulled_models / "partial").iterdir())
    assert not list(no_pulled_models.glob("*.lock"))
    card = next(card for card in leap_zoo.models() if card.id == TINY)
    for file in card.files:
        data = (no_pulled_models / "blobs" / file.sha256).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
