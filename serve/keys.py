"""API keys: who may call. They are in a file, are compared in constant time, and are reloaded when the file changes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from leap_zoo.errors import InvalidArgument, LeapZooError, first_line, short
from leap_zoo.files import read_regular
from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")

MAX_FILE_BYTES = 1 << 20
KEY_NAME = "leap_zoo.key"  # the key of an ASGI scope that has the name of the client's API key
_HASHED = re.compile(r"\A([A-Za-z0-9._-]{1,64}):([0-9a-fA-F]{64})\Z")
_PLAIN = re.compile(r"\A(?:([A-Za-z0-9._-]{1,64}):)?([A-Za-z0-9._~+/=-]{16,256})\Z")
_MAX_PRESENTED = 512


def parse_keys(text: str, where: str) -> dict[bytes, str]:
    """sha256 digest of each key -> the name of its owner.

    A line is `name:SHA256` (the hex digest of a key), `name:KEY`, or a KEY alone, of at least 16 characters; a key
    without a name is named after its line number. Empty lines and lines that begin with # are skipped.
    Raises InvalidArgument, whose message never contains a key.
    """
    keys: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if hashed := _HASHED.match(line):
            name, digest = hashed[1], bytes.fromhex(hashed[2])
        elif plain := _PLAIN.match(line):
            name, digest = plain[1] or f"line-{number}", hashlib.sha256(plain[2].encode()).digest()
        else:
            raise InvalidArgument(
                f"{where} line {number} is not a key: write name:SHA256 (of the key), name:KEY, or a KEY of at least "
                "16 characters without spaces"
            )
        if digest in keys:
            raise InvalidArgument(f"{where} line {number} has the same key as {keys[digest]}: remove one of them")
        keys[digest] = name
    if not keys:
        raise InvalidArgument(f"{where} has no keys: add one, or unset LEAP_ZOO_SERVE_KEYS_FILE")
    return keys


class Keys:
    """The keys in the file at `path`. If a changed file cannot be read, that is logged and the old keys stay valid."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidArgument if the file is missing or invalid."""
        self._path = path
        self._seen = self._state()
        self._keys = self._read()

    def name_of(self, presented: str | None) -> str | None:
        """The name of the key `presented`; None if it is unknown. Takes as long for a wrong key as for a right one."""
        self._follow()
        if presented is None or len(presented) > _MAX_PRESENTED:
            return None
        digest = hashlib.sha256(presented.encode()).digest()
        found = None
        for known, name in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _follow(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = self._read()
        except LeapZooError as error:
            logger.error("the API keys were not reloaded, and the old ones stay valid: %s", error)
        else:
            logger.info("the API keys were reloaded: %d", len(self._keys))

    def _read(self) -> dict[bytes, str]:
        what = f"the keys file {short(self._path)}"
        try:
            return parse_keys(read_regular(self._path, MAX_FILE_BYTES).decode(), what)
        except (OSError, UnicodeDecodeError) as error:
            fix = "check LEAP_ZOO_SERVE_KEYS_FILE"
            raise InvalidArgument(f"{what} cannot be read ({first_line(error)}): {fix}") from error

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def presented_key(headers: Mapping[bytes, bytes], *, password: bool = False) -> str | None:
    """The key that a request presents: `Authorization: Bearer KEY`, or `X-API-Key: KEY`.

    password: also accept it as the password of `Authorization: Basic`. For pages only: a browser sends that header by
    itself, even when another site triggers the request.
    """
    if (key := headers.get(b"x-api-key")) is not None:
        return key.decode("latin-1").strip()
    scheme, _, rest = headers.get(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.decode("latin-1").strip()
    if password and scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def key_refusal(presented: str | None, *, page: bool) -> Refused:
    """The refusal of a client with no key or an unknown one.

    page: the client is a browser, which asks the visitor for a name (any will do) and for the key as a password.
    """
    challenge = 'Basic realm="leap-zoo", charset="UTF-8"' if page else 'Bearer realm="leap-zoo"'
    headers = {"www-authenticate": challenge}
    if presented is None:
        detail = "An API key is required: send it as Authorization: Bearer KEY, or as X-API-Key: KEY."
        return Refused("missing_key", detail, headers)
    return Refused("wrong_key", "This API key is unknown. Ask the server's operator for one.", headers)
