"""The errors of this room that a user can cause; the command line prints them as one line."""

from __future__ import annotations


class ExportError(Exception):
    """A run cannot be exported as asked; the message says how to mend it."""


class GateFailed(ExportError):
    """An artifact is not what it should be, so it was not published; the message says which check it failed."""
