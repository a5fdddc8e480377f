"""`python -m export.cards`: measured figures into cards, READMEs and the index; weights and revision stay."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import leap_zoo
from export import text as texts
from export.cards import main
from leap_zoo.card import Metric, ModelCard
from leap_zoo.documents import read_card, read_index
from leap_zoo.verify import verify
from train.research.results import Result, write_results

TINY, TEACHER = "leap-tiny-test", "none"  # the tiny model's card names its teacher so
WHERE = {"dataset": "drawn", "split": "val", "n": 40}


def figures_of(card: ModelCard, probe: float = 0.75) -> list[Result]:
    """A probe of each artifact and of the teacher at two resolutions."""
    about = {"hardware": "a CPU", "commit": "0123abc"}
    probe_of = {"metric": "linear probe, embedding", **WHERE, **about}
    found = [
        Result(subject=f"{TEACHER} at {pixels} px", digest="f" * 64, value=0.9, low=0.8, high=1.0, **probe_of)
        for pixels in (224, 32)
    ]
    for artifact in card.artifacts:
        ours = {"subject": card.id, "variant": artifact.file, "digest": artifact.sha256}
        found.append(Result(metric="parameters", value=card.parameters, **about, **ours))
        found.append(Result(value=probe, low=0.5, high=0.875, **probe_of, **ours))
    return found


@pytest.fixture
def card(zoo_copy: Path) -> ModelCard:
    return read_card(zoo_copy / TINY / "card.json")


def write(zoo: Path, figures: list[Result], *words: str) -> int:
    write_results(zoo / "figures.csv", figures)
    return main(["--zoo", str(zoo), "--figures", str(zoo / "figures.csv"), *words])


def test_cards__gain_figures_and_keep_the_gates(zoo_copy: Path, card: ModelCard) -> None:
    assert write(zoo_copy, figures_of(card)) == 0
    after = read_card(zoo_copy / TINY / "card.json")
    wanted = Metric(name="linear probe, embedding", value=0.75, interval=(0.5, 0.875), **WHERE)
    for before, artifact in zip(card.artifacts, after.artifacts, strict=True):
        assert artifact.metrics == [*before.metrics, wanted]
        assert (artifact.sha256, artifact.file) == (before.sha256, before.file)
    assert after.revision == card.revision
    assert {key: [m.value for m in found] for key, found in after.training.teacher.metrics.items()} == {
        "224 px": [0.9], "32 px": [0.9],
    }  # fmt: skip
    assert verify(TINY, zoo_copy).ok  # by the index's sha256 of the card
    assert read_index(zoo_copy / "index.json").models[0].revision == card.revision
    text = (zoo_copy / TINY / "README.md").read_text()
    assert text == texts.described(after)[texts.README]
    assert "| metric | teacher, 224 px | teacher, 32 px | ONNX fp32 | ONNX int8 |" in text
    assert re.search(
        r"\| linear probe, embedding \| 90\.00 % \(.*\) \| 90\.00 % \(.*\) \| 75\.00 % \(50\.00 % to", text
    )


def test_cards__again_is_the_same_and_newer_takes_the_place(zoo_copy: Path, card: ModelCard) -> None:
    path = zoo_copy / TINY / "card.json"
    assert write(zoo_copy, figures_of(card)) == 0
    first = path.read_bytes()
    assert write(zoo_copy, figures_of(card)) == 0
    assert path.read_bytes() == first
    assert write(zoo_copy, figures_of(card, probe=0.625)) == 0
    for artifact in read_card(path).artifacts:
        assert [metric.value for metric in artifact.metrics if "probe" in metric.name] == [0.625]
    assert leap_zoo.load(TINY, zoo=zoo_copy).card.id == TINY


def test_cards__of_a_file_that_was_not_measured_nothing_is_written(zoo_copy: Path, card: ModelCard, capsys) -> None:
    before = (zoo_copy / "index.json").read_bytes()
    stale = [
        msgspec.structs.replace(figure, digest="0" * 64) if figure.variant == "model_int8.onnx" else figure
        for figure in figures_of(card)
    ]
    assert write(zoo_copy, stale) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"export\.cards: model_int8\.onnx of .* python -m train\.evaluate zoo again\n", error)
    assert (zoo_copy / "index.json").read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"subject,value\nx,1\n", b"\xff\xfe", b"subject,value\n" * 2, b"\0", b"a" * 200_000]
)
def test_cards__broken_figures_are_one_line(content: bytes, zoo_copy: Path, capsys: pytest.CaptureFixture) -> None:
    (zoo_copy / "figures.csv").write_bytes(content)
    assert main(["--zoo", str(zoo_copy), "--figures", str(zoo_copy / "figures.csv")]) == 2
    assert main(["--zoo", str(zoo_copy), "--figures", str(zoo_copy / "none.csv")]) == 2
    assert main(["--zoo", str(zoo_copy / "none"), "--figures", str(zoo_copy / "figures.csv")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("export.cards: ") for line in lines)


def test_card__without_the_teachers_figures_is_written_as_before(card: ModelCard) -> None:
    assert b"provenance" in msgspec.json.encode(card.training.teacher)
    assert b"metrics" not in msgspec.json.encode(card.training.teacher)
