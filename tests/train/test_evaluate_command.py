"""`python -m train.evaluate` on a run folder and on an exported file, with photos that are drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.evaluate.__main__ import main
from train.evaluate.datasets import open_pair
from train.research.results import read_results


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # embeddings and decoded photos are kept in runs/


@pytest.fixture
def photos(own_folders: Path) -> list[str]:
    """--data words of the drawn photos."""
    return ["drawn", str(own_folders / "train"), str(own_folders / "val")]


def test_artifact__is_measured_by_every_protocol(photos: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "results" / "drawn.csv"
    assert main(["leap-nano", "--data", *photos, "--json", "--out", str(out)]) == 0
    every = json.loads(capsys.readouterr().out)
    rows = [row for row in every if row["n"]]
    by = {row["metric"]: row for row in rows}
    assert by["linear probe, embedding"]["value"] > 0.8  # noise with one strong colour
    assert by["recall@1, embedding"]["n"] == 18
    assert {"10-NN, teacher", "20-NN, embedding", "retrieval mAP, embedding"} <= set(by)
    assert all(row["low"] - 1e-6 <= row["value"] <= row["high"] + 1e-6 for row in rows)
    assert {(row["subject"], row["variant"], row["dataset"]) for row in rows} == {
        ("leap-nano", "model_int8.onnx", "drawn")
    }
    assert [row.metric for row in read_results(out)] == [row["metric"] for row in every]


def test_pair__of_lists_and_folders_agree_on_classes(own_folders: Path, tmp_path: Path) -> None:
    listed = tmp_path / "test.txt"
    files = sorted((own_folders / "val").rglob("*.png"))
    for file in files:  # paths in a list are relative to it
        (tmp_path / file.parent.name).mkdir(exist_ok=True)
        file.rename(tmp_path / file.parent.name / file.name)
    listed.write_text("".join(f"{file.parent.name}/{file.name}, {file.parent.name}, 0\n" for file in files[::-1]))
    task = open_pair(["drawn", str(own_folders / "train"), str(listed)])
    train, test = task.train.photos, task.test.photos
    assert (task.test.name, task.test.split) == ("drawn", "test")
    assert test.classes == train.classes
    assert [test.classes[label] for label in test.labels] == [file.parent.name for file in files[::-1]]


def test_revisited__crops_the_query_to_its_box(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    random = np.random.default_rng(0)
    colours = ((200, 30, 30), (30, 30, 200))
    red, blue = (random.normal(colour, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8) for colour in colours)
    for name, pixels in (("red", red), ("blue", blue), ("query", np.concatenate([red, blue], 1))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg", quality=95)
    for box, expected in (([0, 0, 64, 64], 1.0), ([64, 0, 128, 64], 0.25)):  # right at rank 0; at rank 1: (0 + 1/2)/2
        truth = tmp_path / "truth.json"
        query = {"name": "query", "box": box, "easy": [0], "hard": [], "junk": []}
        truth.write_text(json.dumps({"gallery": ["red", "blue"], "queries": [query]}))
        assert main(["leap-nano", "--revisited", str(tmp_path), str(truth), "--json"]) == 0
        by = {(m["metric"], m["dataset"]): m["value"] for m in json.loads(capsys.readouterr().out)}
        assert by["revisited mAP, embedding", "truth, easy"] == pytest.approx(expected)
        assert ("revisited mAP, embedding", "truth, hard") not in by


def test_revisited__box_is_in_pixels_of_the_whole_photo(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A JPEG this large is decoded at half its size for anything but a crop."""
    random = np.random.default_rng(0)
    colours = ((200, 30, 30), (30, 30, 200))
    red, blue = (random.normal(colour, 20, (1200, 600, 3)).clip(0, 255).astype(np.uint8) for colour in colours)
    for name, pixels in (("red", red[:64, :64]), ("blue", blue[:64, :64]), ("query", np.concatenate([red, blue], 1))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg", quality=95)
    truth = tmp_path / "truth.json"
    query = {"name": "query", "box": [100, 100, 500, 500], "easy": [0], "hard": [], "junk": []}
    for box, right in (([100, 100, 580, 580], 0), ([620, 100, 1100, 580], 1)):
        truth.write_text(json.dumps({"gallery": ["red", "blue"], "queries": [{**query, "box": box, "easy": [right]}]}))
        assert main(["leap-nano", "--revisited", str(tmp_path), str(truth), "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert next(m["value"] for m in figures if m["metric"] == "revisited mAP, embedding") == pytest.approx(1)
    truth.write_text(json.dumps({"gallery": ["red"], "queries": [{**query, "box": [1200, 0, 1e9, 1e9]}]}))
    assert main(["leap-nano", "--revisited", str(tmp_path), str(truth)]) == 2
    assert "outside its photo of 1200 x 1200 pixels" in capsys.readouterr().err


def test_shared_photos__are_measured_by_retrieval_only(own_folders: Path, capsys: pytest.CaptureFixture) -> None:
    val = str(own_folders / "val")
    assert main(["leap-nano", "--data", "drawn", val, val]) == 2
    assert "18 photos are in TRAIN and in TEST" in capsys.readouterr().err
    retrieval = ["leap-nano", "--data", "drawn", val, val, "--protocols", "retrieval", "--json"]
    assert main(retrieval) == 0
    assert json.loads(capsys.readouterr().out)[0]["n"] == 18
    (own_folders / "val" / "red" / "broken.png").write_bytes(b"\x89PNG")
    assert main(retrieval) == 2
    assert "take the broken photos out" in capsys.readouterr().err


def test_broken_photos__are_reported_beside_the_json(
    own_folders: Path, photos: list[str], capsys: pytest.CaptureFixture
) -> None:
    (own_folders / "val" / "red" / "broken.png").write_bytes(b"\x89PNG")
    assert main(["leap-nano", "--data", *photos, "--protocols", "knn", "--json"]) == 0
    out, error = capsys.readouterr()
    assert json.loads(out)[0]["n"] == 18
    assert "1 of 19" in error


def test_out__that_cannot_be_written_is_one_line(
    own_folders: Path, photos: list[str], capsys: pytest.CaptureFixture
) -> None:
    (own_folders / "file").write_text("")
    out = str(own_folders / "file" / "rows.csv")
    assert main(["leap-nano", "--data", *photos, "--protocols", "knn", "--out", out]) == 2
    assert "choose another place" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leap-nanno", "--data", "{photos}"], "leap-nano"),
        (["leap-nano"], "which photos?"),
        (["leap-nano", "--data", "nowhere"], "a folder with train/ and val/"),
        (["leap-nano", "--data", "x", "nowhere", "nowhere"], "no folder nowhere"),
        (["{photos}", "--data", "{photos}"], "not a finished run"),
        (
            ["leap-nano", "--data", "x", "{photos}/one", "{photos}/val", "--protocols", "probe"],
            "class blue has 0 photos",
        ),
        (["leap-nano", "--revisited", "{photos}", "gone.json"], "cannot read the ground truth"),
    ],
)
def test_errors__are_one_line(
    own_folders: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    shutil.copytree(own_folders / "train" / "red", own_folders / "one" / "red")
    assert main([word.replace("{photos}", str(own_folders)) for word in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("train.evaluate: ")
