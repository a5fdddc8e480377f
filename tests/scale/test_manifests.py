"""The manifests keep Kubernetes' API, as the models of its Python client have it: fields, types, what is required."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

models = pytest.importorskip("kubernetes.client.models", reason="the package kubernetes is not installed")
yaml = pytest.importorskip("yaml")

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
FILES = sorted(DEPLOY.glob("kubernetes*.yaml"))


def check(document: dict[str, Any]) -> None:
    """Raises for a field that the API does not know, a missing one, and a wrong type."""
    group, _, version = document["apiVersion"].rpartition("/")
    del group
    model = getattr(models, f"{version[0].upper()}{version[1:]}{document['kind']}")
    assert model.from_dict(document).model_dump(by_alias=True, exclude_none=True, mode="json") == document


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_manifest__is_valid(file: Path) -> None:
    documents = list(yaml.safe_load_all(file.read_text()))
    assert len(documents) >= 2
    for document in documents:
        check(document)


@pytest.mark.parametrize(
    ("old", "new"),
    [("replicas: 2", "replica: 2"), ("replicas: 2", "replicas: two"), ("name: http, con", "nam: http, con")],
)
def test_check__finds_a_mistake(old: str, new: str) -> None:
    text = (DEPLOY / "kubernetes-replicas.yaml").read_text()
    assert old in text
    deployment = next(yaml.safe_load_all(text.replace(old, new, 1)))
    with pytest.raises((AssertionError, ValueError, TypeError)):
        check(deployment)


def test_probes_and_variables__are_those_of_the_server() -> None:
    known = (DEPLOY.parent / "serving.md").read_text()
    for file in FILES:
        for name in re.findall(r"LEAP_ZOO_SERVE_[A-Z_]+", file.read_text()):
            assert re.search(rf"\b{name}\b", known), name


def test_shell_of_the_examples__parses() -> None:
    scripts = [(DEPLOY / "train.slurm").read_text()]
    job = list(yaml.safe_load_all((DEPLOY / "kubernetes-train.yaml").read_text()))[1]
    scripts += job["spec"]["template"]["spec"]["containers"][0]["args"]
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
