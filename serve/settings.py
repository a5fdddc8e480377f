"""Every environment variable that the server reads, typed and validated, in one place.

docs/serving.md explains each one; a test compares its table with the fields here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from leap_zoo.errors import InvalidArgument, nearest, short
from leap_zoo.preprocess import Limits

PREFIX = "LEAP_ZOO_SERVE_"

PHOTO = Limits(pixels=25_000_000, bytes=20 * 2**20)  # the default limit on a photo: anyone may send one


def _split(separator: str) -> BeforeValidator:
    def parts(text: Any) -> Any:
        return [part.strip() for part in text.split(separator) if part.strip()] if isinstance(text, str) else text

    return BeforeValidator(parts)


Seconds = Annotated[float, Field(ge=0.1, le=3600)]
Names = Annotated[tuple[str, ...], _split(",")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.\-\[\]:]{1,255})$")]
RootPath = Annotated[str, Field(pattern=r"^((/[A-Za-z0-9._~-]+)+)?$")]
QdrantURL = Annotated[str, Field(pattern=r"^(qdrant|https?)://[^/]")]  # which may contain a password


class ServeSettings(BaseModel):
    """Each field NAME is the variable LEAP_ZOO_SERVE_NAME. Sizes are in MiB, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    models: Names = ()
    max_photos: int = Field(32, ge=1, le=1024)
    max_body_mb: int = Field(64, ge=1, le=4096)
    max_photo_mb: int = Field(PHOTO.bytes // 2**20, ge=1, le=256)
    max_megapixels: int = Field(PHOTO.pixels // 10**6, ge=1, le=1000)
    work_megapixels: int = Field(128, ge=1, le=100_000)
    memory_mb: int = Field(256, ge=16, le=65_536)
    concurrency: int = Field(64, ge=1, le=10_000)
    timeout: Seconds = 10.0
    slow_timeout: Seconds = 60.0
    drain: Seconds = 0.8
    keys_file: Path | None = None
    metrics: Literal["open", "key", "off"] = "key"
    hosts: Names = ()
    cors: Annotated[tuple[Origin, ...], _split(",")] = ()
    root_path: RootPath = ""
    data: Path | None = None
    qdrant: QdrantURL | None = Field(None, repr=False)
    ui: Literal["on", "off"] = "on"
    workers: int = Field(1, ge=1, le=64)
    zoo: Annotated[tuple[Path, ...], _split(os.pathsep)] = ()
    browser_runtime: Path | None = None
    otel: Literal["on", "off"] = "off"

    @property
    def photo_limits(self) -> Limits:
        """The largest photo."""
        return Limits(pixels=self.max_megapixels * 10**6, bytes=self.max_photo_mb * 2**20)

    @property
    def max_body_bytes(self) -> int:
        """The largest request body, in bytes."""
        return self.max_body_mb * 2**20


def read_serve_settings(environ: Mapping[str, str] | None = None) -> ServeSettings:
    """The settings in `environ` (default: this process's). Raises InvalidArgument, also for a name that is unknown."""
    variables = os.environ if environ is None else environ
    given: dict[str, str] = {}
    for name, value in variables.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in ServeSettings.model_fields:  # a misspelled KEYS_FILE would silently open the server to everyone
            known = [f"{PREFIX}{one.upper()}" for one in ServeSettings.model_fields]
            raise InvalidArgument(f"unknown environment variable {short(name)}{nearest(name, known)}")
        if value.strip():
            given[field] = value.strip()
    try:
        settings = ServeSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        value = "" if name == "qdrant" else f", not {short(given[name])}"
        raise InvalidArgument(f"{PREFIX}{name.upper()}: {first['msg']}{value} (docs/serving.md: Environment)") from None
    if settings.workers > 1 and settings.ui == "on":
        raise InvalidArgument(f"{PREFIX}WORKERS: the demo runs in one process: set {PREFIX}UI=off for more")
    if settings.workers > 1 and settings.data is None:
        raise InvalidArgument(f"{PREFIX}WORKERS: several processes need a common folder: set {PREFIX}DATA")
    return settings
