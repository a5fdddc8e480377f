"""A student's queries in its teacher's gallery: the command, and what the page says to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import leap_zoo
from leap_zoo.gallery import Kind, open_gallery
from leap_zoo.preprocess import to_tensor
from train import recipe
from train.evaluate.__main__ import main
from train.evaluate.features import of_teacher
from train.evaluate.survey import PAIRS
from train.research.results import read_results

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher of the bundled student's width, with weights drawn at random."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(timm.create_model(MODEL).state_dict(), path)
    return str(path)


@pytest.fixture
def words(own_folders: Path, checkpoint: str, tmp_path: Path) -> list[str]:
    """The command's, without photos."""
    places = [
        "--out",
        str(tmp_path / "rows.csv"),
        "--cache",
        str(tmp_path / "cache"),
        "--store",
        str(tmp_path / "store"),
    ]
    return ["leap-nano", "--checkpoint", checkpoint, "--protocols", "retrieval", *places]


def test_command__writes_every_pair(own_folders: Path, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps([[number] for number in range(6)]))
    drawn = ["--data", "drawn", str(own_folders / "train"), str(own_folders / "val")]
    places = [str(own_folders / split / "red") for split in ("train", "val")]
    assert main([*words, *drawn, "--listed", "places", *places, str(tmp_path / "truth.json")]) == 0
    rows = [row for row in read_results(tmp_path / "rows.csv") if row.variant in {"", *PAIRS}]
    by = {(row.dataset, row.variant, row.metric.partition(",")[0]): row for row in rows}
    assert len(rows) == len(by) == 2 * (2 * len(PAIRS) + 2)
    own = by["drawn", "student asks student, its own space", "recall@1"]
    assert (own.subject, own.n, by["drawn", "", "photos of the gallery"].value) == ("leap-nano", 18, 36)
    assert own.value > 0.8  # one strong colour per class
    assert by["places", "teacher asks teacher", "recall@1"].subject.startswith(f"{MODEL} at 160 px")


def test_teacher__is_its_last_block_after_the_final_norm(checkpoint: str) -> None:
    spec = leap_zoo.load("leap-nano").card.preprocessing
    features = of_teacher(recipe.TeacherSettings(model=MODEL, checkpoint=checkpoint), spec.size)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, spec.size, spec.size, 3), dtype=np.uint8))
    torch.manual_seed(0)
    vit = timm.create_model(MODEL).eval()
    vit.set_input_size(spec.size)
    with torch.no_grad():
        expected = vit.forward_features((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)[:, 0]
    assert torch.allclose(features(pixels)["teacher"], expected, atol=1e-3)


def test_teachers_gallery__is_queried_by_the_student(own_folders: Path, checkpoint: str, tmp_path: Path) -> None:
    """What docs/teacher-space.md tells users to do."""
    model = leap_zoo.load("leap-nano")
    spec = model.card.preprocessing
    features = of_teacher(recipe.TeacherSettings(model=MODEL, checkpoint=checkpoint), spec.size)
    photos = sorted((own_folders / "train" / "red").iterdir())
    pixels = np.stack([to_tensor(photo, spec) for photo in photos])
    vectors = features(torch.from_numpy(pixels))["teacher"].numpy()
    with open_gallery(tmp_path / "gallery", kind=Kind.of_teacher(model)) as gallery:
        gallery.add([photo.name for photo in photos], vectors)
    query = next((own_folders / "val" / "red").iterdir())
    with open_gallery(tmp_path / "gallery", model=model, space="teacher") as gallery:
        hits = gallery.search(model.embed([query], space="teacher"), k=len(photos))[0]
    expected = vectors @ model.embed(query, space="teacher") / np.linalg.norm(vectors, axis=1)
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "which photos?"),
        (["--listed", "x", "{train}/red", "{val}/red", "absent.json"], "cannot read the right answers"),
        (["--listed", "x", "{train}/red", "{val}/red", "{short}"], "a list for each of the 6 queries"),
        (["--listed", "x", "{train}/red", "{val}/red", "{far}"], "positions 0 to"),
        (["--listed", "x", "{train}/red", "{val}/red", "{none}"], "no query has a right answer"),
        (["--listed", "x", "{train}/red", "{val}/red", "{none}", "--checkpoint", "a.safetensors"], "no teacher file"),
    ],
)
def test_errors__are_one_line(
    own_folders: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, wrong: list[str], message: str
) -> None:
    files = {"short": [[0]], "far": [[10**9]] * 6, "none": [[]] * 6}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    places = {name: str(tmp_path / f"{name}.json") for name in files}
    places |= {name: str(own_folders / name) for name in ("train", "val")}
    assert main([*words, *(word.format(**places) for word in wrong)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "rows.csv").exists()
