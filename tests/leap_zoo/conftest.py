"""Fixtures for tests that pull: zoos on a local server, and little patience."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo_server import ZooServer, make_big, serving

from leap_zoo import download
from leap_zoo.web import Patience


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of hundredths of a second, and three tries."""
    monkeypatch.setattr(
        download,
        "PATIENCE",
        Patience(connect=5, silence=2, window=2, least=100, attempts=3, back_off=0.01, longest=0.02),
    )


@pytest.fixture
def server(zoo_copy: Path, hasty: None) -> Iterator[ZooServer]:
    """The tiny zoo on a server."""
    with serving(zoo_copy) as started:
        yield started


@pytest.fixture
def big_server(zoo_copy: Path, hasty: None) -> Iterator[ZooServer]:
    """The same; its int8 file is noise, SIZE bytes of it."""
    make_big(zoo_copy)
    with serving(zoo_copy) as started:
        yield started
