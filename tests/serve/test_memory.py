"""Memory of large photos goes back to the system, also when something small was kept meanwhile."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A thread frees a large block, so that glibc learns to keep such blocks; then large and small ones are made by turns,
# and only the small ones are kept.
_WORK = """
import os, sys, threading
from serve.memory import return_memory

if "return" in sys.argv:
    assert return_memory()
kept = []

def work():
    del [bytearray(30 << 20)][0]
    large = []
    for _ in range(6):
        large.append(bytearray(20 << 20))
        kept.append(bytes(100_000))

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

before = resident()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems have another malloc")
def test_return_memory__gives_back_what_large_photos_took() -> None:
    kept = _grown()
    if kept < 50:  # MiB
        pytest.skip("this malloc returns the memory by itself: there is nothing to show")
    assert _grown("return") < kept - 40


def _grown(*options: str) -> int:
    done = subprocess.run([sys.executable, "-c", _WORK, *options], capture_output=True, text=True, check=True)
    return int(done.stdout)
