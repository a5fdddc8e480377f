"""The service: BentoML, FastAPI and Gradio over `leap_zoo`. Never imports torch, `train` or `export`.

A request passes down this list, and the answer passes back up:

service      BentoML's class with its three methods; it launches and packages the service
middleware   the gate that every request passes: hosts, origins, keys; one budget (`budget`) of bytes, places and time
app          FastAPI: the API of `api/`, the pages of `demo/` and `browser/`; every error becomes a problem (`problems`)
native       BentoML's application: the three methods over HTTP
photos       reads photos from bodies: raw, forms, JSON; `pixels` estimates what decoding them would cost
engine       the models, and the threads that run them
stores       what clients store: `galleries`, `heads`, within the limits of `kept`; `npz` writes a gallery as a file
shelf        the models that the service hands out at /zoo

The rest: `settings`, `keys`, `headers`, `observe` (metrics and log), `tracing`, `stopping` (how a worker stops).
"""
