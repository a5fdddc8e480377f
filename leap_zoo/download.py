"""Zoos on servers and hubs, and downloads that resume. Nothing that a server sends is trusted.

Sizes are bounded, content is checked, nothing is decompressed. Redirects stay on http and https, and never leave https.
A download resumes where it stopped, even after a kill or a power cut, from any server. The file's sha256 decides in the
end: if the resumed parts do not match, the download starts over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from io import BufferedRandom
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import httpx

from leap_zoo.card import File, Index, ModelCard
from leap_zoo.errors import ArtifactCorrupt, DownloadFailed, InvalidArgument, masked, short
from leap_zoo.locks import locked
from leap_zoo.progress import Progress
from leap_zoo.settings import read_hub_settings, read_settings, zoo_location
from leap_zoo.store import Cache, ModelFolder, Zoo, check_digest
from leap_zoo.web import Again, Patience, Unwanted, open_http, read_body, retry_after, split_login

MAX_REDIRECTS = 5
PATIENCE = Patience()

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_ABSENT = (404, 410)
_CONTENT_RANGE = re.compile(r"\Abytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")

_Answer = TypeVar("_Answer")
Login = tuple[str, str] | Callable[[httpx.Request], httpx.Request]


@contextlib.contextmanager
def open_zoo(location: str | os.PathLike[str]) -> Iterator[Zoo]:
    """Open a zoo or a single model for a `with` block: a folder, or a file://, http(s):// or hf://OWNER/NAME URL.

    Raises InvalidArgument; DownloadFailed for a server if LEAP_ZOO_OFFLINE is 1.
    """
    place = zoo_location(location, "--from")
    if isinstance(place, Path):
        if not os.path.isdir(place):
            raise InvalidArgument(f"{short(place)} is not a folder: give the folder that holds index.json, or a URL")
        lone = not os.path.lexists(place / "index.json") and os.path.lexists(place / "card.json")
        yield ModelFolder(place) if lone else Zoo(place)
        return
    if read_settings().offline:
        raise DownloadFailed(f"LEAP_ZOO_OFFLINE is 1, and {masked(place)} is not on this device: unset it")
    zoo = HubZoo(place) if place.startswith("hf://") else HttpZoo(place)
    try:
        yield zoo
    finally:
        zoo.close()


def download(zoo: Zoo, card: ModelCard, file: File, cache: Cache, progress: Progress) -> bool:
    """Fetch a file of `zoo` into `cache` and check it; False if it was there already. One process fetches it at a time.

    An interrupted download is kept for later unless it is corrupt. Raises ArtifactCorrupt, DownloadFailed,
    CacheUnusable.
    """
    path = cache.partials / file.sha256
    with cache.usable(), locked(path.with_suffix(".lock")):
        if cache.check(file):
            progress.step(file.bytes)
            return False
        try:
            with path.open("a+b") as opened:
                _complete(zoo, card, Partial(opened, file, progress))
            os.replace(path, cache.blob(file.sha256))
        except ArtifactCorrupt:
            path.unlink()
            raise
        finally:
            if path.exists() and path.stat().st_size == 0:
                path.unlink()
    return True


def _complete(zoo: Zoo, card: ModelCard, partial: Partial) -> None:
    """Fetch what is missing, and check the whole. Raises ArtifactCorrupt, DownloadFailed, OSError."""
    file = partial.file
    zoo.fetch(card, partial)
    if partial.resumed and partial.digest() != file.sha256:
        partial.begin()  # the bytes from before may belong to another version, or be damaged
        zoo.fetch(card, partial)
    check_digest(file.file, partial.digest(), file.sha256, "ask the zoo's owner to publish it again")


class Partial:
    """The first `size` bytes of a file, in an open file, perhaps from an earlier process. Its methods raise OSError.

    `resumed`: they come from more than one response, and may not belong together.
    """

    def __init__(self, opened: BufferedRandom, file: File, progress: Progress) -> None:
        self.file = file
        self._open = opened
        self._progress = progress
        self.size = os.fstat(opened.fileno()).st_size
        self.resumed = self.size > 0
        progress.step(self.size)
        if self.size > file.bytes:
            self.begin()

    def begin(self) -> None:
        """Start over at the first byte."""
        self._open.truncate(0)
        self._progress.step(-self.size)
        self.size, self.resumed = 0, False

    def append(self, chunk: bytes) -> None:
        """Append the next bytes."""
        self._open.write(chunk)
        self._open.flush()
        self.size += len(chunk)
        self._progress.step(len(chunk))

    def digest(self) -> str:
        """The sha256 of the bytes, once they are on the disk."""
        os.fsync(self._open.fileno())
        self._open.seek(0)
        return hashlib.file_digest(self._open, "sha256").hexdigest()


class HttpZoo(Zoo):
    """A zoo, or a single model, at a URL. Proxies come from the environment."""

    advice = "pull again, or ask the zoo's owner"
    refusal = "check the URL, or ask the zoo's owner"  # advice after an error response

    def __init__(self, url: str) -> None:
        self.name = masked(url)
        try:
            self._url, login = split_login(httpx.URL(url))
        except httpx.InvalidURL as error:  # its text may contain part of a password
            raise InvalidArgument(f"{short(url)} is not a valid URL: check its host") from error
        self._login: Login | None = login  # not sent to other servers
        self._patience = PATIENCE
        self._reached = False  # if the server never answered, the URL is probably wrong: do not retry
        self._client = open_http(timeout=httpx.Timeout(self._patience.silence, connect=self._patience.connect))

    def index(self) -> Index:
        """See `Zoo`; without an index.json, card.json says which model this is."""
        with contextlib.suppress(InvalidArgument):
            return super().index()
        self.lone = True
        return super().index()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def document(self, path: str, limit: int, *, optional: bool = False) -> bytes:
        """See `Zoo`."""
        return self._retry(path, lambda: self._read(path, limit, optional))

    def fetch(self, card: ModelCard, partial: Partial) -> None:
        """See `Zoo`."""
        path = self.where(card.id, partial.file.file, partial.file.sha256)
        while partial.size < partial.file.bytes:
            self._retry(path, lambda: self._receive(path, partial), lambda: partial.size)

    def what(self, path: str) -> str:
        """A file's name for messages."""
        return f"{self.name}/{path}"

    def _hint(self) -> str:
        return "there is no index.json and no card.json: check --from or LEAP_ZOO_URL"

    def _retry(self, path: str, once: Callable[[], _Answer], reached: Callable[[], int] = lambda: 0) -> _Answer:
        """Call `once`, again as long as that makes sense, and return its result. Raises DownloadFailed.

        reached: bytes so far. An attempt that got clearly further than all before does not count as a failure.
        """
        patience, failures, furthest = self._patience, 0, 0
        while True:
            try:
                return once()
            except Again as error:
                failures += 1
                if reached() >= furthest + patience.least:
                    furthest, failures = reached(), 1
                kept = "; the part that arrived is kept" if reached() else ""
                if failures >= patience.attempts:
                    reason = f"{error}, {failures} times"
                    raise DownloadFailed(f"{self.what(path)}: {reason}: try again later{kept}") from error
                wait = patience.back_off * 2 ** (failures - 1) * random.uniform(0.5, 1)
                time.sleep(min(max(wait, error.after or 0), patience.longest))

    def _read(self, path: str, limit: int, optional: bool) -> bytes:
        with self._get(path) as response:
            if response.status_code in _ABSENT or (optional and response.status_code == HTTPStatus.FORBIDDEN):
                raise FileNotFoundError(errno.ENOENT, _status(response))
            self._check(response, path, HTTPStatus.OK)
            return b"".join(read_body(response, self._patience, limit))

    def _receive(self, path: str, partial: Partial) -> None:
        """One request. It may end before the file is complete; then it is repeated."""
        start, size = partial.size, partial.file.bytes
        with self._get(path, {"Range": f"bytes={start}-"} if start else None) as response:
            if response.status_code in _ABSENT:
                raise ArtifactCorrupt(
                    f"{self.what(path)} is listed in its card, but the server does not have it: refused"
                )
            going_on = start > 0 and _continues(response, start, size)
            not_ours = (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            if start and not going_on and response.status_code in not_ours:
                return partial.begin()  # request the whole file next
            self._check(response, path, HTTPStatus.PARTIAL_CONTENT if going_on else HTTPStatus.OK)
            if not going_on:
                partial.begin()
            partial.resumed = going_on
            chunks = read_body(response, self._patience, size - partial.size)
            length = response.headers.get("content-length")
            if length is not None and length != str(size - partial.size):
                told = f"the server has {short(length, 24)} bytes where its card says {size - partial.size}"
                raise ArtifactCorrupt(f"{self.what(path)}: {told}: refused")
            for chunk in chunks:
                partial.append(chunk)
            if partial.size < size:
                raise ArtifactCorrupt(f"{self.what(path)} ends after {partial.size} of {size} bytes: refused")

    @contextlib.contextmanager
    def _get(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """The response after redirects, with its body unread.

        Raises Again and DownloadFailed, also inside the block.
        """
        what = self.what(path)
        try:
            url = httpx.URL(f"{self._url}/{quote(path)}")
            for _ in range(MAX_REDIRECTS + 1):
                request = self._client.build_request("GET", url, headers=headers)
                ours = (url.scheme, url.host, url.port) == (self._url.scheme, self._url.host, self._url.port)
                login = self._login if ours else None
                with contextlib.closing(self._client.send(request, auth=login, stream=True)) as response:
                    self._reached = True
                    if not response.has_redirect_location:
                        if response.status_code in _TRANSIENT:
                            after = retry_after(response.headers.get("retry-after"))
                            raise Again(f"the server answers {_status(response)}", after)
                        yield response
                        return
                    url = _redirected(response, what)
            raise DownloadFailed(f"{what}: more than {MAX_REDIRECTS} redirects: give the zoo's final URL")
        except Unwanted as error:
            raise ArtifactCorrupt(f"{what} {error}: refused") from error
        except httpx.ConnectError as error:
            if self._reached:
                raise Again(_reason(error)) from error
            raise DownloadFailed(f"{what}: no connection ({_reason(error)}): check the URL and the network") from error
        except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise Again(_reason(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise DownloadFailed(f"{what}: {_reason(error)}: check the URL and the proxy") from error

    def _check(self, response: httpx.Response, path: str, expected: HTTPStatus) -> None:
        if response.status_code != expected:
            raise DownloadFailed(f"{self.what(path)}: the server answers {_status(response)}: {self.refusal}")


class HubZoo(HttpZoo):
    """`hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, a repository of the Hugging Face hub."""

    refusal = "check the name; a private repository needs HF_TOKEN, or `hf auth login`"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        path, _, revision = parts.path.strip("/").partition("@")
        if not path or "/" in path or parts.netloc.count("@"):
            raise InvalidArgument(f"{short(url)} is not a repository: give hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
        hub = read_hub_settings()
        if hub.offline:
            raise DownloadFailed(f"HF_HUB_OFFLINE is 1, and {url} is not on this device: unset it")
        super().__init__(f"{hub.endpoint}/{parts.netloc}/{path}/resolve/{quote(revision or 'main', '')}")
        self.name = url
        if hub.token:
            self._login = partial(_bear, hub.token)


def _bear(token: str, request: httpx.Request) -> httpx.Request:
    request.headers["authorization"] = f"Bearer {token}"
    return request


def _continues(response: httpx.Response, start: int, size: int) -> bool:
    """Whether the response is the rest of a file of that size."""
    found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or found is None:
        return False
    return (int(found[1]), int(found[2])) == (start, size - 1) and found[3] in ("*", str(size))


def _redirected(response: httpx.Response, what: str) -> httpx.URL:
    url = response.url.join(response.headers["location"])
    where = short(f"{url.scheme}://{url.host}")  # the rest may contain a token
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadFailed(f"{what} redirects to {where}, which is not on the web: refused")
    if response.url.scheme == "https" and url.scheme != "https":
        raise DownloadFailed(f"{what} redirects from https to {where}: refused")
    return url


def _status(response: httpx.Response) -> str:
    """The status code and its standard phrase; the server's own phrase could be anything."""
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)


def _reason(error: Exception) -> str:
    return masked(str(error).strip().split("\n")[0])[:200].strip() or type(error).__name__
