"""Fixtures of the serve room: the engine over the tiny model, and the site without a server around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import leap_zoo
from leap_zoo.fitting import fit
from leap_zoo.heads import CustomHead

pytest.importorskip("bentoml", reason="needs the extra: pip install leap-zoo[serve]")

from refused_requests import text
from starlette.testclient import TestClient

from serve import service
from serve.app import build_site, make_app
from serve.engine import Engine, load_models
from serve.middleware import Gate
from serve.observe import Metrics
from serve.service import NativeApp
from serve.settings import ServeSettings
from serve.stores import Limits, Stores, open_stores

Opener = Callable[..., TestClient]


@pytest.fixture(scope="session")
def engine(tiny_zoo: Path) -> Engine:
    """An engine over the tiny model, which says which colour is strongest in a photo."""
    return Engine(load_models(leap_zoo.models(tiny_zoo)[0].id, zoo=tiny_zoo), threads=2)


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[TestClient]:
    """A client of the site, in this process."""
    with TestClient(
        build_site(engine, open_stores(), ServeSettings(max_photos=4)), raise_server_exceptions=False
    ) as client:
        yield client


@pytest.fixture(scope="session")
def served(engine: Engine) -> Iterator[TestClient]:
    """A client of all that a worker serves, in this process: the site and BentoML's methods behind the gate."""
    settings, stores = ServeSettings(max_photos=4), open_stores()
    site = build_site(engine, stores, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "running", lambda: (settings, engine, stores))
        service.LeapZoo.inject_config()
        gate = Gate(NativeApp(service.LeapZoo, is_main=True)(), site, settings, Metrics())
        gate.patience.end()  # a test sends as many bad requests as it likes
        with TestClient(gate, raise_server_exceptions=False) as client:
            yield client
    stores.close()


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Opener]:
    """`site(items=3)`: a client of the API over one data folder, with these limits; again: after a restart."""
    opened: list[TestClient] = []

    def open_site(**limits: int) -> TestClient:
        stores = open_stores(tmp_path / "data", limits=Limits(**limits))
        app = make_app(engine, stores, ServeSettings(max_photos=4))
        opened.append(TestClient(app, raise_server_exceptions=False))
        return opened[-1]

    yield open_site
    for client in opened:
        client.app.state.stores.close()  # type: ignore[attr-defined]


@pytest.fixture
def api(site: Opener) -> TestClient:
    """A client of the API over an empty data folder."""
    return site()


@pytest.fixture
def colours(api: TestClient, colour_photos: dict[str, Path]) -> TestClient:
    """A client of an API that has a gallery `colours` with three photos."""
    photos = {colour: path.read_bytes() for colour, path in colour_photos.items()}
    body = {
        "images": [text(photo) for photo in photos.values()],
        "ids": list(photos),
        "metadata": [{"warm": colour == "red", "number": at, "name": colour} for at, colour in enumerate(photos)],
    }
    assert api.post("/v1/galleries/colours/items?create=true", json=body).status_code == 200
    return api


@pytest.fixture(scope="session")
def head(tiny_zoo: Path, colour_photos: dict[str, Path]) -> CustomHead:
    """A head for the colours of photos."""
    model = leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, threads=1)
    return fit(model, {label: [path.read_bytes()] for label, path in colour_photos.items()}).head


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    """Stores in an empty folder."""
    opened = open_stores(tmp_path / "data")
    yield opened
    opened.close()
