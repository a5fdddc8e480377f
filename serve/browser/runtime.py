"""The files of onnxruntime-web that a page needs: which version, which files, and how they get into a folder.

The CPU runtime alone, as two files: the module with its loader inside, and the WebAssembly, which is kept gzipped: the
page unpacks it, so that any static host sends a third of the bytes. package.json pins the version and their digests.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

PIN = Path(__file__).with_name("package.json")
FOLDER = Path(__file__).with_name("runtime")
"""Where the runtime lies unless LEAP_ZOO_SERVE_BROWSER_RUNTIME names another folder. Not in the repository."""

ABOUT = "runtime.json"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # as npm has them
KEPT = {MODULE: "ort.wasm.bundle.min.js", WASM: f"{WASM}.gz"}  # not every host knows that .mjs is a script
FILES = (ABOUT, *KEPT.values())

NPM = "npm install --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error"


class CannotFetch(Exception):
    """The runtime cannot be had; the message says why, and what to do."""


def fetch(folder: Path) -> Path:
    """Put the pinned runtime into `folder` with npm, and return it. Raises CannotFetch; then `folder` is unchanged."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotFetch("npm is not installed: install Node.js (https://nodejs.org), which brings it, and try again")
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(PIN, work)
        done = subprocess.run([npm, *NPM.split()[1:]], cwd=work, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip()[-500:]
            raise CannotFetch(f"npm failed: {reason or done.returncode}; check the network and npm's registry")
        _take(Path(work) / "node_modules" / "onnxruntime-web", folder)
    return folder


def _take(package: Path, folder: Path) -> None:
    """Copy what is needed of npm's package, when it is what was pinned."""
    pin = json.loads(PIN.read_text())
    files = {name: (package / "dist" / name).read_bytes() for name in (MODULE, WASM)}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != pin["sha256"][name]:
            raise CannotFetch(f"{name} has another sha256 than {PIN.name} says: do not use it, and ask who pinned it")
    about = json.loads((package / "package.json").read_text())
    zipped = gzip.compress(files[WASM], mtime=0)
    described = {
        "name": about["name"],
        "version": about["version"],
        "licence": about["license"],
        "module": KEPT[MODULE],
        "wasm": {"file": KEPT[WASM], "bytes": len(zipped)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEPT[MODULE]).write_bytes(files[MODULE])
    (folder / KEPT[WASM]).write_bytes(zipped)
    (folder / ABOUT).write_text(json.dumps(described, indent=1) + "\n")  # the last: it says that the others are there
