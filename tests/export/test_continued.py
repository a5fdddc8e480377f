"""A training that begins with a published student's weights, and what is said of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_export import RECIPE

import leap_zoo.documents
from export.card import card as card_of
from export.graph import DeployedStudent
from export.text import README, described
from leap_zoo.store import BUNDLED
from train.__main__ import main as train
from train.errors import TrainError
from train.method.student import make_student
from train.published import Published
from train.recipe import Student
from train.run import load_run


@pytest.fixture(scope="session")
def continued(trained: Callable[..., Path], published: Path) -> Path:
    """A run of one more epoch, at a rate that changes next to nothing."""
    return trained(
        f"student.init={published / 'leap-digits'}",
        "curriculum.strategy=last",
        "optimizer.decay_share=0.5",
        "epochs=1",
        "optimizer.lr=1e-9",
    )


def test_continued__student_begins_where_the_published_one_ended(continued: Path, run_folder: Path) -> None:
    ours, before = (load_file(folder / "student.safetensors") for folder in (continued, run_folder))
    assert ours.keys() == before.keys()
    assert all(torch.allclose(ours[name], before[name], atol=1e-5) for name in before)


def test_continued__card_names_what_it_continued_and_how_that_was_trained(
    continued: Path, published: Path, run_folder: Path
) -> None:
    run, before = load_run(continued), leap_zoo.documents.read_card(published / "leap-digits" / "card.json")
    card = card_of(run, DeployedStudent(run), list(before.artifacts))
    training = card.training
    assert training.images == load_run(continued).report.images_seen
    assert (training.continued.id, training.continued.revision) == (before.id, before.revision)
    assert training.continued.training.strategy == "leap-grow"
    assert training.continued.training.images == load_run(run_folder).report.images_seen
    assert training.continued.training.teacher.metrics == {}  # they are in the other card
    said = f"It began with the weights of `leap-digits`, revision `{before.revision}`, which had strategy"
    assert said in described(card)[README]


def test_resumed__it_began_as_the_copy_in_its_own_folder(continued: Path, published: Path, tmp_path: Path) -> None:
    """The original may be another revision by then, or gone."""
    run, folder = shutil.copytree(continued, tmp_path / "run"), tmp_path / "gone"
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(published / "leap-digits"), str(folder)))
    (run / "metrics.json").unlink()
    settings = ["curriculum.strategy=last", "optimizer.decay_share=0.5", "epochs=1", "optimizer.lr=1e-9"]
    words = [*RECIPE, f"student.init={folder}", *settings, f"data.store={tmp_path / 'store'}"]
    assert train([*words, "--out", str(run), "--resume"]) == 0
    source = load_run(run).report.continued
    assert source is not None
    assert source.revision == load_run(continued).report.continued.revision


def test_published__refuses_other_shapes_teachers_and_folders(published: Path, tmp_path: Path) -> None:
    found = Published.read(published / "leap-digits")
    student = make_student(Student(size="digits", patch=8), pixels=32)
    other = make_student(Student(size="micro"), pixels=32)
    with pytest.raises(TrainError, match="another shape"):
        found.check(other, found.source.training.teacher.name, len(found.projection["weight"]))
    with pytest.raises(TrainError, match=r"its teacher was .*, not vit_other"):
        found.check(student, "vit_other", len(found.projection["weight"]))
    with pytest.raises(TrainError, match="channels, not 7"):
        found.check(student, found.source.training.teacher.name, 7)
    with pytest.raises(TrainError, match=r"student.init: .*card\.json"):
        Published.read(tmp_path)
    with pytest.raises(TrainError, match=r"does not list model\.safetensors; take the folder that"):
        Published.read(BUNDLED / "leap-micro")
    damaged = shutil.copytree(published / "leap-digits", tmp_path / "leap-digits")
    (damaged / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(TrainError, match=r"student\.init: .* is corrupt"):
        Published.read(damaged)


def test_train__refuses_a_folder_without_weights_before_any_photo_is_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    assert train([*RECIPE, f"student.init={tmp_path}", f"data.store={tmp_path / 'store'}", "--out", str(out)]) == 2
    assert "student.init: " in capsys.readouterr().err
    assert not out.exists()
    assert not (tmp_path / "store").exists()
