"""Closing the connections over which nobody asks just now."""

from __future__ import annotations

import os
import socket
from typing import Any


def close_idle(server: Any) -> None:
    """Close the idle connections of a uvicorn `server`, but for those that have a request waiting in the kernel.

    uvicorn itself looks only at what it has read, and under load it reads a request some milliseconds after it came:
    closing then resets the connection under it. Those that are left are answered, and close themselves. Does nothing
    where `server` is not what we know.
    """
    for connection in list(getattr(getattr(server, "server_state", None), "connections", ())):
        transport = getattr(connection, "transport", None)
        if transport is not None and not transport.is_closing() and not _has_input(transport):
            connection.shutdown()  # what is being answered is only told not to stay


def _has_input(transport: Any) -> bool:
    found = transport.get_extra_info("socket")
    if found is None:
        return False
    with socket.socket(fileno=os.dup(found.fileno())) as same:
        try:
            return bool(same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing there
            return False
