"""One HTTP connection to a service: keys, waiting when it is busy, and its problems as our own errors."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from leap_zoo import errors
from leap_zoo.errors import InvalidArgument, LeapZooError, ServiceFailed, ServiceRefused, masked, plain, short
from leap_zoo.pull.patience import Again, Pace, Patience, retry_after

if TYPE_CHECKING:
    import httpx

LONGEST_WAIT = 10.0  # seconds between two tries, also where Retry-After says more
MAX_ANSWER = 64 * 2**20  # bytes; 32 photos with 100 hits each, all with the metadata that one may have, are less
MAX_PROBLEM = 64 * 1024
MAX_DETAIL = 1000  # characters of a service's own words in a message of ours

_KEY = re.compile(r"\A[!-~]{1,512}\Z")

_ERRORS: dict[str, type[LeapZooError]] = {
    "not_an_image": errors.NotAnImage,
    "undecodable_image": errors.UndecodableImage,
    "image_too_large": errors.ImageTooLarge,
    "missing_photo": errors.NotAnImage,
    "unknown_model": errors.UnknownModel,
    "unknown_head": errors.UnknownHead,
    "unknown_space": errors.UnknownSpace,
    "invalid_option": InvalidArgument,
}

Answer = TypeVar("Answer")


class Problem(msgspec.Struct):
    """What a service says when it refuses; `index`: which photo of the request, from 0."""

    code: str = "http_error"
    detail: str = ""
    index: int | None = None


@dataclass(frozen=True)
class _Refusal:
    """An answer that is none of 2xx."""

    status: int
    problem: Problem
    after: float | None  # seconds that it asks us to wait
    elsewhere: str | None  # where a redirect leads


class Connection:
    """Requests to the service at `url`. May be used by several threads at once."""

    def __init__(self, url: str, key: str | None, timeout: float, attempts: int) -> None:
        """Raises InvalidArgument. The service is not asked yet."""
        import httpx

        from leap_zoo.web import open_http, split_login

        try:
            base, login = split_login(httpx.URL(url))
        except (httpx.InvalidURL, TypeError):  # whose text may have a part of a password
            base, login = httpx.URL(), None
        if base.scheme not in ("http", "https") or not base.host:
            raise InvalidArgument(f"{short(url)} is not the address of a service: give http://HOST:PORT")
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise InvalidArgument(f"attempts must be a whole number of at least 1, not {short(attempts)}")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise InvalidArgument(f"timeout must be seconds, more than 0, not {short(timeout)}")
        if key and not (isinstance(key, str) and _KEY.match(key)):
            raise InvalidArgument("the key has characters that no key has: give it without spaces and line breaks")
        if key and login:
            raise InvalidArgument("a service takes a key, or the user and password of its URL, not both: leave one out")
        self._attempts = attempts
        self.name = str(base).rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = open_http(base_url=base, auth=login, timeout=timeout, headers=headers)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, kind: type[Answer], method: str, path: str, **options: Any) -> Answer:
        """The JSON of an answer as a `kind`. Raises as `receive` does."""
        body = self.send(method, path, **options)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self.strange(short(error, 200), path) from error

    def send(self, method: str, path: str, *, limit: int = MAX_ANSWER, **options: Any) -> bytes:
        """The body of an answer, at most `limit` bytes. Raises as `receive` does."""
        body = bytearray()
        self.receive(body.extend, method, path, limit=limit, **options)
        return bytes(body)

    def receive(
        self,
        write: Callable[[bytes], object],
        method: str,
        path: str,
        *,
        limit: int,
        repeatable: bool = True,
        **options: Any,
    ) -> None:
        """Hand an answer's body to `write`, piece by piece.

        A service that says that it is busy is asked again, as often as `attempts` allows; one that gave up on a request
        only where that is `repeatable`. What has begun to be written is never asked for again.
        Raises the error that the service's problem stands for, ServiceRefused for any other refusal, ServiceFailed when
        it stays busy, fails, cannot be reached, or answers more than `limit` bytes.
        """
        for attempt in range(1, self._attempts + 1):
            refusal = self._once(write, method, path, limit, options)
            if refusal is None:
                return
            wait = _wait(refusal, attempt, repeatable)
            if wait is None or attempt == self._attempts:
                raise self._error(refusal, attempt)
            time.sleep(wait)

    def strange(self, what: str, path: str = "") -> ServiceFailed:
        """The error for an answer that cannot be understood."""
        return ServiceFailed(
            f"{self.name}{path} answers in another shape than expected ({what}): is it a LEAP Zoo service of this "
            "version?"
        )

    def _once(
        self, write: Callable[[bytes], object], method: str, path: str, limit: int, options: dict[str, Any]
    ) -> _Refusal | None:
        import httpx

        if self._http.is_closed:
            raise InvalidArgument("the client is closed: make a new one")
        try:
            with self._http.stream(method, path, **options) as response:
                if not response.is_success:
                    return self._refusal(response, path)
                for piece in self._pieces(response, path, limit):
                    write(piece)
                return None
        except httpx.TimeoutException as error:
            raise ServiceFailed(
                f"{self.name} did not answer in time: try again later, send fewer photos, or give a longer timeout"
            ) from error
        except httpx.HTTPError as error:
            raise ServiceFailed(
                f"{self.name} cannot be reached ({masked(str(error)) or type(error).__name__}): check the address, and "
                "whether the service runs"
            ) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidArgument(
                f"the address or an option cannot be sent ({short(error, 200)}): mend it, or make it shorter"
            ) from error

    def _pieces(self, response: httpx.Response, path: str, limit: int) -> Iterator[bytes]:
        """The body as it comes. Compressed ones are refused: nobody asked, and a few bytes may become gigabytes."""
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self.strange(f"compressed: {short(encoding)}", path)
        pace, size = Pace(Patience()), 0
        for piece in response.iter_raw():
            size += len(piece)
            if size > limit:
                raise ServiceFailed(
                    f"{self.name}{path} answers more than {limit / 2**20:.2g} MiB, which no LEAP Zoo service does: "
                    "check the address"
                )
            try:
                pace.came(len(piece))
            except Again as error:
                raise ServiceFailed(f"{self.name} answers too slowly ({error}): try again later") from error
            yield piece

    def _refusal(self, response: httpx.Response, path: str) -> _Refusal:
        try:
            problem = msgspec.json.decode(b"".join(self._pieces(response, path, MAX_PROBLEM)), type=Problem)
        except (ServiceFailed, msgspec.DecodeError, UnicodeError, RecursionError):
            problem = Problem()  # a proxy's page, say: the status has to do
        after = retry_after(response.headers.get("retry-after"))
        elsewhere = response.headers.get("location") if response.is_redirect else None
        return _Refusal(response.status_code, problem, after, elsewhere)

    def _error(self, refusal: _Refusal, attempts: int) -> LeapZooError:
        status, problem = refusal.status, refusal.problem
        detail = _one_line(problem.detail) or f"{self.name} answers {status}: is it a LEAP Zoo service?"
        if refusal.elsewhere is not None:
            detail = f"{self.name} answers that it is elsewhere: give the address {short(refusal.elsewhere, 200)}"
        known = _ERRORS.get(problem.code)
        if known is not None:
            error = known(detail)
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            times = f" ({attempts} times)" if attempts > 1 else ""
            error = ServiceFailed(f"{self.name}{times}: {detail}")
        else:
            error = ServiceRefused(detail, status, _one_line(problem.code))
        error.index = problem.index  # type: ignore[attr-defined]
        return error


def _one_line(text: str) -> str:
    """A service's words, which may be anything, as a line that a terminal can be shown."""
    line = plain(" ".join(text[: 2 * MAX_DETAIL].split()))
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 3] + "..."


def _wait(refusal: _Refusal, attempt: int, repeatable: bool) -> float | None:
    """Seconds before the next try; None where there is no use in one."""
    if refusal.status not in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS) or refusal.after is None:
        return None
    if refusal.problem.code == "timed_out" and not repeatable:
        return None
    least: float = 0.1 * 2**attempt
    return min(max(refusal.after, least) * random.uniform(1, 1.5), LONGEST_WAIT)
