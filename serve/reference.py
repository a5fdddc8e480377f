"""The page at /docs: the OpenAPI schema for people, as plain HTML. It has no script, and needs no other host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from serve.problems import CODES

_PAGE = Template(Path(__file__).with_name("reference.html").read_text(encoding="utf-8"))

Schema = Mapping[str, Any]


def reference(schema: Schema) -> str:
    """The page for an OpenAPI 3.1 document. Its anchors are `METHOD-path` for routes, and the code for problems."""
    groups = {tag["name"]: (tag["description"], list[tuple[str, str, Schema]]()) for tag in schema["tags"]}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            groups[operation["tags"][0]][1].append((method.upper(), path, operation))
    schemas = schema["components"]["schemas"]
    return _PAGE.substitute(
        title=escape(schema["info"]["title"]),
        version=escape(schema["info"]["version"]),
        about=_prose(schema["info"]["description"]),
        keys=_keys(schema["components"]["securitySchemes"], {} in schema["security"]),
        contents="".join(_contents(about, operations) for about, operations in groups.values()),
        operations="".join(_operation(*one, schemas) for _, operations in groups.values() for one in operations),
        shapes="".join(_named(name, one) for name, one in sorted(schemas.items())),
        problems="".join(_problem(code, status, meaning) for code, (status, meaning) in sorted(CODES.items())),
    )


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}-{path.strip('/')}")


def _keys(ways: Schema, optional: bool) -> str:
    how = " or ".join(_prose(way["description"]) for way in ways.values())
    wanted = "needs no API key. Where one is needed, it is sent" if optional else "needs an API key, sent"
    return f"This server {wanted} as {how}."


def _contents(about: str, operations: list[tuple[str, str, Schema]]) -> str:
    links = "".join(_link(method, path) for method, path, _ in operations)
    return f"<li><p>{_prose(about)}</p><ul>{links}</ul></li>"


def _link(method: str, path: str) -> str:
    return f'<li><a href="#{_anchor(method, path)}"><b>{method}</b> {escape(path)}</a></li>'


def _operation(method: str, path: str, operation: Schema, schemas: Schema) -> str:
    title = f'<h2 id="{_anchor(method, path)}"><b>{method}</b> {escape(path)}</h2>'
    about = f"<p>{_prose(operation.get('description', operation.get('summary', '')))}</p>"
    return (
        f"<section>{title}{about}{_parameters(operation.get('parameters', []))}"
        f"{_body(operation.get('requestBody'), schemas)}{_answers(operation['responses'], schemas)}</section>"
    )


def _parameters(parameters: list[Schema]) -> str:
    rows = [
        (one["name"], one["in"] + (", required" if one.get("required") else ""), _values(one["schema"]), one)
        for one in parameters
    ]
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{where}</td><td>{values}</td>"
        f"<td>{_prose(one.get('description', ''))}</td></tr>"
        for name, where, values, one in rows
    )
    heads = "<tr><th>Name</th><th>In</th><th>Value</th><th>Meaning</th></tr>"
    return f"<h3>Options</h3>{_table(heads + cells)}" if parameters else ""


def _values(schema: Schema) -> str:
    """A schema in a few words: its choices or type, its bounds, its default."""
    if "anyOf" in schema:
        return " or ".join(_values(one) for one in schema["anyOf"] if one.get("type") != "null")
    words = [" | ".join(map(str, schema["enum"])) if "enum" in schema else str(schema.get("type", "any"))]
    if "minimum" in schema or "maximum" in schema:
        words.append(f"{schema.get('minimum', '')}..{schema.get('maximum', '')}")
    if schema.get("default") is not None:
        words.append(f"default {schema['default']}")
    return escape(", ".join(words))


def _body(body: Schema | None, schemas: Schema) -> str:
    if body is None:
        return ""
    examples = "".join(
        f"<h3>Body <code>{escape(kind)}</code></h3>{shape}"
        for kind, content in body["content"].items()
        if (shape := _shape(content, schemas))
    )
    kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
    return f"<h3>Body</h3><p>{_prose(body.get('description', ''))}</p><p>{kinds}</p>{examples}"


def _answers(responses: Schema, schemas: Schema) -> str:
    parts = []
    refusals = ""
    for status, response in responses.items():
        if int(status) < 400:
            kinds = " ".join(f"<code>{escape(kind)}</code>" for kind in response.get("content", {}))
            said = response["description"]
            about = "" if said == "Successful Response" and kinds else f"<p>{_prose(said)}</p>"
            parts.append(f"<h3>Answer {escape(status)} {kinds}</h3>{about}{_sent_headers(response)}")
        for content in response.get("content", {}).values():
            if "examples" in content:
                links = ", ".join(f'<a href="#{escape(code)}">{escape(code)}</a>' for code in content["examples"])
                refusals += f"<tr><td>{escape(status)}</td><td>{links}</td></tr>"
            else:
                parts.append(_shape(content, schemas))
    table = f"<h3>Problems</h3>{_table(refusals)}" if refusals else ""
    return "".join(parts) + table


def _sent_headers(response: Schema) -> str:
    return _table(
        "".join(
            f"<tr><td><code>{escape(name)}</code></td><td>{_prose(one['description'])}</td></tr>"
            for name, one in response.get("headers", {}).items()
        )
    )


def _shape(content: Schema, schemas: Schema) -> str:
    """The fields of an answer, and an example where there is one."""
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    schema = schemas.get(name, content.get("schema", {}))
    example = content.get("example", schema.get("example"))
    return _fields(schema) + ("" if example is None else _json(example))


def _named(name: str, schema: Schema) -> str:
    about = _prose(schema.get("description", ""))
    return f'<h3 id="shape-{escape(name)}">{escape(name)}</h3><p>{about}</p>{_fields(schema)}'


def _fields(schema: Schema) -> str:
    others = schema.get("additionalProperties")
    any_name = {"any name": others} if isinstance(others, dict) else {}
    return _table(
        "".join(
            f"<tr><td><code>{escape(field)}</code></td><td>{_type(one)}</td>"
            f"<td>{_prose(one.get('description', ''))}</td></tr>"
            for field, one in (schema.get("properties", {}) | any_name).items()
        )
    )


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#shape-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_type(schema['items'])}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {_type(values)}"
    if "contentMediaType" in schema:
        return "file"
    if "contentEncoding" in schema:
        return "base64"
    return escape(
        " | ".join(schema["enum"]) if "enum" in schema else str(schema.get("const", schema.get("type", "any")))
    )


def _problem(code: str, status: int, meaning: str) -> str:
    return f'<tr id="{code}"><td><code>{code}</code></td><td>{status}</td><td>{_prose(meaning)}</td></tr>'


def _prose(text: str) -> str:
    """A text of ours, in which backticks enclose code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _table(rows: str) -> str:
    return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


def _json(example: Any) -> str:
    return f"<pre>{escape(json.dumps(example, indent=2))}</pre>"
