"""HTTP for pulling and for `leap_zoo.client`: proxies, logins that never appear in messages, and when to try again.

httpx reads the environment too, but it fails if NO_PROXY has an IPv6 address or network, and ignores networks. It logs
the URLs of its requests, passwords included.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.request import getproxies, proxy_bypass_environment  # type: ignore[attr-defined]

import httpx

from leap_zoo.errors import InvalidArgument, masked, short


def open_http(**options: Any) -> httpx.Client:
    """An httpx client with these options. It honors HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE.

    It asks for uncompressed bodies. Raises InvalidArgument if the environment's settings are invalid.
    """
    headers = {"accept-encoding": "identity"} | options.pop("headers", {})
    try:
        return httpx.Client(transport=_ByEnvironment(getproxies()), headers=headers, **options)
    except (ImportError, OSError) as error:
        reason = f" ({masked(str(error))})"
    except (ValueError, httpx.InvalidURL):  # its text may contain part of a password
        reason = ""
    raise InvalidArgument(
        f"proxy or certificate settings in the environment are invalid{reason}: check ALL_PROXY, HTTPS_PROXY, "
        "HTTP_PROXY, SSL_CERT_FILE"
    )


def split_login(url: httpx.URL) -> tuple[httpx.URL, tuple[str, str] | None]:
    """The URL without its login, and the login (user, password) for `auth`."""
    login = (url.username, url.password) if url.userinfo else None
    return url.copy_with(username=None, password=None), login


class _ByEnvironment(httpx.BaseTransport):
    """Send each request through its scheme's proxy, or directly if NO_PROXY says so."""

    def __init__(self, environment: dict[str, str]) -> None:
        proxies = {scheme: environment.get(scheme) or environment.get("all") for scheme in ("http", "https")}
        self._proxies = {
            scheme: proxy if proxy is None or "://" in proxy else f"http://{proxy}" for scheme, proxy in proxies.items()
        }
        self._no_proxy = environment.get("no", "")
        trusted = httpx.create_ssl_context()
        self._ways = {
            proxy: httpx.HTTPTransport(verify=trusted, proxy=proxy) for proxy in {None, *self._proxies.values()}
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        proxy = None if goes_directly(request.url, self._no_proxy) else self._proxies.get(request.url.scheme)
        return self._ways[proxy].handle_request(request)

    def close(self) -> None:
        for way in self._ways.values():
            way.close()


def goes_directly(url: httpx.URL, no_proxy: str) -> bool:
    """Whether NO_PROXY lists the host of `url`: as a name or an address, perhaps with a port, or by its network.

    NO_PROXY is a comma-separated list: `example.org` (which means `www.example.org` as well), `10.1.2.3:80`, `::1`,
    `10.0.0.0/8`, `fd00::/8`; or `*` for all.
    """
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    host = f"[{url.host}]" if ":" in url.host else url.host
    if proxy_bypass_environment(f"{host}:{port}", {"no": no_proxy}):
        return True
    with suppress(ValueError):  # a name
        address = ipaddress.ip_address(url.host)
        for entry in no_proxy.split(","):
            with suppress(ValueError):  # not a network
                if address in ipaddress.ip_network(entry.strip(" []"), strict=False):
                    return True
    return False


@dataclass(frozen=True)
class Patience:
    """Limits in seconds and bytes. Every `window` must bring `least` bytes; a smaller file may take one `window`.

    silence: the longest pause between two bytes. attempts: at most, without progress between them. The wait doubles
    each time, is randomized between half and all of that, and never exceeds `longest`, even if the server's
    Retry-After asks for more.
    """

    connect: float = 10
    silence: float = 10
    window: float = 30
    least: int = 10_000
    attempts: int = 5
    back_off: float = 1
    longest: float = 60


class Again(Exception):
    """A failure that is worth retrying. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Unwanted(Exception):
    """A body that is compressed or too long: a sentence without its subject."""


def read_body(response: httpx.Response, patience: Patience, limit: int) -> Iterator[bytes]:
    """The body of a response in pieces, at most `limit` bytes.

    A compressed body is refused: it was not requested, and may expand to gigabytes. Raises Unwanted; Again for a server
    that trickles bytes, which a timeout between two bytes never catches.
    """
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Unwanted(f"is compressed ({short(encoding, 24)}), which was not requested")
    return _pieces(response, patience, limit)


def _pieces(response: httpx.Response, patience: Patience, limit: int) -> Iterator[bytes]:
    size = before = 0  # bytes in all, and at the beginning of this window
    since = time.monotonic()
    for piece in response.iter_raw():
        size += len(piece)
        if size > limit:
            raise Unwanted(f"is larger than {limit} bytes")
        yield piece
        now = time.monotonic()
        if now - since >= patience.window:
            if size - before < patience.least:
                raise Again(f"only {size - before} bytes in {now - since:.0f} s")
            since, before = now, size


def retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header, given as a number or a date; None for anything else."""
    if value is None or len(value) > 64:
        return None
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
