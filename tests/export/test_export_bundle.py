"""Some files of a model that was exported already, as a zoo of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import leap_zoo
from export.bundle import bundle
from leap_zoo.errors import InvalidArgument
from leap_zoo.verify import verify

ROOT = Path(__file__).parents[2]


def test_bundle__keeps_one_file_and_its_figures(published: Path, tmp_path: Path) -> None:
    card = bundle(published / "leap-digits", tmp_path, ["model_int8.onnx"])
    assert [artifact.file for artifact in card.artifacts] == ["model_int8.onnx"]
    assert {row.file for row in card.latency} == {"model_int8.onnx"}
    assert {path.name for path in (tmp_path / "leap-digits").iterdir()} == {
        "README.md", "card.json", "curriculum.svg", "golden.npz", "model_int8.onnx"
    }  # fmt: skip
    assert verify("leap-digits", tmp_path).ok
    whole = leap_zoo.documents.read_card(published / "leap-digits" / "card.json")
    assert card.artifacts[0] == next(a for a in whole.artifacts if a.file == "model_int8.onnx")
    assert card.search == whole.search
    assert card.golden.bytes < whole.golden.bytes


def test_bundle__again_with_another_file(published: Path, tmp_path: Path) -> None:
    for file in ("model_int8.xml", "model.onnx"):
        bundle(published / "leap-digits", tmp_path, [file])
        assert verify("leap-digits", tmp_path).ok
    assert not (tmp_path / "leap-digits" / "model_int8.bin").exists()


def test_bundle__with_what_timm_reads(published: Path, tmp_path: Path) -> None:
    card = bundle(published / "leap-digits", tmp_path, ["model_int8.onnx", "model.safetensors"])
    whole = leap_zoo.documents.read_card(published / "leap-digits" / "card.json")
    assert card.timm == whole.timm != []
    assert {file.file for file in card.timm} <= {path.name for path in (tmp_path / "leap-digits").iterdir()}


def test_bundle__of_a_file_that_is_not_there(published: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"model_int4\.onnx.*did you mean"):
        bundle(published / "leap-digits", tmp_path, ["model_int4.onnx"])
    assert list(tmp_path.iterdir()) == []
    command = [sys.executable, "-m", "export.bundle", str(tmp_path), "--zoo", str(tmp_path), "--file", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("export: ")
    assert done.stderr.count("\n") == 1
