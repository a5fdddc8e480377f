"""What this machine offers: the processors that we may actually use, and the instruction sets that affect int8."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from functools import lru_cache
from pathlib import Path

# cpuinfo flag -> the name used in cards. int8 results differ between processors with and without vnni / dotprod.
_ISA = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "amx_int8": "amx",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}


def available_threads() -> int:
    """The number of processors that this process may use: the minimum of count, affinity and cgroup quota; at least 1.

    Runtimes look at the host only. In a container with two of 64 processors they would start 64 threads and crawl.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, count if quota is None else min(count, int(quota)))


def cgroup_quota(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPU quota of this process's cgroup (version 2) and its parents, in processors, or None.

    Inside a container, the path in `proc` is often the host's and does not exist below the mount. The walk upward then
    ends at the mount's root, which is the container.
    """
    try:
        paths = [line.removeprefix("0::") for line in proc.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        return None
    quotas = []
    for path in paths:
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # absent, or the word "max"
                quota, period = mount.joinpath(*parts[:depth], "cpu.max").read_text().split()
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


@lru_cache(maxsize=1)
def instruction_sets() -> tuple[str, ...]:
    """This CPU's instruction sets that affect results, e.g. ("avx2", "avx512", "vnni"); empty if unknown."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ("dotprod", "neon")
    flags: set[str] = set()
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
            break
    return tuple(sorted({isa for flag, isa in _ISA.items() if flag in flags}))


def int8_saturates() -> bool:
    """Whether default int8 kernels can overflow: this CPU has neither VNNI nor ARM dot products, or is unknown."""
    return not {"vnni", "dotprod"} & set(instruction_sets())


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """The processor's name for reports and latency rows."""
    names = (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown processor"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []
