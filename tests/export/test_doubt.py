"""`python -m export.doubt`: calibrated scores and a threshold of doubt, added to a model's card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from export import doubt
from leap_zoo.cli import main as leap_zoo_main
from leap_zoo.doubt import energies
from leap_zoo.verify import verify

TINY = "leap-tiny-test"


@pytest.fixture(autouse=True)
def _few_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    few, pages = doubt.noise(6), doubt.text_pages(2)
    monkeypatch.setattr(doubt, "noise", lambda: few)
    monkeypatch.setattr(doubt, "text_pages", lambda: pages)


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    """20 photos each of three strong colours."""
    random = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "aside" / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(100, 140, (40, 40, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(tmp_path / "aside" / name / f"{number}.png")
    return tmp_path / "aside"


def test_doubt__is_added_to_a_published_model(zoo_copy: Path, aside: Path, tmp_path: Path, capsys) -> None:
    photo, black = aside / "red" / "0.png", tmp_path / "black.png"
    Image.new("RGB", (40, 40)).save(black)
    before = leap_zoo.load(TINY, zoo=zoo_copy).classify(photo)
    assert (before.unsure, before.distance) == (False, None)
    drawings = str(aside / "blue")
    assert doubt.main([str(zoo_copy / TINY), "--photos", str(aside), "--drawings", drawings]) == 0
    assert "flagged as unlike what was learned, noise:" in capsys.readouterr().out

    model = leap_zoo.load(TINY, zoo=zoo_copy)
    known = model.card.heads[0].doubt
    assert known is not None
    assert (known.n, known.dataset) == (60, "aside")
    answer = model.classify(photo)
    assert (answer[0].label, answer.unsure) == ("red", False)
    assert answer.distance is not None
    assert answer.distance <= known.threshold
    assert answer[0].score > before[0].score  # always right, so it may be surer
    assert model.classify(black).unsure
    flagged = [model.classify(path).unsure for path in sorted(aside.rglob("*.png"))]
    assert sum(flagged) <= 0.05 * 60
    metrics = {(m.name, m.dataset): m for m in model.artifact.metrics}
    assert metrics[doubt.ECE, "aside"].value < metrics[f"{doubt.ECE}, before", "aside"].value
    assert {m.dataset for m in metrics.values() if m.name == doubt.FLAGGED} == {"noise", "text pages", "drawings"}
    assert "log_sum_exp(logits_colours[0])" in (zoo_copy / TINY / "README.md").read_text()
    assert verify(TINY, zoo_copy).ok

    assert leap_zoo_main(["classify", str(black), "--model", TINY, "--zoo", str(zoo_copy)]) == 0
    assert capsys.readouterr().out.startswith("not sure: unlike the training photos\n")
    assert leap_zoo_main(["classify", str(black), "--model", TINY, "--zoo", str(zoo_copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["photos"][0]["unsure"] is True


def test_doubt__run_twice_replaces_the_first_result(zoo_copy: Path, aside: Path) -> None:
    command = [str(zoo_copy / TINY), "--photos", str(aside)]
    assert doubt.main(command) == 0
    card = (zoo_copy / TINY / "card.json").read_bytes()
    assert doubt.main(command) == 0
    assert (zoo_copy / TINY / "card.json").read_bytes() == card


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--photos", "{aside}/red"], "named by their ImageNet class"),
        (["--photos", "{aside}", "--drawings", "{aside}/no"], "no folder or file"),
        (["--photos", "{aside}", "--world", "{aside}/no.csv"], "is not a CSV"),
        (["--photos", "{parent}"], "is not a class of the head colours"),
    ],
)
def test_doubt__what_a_user_can_fix(wrong: list[str], said: str, zoo_copy: Path, aside: Path, capsys) -> None:
    before = (zoo_copy / TINY / "card.json").read_bytes()
    words = [word.format(aside=aside, parent=aside.parent) for word in wrong]
    assert doubt.main([str(zoo_copy / TINY), *words]) == 2
    assert said in capsys.readouterr().err
    assert (zoo_copy / TINY / "card.json").read_bytes() == before


def test_temperature__undoes_a_scale() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 5)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(5, p=row / row.sum()) for row in shares.astype(float)])
    assert doubt.temperature(logits, labels) == pytest.approx(1, abs=0.1)
    assert doubt.temperature(3 * logits, labels) == pytest.approx(3, abs=0.3)
    assert doubt.calibration_error(shares, labels) < 0.03
    sharper = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert doubt.calibration_error(sharper, labels) > 0.1


def test_energies__are_far_from_all_classes() -> None:
    logits = np.array([[10, 0, 0], [0, 0, 0], [-5, -5, -5], [900, 0, 0]], np.float32)
    assert energies(logits) == pytest.approx([-10, -np.log(3), 5 - np.log(3), -900], abs=1e-3)
