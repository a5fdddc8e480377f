"""Fixtures of the serve room: the engine over the tiny model, and the site without a server around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import leap_zoo

pytest.importorskip("bentoml", reason="needs the extra: pip install leap-zoo[serve]")

from starlette.testclient import TestClient

from serve.engine import Engine
from serve.models import Models
from serve.settings import ServeSettings
from serve.site import build_site
from serve.stores import open_stores


@pytest.fixture(scope="session")
def engine(tiny_zoo: Path) -> Engine:
    """An engine over the tiny model, which says which colour is strongest in a photo."""
    default = leap_zoo.load(leap_zoo.models(tiny_zoo)[0].id, zoo=tiny_zoo, threads=1)
    return Engine(Models(default, zoo=tiny_zoo), threads=2)


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[TestClient]:
    """A client of the site, in this process."""
    with TestClient(
        build_site(engine, open_stores(), ServeSettings(max_photos=4)), raise_server_exceptions=False
    ) as client:
        yield client
