"""Asymmetric retrieval: right answers by class and by list, the teacher's gallery, and the page that shows it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import leap_zoo
from leap_zoo.gallery import Kind, open_gallery
from train import recipe
from train.evaluate.asymmetric import Task, main
from train.evaluate.asymmetric_page import read_rows, replace_table
from train.evaluate.features import of_teacher
from train.evaluate.retrieval import retrieve, retrieve_listed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words that name a teacher of the bundled student's width, with weights drawn at random."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    return ["--checkpoint", str(path)]


@pytest.fixture
def listed(own_folders: Path, tmp_path: Path) -> list[str]:
    """Words that name two folders and the right answers: each query is right for the photo of its own number."""
    gallery, queries = own_folders / "train" / "red", own_folders / "val" / "red"
    counts = [len(list(folder.iterdir())) for folder in (gallery, queries)]
    (tmp_path / "truth.json").write_text(json.dumps([[number % counts[0]] for number in range(counts[1])]))
    return ["places", str(gallery), str(queries), str(tmp_path / "truth.json")]


def test_command__writes_every_pair_and_the_page(
    own_folders: Path, listed: list[str], teacher: list[str], tmp_path: Path
) -> None:
    page = tmp_path / "teacher-space.md"
    page.write_text((ROOT / "docs" / "teacher-space.md").read_text())
    sets = ["drawn", str(own_folders / "train"), str(own_folders / "val")]
    places = ["--results", str(tmp_path), "--docs", str(tmp_path)]
    assert main(["leap-nano", *teacher, "--data", *sets, "--listed", *listed, *places, "--per-class", "4"]) == 0
    with (tmp_path / "teacher_space.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by = {(row["dataset"], row["gallery"], row["queries"], row["space"], row["metric"]): row for row in rows}
    assert len(rows) == len(by) == 2 * (4 * 2 + 1)
    drawn = by["drawn", "student", "student", "student", "recall@1"]
    assert (drawn["gallery_photos"], drawn["n"]) == ("12", "12")  # four of each of three colours
    assert float(drawn["value"]) > 0.8
    assert all(float(row["low"]) - 1e-6 <= float(row["value"]) <= float(row["high"]) + 1e-6 for row in rows)
    text = page.read_text()
    assert f"| {100 * float(drawn['value']):.1f} [" in text
    assert text == replace_table(text, rows)
    assert text.startswith("# The teacher's space")
    assert text.rstrip().endswith("```")


def test_page__shows_the_committed_figures() -> None:
    text = (ROOT / "docs" / "teacher-space.md").read_text()
    assert text == replace_table(text, read_rows(ROOT / "results" / "teacher_space.csv"))


def test_retrieve_listed__agrees_with_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery, queries = torch.randn(300, 5, generator=generator), torch.randn(270, 5, generator=generator)
    labels, asked = (torch.randint(7, (count,), generator=generator) for count in (300, 270))
    same = torch.arange(270)
    right = asked[:, None] == labels[None]
    before = right.clone()
    expected = retrieve(gallery, labels, queries, asked, same=same)
    found = retrieve_listed(gallery, queries, right, same=same)
    assert torch.equal(found.average_precision, expected.average_precision)
    assert torch.equal(found.recall_at_1, expected.recall_at_1)
    assert torch.equal(right, before)  # the caller's own


def test_teacher__is_its_last_block_after_the_final_norm(teacher: list[str]) -> None:
    spec = leap_zoo.load("leap-nano").card.preprocessing
    subject = of_teacher(recipe.Teacher(model="vit_tiny_patch16_224", checkpoint=teacher[1]), spec)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, spec.size, spec.size, 3), dtype=np.uint8))
    vit = timm.create_model("vit_tiny_patch16_224", img_size=spec.size).eval()
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224").eval()
    vit.set_input_size(spec.size)
    with torch.no_grad():
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        expected = vit.forward_features(images)[:, 0]
    assert torch.allclose(subject.features(pixels)["teacher"], expected, atol=1e-3)


def test_teachers_gallery__is_queried_by_the_student(own_folders: Path, teacher: list[str], tmp_path: Path) -> None:
    """What docs/teacher-space.md tells users to do."""
    model = leap_zoo.load("leap-nano")
    task = Task.listed(
        "places", own_folders / "train" / "red", own_folders / "val" / "red", _empty(own_folders, tmp_path),
        model.card.preprocessing,
    )  # fmt: skip
    subject = of_teacher(recipe.Teacher(model="vit_tiny_patch16_224", checkpoint=teacher[1]), model.card.preprocessing)
    vectors = subject.features(torch.from_numpy(task.gallery))["teacher"].numpy()
    names = [str(number) for number in range(len(vectors))]
    with open_gallery(tmp_path / "gallery", kind=Kind.of_teacher(model)) as gallery:
        gallery.add(names, vectors)
    query = next((own_folders / "val" / "red").iterdir())
    with open_gallery(tmp_path / "gallery", model=model, space="teacher") as gallery:
        hits = gallery.search(model.embed([query], space="teacher"), k=len(names))[0]
    expected = vectors @ model.embed(query, space="teacher") / np.linalg.norm(vectors, axis=1)
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def _empty(folders: Path, place: Path) -> Path:
    path = place / "none.json"
    path.write_text(json.dumps([[]] * len(list((folders / "val" / "red").iterdir()))))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which photos?"),
        (["--data", "{val}", "{val}"], "would find themselves"),
        (["--data", "{train}", "{val}", "--per-class", "0"], "at least 1"),
        (["--listed", "x", "{train}/red", "{val}/red", "absent.json"], "cannot read the right answers"),
        (["--listed", "x", "{train}/red", "{val}/red", "{short}"], "a list for each of the 6 queries"),
        (["--listed", "x", "{train}/red", "{val}/red", "{far}"], "positions 0 to"),
        (["--listed", "x", "{train}/red", "{val}/red", "{none}"], "no query has a right answer"),
        (["--data", "{train}", "{val}", "--checkpoint", "absent.safetensors"], "no teacher file"),
    ],
)
def test_errors__are_one_line(
    own_folders: Path,
    tmp_path: Path,
    teacher: list[str],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    files = {"short": [[0]], "far": [[10**9]] * 6, "none": [[]] * 6}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    places = {name: str(tmp_path / f"{name}.json") for name in files}
    places |= {name: str(own_folders / name) for name in ("train", "val")}
    given = [word.format(**places) for word in words]
    assert main(["leap-nano", *teacher, *given, "--results", str(tmp_path), "--docs", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "teacher_space.csv").exists()
