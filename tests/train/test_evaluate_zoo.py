"""`python -m train.evaluate ZOO`: every published file of a zoo and the teacher, on photos that are drawn."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from msgspec.structs import replace
from PIL import Image
from safetensors.torch import save_file

from export.zoo import add
from leap_zoo.store import BUNDLED
from train.evaluate.__main__ import main
from train.evaluate.corruptions import STRENGTHS, Corrupted
from train.research.results import Result, read_results, write_results

WNIDS = {"blue": "n01440764", "green": "n02102040", "red": "n03888257"}  # the first, a later one, a much later one
THOUSAND, AGREEMENT = "top-1 of 1000 classes", "top-1 agreement with the teacher"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher of the bundled student's width, with weights drawn at random."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    return str(path)


@pytest.fixture
def photos(own_folders: Path) -> Path:
    """Folders train (3 x 12) and val (3 x 6) named by ImageNet's wnids, every fourth file away_*; and a sample of 3."""
    (own_folders / "sample").mkdir()
    for split in ("train", "val"):
        for name, wnid in WNIDS.items():
            (own_folders / split / name).rename(own_folders / split / wnid)
    for wnid in WNIDS.values():
        shutil.copy(own_folders / "train" / wnid / "kept_1.png", own_folders / "sample" / f"{wnid}_a_photo.png")
    return own_folders


def words(photos: Path, zoo: Path, tmp_path: Path) -> list[str]:
    """The command's, for these photos."""
    sets = ["--data", "drawn", str(photos / "train"), str(photos / "val"), "--retrieval", "drawn"]
    places = ["--out", str(tmp_path / "zoo.csv"), "--cache", str(tmp_path / "cache")]
    places += ["--store", str(tmp_path / "store")]
    return [str(zoo), *sets, "--held-out", "away_*", *places]


def test_zoo__of_a_student_beside_its_teacher(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([[number] for number in range(6)]))
    folders = [str(photos / split / WNIDS["red"]) for split in ("train", "val")]
    more = ["--checkpoint", checkpoint, "--sample", str(photos / "sample"), "--listed", "places", *folders, str(truth)]
    assert main([*words(photos, BUNDLED, tmp_path), *more]) == 0
    rows = read_results(tmp_path / "zoo.csv")
    models = list(dict.fromkeys((row.subject, row.variant) for row in rows))
    assert [model for model, _ in models] == [
        "vit_tiny_patch16_224 at 224 px",
        "vit_tiny_patch16_224 at 160 px",
        "leap-micro",
        "leap-nano",
        "leap-tiny",
    ]
    by = {(row.subject, row.metric, row.dataset, row.split): row for row in rows}
    assert len(by) == len(rows)
    tiny = {key[1:]: row for key, row in by.items() if key[0] == "leap-tiny"}
    probe = tiny["linear probe, embedding", "drawn", "val"]
    assert (probe.n, probe.value > 0.8) == (18, True)  # noise with one strong colour; held-out photos stay in val
    assert tiny["recall@1, embedding", "places", WNIDS["red"]].n == 6
    assert tiny[THOUSAND, "drawn", "held-out"].n == 3 * 3 + 3 * 2  # of train and val
    assert tiny["top-1 of its 3 classes", "sample", "one per class"].n == 3
    teacher = by["vit_tiny_patch16_224 at 160 px", "cosine to the teacher at 224 px, mean", "drawn", "held-out"]
    assert 0.5 < teacher.value < 1  # the same weights at another resolution
    assert tiny["cosine to the teacher, minimum", "drawn", "held-out"].value < 0.5  # weights drawn at random
    assert tiny["cosine to the teacher, mean", "drawn", "held-out"].value >= (
        tiny["cosine to the teacher, minimum", "drawn", "held-out"].value
    )
    assert tiny["bytes", "", ""].value == (BUNDLED / "leap-tiny" / "model_int8.onnx").stat().st_size
    assert all(row.low is None or row.low - 1e-6 <= row.value <= row.high + 1e-6 for row in rows)


@pytest.fixture
def world(photos: Path, tmp_path: Path) -> Path:
    """A list of six photos of two classes, the last of which the demo shows; for the list, see `open_world`."""
    folder = tmp_path / "world"
    (folder / "photos").mkdir(parents=True)
    names = [f"{name}_{number}.png" for name in ("red", "blue") for number in range(3)]
    for name in names:
        colour, number = name.removesuffix(".png").split("_")
        source = sorted((photos / "val" / WNIDS[colour]).iterdir())[int(number)]
        shutil.copy(source, folder / "photos" / name)
    rows = [f"{name},{721 if name.startswith('red') else 0}" for name in names]
    (folder / "photos.csv").write_text("\n".join(["file,class_index", *rows]))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "demo_photos.csv").write_text(f"file\n{names[-1]}\n")
    return folder / "photos.csv"


def test_zoo__on_photos_of_the_world(
    photos: Path, world: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # results/demo_photos.csv
    small = tmp_path / "zoo"
    add(BUNDLED / "leap-tiny", small)
    out = tmp_path / "zoo.csv"
    old = Result(subject="leap-tiny", variant="model_int8.onnx", metric="old", value=1, hardware="a", commit="b")
    write_results(out, [replace(old, digest="of another file"), replace(old, subject="leap-other")])
    places = ["--listed", "places", str(photos / "train"), str(photos / "val"), "folders"]
    words = [str(small), "--checkpoint", checkpoint, "--world", str(world), "--corrupted", *places]
    assert main([*words, "--out", str(out), "--cache", str(tmp_path / "c"), "--store", str(tmp_path / "s")]) == 0
    rows = read_results(out)
    by = {(row.metric, row.dataset, row.split): row for row in rows if row.subject == "leap-tiny"}
    assert "old" not in {metric for metric, _, _ in by}  # it was of another file
    assert [row.metric for row in rows if row.subject == "leap-other"] == ["old"]
    assert by[THOUSAND, "world", "test"].n == 5  # without the demo's
    assert by["top-5 of 1000 classes", "world", "test"].n == 5
    assert by[f"{AGREEMENT} at 224 px", "world", "test"].n == 5
    splits = [split for metric, dataset, split in by if (metric, dataset) == (THOUSAND, "world, corrupted")]
    assert splits == ["noise", "blur", "JPEG", "brightness", "all"]
    assert by["recall@1, embedding", "places", "val"].n == 18
    own = tmp_path / "own.csv"
    words += ["--students-only", "--out", str(own), "--cache", str(tmp_path / "c"), "--store", str(tmp_path / "s")]
    assert main(words) == 0
    assert read_results(own) == [row for row in rows if row.subject == "leap-tiny"]


def test_corrupted__same_photo_same_pixels(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(60, 160, (40, 50, 3), np.uint8)).save(photo)
    before = np.asarray(Image.open(photo), float)
    for kind, strengths in STRENGTHS.items():
        changes = []
        for strength in strengths:
            corrupted = Corrupted(photo, kind, strength)
            assert corrupted.read() == Corrupted(photo, kind, strength).read()
            pixels = np.asarray(Image.open(io.BytesIO(corrupted.read())), float)
            assert pixels.shape == before.shape
            changes.append(np.abs(pixels - before).mean())
        assert changes == sorted(changes)  # stronger each time
        assert changes[0] > 1


def test_zoo__of_students_of_others_has_no_teacher(photos: Path, tiny_zoo: Path, tmp_path: Path, capsys) -> None:
    assert main([*words(photos, tiny_zoo, tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["subject"], row["variant"]) for row in rows} == {
        ("leap-tiny-test", "model.onnx"),
        ("leap-tiny-test", "model_int8.onnx"),
    }
    assert {row["metric"] for row in rows if row["n"] is not None} == {
        "linear probe, embedding",
        "10-NN, embedding",
        "retrieval mAP, embedding",
        "recall@1, embedding",
    }
    assert all(row["value"] == 1 for row in rows if row["metric"] == "recall@1, embedding")


def test_zoo__again_measures_only_what_is_new(photos: Path, zoo_copy: Path, tmp_path: Path, capsys) -> None:
    command = words(photos, zoo_copy, tmp_path)
    assert main(command) == 0
    before = (tmp_path / "zoo.csv").read_bytes()
    (zoo_copy / "leap-tiny-test" / "model.onnx").write_bytes(b"not a model")
    assert main(command) == 0
    assert (tmp_path / "zoo.csv").read_bytes() == before
    (photos / "val" / WNIDS["red"] / "kept_1.png").unlink()  # other photos: measured again, by a file that is broken
    capsys.readouterr()
    assert main(command) == 2
    one_line(capsys, "model.onnx")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--retrieval", "nothing"], "--retrieval nothing names no --data; there is drawn"),
        (["--data", "nowhere", "no/train", "no/test"], "no folder no/train"),
        (["--sample", "{photos}/train"], "named by their ImageNet class"),
        (["--checkpoint", "no.safetensors"], "no teacher file no.safetensors"),
        (["--world", "{photos}/sample/n01440764_a_photo.png"], "is not a CSV"),
        (["--held-out", "*"], "all photos of TRAIN match"),
        (["--cache", "{photos}/sample/n01440764_a_photo.png/x"], "choose another --cache"),
        (["--out", "{photos}/sample/n01440764_a_photo.png/x"], "choose another place"),
    ],
)
def test_command__what_a_user_can_fix(
    wrong: list[str], said: str, photos: Path, tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*words(photos, tiny_zoo, tmp_path), *(word.format(photos=photos) for word in wrong)]) == 2
    one_line(capsys, said)


def test_command__a_teacher_is_asked_for(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words(photos, BUNDLED, tmp_path)) == 2
    one_line(capsys, "give --checkpoint FILE.safetensors")
    assert main([str(BUNDLED), "--out", str(tmp_path / "x.csv")]) == 2
    one_line(capsys, "which photos?")
    assert main(words(photos, tmp_path / "nothing", tmp_path)) == 2
    one_line(capsys, "is not a model's folder")


def test_results__round_trip(tmp_path: Path) -> None:
    row = Result(subject="EMA", variant="nano", metric="m", n=5, value=1 / 3, hardware="a, CPU", commit="0")
    write_results(tmp_path / "ablations.csv", [row])
    (found,) = read_results(tmp_path / "ablations.csv")
    assert found.value == pytest.approx(1 / 3, abs=1e-6)
    assert (found.subject, found.seed, found.low, found.hardware) == ("EMA", None, None, "a, CPU")


def one_line(capsys: pytest.CaptureFixture, said: str) -> None:
    """The command said it in one line of its own, progress bars aside, and without a traceback."""
    text = capsys.readouterr().err.replace("\r", "\n")
    lines = [line for line in text.splitlines() if "train.evaluate:" in line]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in text
