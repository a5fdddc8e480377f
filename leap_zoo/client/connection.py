"""One HTTP connection to a service: keys, waiting when it is busy, and its problems as our own errors."""

from __future__ import annotations

import random
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from leap_zoo import errors
from leap_zoo.errors import InvalidArgument, LeapZooError, ServiceFailed, ServiceRefused, short
from leap_zoo.pull.patience import retry_after

if TYPE_CHECKING:
    import httpx

LONGEST_WAIT = 10.0  # seconds between two tries, also where Retry-After says more

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


class Connection:
    """Requests to the service at `url`. May be used by several threads at once."""

    def __init__(self, url: str, key: str | None, timeout: float, attempts: int) -> None:
        import httpx

        try:
            base = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise InvalidArgument(f"{short(url)} is no URL ({error}): give http://HOST:PORT") from error
        if base.scheme not in ("http", "https") or not base.host:
            raise InvalidArgument(f"{short(url)} is no address of a service: give http://HOST:PORT")
        if attempts < 1:
            raise InvalidArgument(f"attempts must be at least 1, not {attempts}")
        self._attempts = attempts
        self.name = str(base.copy_with(username=None, password=None)).rstrip("/")
        try:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            self._http = httpx.Client(base_url=base, timeout=timeout, headers=headers)
        except (ImportError, ValueError, OSError) as error:
            raise InvalidArgument(
                f"the key, or proxy and certificates of the environment, cannot be used ({error}): mend them"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, kind: type[Answer], method: str, path: str, **options: Any) -> Answer:
        """The JSON of an answer as a `kind`. Raises as `send` does."""
        body = self.send(method, path, **options)
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise ServiceFailed(
                f"{self.name}{path} answers in another shape than expected ({short(error, 200)}): is it a LEAP Zoo "
                "service of this version?"
            ) from error

    def send(self, method: str, path: str, **options: Any) -> bytes:
        """The body of an answer. Tries again when the service says that it is busy, as often as `attempts` allows.

        Raises the error that the service's problem stands for, ServiceRefused for any other refusal, ServiceFailed when
        it stays busy, fails, or cannot be reached.
        """
        for attempt in range(1, self._attempts + 1):
            response = self._once(method, path, options)
            if response.is_success:
                return response.content
            wait = _wait(response, attempt)
            if wait is None or attempt == self._attempts:
                raise self._error(response, attempt)
            time.sleep(wait)
        raise AssertionError

    def _once(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise ServiceFailed(
                f"{self.name} did not answer in time: try again later, send fewer photos, or give a longer timeout"
            ) from error
        except httpx.HTTPError as error:
            raise ServiceFailed(
                f"{self.name} cannot be reached ({str(error) or type(error).__name__}): check the address, and "
                "whether the service runs"
            ) from error

    def _error(self, response: httpx.Response, attempts: int) -> LeapZooError:
        status = response.status_code
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.DecodeError:
            problem = Problem()
        detail = problem.detail or f"{self.name} answers {status}: is it a LEAP Zoo service?"
        known = _ERRORS.get(problem.code)
        if known is not None:
            error = known(detail)
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            times = f" ({attempts} times)" if attempts > 1 else ""
            error = ServiceFailed(f"{self.name}{times}: {detail}")
        else:
            error = ServiceRefused(detail, status, problem.code)
        error.index = problem.index  # type: ignore[attr-defined]
        return error


def _wait(response: httpx.Response, attempt: int) -> float | None:
    """Seconds before the next try; None where there is no use in one."""
    if response.status_code not in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        return None
    asked = retry_after(response.headers.get("retry-after"))
    if asked is None:
        return None
    least: float = 0.1 * 2**attempt
    return min(max(asked, least) * random.uniform(1, 1.5), LONGEST_WAIT)
