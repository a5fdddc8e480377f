"""The error that a user of this package can cause; the command line prints it as one line."""

from __future__ import annotations


class TrainError(Exception):
    """A recipe, a file or a folder cannot be used as it is; the message says how to fix it."""
