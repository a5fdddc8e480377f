"""What the tests of the API ask of a problem, and how they write photos."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from serve.problems import CODES, Refused


def refusal(response: Any) -> tuple[str, int | None]:
    """Code and index of a problem, whose status must be the one that is published for the code."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert body["status"] == response.status_code == CODES[body["code"]][0]
    assert body["type"] == f"/docs#{body['code']}"
    assert len(body["detail"]) > 20
    return body["code"], body.get("index")


def refused(call: Callable[[], object]) -> tuple[int, str]:
    """Status and code of what `call` raises."""
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.status, caught.value.code


def text(photo: bytes) -> str:
    """A photo as base64."""
    return base64.b64encode(photo).decode()
