"""The socket that this process listens on, which it shares with its supervisor."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path


def stop_listening() -> None:
    """Refuse new connections from now on, in the supervisor, too.

    uvicorn closes its own copy of the socket only: the kernel would go on taking connections for the supervisor's, keep
    their requests waiting until that ends, and then reset them. A client that is refused knows at once. Connections
    that the kernel has, and this process has not taken yet, are reset: none of their requests has begun. A worker that
    is started again listens anew on the same socket.
    """
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            if not str(Path("/proc/self/fd", name).readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                inet = one.family in (socket.AF_INET, socket.AF_INET6)
                if inet and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    one.shutdown(socket.SHUT_RD)
