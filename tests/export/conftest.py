"""One small run of the digits and one zoo that it was published in, shared by the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import leap_zoo
import leap_zoo.documents
from export import build, publish, verify
from export.built import NAMES
from export.graph import DeployedStudent
from train.__main__ import main as train
from train.run import Run, load_run

DIGITS = [
    "digits",
    "epochs=3",
    "batch=128",
    "teacher.options.embed_dim=48",
    "teacher.supervised.epochs=2",
    "compare=[]",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small lose more to waiting threads than they gain, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAP_ZOO_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run_folder(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a few epochs. Read only."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    assert train([*DIGITS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(run_folder: Path) -> Run:
    """The run, loaded anew: a test may damage it."""
    return load_run(run_folder)


@pytest.fixture
def model(run: Run) -> DeployedStudent:
    """The deployed graph in torch."""
    return DeployedStudent(run).eval()


@pytest.fixture(scope="session")
def lenient() -> Callable[[pytest.MonkeyPatch], None]:
    """Quantise with few photos, and let a student of few epochs lose some points by it; the gate has its own tests."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build, "CALIBRATION_PHOTOS", 24)
        monkeypatch.setattr(build, "SELECTION_PHOTOS", 60)
        monkeypatch.setattr(verify, "LARGEST_DROP", 0.5)
        monkeypatch.setattr(verify, "SMALLEST_COSINE", 0.9)

    return patch


@pytest.fixture(scope="session")
def published(
    run_folder: Path, lenient: Callable[[pytest.MonkeyPatch], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A zoo with the run in all its forms, int8 by the first way of each format. Read only."""
    zoo = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as monkeypatch:
        lenient(monkeypatch)
        card, refused = publish.publish(load_run(run_folder), zoo, minutes=0, say=lambda line: None)
    assert refused == []
    assert [artifact.file for artifact in card.artifacts] == list(NAMES.values())
    return zoo


@pytest.fixture(scope="session")
def card(published: Path) -> leap_zoo.ModelCard:
    """The published card."""
    return leap_zoo.documents.read_card(published / "leap-digits" / "card.json")


@pytest.fixture
def fp32(published: Path) -> leap_zoo.Model:
    """The published fp32 file, loaded."""
    return leap_zoo.load("leap-digits", zoo=published, precision="fp32")
