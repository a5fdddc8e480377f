"""Sessions on OpenVINO that come and go leave a process that signals do not end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc, os, signal, sys
from pathlib import Path
import numpy as np
from leap_zoo.card import Artifact, File
from leap_zoo.runtime import open_session

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
xml = Path(sys.argv[1])
files = [xml.read_bytes(), xml.with_suffix(".bin").read_bytes()]
weights = File(file="model.bin", bytes=len(files[1]), sha256="0" * 64)
artifact = Artifact(file="model.xml", bytes=len(files[0]), sha256="0" * 64, precision="fp32", format="openvino",
                    weights=weights, ir=11, minimum_runtime="2024.0")
one, other = (open_session(artifact, files, threads=1, exact=True) for _ in range(2))
for session in (one, other):
    session.run(np.zeros((1, 32, 32, 3), np.uint8), ["embedding"])
del one, session
gc.collect()
del other
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print("alive")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal")
def test_sessions__that_end_in_the_order_they_began_leave_signals_alone(tiny_zoo: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is an extra")
    xml = tmp_path / "model.xml"
    openvino.serialize(openvino.Core().read_model(str(tiny_zoo / "leap-tiny-test" / "model.onnx")), str(xml))
    command = [sys.executable, "-X", "faulthandler", "-c", SCRIPT, str(xml)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout.split()) == (0, ["handled", "alive"]), run.stderr[-2000:]
