"""Formats for other devices, each with its own extra; they pass the same gate as the others."""
