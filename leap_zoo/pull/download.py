"""A zoo on a server, over HTTP. Nothing that it answers is believed: sizes are bounded, digests are the caller's.

Redirects stay on http and https and do not leave https; nothing is decompressed; a body ends where the card says.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from leap_zoo.card import File
from leap_zoo.errors import ArtifactCorrupt, DownloadFailed, InvalidArgument, short
from leap_zoo.progress import Progress
from leap_zoo.pull.patience import Again, Attempts, Pace, Patience, for_documents, retry_after
from leap_zoo.pull.unfinished import Partial

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 5
PATIENCE = Patience()

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_ABSENT = (404, 410)
_STRONG_ETAG = re.compile(r'\A"[!\x23-\x7e]{0,200}"\Z')
_DATE = re.compile(r"\A[A-Za-z0-9 ,:+-]{1,64}\Z")
_CONTENT_RANGE = re.compile(r"\Abytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


class HttpSource:
    """A zoo at `url`. Proxies are those of the environment. `close` it, or use it as a context."""

    remote = True

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        import httpx

        self.name = _without_password(url)
        self._url = url
        self._patience = PATIENCE if patience is None else patience
        self._reached = False  # a server that never answered is a wrong URL, not a bad moment
        timeout = httpx.Timeout(self._patience.silence, connect=self._patience.connect)
        try:
            self._client = httpx.Client(timeout=timeout, headers={"Accept-Encoding": "identity"})
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            raise InvalidArgument(
                f"proxy or certificates of the environment cannot be used ({_reason(error)}): mend ALL_PROXY, "
                "HTTPS_PROXY, HTTP_PROXY, SSL_CERT_FILE"
            ) from error

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """A document of at most `limit` bytes; None where there is none. Raises DownloadFailed, ArtifactCorrupt.

        optional: a server that forbids it has none either; some do so for what is not there.
        """
        attempts = Attempts(self._what(path), self._patience)
        while True:
            try:
                return self._read(path, limit, optional)
            except Again as error:
                attempts.failed(error)

    def fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """Download a file, from where `partial` stops. Raises DownloadFailed, ArtifactCorrupt, CacheUnusable."""
        attempts = Attempts(self._what(path), self._patience)
        while partial.size < published.bytes:
            try:
                self._fetch(path, published, partial, progress)
            except Again as error:
                attempts.failed(error, partial.size)

    def _read(self, path: str, limit: int, optional: bool) -> bytes | None:
        with self._get(path) as response:
            if response.status_code in _ABSENT or (optional and response.status_code == HTTPStatus.FORBIDDEN):
                return None
            self._check(response, path, HTTPStatus.OK)
            pace, data = Pace(for_documents(self._patience)), bytearray()
            for chunk in response.iter_raw():
                data += chunk
                if len(data) > limit:
                    raise ArtifactCorrupt(f"{self._what(path)} is larger than {limit} bytes: refused")
                pace.came(len(chunk))
            return bytes(data)

    def _fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """One request. It may end without the whole file, to be asked again without Range."""
        resuming = partial.size > 0 and partial.validator is not None
        headers = {"Range": f"bytes={partial.size}-", "If-Range": partial.validator or ""} if resuming else {}
        with self._get(path, headers) as response:
            if response.status_code in _ABSENT:
                raise ArtifactCorrupt(f"{self._what(path)} is listed by its card, but it is not there: refused")
            if resuming and not _continues(response, partial, published):
                if response.status_code in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                    return _restart(partial, progress, None)  # the next request is for the whole file
                resuming = False
            self._check(response, path, HTTPStatus.PARTIAL_CONTENT if resuming else HTTPStatus.OK)
            if not resuming:
                _restart(partial, progress, _validator(response))
            self._receive(response, path, published, partial, progress)

    def _receive(
        self, response: httpx.Response, path: str, published: File, partial: Partial, progress: Progress
    ) -> None:
        length = response.headers.get("content-length")
        if length is not None and length != str(published.bytes - partial.size):
            raise ArtifactCorrupt(
                f"{self._what(path)}: the server has {short(length, 24)} bytes where its card says "
                f"{published.bytes - partial.size}: refused"
            )
        pace = Pace(self._patience)
        for chunk in response.iter_raw():
            partial.append(chunk)
            progress.step(len(chunk))
            pace.came(len(chunk))
        if partial.size < published.bytes:
            raise ArtifactCorrupt(f"{self._what(path)} ends after {partial.size} of {published.bytes} bytes: refused")

    @contextlib.contextmanager
    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """The answer, after redirects, its body unread. Raises Again and DownloadFailed, also while it is read."""
        import httpx

        what = self._what(path)
        url = httpx.URL(f"{self._url}/{quote(path)}")
        try:
            for _ in range(MAX_REDIRECTS + 1):
                with contextlib.closing(
                    self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
                ) as response:
                    self._reached = True
                    if not response.has_redirect_location:
                        if response.status_code in _TRANSIENT:
                            after = retry_after(response.headers.get("retry-after"))
                            raise Again(f"the server answers {_status(response)}", after)
                        yield response
                        return
                    url = _redirected(response, what)
            raise DownloadFailed(f"{what}: more than {MAX_REDIRECTS} redirects: give the URL where the zoo is")
        except httpx.ConnectError as error:
            if self._reached:
                raise Again(_reason(error)) from error
            raise DownloadFailed(f"{what}: no connection ({_reason(error)}): check the URL and the network") from error
        except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise Again(_reason(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise DownloadFailed(f"{what}: {_reason(error)}: check the URL and the proxy") from error

    def _check(self, response: httpx.Response, path: str, expected: HTTPStatus) -> None:
        """Raises DownloadFailed for another status, and for a body that would have to be unpacked."""
        if response.status_code != expected:
            mend = "check the URL, or ask whoever runs the zoo"
            raise DownloadFailed(f"{self._what(path)}: the server answers {_status(response)}: {mend}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise ArtifactCorrupt(
                f"{self._what(path)} comes as {short(encoding, 24)}, which was not asked for: refused"
            )

    def _what(self, path: str) -> str:
        return f"{self.name}/{path}"


def _continues(response: httpx.Response, partial: Partial, published: File) -> bool:
    """Whether the answer is the rest of the very version that `partial` is of."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or _validator(response) not in (None, partial.validator):
        return False
    found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    if found is None or found[3] not in ("*", str(published.bytes)):
        return False
    return (int(found[1]), int(found[2])) == (partial.size, published.bytes - 1)


def _restart(partial: Partial, progress: Progress, validator: str | None) -> None:
    progress.step(-partial.size)
    partial.begin(validator)


def _validator(response: httpx.Response) -> str | None:
    """What If-Range may be given: a strong ETag, else the date; a weak ETag does not promise the same bytes."""
    etag, date = response.headers.get("etag", ""), response.headers.get("last-modified", "")
    if _STRONG_ETAG.match(etag):
        return str(etag)
    return str(date) if _DATE.match(date) else None


def _redirected(response: httpx.Response, what: str) -> httpx.URL:
    url = response.url.join(response.headers["location"])
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadFailed(f"{what} redirects to {short(url)}, which is not on the web: refused")
    if response.url.scheme == "https" and url.scheme != "https":
        raise DownloadFailed(f"{what} redirects from https to {short(url)}: refused")
    return url


def _status(response: httpx.Response) -> str:
    """Code and our own word for it; the server's may be anything."""
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)


def _reason(error: Exception) -> str:
    lines = str(error).split("\n")
    return lines[0][:200].strip() or type(error).__name__


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
