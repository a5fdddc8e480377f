"""The HTTP routes, one module per family. Each module has a `router(...)`; `serve.app` combines them."""
