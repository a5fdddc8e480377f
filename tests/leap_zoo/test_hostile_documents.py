"""Zoos whose index, cards, names or files are hostile: refused from a server and from a folder alike."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused
from zoo_server import ZooServer

from leap_zoo.cli import main

TINY = "leap-tiny-test"
INDEX, CARD, FILE = "/index.json", f"/{TINY}/card.json", f"/{TINY}/model_int8.onnx"
SIGNATURE = f"/{TINY}/model.sig"

HOSTILE_NAMES = [
    "../../evil",
    "..",
    ".",
    "",
    "/etc/passwd",
    "..\\evil",
    "C:\\evil",
    "%2e%2e%2fevil",
    "a/b",
    "a\0b",
    "a\nb",
    "model.onnx\n",
    "~root",
    ".hidden",
    "-rf",
    "a b",
    "\u202egnp.exe",
    "x" * 5000,
]


def rewrite(zoo: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the JSON of index entry and card; the index gets the changed card's digest."""
    index = json.loads((zoo / "index.json").read_bytes())
    card = json.loads((zoo / TINY / "card.json").read_bytes())
    entry = index["models"][0]
    before = json.dumps(card)
    change(entry, card)
    if json.dumps(card) != before:
        data = json.dumps(card).encode()
        (zoo / TINY / "card.json").write_bytes(data)
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (zoo / "index.json").write_text(json.dumps(index))


def everywhere(server: ZooServer, capsys: pytest.CaptureFixture[str], home: Path, says: str) -> None:
    """Refused from a server and from a folder."""
    for source in (server.url, server.folder):
        line, left = refused(capsys, source, home)
        assert re.search(says, line), line
        assert left == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names__of_models_are_refused(
    server: ZooServer, capsys: pytest.CaptureFixture[str], no_pulled_models: Path, name: str
) -> None:
    rewrite(server.folder, lambda entry, _: entry.update(id=name))
    everywhere(server, capsys, no_pulled_models, "id")
    assert [path for path, _ in server.requests] == [INDEX]
    assert main(["pull", "--from", server.url, "--", name]) == 2


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "card.json", "README.md", "model.sig", "model.onnx", "golden.npz"])
@pytest.mark.parametrize("where", ["artifact", "golden"])
def test_hostile_names__of_files_are_refused(
    server: ZooServer, capsys: pytest.CaptureFixture[str], no_pulled_models: Path, name: str, where: str
) -> None:
    if (where, name) == ("golden", "golden.npz"):
        return

    def change(_: dict[str, Any], card: dict[str, Any]) -> None:
        (card["golden"] if where == "golden" else card["artifacts"][1])["file"] = name

    rewrite(server.folder, change)
    everywhere(server, capsys, no_pulled_models, "file")
    assert {path for path, _ in server.requests} <= {INDEX, CARD}


def other_id(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["id"] = "another"


def other_revision(entry: dict[str, Any], _: dict[str, Any]) -> None:
    entry["revision"] = "2"


def enormous(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["artifacts"][1]["bytes"] = 10**18


def beyond_integers(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["artifacts"][1]["bytes"] = 10**400


def negative(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["artifacts"][1]["bytes"] = -1


def no_digest(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["artifacts"][1]["sha256"] = "../../" + "0" * 58


def other_digest(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["artifacts"][1]["sha256"] = "0" * 64


def enormous_card(entry: dict[str, Any], _: dict[str, Any]) -> None:
    entry["bytes"] = 10**12


def digest_that_is_a_path(entry: dict[str, Any], _: dict[str, Any]) -> None:
    entry["sha256"] = "../../../evil"


def unknown_key(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["a\nb\x1b[2J"] = 1


def hostile_value(_: dict[str, Any], card: dict[str, Any]) -> None:
    card["artifacts"][1]["precision"] = "int8\n\x1b[2J"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_id, "the card says another"),
        (other_revision, "the card says leap-tiny-test 1"),
        (enormous, "bytes"),
        (beyond_integers, "bytes"),
        (negative, "bytes"),
        (no_digest, "sha256"),
        (other_digest, "expected sha256 0000"),
        (enormous_card, "bytes"),
        (digest_that_is_a_path, "sha256"),
        (unknown_key, "unknown key"),
        (hostile_value, "precision"),
    ],
)
def test_hostile_documents__are_refused(
    server: ZooServer,
    capsys: pytest.CaptureFixture[str],
    no_pulled_models: Path,
    change: Callable[[dict[str, Any], dict[str, Any]], None],
    says: str,
) -> None:
    rewrite(server.folder, change)
    everywhere(server, capsys, no_pulled_models, says)


def test_hostile_index__that_lists_a_model_twice_is_refused(
    server: ZooServer, capsys: pytest.CaptureFixture[str], no_pulled_models: Path
) -> None:
    index = json.loads((server.folder / "index.json").read_bytes())
    index["models"] *= 2
    (server.folder / "index.json").write_text(json.dumps(index))
    everywhere(server, capsys, no_pulled_models, "models repeat")


@pytest.mark.parametrize("path", [INDEX, CARD, FILE, SIGNATURE, ""])
@pytest.mark.parametrize("kind", ["link", "loop", "device", "pipe", "folder"])
def test_hostile_folder__is_refused(
    zoo_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pulled_models: Path, path: str, kind: str
) -> None:
    """In place of a file (of the model's folder where `path` is empty) there is something else."""
    target = zoo_copy / (path.lstrip("/") or TINY)
    if (target.is_dir() and kind != "link") or (kind == "folder" and path == INDEX):
        return
    if target.exists():
        target.rename(tmp_path / "outside")
    else:
        (tmp_path / "outside").write_text("{}")
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to({"link": tmp_path / "outside", "loop": target, "device": "/dev/zero"}[kind])
    _, left = refused(capsys, zoo_copy, no_pulled_models)
    assert left == []
