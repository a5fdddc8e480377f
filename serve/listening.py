"""The socket that this process listens on, which it shares with its supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_SO_ATTACH_FILTER = 26  # of Linux; Python's socket module has no names for them
_SO_DETACH_FILTER = 27

# A classic packet filter, which needs no privilege: a TCP segment with SYN and without ACK is dropped, others pass.
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x54, 0, 0, 0x12),  # keep ACK and SYN
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)


def take_no_more() -> None:
    """Let nobody connect from now on, and still take those who have.

    Whoever tries is neither taken nor refused: its system tries again in a second, and by then nobody listens. A
    listening socket that is just closed resets every connection that the kernel has and this process has not taken
    yet, and with it requests that were sent already.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    for one in _listening():
        with contextlib.suppress(OSError):  # a kernel without filters: then stop_listening resets a few
            one.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
            )


def stop_listening() -> None:
    """Refuse new connections from now on, in the supervisor, too.

    uvicorn closes its own copy of the socket only: the kernel would go on taking connections for the supervisor's, keep
    their requests waiting until that ends, and then reset them. A client that is refused knows at once. A worker that
    is started again listens anew on the same socket.
    """
    for one in _listening():
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RD)
        _take_filter_off(one)


def listen_again() -> None:
    """Undo `take_no_more` of a worker before this one, which was killed before it could stop listening."""
    for one in _sockets():
        _take_filter_off(one)


def _take_filter_off(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # there is none
        one.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _listening() -> Iterator[socket.socket]:
    for one in _sockets():
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield one


def _sockets() -> Iterator[socket.socket]:
    """A second descriptor of each internet socket of this process, for as long as it is looked at."""
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if not str(Path("/proc/self/fd", name).readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6):
                    yield one
