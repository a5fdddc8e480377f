"""`python -m serve.browser [FOLDER]`: fetch onnxruntime-web for the page, with npm, at the version of package.json.

Only the CPU runtime, as two files: the module, which includes its loader, and the WebAssembly, which is stored gzipped:
the page unpacks it, so that any static host sends a third of the bytes. package.json pins the version and the digests.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serve.browser import RUNTIME

PIN = Path(__file__).with_name("package.json")
ABOUT = "runtime.json"
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # their names in the npm package
KEPT = {MODULE: "ort.wasm.bundle.min.js", WASM: f"{WASM}.gz"}  # some hosts do not serve .mjs as a script
FLAGS = "--no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error"


class CannotFetch(Exception):
    """The runtime could not be fetched; the message says why and what to do."""


def fetch(folder: Path) -> Path:
    """Put the pinned runtime into `folder` with npm, and return it. On CannotFetch, `folder` is unchanged."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotFetch("npm is not installed: install Node.js (https://nodejs.org), which has it, and try again")
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(PIN, work)
        done = subprocess.run([npm, "install", *FLAGS.split()], cwd=work, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip()[-500:]
            raise CannotFetch(f"npm failed: {reason or done.returncode}; check the network and npm's registry")
        package = Path(work, "node_modules", "onnxruntime-web")
        files = {name: (package / "dist" / name).read_bytes() for name in (MODULE, WASM)}
        about = json.loads((package / "package.json").read_text())
    for name, digest in json.loads(PIN.read_text())["sha256"].items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise CannotFetch(f"the sha256 of {name} differs from {PIN.name}: do not use it, and report it")
    files[WASM] = gzip.compress(files[WASM], mtime=0)
    described = {
        "name": about["name"],
        "version": about["version"],
        "licence": about["license"],
        "module": KEPT[MODULE],
        "wasm": {"file": KEPT[WASM], "bytes": len(files[WASM])},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / KEPT[name]).write_bytes(data)
    (folder / ABOUT).write_text(json.dumps(described, indent=1) + "\n")  # last: it marks the others as complete
    return folder


def main() -> int:
    """Run the command line. Returns the exit status: 2 if the runtime could not be fetched."""
    parser = argparse.ArgumentParser(prog="python -m serve.browser", description="Fetch onnxruntime-web with npm.")
    parser.add_argument("folder", nargs="?", type=Path, default=RUNTIME, help="default: where the server looks for it")
    folder = parser.parse_args().folder
    try:
        fetch(folder)
    except (CannotFetch, OSError) as error:
        print(f"serve.browser: {error}", file=sys.stderr)
        return 2
    print(f"onnxruntime-web is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
