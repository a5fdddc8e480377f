"""One small run of the digits and one zoo in which it was published, shared by all test files of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_export import RECIPE, lenient_gate, small_export

import leap_zoo
import leap_zoo.documents
from export import publish
from export.card import DEFAULT, NAMES
from export.graph import DeployedStudent
from train.__main__ import main as train
from train.run import Run, load_run

Trained = Callable[..., Path]


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Every test of this folder runs under the small settings, and no test of another folder does."""
    with small_export():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained("student.registers=4")` trains with further settings; returns the folder of the finished run."""

    def run(*settings: str) -> Path:
        folder = tmp_path_factory.mktemp("run") / "digits"
        with small_export():
            assert train([*RECIPE, *settings, f"data.store={folder.parent / 'store'}", "--out", str(folder)]) == 0
        return folder

    return run


@pytest.fixture(scope="session")
def run_folder(trained: Trained) -> Path:
    """A finished run of a few epochs. Read only."""
    return trained()


@pytest.fixture
def run(run_folder: Path) -> Run:
    """The run, loaded anew: a test may damage it."""
    return load_run(run_folder)


@pytest.fixture
def model(run: Run) -> DeployedStudent:
    """The deployed graph in torch."""
    return DeployedStudent(run).eval()


@pytest.fixture(scope="session")
def published(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with the run in all its forms, int8 by the first file of each format. Read only."""
    zoo = tmp_path_factory.mktemp("published")
    with small_export(), lenient_gate():
        card, refused = publish.publish(load_run(run_folder), zoo, say=lambda line: None)
    assert refused == []
    assert [artifact.file for artifact in card.artifacts] == [NAMES[kind] for kind in DEFAULT]
    return zoo


@pytest.fixture(scope="session")
def card(published: Path) -> leap_zoo.ModelCard:
    """The published card."""
    return leap_zoo.documents.read_card(published / "leap-digits" / "card.json")


@pytest.fixture
def fp32(published: Path) -> leap_zoo.Model:
    """The published fp32 file, loaded."""
    return leap_zoo.load("leap-digits", zoo=published, precision="fp32")
