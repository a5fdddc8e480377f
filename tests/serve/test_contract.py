"""What is answered agrees with /openapi.json: the good answer of every operation, and what any client may send."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks as openapi_checks
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.app import build_site
from serve.engine import Engine
from serve.middleware import Gate
from serve.observe import Metrics
from serve.photos import PIXEL
from serve.settings import ServeSettings
from serve.stores import Limits, open_stores

KEY = "a-key-of-sixteen-or-more"
AUTH = {"Authorization": f"Bearer {KEY}"}
TINY = "leap-tiny-test"


def photo(colour: str, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(data, kind)
    return data.getvalue()


PHOTOS = [photo("red"), photo("lime", "JPEG"), photo("blue", "WEBP")]
PARTS = [("image", ("a.png", data)) for data in PHOTOS[:2]]
CLASSES = [(label, ("x", data)) for label, data in zip("aabb", PHOTOS * 2, strict=False)]

VECTORS = {"model": TINY, "revision": "1", "ids": ["v"], "vectors": [[1.0] * 8]}
WALK: list[tuple[str, str, str, dict[str, Any]]] = [
    ("classify", "POST", "/v1/classify", {"files": PARTS}),
    ("embed", "POST", "/v1/embed?encoding=base64", {"json": {"images": [PIXEL]}}),
    ("embed", "POST", "/v1/embed", {"content": PHOTOS[1], "headers": {"content-type": "image/jpeg"}}),
    ("create_embeddings", "POST", "/v1/embeddings", {"json": {"model": TINY, "input": PIXEL}}),
    ("show_model", "GET", "/v1/models/leap-tiny-test", {}),
    ("list_models", "GET", "/v1/models", {}),
    ("make_gallery", "PUT", "/v1/galleries/g", {"json": {"space": "student"}}),
    ("add_to_gallery", "POST", "/v1/galleries/g/items?create=true", {"files": PARTS, "data": {"id": ["a", "b"]}}),
    ("add_vectors", "POST", "/v1/galleries/g/vectors", {"json": VECTORS}),
    ("list_galleries", "GET", "/v1/galleries", {}),
    ("show_gallery", "GET", "/v1/galleries/g", {}),
    ("list_gallery_items", "GET", "/v1/galleries/g/items", {}),
    ("search_gallery", "POST", "/v1/galleries/g/search?", {"content": PHOTOS[0]}),
    ("export_gallery", "GET", "/v1/galleries/g/export", {}),
    ("delete_gallery_items", "DELETE", "/v1/galleries/g/items?id=a", {}),
    ("delete_gallery", "DELETE", "/v1/galleries/g", {}),
    (
        "create_head",
        "POST",
        "/v1/heads/h",
        {"files": CLASSES},
    ),
    ("list_heads", "GET", "/v1/heads", {}),
    ("show_head", "GET", "/v1/heads/h", {}),
    ("classify", "POST", "/v1/classify?head=h", {"content": PHOTOS[0]}),
    ("download_head", "GET", "/v1/heads/h/file", {}),
    ("delete_head", "DELETE", "/v1/heads/h", {}),
    ("zoo_index", "GET", "/zoo/index.json", {}),
    ("zoo_file", "GET", f"/zoo/{TINY}/card.json", {}),
    ("zoo_file", "GET", f"/zoo/{TINY}/model.onnx", {"headers": {"range": "bytes=0-9"}}),
]
"""A request that is answered well, for each operation; in this order, as later ones need what earlier ones made."""


def negative_data_is_refused(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> bool | None:
    """`negative_data_rejection`, to which 413 is no refusal: too many photos may be found before an invalid name."""
    refused = response.status_code == 413
    return None if refused else openapi_checks.negative_data_rejection(context, response, case)


CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    negative_data_is_refused,
    openapi_checks.unsupported_method,
    openapi_checks.allow_header_conformance,
    openapi_checks.ignored_auth,
]
"""All but positive_data_acceptance: that a text is the base64 of a photo, no schema can say."""


@pytest.fixture(scope="module")
def app(engine: Engine, tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    """All of the server but BentoML, with keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    settings = ServeSettings(max_photos=4, keys_file=keys, zoo=(tiny_zoo,), metrics="off")
    stores = open_stores(limits=Limits(galleries=4, heads=4))
    site = build_site(engine, stores, settings)
    return Gate(Starlette(), site, settings, Metrics())


@pytest.fixture(scope="module")
def api(app: ASGIApp) -> Any:
    for kind in ("image/*", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, st.sampled_from(PHOTOS))
    config = schemathesis.Config()
    config.projects.default.generation.update(with_security_parameters=False)  # made-up keys would all end at 401
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


def test_answers__good_ones_of_every_operation_are_as_the_schema_says(app: ASGIApp, api: Any) -> None:
    operations = {one.ok().definition.raw["operationId"]: one.ok() for one in api.get_all_operations()}
    client = TestClient(app, headers=AUTH)
    for name, method, path, request in WALK:
        response = client.request(method, path, **request)
        assert 200 <= response.status_code < 300, f"{method} {path}: {response.text}"
        assert str(response.status_code) in operations[name].definition.raw["responses"], name
        operations[name].validate_response(response)
    assert {name for name, *_ in WALK} == set(operations)


# schemathesis' own parametrize() over a fixture needs an attribute of pytest's nodes that pytest 9.2 took away.
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in WALK))
def test_answers__any_request_is_answered_as_the_schema_says(api: Any, name: str, mode: GenerationMode) -> None:
    operation = api.find_operation_by_id(name)
    try:
        cases = operation.as_strategy(generation_mode=mode)
        answer_as_said(cases)
    except Unsatisfiable:
        pytest.skip("an operation that takes nothing cannot be asked wrongly")


def test_answers__a_server_that_forgets_to_ask_for_keys_is_caught(app: ASGIApp, api: Any) -> None:
    async def forgetful(scope: Scope, receive: Receive, send: Send) -> None:
        key = (b"authorization", AUTH["Authorization"].encode())
        kept = [header for header in scope.get("headers", []) if header[0] not in (b"authorization", b"x-api-key")]
        await app(scope | {"headers": [*kept, key]}, receive, send)

    operation = replace(api.find_operation_by_id("list_models"), app=forgetful)
    with pytest.raises(FailureGroup, match="authentication"):
        answer_as_said(operation.as_strategy())


def answer_as_said(cases: st.SearchStrategy[schemathesis.Case]) -> None:
    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=AUTH, checks=CHECKS)

    check()
