"""`python -m tools.check_limits`: where do the published ONNX files load, and do they answer there as promised?

Every ONNX file of the zoos goes through `onnx.checker`, through the oldest ONNX Runtime that pip can install for this
Python (in an environment of its own, made once), and through onnxruntime-web in WebAssembly under node (npm fetches the
version of serve/browser/package.json). Answers are compared with the golden outputs. Writes results/limits.json, which
`make tables` puts into docs/formats.md. Exit status 1 when a file fails somewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from leap_zoo.card import Artifact, ModelCard
from leap_zoo.device import instruction_sets
from leap_zoo.model import softmax
from leap_zoo.store import BUNDLED, Zoo, models
from leap_zoo.verify import read_golden, tolerance
from tools.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "results" / "limits.json"
WEB = json.loads((ROOT / "serve" / "browser" / "package.json").read_text())["dependencies"]["onnxruntime-web"]

# What runs elsewhere: image.npy in, an .npy file per output out. Plain ONNX Runtime and numpy, no leap_zoo.
RUN_PYTHON = """
import sys
import numpy as np
import onnxruntime
model, folder = sys.argv[1:]
onnxruntime.set_default_logger_severity(4)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
outputs = [node.name for node in session.get_outputs()]
for name, rows in zip(outputs, session.run(outputs, {"image": np.load(f"{folder}/image.npy")})):
    np.save(f"{folder}/{name}.npy", rows)
print(onnxruntime.__version__)
"""
RUN_NODE = """
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";
const [model, folder, shape] = process.argv.slice(2);
ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1;
const options = { executionProviders: ["wasm"] };
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(model)), options);
const pixels = new Uint8Array(readFileSync(`${folder}/image.bin`));
const found = await session.run({ image: new ort.Tensor("uint8", pixels, JSON.parse(shape)) });
for (const [name, tensor] of Object.entries(found)) {
  writeFileSync(`${folder}/${name}.bin`, Buffer.from(Float32Array.from(tensor.data).buffer));
}
console.log(ort.env.versions.web ?? ort.env.versions.common);
"""

Outputs = dict[str, npt.NDArray[np.float32]]


class CannotCheck(Exception):
    """A place where files are tried cannot be made; the message says why."""


def oldest_runtime() -> str:
    """The oldest version of onnxruntime that pip finds for this Python. Raises CannotCheck."""
    said = _run([sys.executable, "-m", "pip", "index", "versions", "onnxruntime"], 120)
    found = re.search(r"^Available versions: (.*)$", said, re.MULTILINE)
    if found is None:
        raise CannotCheck("pip lists no versions of onnxruntime: look at its index")
    return min(found[1].split(", "), key=lambda version: [int(part) for part in version.split(".") if part.isdigit()])


def old_environment(home: Path, version: str) -> Path:
    """The Python of an environment with that onnxruntime; kept for the next time. Raises CannotCheck."""
    python, done = home / ("Scripts" if sys.platform == "win32" else "bin") / "python", home / "installed"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=False)
        wheels = ["--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:"]
        packages = [f"onnxruntime=={version}", "numpy<2"]  # old ones were built against numpy 1
        _run([sys.executable, "-m", "pip", "--python", str(python), "install", *wheels, *packages], 480)
        done.touch()
    return python


def web_environment(home: Path) -> Path:
    """A folder from which node runs onnxruntime-web; kept for the next time. Raises CannotCheck."""
    if not (home / "node_modules" / "onnxruntime-web").exists():
        home.mkdir(parents=True, exist_ok=True)
        packages = ["--ignore-scripts", "--no-audit", "--no-fund", f"onnxruntime-web@{WEB}"]
        _run(["npm", "install", "--prefix", str(home), *packages], 480)
    (home / "run.mjs").write_text(RUN_NODE)
    return home


def in_old_runtime(python: Path, model: Path, image: npt.NDArray[np.uint8]) -> tuple[str, Outputs]:
    """Version and outputs of an ONNX file in that environment. Raises CannotCheck with what was said there."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "image.npy", image)
        version = _run([str(python), "-I", "-c", RUN_PYTHON, str(model), folder], 240)
        found = {path.stem: np.load(path) for path in Path(folder).glob("*.npy") if path.stem != "image"}
    return version, found


def in_web_runtime(home: Path, model: Path, image: npt.NDArray[np.uint8]) -> tuple[str, Outputs]:
    """Version and outputs of an ONNX file in WebAssembly under node. Raises CannotCheck with what was said there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "image.bin").write_bytes(image.tobytes())
        shape = json.dumps(list(image.shape))
        version = _run(["node", str(home / "run.mjs"), str(model), folder, shape], 240).splitlines()[-1]
        found = {
            path.stem: np.fromfile(path, np.float32).reshape(len(image), -1)
            for path in Path(folder).glob("*.bin")
            if path.stem != "image"
        }
    return version, found


def worst(found: Outputs, expected: Outputs) -> float:
    """The largest difference, of logits after softmax; infinite where an output is missing or has another shape."""
    differences = [np.inf if name not in found or found[name].shape != expected[name].shape else 0.0
                   for name in expected]  # fmt: skip
    for name, rows in expected.items():
        if name in found and found[name].shape == rows.shape:
            logits = name.startswith("logits_")
            ours, theirs = (softmax(found[name]), softmax(rows)) if logits else (found[name], rows)
            differences.append(float(np.abs(ours - theirs).max()))
    return float(np.max(differences))  # NaN stays


def published(zoos: list[Path]) -> Iterator[tuple[Path, ModelCard, Artifact]]:
    """Each ONNX file once, whichever zoos have it: its path, its card, its row."""
    seen: set[str] = set()
    for zoo in zoos:
        for card in models(zoo):
            for artifact in card.artifacts:
                if artifact.format == "onnx" and artifact.sha256 not in seen:
                    seen.add(artifact.sha256)
                    yield zoo / card.id / artifact.file, card, artifact


def check(path: Path, card: ModelCard, artifact: Artifact, python: Path, web: Path) -> list[dict[str, Any]]:
    """A row per place where one file was tried."""
    golden = read_golden(Zoo(path.parent.parent).read(card, card.golden))
    prefix = f"{artifact.file}/"
    expected = {
        key.removeprefix(prefix): rows.astype(np.float32) for key, rows in golden.items() if key.startswith(prefix)
    }
    image = golden["image"].astype(np.uint8)
    about = {"model": card.id, "file": artifact.file, "sha256": artifact.sha256, "MB": round(artifact.bytes / 1e6, 2)}
    limits = {"onnxruntime": instruction_sets(), "onnxruntime-web": ()}  # WebAssembly does not say what the CPU has
    rows: list[dict[str, Any]] = []
    try:
        onnx.checker.check_model(onnx.load(path), full_check=True)
        rows.append({**about, "where": f"onnx.checker {onnx.__version__}", "ok": True})
    except onnx.checker.ValidationError as error:
        rows.append({**about, "where": f"onnx.checker {onnx.__version__}", "ok": False, "error": str(error)[:300]})
    for name, run, place in (("onnxruntime", in_old_runtime, python), ("onnxruntime-web", in_web_runtime, web)):
        try:
            version, found = run(place, path, image)
        except CannotCheck as error:
            rows.append({**about, "where": name, "ok": False, "error": str(error)})
            continue
        difference, limit = worst(found, expected), tolerance(card.golden, artifact.precision, limits[name])
        row = {**about, "where": f"{name} {version}", "ok": bool(difference <= limit)}
        rows.append({**row, "difference": float(f"{difference:.3g}"), "allowed": limit})
    return rows


def _run(command: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCheck(f"{command[0]} did not run ({error}): install it, or try again") from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CannotCheck(f"{Path(command[0]).name} failed: {' '.join(said[-3:])[:400]}")
    return done.stdout.strip()


def main() -> int:
    """Check, print and write; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_limits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, nargs="+", default=[ROOT / "zoo", BUNDLED], metavar="FOLDER")
    parser.add_argument("--environments", type=Path, default=ROOT / "runs" / "limits", metavar="FOLDER",
                        help="where the two environments are made and kept")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE")
    options = parser.parse_args()
    try:
        version = oldest_runtime()
        python = old_environment(options.environments / f"onnxruntime-{version}", version)
        web = web_environment(options.environments / f"web-{WEB}")
    except CannotCheck as error:
        print(f"check_limits: {error}", file=sys.stderr)
        return 2
    rows = [row for file in published(options.zoo) for row in check(*file, python, web)]
    for row in rows:
        said = row.get("error") or (f"differs by {row['difference']:.2g}" if "difference" in row else "")
        print(f"{row['model']:12} {row['file']:16} {row['where']:24} {'ok' if row['ok'] else 'FAILED':7} {said}")
    options.out.write_text(json.dumps({"measured": provenance(), "rows": rows}, indent=1) + "\n")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
