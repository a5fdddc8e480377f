"""Downloads over HTTP that resume. Nothing that a server answers is believed: sizes are bounded, content is checked.

Redirects stay on http and https and do not leave https; nothing is decompressed; a body ends where the card says.
A download goes on where it stopped, also after a kill or a power cut, from any server: the file's sha256 decides in the
end, and one that went on wrongly starts over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from leap_zoo.card import File
from leap_zoo.errors import ArtifactCorrupt, DownloadFailed, masked, short
from leap_zoo.locks import locked
from leap_zoo.patience import Again, Attempts, Pace, Patience, retry_after
from leap_zoo.progress import Progress
from leap_zoo.store import Cache, differs

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 5
PATIENCE = Patience()

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_ABSENT = (404, 410)
_CONTENT_RANGE = re.compile(r"\Abytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


class Partial:
    """The first `size` bytes of a file, which an earlier process may have left in the cache.

    `resumed`: they come from more than one answer, and may not belong together.
    """

    def __init__(self, cache: Cache, published: File) -> None:
        self.published = published
        self._cache = cache
        self._path = cache.partials / published.sha256
        self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115
        self.size = os.fstat(self._file.fileno()).st_size
        if self.size > published.bytes:
            self.begin()
        self.resumed = self.size > 0

    def begin(self) -> None:
        """From the first byte. Raises CacheUnusable."""
        with self._cache.usable():
            self._file.truncate(0)
        self.size, self.resumed = 0, False

    def append(self, chunk: bytes) -> None:
        """The next bytes. Raises ArtifactCorrupt when they are more than there should be, CacheUnusable."""
        if self.size + len(chunk) > self.published.bytes:
            raise ArtifactCorrupt(
                f"{short(self.published.file)} is larger than the {self.published.bytes} bytes of its card: refused"
            )
        with self._cache.usable():
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]
        self.size += len(chunk)

    def finish(self) -> None:
        """Check it, and move it to the cache's blobs. Raises ArtifactCorrupt, CacheUnusable."""
        if self.size != self.published.bytes:
            raise ArtifactCorrupt(
                f"{short(self.published.file)} has {self.size} bytes, its card says {self.published.bytes}: refused"
            )
        with self._cache.usable():
            os.fsync(self._file.fileno())
            self._file.seek(0)
            found = hashlib.file_digest(self._file, "sha256").hexdigest()
        if found != self.published.sha256:
            mend = "ask whoever runs the zoo to publish it again"
            raise ArtifactCorrupt(differs(self.published.file, self.published.sha256, found, mend))
        with self._cache.usable():
            self._file.close()
            os.replace(self._path, self._cache.blob(found))

    def close(self, *, keep: bool) -> None:
        """Let go of it; what cannot go on later is removed."""
        self._file.close()
        if not keep or self.size == 0:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def downloading(cache: Cache, published: File) -> Iterator[Partial | None]:
    """The download of a file, which no other process is at; None when it has arrived already.

    What was begun is kept for later when the block raises, unless it raises ArtifactCorrupt. Raises CacheUnusable.
    """
    with contextlib.ExitStack() as stack:
        with cache.usable():
            stack.enter_context(locked(cache.partials / f"{published.sha256}.lock"))
            download = None if cache.check(published) else Partial(cache, published)
        if download is None:
            yield None
            return
        keep = True
        try:
            yield download
        except ArtifactCorrupt:
            keep = False
            raise
        finally:
            download.close(keep=keep)


class Source:
    """Where a zoo, or one model's folder, is read from; paths are relative to it. What is read is not checked yet."""

    name: str  # for messages; no password in it
    remote: bool  # whether it needs the network

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """A document of at most `limit` bytes; None where there is none. Raises DownloadFailed, ArtifactCorrupt.

        optional: a server that forbids it has none either; some do so for what is not there.
        """
        raise NotImplementedError

    def fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """Append what `partial` lacks of a file: all at once, since it must fit in memory to be loaded.

        Raises DownloadFailed, ArtifactCorrupt, CacheUnusable.
        """
        data = self.read(path, published.bytes)
        if data is None:
            raise ArtifactCorrupt(f"{self.what(path)} is listed by its card, but it is not there: refused")
        _restart(partial, progress)
        partial.append(data)
        progress.step(len(data))

    def holds(self, path: str) -> bool:
        """Whether a file is there, where that is known without asking a server."""
        return True

    def close(self) -> None:
        """Let go of connections."""

    def what(self, path: str) -> str:
        """A file, for messages."""
        return f"{self.name}/{path}"


class HttpSource(Source):
    """A zoo at `url`. Proxies are those of the environment. `close` it, or use it as a context."""

    remote = True

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        import httpx

        from leap_zoo.web import open_http, split_login

        self.name = masked(url)
        self._url, self._login = split_login(httpx.URL(url))
        self._patience = PATIENCE if patience is None else patience
        self._reached = False  # a server that never answered is a wrong URL, not a bad moment
        timeout = httpx.Timeout(self._patience.silence, connect=self._patience.connect)
        self._client = open_http(timeout=timeout)

    def close(self) -> None:
        """See `Source`."""
        self._client.close()

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """See `Source`."""
        attempts = Attempts(self.what(path), self._patience)
        while True:
            try:
                return self._read(path, limit, optional)
            except Again as error:
                attempts.failed(error)

    def fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """See `Source`: from where `partial` stops."""
        attempts = Attempts(self.what(path), self._patience)
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
            pace, data = Pace(self._patience, document=True), bytearray()
            for chunk in response.iter_raw():
                data += chunk
                if len(data) > limit:
                    raise ArtifactCorrupt(f"{self.what(path)} is larger than {limit} bytes: refused")
                pace.came(len(chunk))
            return bytes(data)

    def _fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """One request. It may end without the whole file, to be asked again."""
        start = partial.size
        with self._get(path, {"Range": f"bytes={start}-"} if start else None) as response:
            if response.status_code in _ABSENT:
                raise ArtifactCorrupt(f"{self.what(path)} is listed by its card, but it is not there: refused")
            going_on = start > 0 and _continues(response, start, published.bytes)
            not_ours = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            if start and not going_on and response.status_code in not_ours:
                return _restart(partial, progress)  # the next request is for the whole file
            self._check(response, path, HTTPStatus.PARTIAL_CONTENT if going_on else HTTPStatus.OK)
            if not going_on:
                _restart(partial, progress)
            partial.resumed = going_on
            self._receive(response, path, published, partial, progress)

    def _receive(
        self, response: httpx.Response, path: str, published: File, partial: Partial, progress: Progress
    ) -> None:
        length = response.headers.get("content-length")
        if length is not None and length != str(published.bytes - partial.size):
            raise ArtifactCorrupt(
                f"{self.what(path)}: the server has {short(length, 24)} bytes where its card says "
                f"{published.bytes - partial.size}: refused"
            )
        pace = Pace(self._patience)
        for chunk in response.iter_raw():
            partial.append(chunk)
            progress.step(len(chunk))
            pace.came(len(chunk))
        if partial.size < published.bytes:
            raise ArtifactCorrupt(f"{self.what(path)} ends after {partial.size} of {published.bytes} bytes: refused")

    @contextlib.contextmanager
    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """The answer, after redirects, its body unread. Raises Again and DownloadFailed, also while it is read."""
        import httpx

        what = self.what(path)
        try:
            url = httpx.URL(f"{self._url}/{quote(path)}")
            for _ in range(MAX_REDIRECTS + 1):
                request = self._client.build_request("GET", url, headers=headers)
                ours = (url.scheme, url.host, url.port) == (self._url.scheme, self._url.host, self._url.port)
                login = self._login if ours else None  # which is not for other servers
                with contextlib.closing(self._client.send(request, auth=login, stream=True)) as response:
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
            raise DownloadFailed(f"{self.what(path)}: the server answers {_status(response)}: {mend}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise ArtifactCorrupt(f"{self.what(path)} comes as {short(encoding, 24)}, which was not asked for: refused")


def _continues(response: httpx.Response, start: int, size: int) -> bool:
    """Whether the answer is the rest of a file of that size."""
    found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or found is None:
        return False
    return (int(found[1]), int(found[2])) == (start, size - 1) and found[3] in ("*", str(size))


def _restart(partial: Partial, progress: Progress) -> None:
    progress.step(-partial.size)
    partial.begin()


def _redirected(response: httpx.Response, what: str) -> httpx.URL:
    url = response.url.join(response.headers["location"])
    where = short(f"{url.scheme}://{url.host}")  # the rest may hold a token
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadFailed(f"{what} redirects to {where}, which is not on the web: refused")
    if response.url.scheme == "https" and url.scheme != "https":
        raise DownloadFailed(f"{what} redirects from https to {where}: refused")
    return url


def _status(response: httpx.Response) -> str:
    """Code and our own word for it; the server's may be anything."""
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)


def _reason(error: Exception) -> str:
    return masked(str(error).split("\n")[0])[:200].strip() or type(error).__name__
