"""How a server leaves its socket and its connections, and how it and its supervisor look after each other."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from serve import supervisor
from serve.idle import close_idle
from serve.listening import listen_again, stop_listening, take_no_more

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sockets of a process are looked up as Linux lists them")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(8)
        yield one


def connect(listening: socket.socket, seconds: float = 5) -> socket.socket:
    return socket.create_connection(listening.getsockname(), timeout=seconds)


@linux
def test_listening__who_had_connected_is_still_taken(listening: socket.socket) -> None:
    with connect(listening) as early:
        early.sendall(b"request")
        take_no_more()
        with pytest.raises(TimeoutError):
            connect(listening, 0.2)
        taken, _ = listening.accept()
        with taken:
            assert taken.recv(100) == b"request"
            stop_listening()
            taken.sendall(b"answer")
            assert early.recv(100) == b"answer"
    with pytest.raises(ConnectionRefusedError):
        connect(listening)


@linux
@pytest.mark.parametrize("last", [stop_listening, take_no_more])
def test_listening__the_next_worker_listens_again(listening: socket.socket, last) -> None:
    last()
    listen_again()
    listening.listen(8)
    connect(listening).close()


class Connection:
    """What `close_idle` sees of a connection of uvicorn's."""

    def __init__(self, taken: socket.socket | None) -> None:
        self.transport = SimpleNamespace(get_extra_info=lambda name: taken, is_closing=lambda: False)
        self.told = False

    def shutdown(self) -> None:
        self.told = True


def test_close_idle__leaves_those_that_have_a_request_waiting(listening: socket.socket) -> None:
    with connect(listening) as silent, connect(listening) as asking:
        taken = {}
        for _ in range(2):
            one, address = listening.accept()
            taken[address] = one
        asking.sendall(b"request")
        idle, waiting = Connection(taken[silent.getsockname()]), Connection(taken[asking.getsockname()])
        close_idle(SimpleNamespace(server_state=SimpleNamespace(connections={idle, waiting, Connection(None)})))
        assert (idle.told, waiting.told) == (True, False)
        for one in taken.values():
            one.close()


@pytest.mark.parametrize("server", [None, object(), SimpleNamespace(server_state=None)])
def test_close_idle__leaves_other_servers_alone(server: object) -> None:
    close_idle(server)


def test_supervisor__looks_after_its_workers_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from circus.controller import Controller

    started: list[float] = []
    monkeypatch.setattr(Controller, "start", lambda self: started.append(self.check_delay))
    supervisor.check_often()
    for milliseconds in (10_000, 500, -1):  # one below nought: the library's own tests, which look at no time
        Controller.start(SimpleNamespace(check_delay=milliseconds))
    assert started == [1000, 500, -1]


@pytest.mark.parametrize("alive", [True, False])
def test_supervisor__its_end_is_a_worker_s_signal_to_stop(monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    heard: list[int] = []
    parents = iter([7, 7, 7, 7] if alive else [7, 7, 1])
    monkeypatch.setattr(supervisor.os, "getppid", lambda: next(parents, 7))
    monkeypatch.setattr(supervisor, "FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr(supervisor.signal, "raise_signal", heard.append)

    async def run() -> None:
        supervisor.follow()
        await asyncio.sleep(0.2)

    asyncio.run(run())
    assert heard == ([] if alive else [signal.SIGTERM])
