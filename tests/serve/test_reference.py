"""The schema at /openapi.json and the page at /docs: complete, as the code does, and from this server alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.problems import CODES

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


def test_openapi__every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '([^']+)'", repr(schema)))
    assert references <= {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}
    assert "HTTPValidationError" not in schema["components"]["schemas"]  # not the shape of our errors


def test_openapi__every_problem_has_its_status_and_an_example(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        refusals = {status: one for status, one in operation["responses"].items() if int(status) >= 400}
        assert {"401", "500", "503"} <= set(refusals), name
        for status, response in refusals.items():
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for code, example in content["examples"].items():
                assert CODES[code][0] == example["value"]["status"] == int(status), name


def test_openapi__every_answer_and_every_json_body_has_an_example(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        content = operation["responses"]["200"]["content"]["application/json"]
        shape = resolved(schema, content["schema"])
        example = content.get("example", shape.get("example"))
        assert set(shape.get("required", [])) <= set(example), name
        assert set(example) <= set(shape["properties"]), name
        for kind, body in operation.get("requestBody", {"content": {}})["content"].items():
            assert kind != "application/json" or "example" in body, name


def test_openapi__answers_have_the_fields_that_it_says(client: TestClient, schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        method, path = name.split()
        body = operation.get("requestBody", {"content": {}})["content"].get("application/json")
        if method == "POST" and body is None:
            continue
        example = body and body["example"] | ({"model": "leap-tiny-test"} if "model" in body["example"] else {})
        answer = client.request(method, path, json=example)
        shape = resolved(schema, operation["responses"]["200"]["content"]["application/json"]["schema"])
        assert answer.status_code == 200, answer.text
        assert set(shape["required"]) <= set(answer.json()) <= set(shape["properties"]), name


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
    for name, _ in operations(schema):
        anchor = name.replace(" /", "-")
        assert page.count(f'id="{anchor}"') == page.count(f'href="#{anchor}"') == 1
    links = set(re.findall(r'href="#(\w+)"', page))
    assert links - {"problems"} <= set(CODES)
    for code in CODES:
        assert f'id="{code}"' in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
