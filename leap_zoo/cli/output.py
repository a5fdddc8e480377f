"""Output of the commands, as text and as JSON, on streams that may be closed, full, or ASCII-only."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from leap_zoo.errors import masked, plain
from leap_zoo.model import Model


def say(*parts: object, sep: str = " ") -> None:
    """Print one line on stdout, with names and labels made safe by `plain`."""
    print(*map(plain, parts), sep=sep)


def complain(message: object) -> None:
    """Print one line on stderr, if it is open."""
    with suppress(OSError):
        print(f"leap-zoo: {masked(plain(message))}", file=sys.stderr)


def tell(options: argparse.Namespace, document: Any, lines: Iterable[str], failed: Collection[object] = ()) -> int:
    """Print what a command found: one JSON document with --json, else its lines; and on stderr what failed.

    Returns the exit code.
    """
    if options.json:
        print_json(document)
    else:
        for line in lines:
            say(line)
    for failure in failed:
        complain(failure)
    return 2 if failed else 0


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    import msgspec

    try:
        document = msgspec.json.encode(value)
    except UnicodeEncodeError:  # a path that is not valid UTF-8
        document = msgspec.json.encode(_in_unicode(msgspec.to_builtins(value)))
    text = msgspec.json.format(document).decode()
    print(re.sub(r"[^\n -~]", lambda found: _in_json(found[0]), text))


def _in_unicode(value: Any) -> Any:
    """A document whose texts are valid UTF-8, spelled as the names of photos are."""
    if isinstance(value, dict):
        return {key: _in_unicode(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_unicode(one) for one in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _in_json(character: str) -> str:
    """The character, or its escape if it is a control character or stdout cannot encode it."""
    with suppress(UnicodeError):
        character.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        if character.isprintable():
            return character
    return json.dumps(character)[1:-1]


def about(model: Model) -> dict[str, Any]:
    """The model that answered, for --json."""
    return {"model": model.card.id, "revision": model.card.revision, "precision": model.artifact.precision}


def size(count: int) -> str:
    """A readable size in bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def open_streams() -> bool:
    """Replace each closed standard stream with the null device. Returns whether stdout was open.

    Otherwise the next opened file, perhaps a gallery, would become descriptor 2, where libraries print warnings.
    """
    there = sys.stdout is not None
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this stream's
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return there


def drop_streams() -> None:
    """Discard output that could not be written; otherwise Python would try again at exit and print an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError), open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), stream.fileno())
