"""The demo: one page with a tab per module, mounted at /ui of the service."""

from serve.demo.page import mount_page

__all__ = ["mount_page"]
