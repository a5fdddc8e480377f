"""A published model as its user meets it: card, README, verification, no torch, the figures that training promised."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_format
from small_export import unfused

import leap_zoo
from export import text as texts
from export.card import DEFAULT, NAMES
from export.golden import draw
from leap_zoo.card import ModelCard
from leap_zoo.documents import read_card, write_card
from leap_zoo.model import Model
from leap_zoo.verify import verify
from train.run import Run

ROOT = Path(__file__).parents[2]


def test_card__round_trips_and_describes_its_files(published: Path, card: ModelCard, tmp_path: Path) -> None:
    home = published / "leap-digits"
    assert write_card(tmp_path / "card.json", card) == (home / "card.json").read_bytes()
    assert read_card(tmp_path / "card.json") == card
    for entry in (*card.artifacts, card.golden):
        content = (home / entry.file).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert [tensor.name for tensor in card.outputs] == [
        "embedding",
        "teacher_embedding",
        "logits_digits",
        "logits_digits-teacher",
    ]
    assert [tensor.shape for tensor in card.outputs] == [["batch", 48], ["batch", 48], ["batch", 10], ["batch", 10]]
    assert card.default_head == "digits"


def test_card__tells_how_the_student_was_trained(card: ModelCard, run: Run) -> None:
    training = card.training
    assert training is not None
    assert (training.strategy, training.epochs, training.seed) == ("leap-grow", 2, 0)
    assert (training.teacher_flops, training.total_flops) == (run.report.teacher_flops, run.report.total_flops)
    assert [(step.step, step.block, step.reason) for step in training.curriculum] == [
        (move.step, move.block, move.reason) for move in run.moves
    ]
    assert card.parameters == sum(parameter.numel() for parameter in run.student.parameters())
    assert card.artifacts[0].quantisation is None
    by_name = {artifact.file: artifact for artifact in card.artifacts}
    assert by_name["model_int8.onnx"].quantisation["smooth_quant_alpha"] == 0.5
    assert "nncf" in by_name["model_int8.xml"].tools


def test_card__measures_the_file_at_what_training_measured(card: ModelCard, run: Run, fp32: Model) -> None:
    """Same photos, same preprocessing, same head. Only photos that rounding decides may fall on the other side."""
    promised = next(m for m in run.report.metrics if m.name == f"linear probe, {run.info.pooling}")
    measured = next(m for m in card.artifacts[0].metrics if m.name == "top-1")
    assert (measured.n, measured.split, measured.head) == (360, "val", "digits")
    photos = run.decode(run.photos().val, "validation photos")
    logits = fp32.run(photos.pixels, ["logits_digits"])["logits_digits"]
    second, first = np.sort(logits, axis=1)[:, -2:].T
    close = int((first - second < 1e-3).sum())
    assert measured.n * abs(measured.value - promised.value) <= close + 0.01
    low, high = measured.interval
    assert low < measured.value < high


def test_readme__is_generated_from_the_card(published: Path, card: ModelCard) -> None:
    text = (published / "leap-digits" / "README.md").read_text()
    assert text == texts.described(card)[texts.README]
    for artifact in card.artifacts:
        assert f"`{artifact.sha256}`" in text
    assert f"Revision `{card.revision}`" in text
    for step in card.training.curriculum:
        assert f"| {step.step} | {step.block} |" in text


def test_int8__is_small_quantised_and_agrees_with_fp32(published: Path, fp32: Model) -> None:
    home = published / "leap-digits"
    assert (home / "model_int8.onnx").stat().st_size < 0.5 * (home / "model.onnx").stat().st_size
    kinds = {node.op_type for node in onnx_format.load(home / "model_int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    int8 = leap_zoo.load("leap-digits", zoo=published)
    assert int8.artifact.precision == "int8"
    photos = draw(32)
    outputs = ["embedding", "teacher_embedding"]
    expected = fp32.run(photos, outputs)
    found = unfused((home / "model_int8.onnx").read_bytes()).run(outputs, {"image": photos})
    for name, rows in zip(outputs, found, strict=True):
        assert (rows * expected[name]).sum(1).min() > 0.95
    for rows in (*int8.run(photos, outputs).values(), *expected.values()):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)


def test_verify__passes_and_notices_one_flipped_byte(published: Path, tmp_path: Path) -> None:
    zoo = Path(shutil.copytree(published, tmp_path / "zoo"))
    report = verify("leap-digits", zoo)
    assert report.ok
    assert [artifact.file for artifact in report.artifacts] == [NAMES[kind] for kind in DEFAULT]
    path = zoo / "leap-digits" / "model_int8.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    report = verify("leap-digits", zoo)
    assert not report.ok
    failed = [artifact for artifact in report.artifacts if not artifact.ok]
    assert [artifact.file for artifact in failed] == ["model_int8.onnx"]
    assert "model_int8.onnx of leap-digits is corrupt" in failed[0].error


def test_published__is_used_without_torch(published: Path, fp32: Model) -> None:
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'timm', 'lightning', 'onnx', 'nncf', 'openvino', 'sklearn'}:\n"
        "            raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import leap_zoo, numpy\n"
        "photo = numpy.arange(192, dtype=numpy.uint8).reshape(8, 8, 3)\n"
        "model = leap_zoo.load('leap-digits', zoo=sys.argv[1], precision='fp32')\n"
        "print(*model.embed(photo)[:3], *(answer.label for answer in model.classify(photo, top=10)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(published)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    photo = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    *numbers, zeroth = done.stdout.split()[:4]
    np.testing.assert_allclose([float(number) for number in numbers], fp32.embed(photo)[:3], atol=1e-5)
    assert done.stdout.split()[3:] == [answer.label for answer in fp32.classify(photo, top=10)]
    assert zeroth in "0123456789"
