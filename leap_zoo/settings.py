"""Every environment variable that leap_zoo reads, typed and validated, in one place.

| variable | value | meaning |
|---|---|---|
| LEAP_ZOO_URL | a folder, or a file:// URL | the zoo to look in before the bundled one |
| LEAP_ZOO_THREADS | 1..1024 | threads per model; default: what the affinity and the cgroup quota allow |
| LEAP_ZOO_QDRANT_KEY | text | the API key of the Qdrant server that a gallery is on |
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from leap_zoo.errors import InvalidArgument, short

PREFIX = "LEAP_ZOO_"
MAX_THREADS = 1024


@dataclass(frozen=True)
class Settings:
    """`zoo`: the folder of LEAP_ZOO_URL; `threads`, `qdrant_key`: see above. None where unset or empty."""

    zoo: Path | None = None
    threads: int | None = None
    qdrant_key: str | None = field(default=None, repr=False)


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in `environ` (default: this process's). Raises InvalidArgument, also for a near-miss of a name."""
    variables = os.environ if environ is None else environ
    _refuse_misspelt(variables)
    url = variables.get("LEAP_ZOO_URL")
    threads = variables.get("LEAP_ZOO_THREADS")
    return Settings(
        zoo=zoo_folder(url, "LEAP_ZOO_URL") if url else None,
        threads=parse_threads(threads, "LEAP_ZOO_THREADS") if threads else None,
        qdrant_key=variables.get("LEAP_ZOO_QDRANT_KEY") or None,
    )


def zoo_folder(location: str | os.PathLike[str], what: str = "zoo") -> Path:
    """A zoo's location as a folder. Raises InvalidArgument for URLs that are none."""
    if not isinstance(location, str):
        return Path(location)
    url = urlsplit(location)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        return Path(unquote(url.path))
    if "://" in location:
        raise InvalidArgument(f"{what} {short(location)} is no folder: copy that zoo here and give its folder")
    return Path(location)


def parse_threads(value: str | int, what: str = "threads") -> int:
    """A number of threads, 1..1024. Raises InvalidArgument."""
    try:
        threads = int(value)
    except ValueError:
        threads = 0
    if isinstance(value, bool) or not 1 <= threads <= MAX_THREADS:
        raise InvalidArgument(f"{what} must be a whole number from 1 to {MAX_THREADS}, not {short(value)}")
    return threads


def _refuse_misspelt(variables: Mapping[str, str]) -> None:
    """LEAP_ZOO_THREAD=4 would silently do nothing. Other LEAP_ZOO_* names may belong to the service: left alone."""
    known = ["URL", "THREADS", "QDRANT_KEY"]
    for name in variables:
        rest = name.removeprefix(PREFIX)
        if rest == name or rest in known:
            continue
        close = difflib.get_close_matches(rest.upper(), known, n=1, cutoff=0.8)
        if close:
            raise InvalidArgument(f"unknown environment variable {short(name)}: did you mean {PREFIX}{close[0]}?")
