"""Turn a run folder into verified, quantized files that run elsewhere. No telemetry is sent.

A run folder's way, in `publish`: files are built in memory (`graph` gives the weights; `onnx_writer`, `openvino` and
`formats` write them; `int8` finds what stays accurate). `photos` are shown: `gate` judges every file, and `doubt` fits
when to say "not sure". `card` and `text` describe them; `zoo` moves the folder into place.
After `python -m train.evaluate`, `cards` and `tables` write its figures into cards and documents.
"""

import os
import sys

# Before any runtime is imported. ONNX Runtime reads this variable; OpenVINO's converter and NNCF report through this
# module if it can be imported, resolve a host name for that, and write into the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
