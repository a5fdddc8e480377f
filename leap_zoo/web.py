"""HTTP for pulling and for `leap_zoo.client`: proxies, logins that never appear in messages, and when to try again.

httpx reads the environment too, but it fails if NO_PROXY has an IPv6 address or network, and ignores networks. It logs
the URLs of its requests, passwords included.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.request import getproxies

import httpx

from leap_zoo.errors import InvalidArgument, masked


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
    """Whether NO_PROXY lists the host of `url`.

    NO_PROXY is a comma-separated list of names (`example.org`, which means `www.example.org` as well), addresses
    (`10.1.2.3`, `::1` or `[::1]`), networks (`10.0.0.0/8`, `fd00::/8`), each optionally limited by `:PORT` or
    `SCHEME://`; or `*` for all.
    """
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    for entry in no_proxy.replace(",", " ").lower().split():
        scheme, _, rest = entry.rpartition("://")
        host, wanted = _host_and_port(rest)
        if scheme in ("", "all", url.scheme) and wanted in ("", str(port)) and _means(host, url.host.rstrip(".")):
            return True
    return False


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return (host, port[1:]) if port.startswith(":") else (host + port, "")
    host, colon, port = entry.rpartition(":")
    return (host, port) if colon and ":" not in host else (entry, "")


def _means(listed: str, host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = listed.removeprefix("*").removeprefix(".")
        return listed == "*" or host == name or (bool(name) and host.endswith(f".{name}"))
    try:
        return listed == "*" or address in ipaddress.ip_network(listed, strict=False)
    except ValueError:
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


class Pace:
    """Detects a server that trickles bytes, which a timeout between two bytes never catches."""

    def __init__(self, patience: Patience) -> None:
        self._window, self._least = patience.window, patience.least
        self._since = time.monotonic()
        self._count = 0

    def came(self, count: int) -> None:
        """Record `count` received bytes. Raises Again if the rate is too low."""
        self._count += count
        now = time.monotonic()
        if now - self._since >= self._window:
            if self._count < self._least:
                raise Again(f"only {self._count} bytes in {now - self._since:.0f} s")
            self._since, self._count = now, 0


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
