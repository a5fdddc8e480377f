"""A page that runs the zoo's models in the visitor's browser: plain JavaScript in page/, onnxruntime-web beside it.

`python -m serve.browser` (`make browser`) fetches onnxruntime-web with npm; `serve.browser.routes` serves both.
"""
