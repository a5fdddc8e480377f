"""The service: BentoML, FastAPI and Gradio over `leap_zoo`. Never imports torch, `train` or `export`.

A request goes down this list, and an answer back:

service      BentoML's class with its three methods; the launcher and the packager
middleware   the gate that every request passes: hosts, origins, keys; one budget (`budget`) of bytes, places and time
app          FastAPI: the API of `api/`, the pages of `demo/` and `browser/`; every error becomes a problem (`problems`)
native       BentoML's application: the three methods over HTTP
photos       bodies as photos: raw, forms, JSON; `pixels`: what decoding them would cost
engine       the models, and the threads that run them
stores       what clients keep: `galleries`, `heads`, within the limits of `kept`; `npz` is a gallery as a file
shelf        the zoos that are handed on at /zoo

Beside them: `settings`, `keys`, `headers`, `observe` (metrics and log), `tracing`, `stopping` (how a worker ends).
"""
