"""The schema at /openapi.json and the page at /docs: complete, as the code does, and from this server alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from starlette.testclient import TestClient

from serve.app import make_app
from serve.engine import Engine
from serve.problems import CODES
from serve.reference import reference
from serve.settings import ServeSettings
from serve.stores import open_stores

SERVE = Path(__file__).parents[2] / "serve"


@pytest.fixture(scope="module")
def schema(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return schema["components"]["schemas"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def answers(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON that an operation answers when all is well. What has no schema is a file."""
    good = [one for status, one in operation["responses"].items() if int(status) < 300]
    content = [one.get("content", {}).get("application/json", {}) for one in good]
    return [one for one in content if one]


def test_openapi__every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '([^']+)'", repr(schema)))
    assert references <= {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert "HTTPValidationError" not in schema["components"]["schemas"]  # not the shape of our errors


def test_openapi__every_problem_has_its_status_and_an_example(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        refusals = {status: one for status, one in operation["responses"].items() if int(status) >= 400}
        is_ours = "operations" not in operation["tags"]  # the others are BentoML's, and want no key
        assert not is_ours or {"401", "500", "503"} <= set(refusals), name
        assert (operation.get("security") == []) is not is_ours, name
        for status, response in refusals.items():
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for code, example in content["examples"].items():
                assert CODES[code][0] == example["value"]["status"] == int(status), name


def test_openapi__every_answer_and_every_json_body_has_an_example(schema: dict[str, Any]) -> None:
    shown = 0
    for name, operation in operations(schema):
        for content in answers(operation):
            shape = resolved(schema, content["schema"])
            example = content.get("example", shape.get("example"))
            assert set(shape.get("required", [])) <= set(example) <= set(shape["properties"]), name
            assert jsonschema_rs.validator_for({**shape, "components": schema["components"]}).is_valid(example), name
            shown += 1
        for kind, body in operation.get("requestBody", {"content": {}})["content"].items():
            assert kind != "application/json" or "example" in body, name
    assert shown > 10


def test_openapi__is_valid_openapi(schema: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(schema).validate()


def test_openapi__every_operation_has_a_name_of_its_own_and_a_known_group(schema: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(schema)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)  # what generated clients call methods
    groups = {tag["name"] for tag in schema["tags"]}
    assert {tag for _, operation in operations(schema) for tag in operation["tags"]} == groups


@pytest.mark.parametrize("with_keys", [False, True])
def test_openapi__says_whether_a_key_is_wanted(engine: Engine, tmp_path: Path, with_keys: bool) -> None:
    keys = tmp_path / "keys"
    keys.write_text("somebody:" + "k" * 20)
    settings = ServeSettings(keys_file=keys if with_keys else None, metrics="key")
    schema = make_app(engine, open_stores(), settings).openapi()
    assert ({} in schema["security"]) is not with_keys  # {}: none is fine, too
    ways = schema["components"]["securitySchemes"]
    assert {way for one in schema["security"] for way in one} == set(ways)
    assert ("security" not in schema["paths"]["/metrics"]["get"]) is with_keys
    assert ("needs an API key" in reference(schema)) is with_keys


def test_codes__every_one_that_is_raised_is_explained() -> None:
    raised = {
        (code, int(status))
        for path in SERVE.rglob("*.py")
        for status, code in re.findall(r'Refused\(\s*(\d{3}),\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(raised) > 10
    assert raised <= {(code, status) for code, (status, _) in CODES.items()}


def test_docs__shows_every_route_and_problem_without_another_host(client: TestClient, schema: dict[str, Any]) -> None:
    response = client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    page = response.text
    for name, operation in operations(schema):
        for content in answers(operation):
            shape = content["schema"]["$ref"].rpartition("/")[2]
            assert page.count(f'id="shape-{shape}"') == 1
        anchor = name.replace(" /", "-")
        assert page.count(f'id="{anchor}"') == page.count(f'href="#{anchor}"') == 1
    links = set(re.findall(r'href="#(\w+)"', page))
    assert links - {"problems"} <= set(CODES)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r' id="([^"]+)"', page))
    for code in CODES:
        assert f'id="{code}"' in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
