"""NNCF, OpenVINO's converter and ONNX Runtime report what they are used for, unless `export` keeps them from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import export.openvino
import os
import nncf.telemetry.wrapper
import openvino.tools.ovc.telemetry_utils
print(type(nncf.telemetry.wrapper.telemetry).__name__)
print(openvino.tools.ovc.telemetry_utils.tm.__name__)
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_export__sends_no_telemetry(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    environ = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and "NNCF" not in name}
    environ |= {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("CI", None)
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environ,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    nncf, ovc, onnxruntime = run.stdout.split()
    assert (nncf != "NNCFTelemetry", ovc, onnxruntime) == (True, "openvino.tools.ovc.telemetry_stub", "1")
    assert list(tmp_path.iterdir()) == []
