"""Read and write `card.json` and `index.json`: bounded in size, checked against the schema, written atomically.

Reading and writing use the same validation, so every file that is written can be read. The error for an unknown key
names the nearest known one.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.inspect import type_info

from leap_zoo.card import MAX_DOCUMENT_BYTES, SCHEMA, Index, IndexEntry, ModelCard
from leap_zoo.errors import InvalidCard, LeapZooError, nearest, short
from leap_zoo.files import read_regular, write_file

PUBLISH = "publish it again"


def parse_card(data: bytes, where: str = "card.json") -> ModelCard:
    """The card in `data` (JSON, UTF-8). `where` names it in errors. Raises InvalidCard."""
    return parse(data, ModelCard, where)


def parse_index(data: bytes, where: str = "index.json") -> Index:
    """The index in `data` (JSON, UTF-8). `where` names it in errors. Raises InvalidCard."""
    return parse(data, Index, where)


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read a card.json. Raises InvalidCard; OSError when the file cannot be read."""
    return parse_card(read_document(Path(path)), str(path))


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read an index.json. Raises InvalidCard; OSError when the file cannot be read."""
    return parse_index(read_document(Path(path)), str(path))


def write_card(path: str | os.PathLike[str], card: ModelCard) -> bytes:
    """Write a card.json (atomically) and return its bytes. Raises InvalidCard if it could not be read back."""
    return _write(Path(path), card)


def write_index(path: str | os.PathLike[str], index: Index) -> bytes:
    """Write an index.json (atomically) and return its bytes. Raises InvalidCard if it could not be read back."""
    return _write(Path(path), index)


def index_entry(card: ModelCard, data: bytes) -> IndexEntry:
    """The index entry for `card`, whose card.json has the bytes `data` (as returned by `write_card`)."""
    return IndexEntry(
        id=card.id,
        revision=card.revision,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        description=card.description,
    )


def read_document(path: Path) -> bytes:
    """The bytes of a card or index, never more than MAX_DOCUMENT_BYTES + 1 of them. Raises OSError."""
    return read_regular(path, MAX_DOCUMENT_BYTES)


_Document = TypeVar("_Document", bound=msgspec.Struct)


def parse(
    data: bytes, kind: type[_Document], where: str, invalid: type[LeapZooError] = InvalidCard, fix: str = PUBLISH
) -> _Document:
    """The document in `data` (JSON, UTF-8), whose kind has a `schema`. Raises `invalid`, with `fix` in its message."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise invalid(f"{where} is larger than {MAX_DOCUMENT_BYTES} bytes: {fix}")
    try:
        version = msgspec.json.decode(data, type=_Version).schema
        if version > SCHEMA:  # its unknown keys are not a mistake in the document
            raise invalid(f"{where} has schema {version}, this leap-zoo reads {SCHEMA}: pip install -U leap-zoo")
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(f"{where}: {explain(str(error), kind)}; {fix}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"{where} is invalid JSON ({error}); {fix}") from error


class _Version(msgspec.Struct):
    schema: int = SCHEMA


def _write(path: Path, document: ModelCard | Index) -> bytes:
    # Write the parsed document, so that 1 and 1.0 in a float field give the same bytes and the same sha256.
    canonical = parse(msgspec.json.encode(document), type(document), path.name)
    data = msgspec.json.format(msgspec.json.encode(canonical), indent=1) + b"\n"
    write_file(path, data)
    return data


_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<key>.*?)`(?: - at `\$(?P<path>.*)`)?\Z", re.DOTALL)


def explain(message: str, kind: type[msgspec.Struct]) -> str:
    """msgspec's message; for an unknown key, with the nearest known one."""
    found = _UNKNOWN_FIELD.search(message)
    if found is None:
        return message
    path = (found["path"] or "").lstrip(".")
    where = f" in {path}" if path else ""
    return f"unknown key {short(found['key'])}{where}{nearest(found['key'], _keys_at(type_info(kind), path))}"


def _keys_at(node: msgspec.inspect.Type, path: str) -> list[str]:
    """The keys of the object at a msgspec path such as `artifacts[0].metrics[1]` or `training`."""
    for part in filter(None, re.split(r"\.|(?=\[)", path)):
        node = _structural(node)
        if part.startswith("["):
            node = node.item_type if isinstance(node, msgspec.inspect.ListType) else getattr(node, "value_type", node)
        elif isinstance(node, msgspec.inspect.StructType):
            node = next((field.type for field in node.fields if field.encode_name == part), node)
    node = _structural(node)
    return [field.encode_name for field in node.fields] if isinstance(node, msgspec.inspect.StructType) else []


def _structural(node: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """Look through `X | None` and through constraints."""
    while isinstance(node, (msgspec.inspect.UnionType, msgspec.inspect.Metadata)):
        if isinstance(node, msgspec.inspect.Metadata):
            node = node.type
        else:
            node = next((t for t in node.types if not isinstance(t, msgspec.inspect.NoneType)), node.types[0])
    return node
