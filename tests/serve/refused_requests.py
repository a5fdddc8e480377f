"""What the tests of the API ask of a problem, and how they write photos."""

from __future__ import annotations

import base64
from typing import Any

from serve.problems import CODES


def refusal(response: Any) -> tuple[str, int | None]:
    """Code and index of a problem, whose status must be the one that is published for the code."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body = response.json()
    assert body["status"] == response.status_code == CODES[body["code"]][0]
    assert body["type"] == f"/docs#{body['code']}"
    assert len(body["detail"]) > 20
    return body["code"], body.get("index")


def text(photo: bytes) -> str:
    """A photo as base64."""
    return base64.b64encode(photo).decode()
