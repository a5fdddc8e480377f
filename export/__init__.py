"""Turn a run folder into verified, quantized files that run elsewhere. No telemetry is sent."""

import os
import sys

# Before any runtime is imported. ONNX Runtime reads this variable; OpenVINO's converter and NNCF report through this
# module if it can be imported, resolve a host name for that, and write into the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
