"""The demo: one page with a tab per module, mounted at /ui of the service."""
