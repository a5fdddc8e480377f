"""The demo in the browser: one page with a tab per module. Mounted at /ui of the service, or `python -m serve.demo`."""

from serve.demo.page import mount_page

__all__ = ["mount_page"]
