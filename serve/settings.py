"""Every environment variable that the server reads, typed and validated, in one place.

| variable | value | meaning |
|---|---|---|
| LEAP_ZOO_SERVE_MODEL | a model's id | the default model, loaded before the server is ready; default: the package's |
| LEAP_ZOO_SERVE_MODELS_HELD | 1..64 | models in memory at once, the default one included; default 3 |
| LEAP_ZOO_SERVE_MAX_PHOTOS | 1..1024 | photos in one request; default 32 |
| LEAP_ZOO_SERVE_MAX_BODY_MB | 1..4096 | MiB in one request's body; default 64 |
| LEAP_ZOO_SERVE_MAX_PHOTO_MB | 1..256 | MiB in one photo; default 20 (the demo page: always 20) |
| LEAP_ZOO_SERVE_MAX_MEGAPIXELS | 1..1000 | million pixels of a photo, twice as many of a JPEG; default 25 (the same) |
| LEAP_ZOO_SERVE_CONCURRENCY | 1..10000 | API requests inside at once, 503 for more; default 64 |
| LEAP_ZOO_SERVE_TIMEOUT | 0.1..3600 | seconds until an API request is given up; default 10 |
| LEAP_ZOO_SERVE_SLOW_TIMEOUT | 0.1..3600 | the same where heads are fitted and galleries exported; default 60 |
| LEAP_ZOO_SERVE_KEYS_FILE | a file | API keys, one a line; read again when it changes; default: no key is needed |
| LEAP_ZOO_SERVE_METRICS | open, key or off | who may read /metrics; default open |
| LEAP_ZOO_SERVE_CORS | origins, or * | web origins that may call the API, with commas between; default none |
| LEAP_ZOO_SERVE_DATA | a folder | galleries and heads of clients; default: a temporary one, lost at the end |
| LEAP_ZOO_SERVE_QDRANT | a URL | the Qdrant server for galleries; default: files in the data folder |
| LEAP_ZOO_SERVE_ZOO | folders | zoos at /zoo, with the path separator between; default: where models are served from |
| LEAP_ZOO_SERVE_BROWSER_RUNTIME | a folder | onnxruntime-web for /browser; default: where `make browser` puts it |
| LEAP_ZOO_SERVE_LOG | json or text | the shape of the log's lines; default json |
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from leap_zoo.errors import InvalidArgument, short
from leap_zoo.preprocess import Limits
from serve.limits import PHOTO

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "LEAP_ZOO_SERVE_"

_ORIGIN = re.compile(r"\Ahttps?://[A-Za-z0-9.\-\[\]:]{1,255}\Z")


@dataclass(frozen=True)
class ServeSettings:
    """Each field is the variable of its name, see above; None where it is unset or empty. Sizes are in MiB."""

    model: str | None = None
    models_held: int = 3
    max_photos: int = 32
    max_body_mb: int = 64
    max_photo_mb: int = PHOTO.bytes // 2**20
    max_megapixels: int = PHOTO.pixels // 10**6
    concurrency: int = 64
    timeout: float = 10.0
    slow_timeout: float = 60.0
    keys_file: Path | None = None
    metrics: Literal["open", "key", "off"] = "open"
    cors: tuple[str, ...] = ()
    data: Path | None = None
    qdrant: str | None = field(default=None, repr=False)  # a URL may hold a password
    zoo: tuple[Path, ...] = ()
    browser_runtime: Path | None = None
    log: Literal["json", "text"] = "json"

    @property
    def photo_limits(self) -> Limits:
        """The largest photo."""
        return Limits(pixels=self.max_megapixels * 10**6, bytes=self.max_photo_mb * 2**20)

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a request, in bytes."""
        return self.max_body_mb * 2**20


def read_serve_settings(environ: Mapping[str, str] | None = None) -> ServeSettings:
    """The settings in `environ` (default: this process's). Raises InvalidArgument, also for a name that is unknown."""
    variables = os.environ if environ is None else environ
    _refuse_unknown(variables)
    given = {
        name.removeprefix(PREFIX): value.strip()
        for name, value in variables.items()
        if name.startswith(PREFIX) and value.strip()
    }
    default = ServeSettings()
    keys, data, runtime = given.get("KEYS_FILE"), given.get("DATA"), given.get("BROWSER_RUNTIME")
    return ServeSettings(
        model=given.get("MODEL"),
        models_held=_whole(given, "MODELS_HELD", default.models_held, 64),
        max_photos=_whole(given, "MAX_PHOTOS", default.max_photos, 1024),
        max_body_mb=_whole(given, "MAX_BODY_MB", default.max_body_mb, 4096),
        max_photo_mb=_whole(given, "MAX_PHOTO_MB", default.max_photo_mb, 256),
        max_megapixels=_whole(given, "MAX_MEGAPIXELS", default.max_megapixels, 1000),
        concurrency=_whole(given, "CONCURRENCY", default.concurrency, 10_000),
        timeout=_seconds(given, "TIMEOUT", default.timeout),
        slow_timeout=_seconds(given, "SLOW_TIMEOUT", default.slow_timeout),
        keys_file=Path(keys) if keys else None,
        metrics=_metrics(given.get("METRICS", default.metrics)),
        cors=_origins(given.get("CORS", "")),
        data=Path(data) if data else None,
        qdrant=_url(given.get("QDRANT")),
        zoo=tuple(Path(part) for part in given.get("ZOO", "").split(os.pathsep) if part),
        browser_runtime=Path(runtime) if runtime else None,
        log=_log(given.get("LOG", default.log)),
    )


def use_checkouts_zoo(environ: MutableMapping[str, str] | None = None, root: Path = ROOT) -> None:
    """Where LEAP_ZOO_URL is unset, serve the zoo of the checkout that this file is in, if it is in one.

    So `bentoml serve` in a checkout has all students, not only the bundled one. LEAP_ZOO_URL= (empty) leaves it out.
    """
    variables = os.environ if environ is None else environ
    zoo = root / "zoo"
    if "LEAP_ZOO_URL" not in variables and (root / "pyproject.toml").is_file() and (zoo / "index.json").is_file():
        variables["LEAP_ZOO_URL"] = str(zoo)


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    """LEAP_ZOO_SERVE_KEY_FILE=keys would silently open the server to everybody."""
    known = [one.name.upper() for one in fields(ServeSettings)]
    for name in variables:
        rest = name.removeprefix(PREFIX)
        if rest == name or rest in known:
            continue
        close = difflib.get_close_matches(rest.upper(), known, n=1, cutoff=0.6)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else f"there are {', '.join(PREFIX + one for one in known)}"
        raise InvalidArgument(f"unknown environment variable {short(name)}: {hint}")


def _whole(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidArgument(f"{PREFIX}{name} must be a whole number from 1 to {most}, not {short(text)}")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.1 <= seconds <= 3600:
        raise InvalidArgument(f"{PREFIX}{name} must be seconds from 0.1 to 3600, not {short(text)}")
    return seconds


def _metrics(text: str) -> Literal["open", "key", "off"]:
    if text == "open" or text == "key" or text == "off":
        return text
    raise InvalidArgument(f"{PREFIX}METRICS must be open, key or off, not {short(text)}")


def _log(text: str) -> Literal["json", "text"]:
    if text == "json" or text == "text":
        return text
    raise InvalidArgument(f"{PREFIX}LOG must be json or text, not {short(text)}")


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        if origin != "*" and not _ORIGIN.match(origin):
            raise InvalidArgument(
                f"{PREFIX}CORS has {short(origin)}, which is no origin: write https://host or https://host:port, "
                "without a path, or *"
            )
    return origins


def _url(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("qdrant", "http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise InvalidArgument(
            f"{PREFIX}QDRANT is no qdrant://, http:// or https:// URL: give that of the Qdrant server"
        )
    return text
