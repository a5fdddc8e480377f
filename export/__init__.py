"""Turn a run folder into verified, quantised files that travel. Nothing is reported to anyone."""

import os
import sys

# Before any runtime is imported. ONNX Runtime asks this variable; OpenVINO's converter and NNCF report through this
# module where it can be imported, look up a host for that and write under the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
