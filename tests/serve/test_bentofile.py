"""bentofile.yaml: an image has what the service imports, in the versions that were tested together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def normal(name: str) -> str:
    """The name of a package as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lines: list[str]) -> dict[str, str]:
    """The version of each package that is pinned."""
    pairs = (line.split("==") for line in lines if re.match(r"[A-Za-z]", line))
    return {normal(name): version for name, version in pairs}


def bento() -> dict[str, str]:
    """The packages of the bento."""
    packages = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    assert all("==" in package for package in packages)
    return pinned(packages)


def test_bento__has_the_tested_versions() -> None:
    tested = pinned((ROOT / "constraints.txt").read_text().splitlines())
    assert {name: tested.get(name) for name in bento()} == bento()


def test_bento__has_all_that_the_extra_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    assert {normal(re.split(r"[<>=;\[ ]", package)[0]) for package in asked} <= bento().keys()
    assert "qdrant-client" in bento()
