"""When, on what, and with which versions something was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

from leap_zoo.device import available_threads, cpu_name, instruction_sets
from tools.server_process import ROOT

_PACKAGES = ("bentoml", "uvicorn", "uvloop", "starlette", "fastapi", "onnxruntime", "gradio", "pillow", "numpy")


def provenance() -> dict[str, Any]:
    """The fields that say so. Ask before the measurement: `load_average` is what else the machine had to do."""
    changed = _git("status", "--porcelain", "--", ".", ":!results")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else ""),
        "device": cpu_name(),
        "isa": list(instruction_sets()),
        "processors": available_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _git(*words: str) -> str:
    """What git prints, without its end of line; nothing outside a repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
