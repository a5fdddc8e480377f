"""The HTTP routes, a module for each family. Each has `router(...)`, which `serve.app` puts together."""
