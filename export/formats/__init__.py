"""Formats for further devices, each behind an extra of its own; they pass the same gate as the others."""
