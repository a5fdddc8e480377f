"""The service: BentoML, FastAPI and Gradio over `leap_zoo`. Never imports torch, `train` or `export`.

A request passes down this list, and the answer passes back up:

service      BentoML's class with its three methods, also over HTTP; it launches and packages the service
middleware   the gate that every request passes: hosts, origins, keys; one budget (`budget`) of bytes, places and time;
             `rules` has the limits of each path
app          FastAPI: the API of `api/`, the pages of `demo/` and `browser/`; every error becomes a problem (`problems`)
photos       reads photos from bodies: raw, forms, JSON
engine       the models, and the threads that run them
stores       what clients store: `galleries`, `heads`, within the limits of `kept`

The rest: `settings`, `keys`, `observe` (metrics, log and spans), `stopping` (how a worker stops).
"""
