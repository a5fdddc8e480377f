"""`python -m tools.weigh`: how heavy and how quick is the edge package, freshly installed?

A new environment without pip, `pip install .` into it, then three questions: how many megabytes, how long does
`import leap_zoo` take beyond numpy, how long from the start of `leap-zoo classify PHOTO` to the answer. Writes
results/edge_weight.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from leap_zoo.device import cpu_name

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "results" / "edge_weight.json"
PHOTO = ROOT / "docs" / "images" / "golf-ball.jpg"
LIMITS = {"megabytes": 215, "import_seconds": 0.15, "first_prediction_seconds": 1.0}
FORBIDDEN = ("torch", "openvino", "timm", "bentoml", "gradio", "scipy", "onnx", "nncf", "pip")

_SIZES = """
import importlib.metadata as metadata, json, os
sizes = {}
for package in metadata.distributions():
    files = (package.locate_file(file) for file in package.files or [])
    sizes[package.name] = [package.version, sum(os.path.getsize(file) for file in files if os.path.isfile(file))]
print(json.dumps(sizes))
"""
_IMPORT = """
import time, numpy
started = time.perf_counter()
from leap_zoo import Model, fit, load  # its names are imported with their first use
print(time.perf_counter() - started)
"""


# What pip says without a network: it cannot ask an index, or has none to ask.
_NO_INDEX = ("(from versions: none)", "connection broken", "Could not fetch URL", "Failed to establish", "timed out")


class Unreachable(Exception):
    """The package index cannot be reached from here."""


def weigh(folder: Path, photo: Path = PHOTO, repeats: int = 5) -> dict[str, Any]:
    """Install into the empty `folder` and measure. Raises Unreachable with what pip said."""
    return measure(install(folder), photo, repeats)


def measure(python: Path, photo: Path = PHOTO, repeats: int = 5) -> dict[str, Any]:
    """The environment of `python`, which `install` made."""
    cli = python.parent / ("leap-zoo.exe" if os.name == "nt" else "leap-zoo")
    _run([str(cli), "classify", str(photo), "--json"])  # the first start writes bytecode
    packages = json.loads(_run([str(python), "-c", _SIZES]))
    site = [path for path in python.parents[1].rglob("site-packages") if path.is_dir()]
    imports = [float(_run([str(python), "-c", _IMPORT])) for _ in range(repeats)]
    answers, predictions = [], ""
    for _ in range(repeats):
        started = time.perf_counter()
        predictions = _run([str(cli), "classify", str(photo), "--json"])
        answers.append(time.perf_counter() - started)
    return {
        "megabytes": round(sum(_size(path) for path in site) / 1e6, 1),
        "import_seconds": _times(imports),
        "first_prediction_seconds": _times(answers),
        "repeats": repeats,
        "limits": LIMITS,
        "forbidden": sorted(set(FORBIDDEN) & {name.lower() for name in packages}),
        "packages": {
            name: {"version": version, "megabytes": round(size / 1e6, 2)}
            for name, (version, size) in sorted(packages.items(), key=lambda item: -item[1][1])
        },
        "model": json.loads(predictions)["model"],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": cpu_name(),
        "processors": os.cpu_count(),
    }


def install(folder: Path) -> Path:
    """A new environment in `folder` with this checkout's edge package, without pip. Returns its Python."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run(
        [*pip, "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise Unreachable(last) if any(words in done.stderr for words in _NO_INDEX) else RuntimeError(done.stderr)
    return python


def exceeded(found: dict[str, Any]) -> list[str]:
    """What is heavier or slower than LIMITS, or must not be installed. Of times the fastest counts: a busy machine is
    not the package's fault."""
    measured = {name: found[name]["fastest"] if isinstance(found[name], dict) else found[name] for name in LIMITS}
    over = [f"{name}: {measured[name]}, at most {limit}" for name, limit in LIMITS.items() if measured[name] > limit]
    return over + [f"{name} is installed" for name in found["forbidden"]]


def main() -> int:
    """Weigh, print, write; exit status 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m tools.weigh", description=__doc__)
    parser.add_argument("--photo", type=Path, default=PHOTO, help="default: the drawn one in docs/images")
    parser.add_argument("--out", type=Path, default=RESULT, help="default: results/edge_weight.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = weigh(Path(folder), options.photo.absolute())
        except Unreachable as error:
            print(f"tools.weigh: the packages cannot be installed: {error}", file=sys.stderr)
            return 2
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for name, package in found["packages"].items():
        print(f"{package['megabytes']:8.2f} MB  {name} {package['version']}")
    for name, limit in LIMITS.items():
        print(f"{name}: {found[name]} (at most {limit})")
    over = exceeded(found)
    for line in over:
        print(f"tools.weigh: {line}", file=sys.stderr)
    return 1 if over else 0


def _times(seconds: list[float]) -> dict[str, float]:
    return {"fastest": round(min(seconds), 3), "median": round(statistics.median(seconds), 3)}


def _run(command: list[str]) -> str:
    """What a process of the new environment prints; it sees none of this checkout and none of our settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LEAP_ZOO_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=kept, cwd=Path(command[0]).parent)
    return done.stdout


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    sys.exit(main())
