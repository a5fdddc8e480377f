"""Every environment variable that leap_zoo reads, typed and validated, in one place.

| variable | value | meaning |
|---|---|---|
| LEAP_ZOO_URL | a folder, or a file://, http(s):// or hf://OWNER/NAME URL | a folder: looked in first; \
a server: where `leap-zoo list`, `show` and `pull` look |
| LEAP_ZOO_HOME | a folder | where pulled files are kept; default: leap-zoo in XDG_CACHE_HOME or ~/.cache |
| LEAP_ZOO_OFFLINE | 0 or 1 | 1: never use the network |
| LEAP_ZOO_THREADS | 1..1024 | threads per model; default: the number allowed by CPU affinity and cgroup quota |
| LEAP_ZOO_QDRANT_KEY | text | API key for galleries on a Qdrant server |

For `hf://` URLs, the hub's own variables apply: HF_ENDPOINT, HF_TOKEN (else the token that `hf auth login` stored below
HF_HOME), and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from leap_zoo.errors import InvalidArgument, short, whole_number
from leap_zoo.files import check_place, read_regular

PREFIX = "LEAP_ZOO_"
MAX_THREADS = 1024
HUB = "https://huggingface.co"
MAX_TOKEN_BYTES = 4096
_DOCUMENT = re.compile(r"(?<=[^/])/(index|card)\.json/*\Z")
_HUB_PAGE = re.compile(re.escape(HUB) + r"/([^/?#]+/[^/?#]+)(?:/tree/([^/?#]+))?/*")
REMOTE = ("http", "https", "hf")  # schemes of zoos to pull from


@dataclass(frozen=True)
class Settings:
    """LEAP_ZOO_URL becomes `zoo` if it is a folder and `url` if it is a server; both are None if it is unset or empty.

    `home` may begin with `~`. `threads`, `qdrant_key`: see above.
    """

    zoo: Path | None = None
    threads: int | None = None
    url: str | None = None
    home: Path = Path("~/.cache/leap-zoo")
    offline: bool = False
    qdrant_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class HubSettings:
    """Address of the Hugging Face hub, and the user's token."""

    endpoint: str
    token: str | None = field(repr=False)
    offline: bool


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in `environ` (default: this process's). Raises InvalidArgument, also for a misspelled name."""
    variables = os.environ if environ is None else environ
    _refuse_misspelt(variables)
    location, caches = variables.get("LEAP_ZOO_URL"), variables.get("XDG_CACHE_HOME")
    place = zoo_location(location, "LEAP_ZOO_URL") if location else None
    threads = variables.get("LEAP_ZOO_THREADS")
    number = int(threads) if threads and threads.isdecimal() and len(threads) < 10 else threads
    offline = variables.get("LEAP_ZOO_OFFLINE") or "0"
    if offline not in ("0", "1"):
        raise InvalidArgument(f"LEAP_ZOO_OFFLINE must be 0 or 1, not {short(offline)}")
    return Settings(
        zoo=place if isinstance(place, Path) else None,
        threads=parse_threads(number, "LEAP_ZOO_THREADS") if threads else None,
        url=place if isinstance(place, str) else None,
        home=Path(variables.get("LEAP_ZOO_HOME") or (f"{caches}/leap-zoo" if caches else Settings.home)),
        offline=offline == "1",
        qdrant_key=variables.get("LEAP_ZOO_QDRANT_KEY") or None,
    )


def read_hub_settings() -> HubSettings:
    """The settings of the hub in this process's environment. Raises InvalidArgument."""
    variables, token = os.environ, os.environ.get("HF_TOKEN", "").strip()
    if not token:
        home = variables.get("HF_HOME") or os.path.join(variables.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
        with contextlib.suppress(OSError, UnicodeError):
            token = read_regular(os.path.expanduser(os.path.join(home, "token")), MAX_TOKEN_BYTES).decode().strip()
    if not re.fullmatch("[!-~]*", token):  # what a header allows; otherwise an error message would show the token
        raise InvalidArgument("the hub's token contains invalid characters: correct HF_TOKEN, or run `hf auth login`")
    endpoint = zoo_location(variables.get("HF_ENDPOINT") or HUB, "HF_ENDPOINT")
    if not isinstance(endpoint, str) or endpoint.startswith("hf:"):
        raise InvalidArgument("HF_ENDPOINT is not a server's URL: give http://HOST:PORT, or unset it")
    offline = variables.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return HubSettings(endpoint, token or None, offline)


def zoo_location(location: str | os.PathLike[str], what: str = "zoo") -> Path | str:
    """A zoo's location: a folder, or an http(s):// or hf:// URL without a trailing slash. Raises InvalidArgument.

    Its index.json or card.json, and the hub's page about a repository, stand for the zoo itself.
    """
    location = _DOCUMENT.sub("", check_place(location, what))
    if "://" not in location and not location.startswith("file:"):
        return Path(os.path.expanduser(location))
    if page := _HUB_PAGE.fullmatch(location):
        return f"hf://{page[1]}" + (f"@{page[2]}" if page[2] else "")
    try:
        location.encode()
        url = urlsplit(location)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise InvalidArgument(f"{what} {short(location)} is not a valid URL: check its host and port") from error
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        from urllib.request import url2pathname

        return Path(url2pathname(url.path))
    if url.scheme not in REMOTE or not host:
        raise InvalidArgument(
            f"{what} {short(location)} is not a zoo: give its folder, or an http://, https:// or hf://OWNER/NAME URL"
        )
    if url.query or url.fragment or re.search(r"\s", location):
        raise InvalidArgument(
            f"{what} {short(location)} has a query, a fragment or a space: give the URL of the zoo's folder"
        )
    return location.rstrip("/")


def zoo_folder(location: str | os.PathLike[str]) -> Path:
    """A zoo's location as a folder. Raises InvalidArgument for a URL of a server."""
    place = zoo_location(location)
    if isinstance(place, str):
        raise InvalidArgument(
            f"zoo {short(location)} is on a server: leap-zoo pull MODEL --from URL, then load the model without zoo; "
            "or give its folder"
        )
    return place


def parse_threads(value: Any, what: str = "threads") -> int:
    """Check a number of threads, 1..1024 (Python's or NumPy's int). Raises InvalidArgument."""
    return whole_number(value, what, 1, MAX_THREADS)


def _refuse_misspelt(variables: Mapping[str, str]) -> None:
    """Refuse misspelled names: LEAP_ZOO_THREAD=4 would silently do nothing.

    Other LEAP_ZOO_* names may be the service's.
    """
    known = ["URL", "THREADS", "HOME", "OFFLINE", "QDRANT_KEY"]
    for name in variables:
        rest = name.removeprefix(PREFIX)
        if rest == name or rest in known:
            continue
        import difflib

        close = difflib.get_close_matches(rest.upper(), known, n=1, cutoff=0.8)
        if close:
            raise InvalidArgument(f"unknown environment variable {short(name)}: did you mean {PREFIX}{close[0]}?")
