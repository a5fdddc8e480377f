"""Calibrated scores and a threshold of doubt: fitted at export, used by everything that classifies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from export import doubt
from export.__main__ import main
from leap_zoo.cli import main as leap_zoo_main
from leap_zoo.doubt import energies
from leap_zoo.verify import verify

NAME = "leap-digits"


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """Two validation photos of each digit, in a folder per class."""
    from train.run import load_run

    run = load_run(run_folder)
    photos = run.decode(run.photos().val, "validation photos")
    folder = tmp_path_factory.mktemp("photos") / "aside"
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
        for number in np.flatnonzero(photos.labels == digit)[:2]:
            Image.fromarray(photos.pixels[number]).save(folder / str(digit) / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def zoo(aside: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory, small: None) -> Iterator[Path]:
    """The run, exported with photos kept aside and with drawings."""
    zoo = tmp_path_factory.mktemp("doubting")
    words = ["--format", "onnx", "--precision", "fp32", "--photos", str(aside), "--drawings", str(aside / "0")]
    assert main([str(run_folder), "--zoo", str(zoo), *words]) == 0
    return zoo


def test_doubt__is_fitted_on_the_photos_that_are_given(zoo: Path, aside: Path, tmp_path: Path, capsys) -> None:
    model = leap_zoo.load(NAME, zoo=zoo)
    known = model.card.head("digits").doubt
    assert known is not None
    assert (known.n, known.dataset) == (20, "aside")
    flagged = [model.classify(path).unsure for path in sorted(aside.rglob("*.png"))]
    assert sum(flagged) <= 0.05 * 20
    metrics = {(m.name, m.dataset): m for m in model.artifact.metrics}
    assert (f"{doubt.ECE}, before", "aside") in metrics
    assert {m.dataset for m in metrics.values() if m.name == doubt.FLAGGED} == {"noise", "text pages", "drawings"}
    assert "log_sum_exp(logits_digits[0])" in (zoo / NAME / "README.md").read_text()
    assert verify(NAME, zoo).ok


def test_doubt__without_photos_is_of_the_runs_own(published: Path) -> None:
    card = leap_zoo.load(NAME, zoo=published).card
    own, taught = (card.head(name).doubt for name in ("digits", "digits-teacher"))
    assert own is not None
    assert (own.n, taught) == (360, None)


def test_doubt__is_what_classify_says(zoo_copy: Path, tmp_path: Path, capsys) -> None:
    """By a threshold that everything exceeds."""
    from msgspec.structs import replace

    from export.zoo import publish
    from leap_zoo.card import Doubt
    from leap_zoo.documents import read_card

    card = read_card(zoo_copy / "leap-tiny-test" / "card.json")
    never = Doubt(temperature=2.0, threshold=-1e6, dataset="made up", n=20)
    publish(zoo_copy, replace(card, heads=[replace(card.heads[0], doubt=never), *card.heads[1:]]))
    black = tmp_path / "black.png"
    Image.new("RGB", (40, 40)).save(black)
    words = ["classify", str(black), "--model", "leap-tiny-test", "--zoo", str(zoo_copy)]
    assert leap_zoo_main(words) == 0
    assert capsys.readouterr().out.startswith("not sure: unlike the training photos\n")
    assert leap_zoo_main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["photos"][0]["unsure"] is True


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--photos", "{aside}/1"], "named by their ImageNet class"),
        (["--photos", "{aside}", "--drawings", "{aside}/no"], "no folder or file"),
        (["--photos", "{aside}", "--world", "{aside}/no.csv"], "is not a CSV"),
        (["--photos", "{parent}"], "is not a class of the default head"),
    ],
)
def test_doubt__what_a_user_can_fix(
    wrong: list[str], said: str, aside: Path, run_folder: Path, tmp_path: Path, capsys
) -> None:
    words = [word.format(aside=aside, parent=aside.parent) for word in wrong]
    assert main([str(run_folder), "--zoo", str(tmp_path / "zoo"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()


def test_temperature__undoes_a_scale() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 5)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(5, p=row / row.sum()) for row in shares.astype(float)])
    assert doubt.temperature(logits, labels) == pytest.approx(1, abs=0.1)
    assert doubt.temperature(3 * logits, labels) == pytest.approx(3, abs=0.3)
    assert doubt.calibration_error(shares.max(1), shares.argmax(1) == labels) < 0.03
    sharper = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert doubt.calibration_error(sharper.max(1), sharper.argmax(1) == labels) > 0.1


def test_energies__are_far_from_all_classes() -> None:
    logits = np.array([[10, 0, 0], [0, 0, 0], [-5, -5, -5], [900, 0, 0]], np.float32)
    assert energies(logits) == pytest.approx([-10, -np.log(3), 5 - np.log(3), -900], abs=1e-3)
