"""A page that runs the zoo's models in the visitor's browser: plain JavaScript in page/, onnxruntime-web beside it.

`python -m serve.browser` (`make browser`) fetches onnxruntime-web with npm; `serve.app` serves both at /browser.
"""

from pathlib import Path

PAGE = Path(__file__).with_name("page")

RUNTIME = Path(__file__).with_name("runtime")
"""The folder of onnxruntime-web, unless LEAP_ZOO_SERVE_BROWSER_RUNTIME names another. Not in the repository."""
