"""The errors of this package that a user can cause; the command line prints them as one line."""

from __future__ import annotations


class ExportError(Exception):
    """A run cannot be exported as asked; the message says how to fix it."""


class GateFailed(ExportError):
    """An artifact failed a check, so it was not published; the message says which check."""
