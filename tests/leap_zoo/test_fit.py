"""`fit`: from photos per class to a head, how sure it may be, and how honest its accuracy is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo import CustomHead, InvalidArgument, Model
from leap_zoo.cli import main
from leap_zoo.doubt import bounded, distances, threshold
from leap_zoo.fitting import judge, learn

TINY = "leap-tiny-test"


@pytest.fixture(scope="module")
def model(tiny_zoo: Path) -> Model:
    return leap_zoo.load(TINY, zoo=tiny_zoo, threads=1)


def draw(path: Path, channel: int, seed: int) -> None:
    """A photo in which one colour is stronger."""
    pixels = np.random.default_rng([channel, seed]).integers(0, 120, (40, 50, 3), dtype=np.uint8)
    pixels[..., channel] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folders(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    for channel, (name, count) in enumerate(counts.items()):
        for number in range(start, start + count):
            draw(root / name / f"{number}.png", channel, number)
    return root


def clouds(per_class: int, classes: int = 4, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, 16) around one centre per class, and labels. The centres do not depend on the seed."""
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    labels = np.repeat(np.arange(classes), per_class)
    points = centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), 16))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), labels


def test_fit__recognises_other_photos(model: Model, tmp_path: Path) -> None:
    found = leap_zoo.fit(model, class_folders(tmp_path / "train", {"red": 6, "green": 6, "blue": 6}))
    card = found.head.card
    assert card.labels == ["blue", "green", "red"]
    assert card.photos == [6, 6, 6]
    assert card.validation is not None
    assert (card.validation.n, card.validation.folds) == (18, 6)
    assert card.validation.accuracy == sum(row.right for row in found.classes) / 18 > 0.9
    assert card.validation.interval[0] < card.validation.accuracy
    assert (found.bad, found.notes) == ({}, [])
    other = class_folders(tmp_path / "test", {"red": 5, "green": 5, "blue": 5}, start=50)
    for label in card.labels:
        assert model.classify(other / label / "50.png", head=found.head)[0].label == label


def test_fit__one_photo_per_class_is_not_judged(model: Model, tmp_path: Path) -> None:
    found = leap_zoo.fit(model, class_folders(tmp_path, {"red": 1, "green": 1}))
    card = found.head.card
    assert (card.kind, card.validation) == ("prototypes", None)
    assert "not cross-validated" in card.how
    assert [(row.tested, row.right) for row in found.classes] == [(0, 0), (0, 0)]
    vectors = model.embed([tmp_path / "green" / "0.png", tmp_path / "red" / "0.png"])
    assert np.abs(found.head.weight - vectors).max() < 1e-5


def test_fit__same_photos_and_seed_give_the_same_bytes(model: Model, tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"red": 4, "green": 3})
    first, second = (leap_zoo.fit(model, photos, seed=3).head.save(tmp_path / f"{i}.head") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_fit__takes_labels_with_photos_of_any_kind(model: Model, tmp_path: Path) -> None:
    folder = class_folders(tmp_path, {"red": 2, "green": 2})
    red, green = sorted((folder / "red").iterdir()), sorted((folder / "green").iterdir())
    by_path = leap_zoo.fit(model, {"red": red, "green": [str(path) for path in green]})
    by_bytes = leap_zoo.fit(model, {"green": [p.read_bytes() for p in green], "red": [Image.open(p) for p in red]})
    assert np.array_equal(by_path.head.weight, by_bytes.head.weight)
    assert by_path.head.labels == ["green", "red"]


def test_fit__bad_photos_are_skipped_and_listed(model: Model, tmp_path: Path) -> None:
    class_folders(tmp_path, {"red": 3, "green": 3})
    (tmp_path / "red" / "bad.jpg").write_bytes(b"no photo")
    found = leap_zoo.fit(model, tmp_path)
    assert list(found.bad) == [str(tmp_path / "red" / "bad.jpg")]
    assert found.head.card.photos == [3, 3]


def test_fit__copies_are_noted(model: Model, tmp_path: Path) -> None:
    class_folders(tmp_path, {"red": 3, "green": 3})
    shutil.copy(tmp_path / "red" / "0.png", tmp_path / "red" / "again.png")
    shutil.copy(tmp_path / "red" / "1.png", tmp_path / "green" / "wrong.png")
    (tmp_path / "list.txt").write_text("beside")
    found = leap_zoo.fit(model, tmp_path)
    assert found.head.card.photos == [4, 3]
    twins, copies = found.notes
    assert found.skipped == {"other_files": 1}
    assert "same photo in two classes" in twins
    assert "wrong.png" in twins
    assert copies == "exact duplicates within a class were left out: 1"


@pytest.mark.parametrize("photos", [{1: [b""], 2: [b""]}, {"": [b""], "b": [b""]}, {"a": "a.jpg", "b": ["b.jpg"]}])
def test_fit__labels_are_texts_and_photos_are_lists(model: Model, photos: dict) -> None:
    with pytest.raises(InvalidArgument, match="pass labels as strings"):
        leap_zoo.fit(model, photos)


@pytest.mark.parametrize(
    ("counts", "message"), [({"red": 3}, "two classes"), ({}, "two classes"), ({"red": 2, "empty": 0}, "no photos")]
)
def test_fit__too_few_classes_or_photos(model: Model, tmp_path: Path, counts: dict[str, int], message: str) -> None:
    for name in counts:
        (tmp_path / name).mkdir()
    class_folders(tmp_path, counts)
    with pytest.raises(InvalidArgument, match=message):
        leap_zoo.fit(model, tmp_path)


def test_fit__class_of_bad_photos_only(model: Model, tmp_path: Path) -> None:
    class_folders(tmp_path, {"red": 2, "green": 2})
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(InvalidArgument, match="no readable photo of 'blue'"):
        leap_zoo.fit(model, tmp_path)


def test_fit__bad_arguments(model: Model, tmp_path: Path) -> None:
    class_folders(tmp_path, {"red": 1, "green": 1})
    with pytest.raises(InvalidArgument, match="seed"):
        leap_zoo.fit(model, tmp_path, seed=-1)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        leap_zoo.fit(model, tmp_path / "absent")


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("per_class", [1, 2, 8])
def test_learn__separates_distant_classes(classes: int, per_class: int) -> None:
    vectors, labels = clouds(per_class, classes, noise=0.2)
    weight, bias = learn(vectors, labels, classes)
    assert (weight.shape, weight.dtype) == ((classes, 16), np.float32)
    assert (bias.shape, bias.dtype) == ((classes,), np.float32)
    others, theirs = clouds(30, classes, noise=0.2, seed=1)
    assert ((others @ weight.T + bias).argmax(axis=1) == theirs).mean() > 0.95


def test_learn__ignores_variation_within_classes() -> None:
    """Where one direction is loud and says nothing, nearest class means are misled and the discriminant is not."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    points = random.normal(size=(40, 8)) * 0.1 + np.eye(8)[0] * random.normal(size=(40, 1))
    points[:, 1] += np.where(labels == 1, 0.3, -0.3)
    train, test = np.arange(40) % 2 == 0, np.arange(40) % 2 == 1
    weight, bias = learn(points[train].astype(np.float32), labels[train], 2)
    assert ((points[test] @ weight.T + bias).argmax(axis=1) == labels[test]).mean() > 0.9


def test_judge__accuracy_on_noise_is_chance() -> None:
    accuracies = []
    for seed in range(20):
        vectors, labels = clouds(12, 4, seed=seed)
        labels = np.random.default_rng(seed).permutation(labels)
        found = judge(vectors, labels, 4, seed)
        accuracies.append((found.predicted == labels[found.tested]).mean())
    assert abs(np.mean(accuracies) - 0.25) < 0.05


def test_judge__accuracy_holds_on_new_photos() -> None:
    """Accuracy, mean score and false alarms of cross-validation are near those of photos that nobody had seen."""
    differences = []
    for seed in range(10):
        vectors, labels = clouds(10, 4, noise=0.6, seed=seed)
        found = judge(vectors, labels, 4, seed)
        assert found.threshold is not None
        weight, bias = learn(vectors, labels, 4)
        others, theirs = clouds(200, 4, noise=0.6, seed=1000 + seed)
        scores = others @ weight.T + bias
        logits = bounded(scores * np.float32(found.scale), len(labels))
        new = (logits.argmax(axis=1) == theirs).mean(), np.exp(logits.max(axis=1)).mean()
        claimed = (found.predicted == labels[found.tested]).mean(), found.confidence.mean()
        alarms = (distances(scores) > found.threshold).mean()
        differences.append((claimed[0] - new[0], claimed[1] - new[1], new[1] - new[0], alarms, found.unsure.mean()))
    accuracy, confidence, calibration, alarms, unsure = np.mean(differences, axis=0)
    assert -0.1 < accuracy < 0.05
    assert abs(confidence) < 0.05
    assert -0.12 < calibration < 0.03  # doubtful rather than sure
    assert 0.005 < alarms < 0.1
    assert 0.005 < unsure < 0.1


@pytest.mark.parametrize("counts", [(2, 2), (1, 2), (1, 1, 9), (3, 3, 3), (1, 1, 4, 12), (40, 5)])
def test_judge__holds_out_each_photo_once_except_the_only_one_of_its_class(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    vectors = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32)
    found = judge(vectors, labels, len(counts))
    assert found.tested.tolist() == [i for i, label in enumerate(labels) if counts[label] > 1]
    assert found.folds == min(10, max(counts))
    assert len(found.predicted) == len(found.confidence) == len(found.unsure) == len(found.tested)
    assert found.threshold is not None
    assert np.isfinite(found.threshold)


def test_judge__perfect_separation_is_not_certainty() -> None:
    """Eight photos that are all recognised support nine in ten, whatever the photo."""
    vectors, labels = clouds(4, 2, noise=0.05)
    found = judge(vectors, labels, 2)
    assert (found.predicted == labels).all()
    assert 0.8 < found.confidence.mean() <= 0.9 + 1e-6
    weight, bias = learn(vectors, labels, 2)
    assert np.exp(bounded((vectors @ weight.T + bias) * np.float32(1e4), 8)).max() == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 7])
def test_bounded__keeps_order_and_sums(classes: int) -> None:
    logits = np.random.default_rng(0).normal(scale=40, size=(50, classes)).astype(np.float32)
    shares = np.exp(bounded(logits, 3))
    assert shares.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    assert shares.max() <= 0.8 + 1e-6
    assert (shares.argmax(axis=1) == logits.argmax(axis=1)).all()
    mild = np.float32(0.001) * logits
    assert np.exp(bounded(mild, 100)) == pytest.approx(leap_zoo.model.softmax(mild), abs=1e-5)
    assert bounded(logits[:0], 3).shape == (0, classes)


def test_distances__are_squared_distances_to_the_nearest_mean() -> None:
    vectors, labels = clouds(1, 3)
    weight, bias = learn(vectors, labels, 3)
    others, _ = clouds(5, 3, seed=4)
    expected = ((others[:, None] - vectors[None]) ** 2).sum(axis=2).min(axis=1)
    assert distances(others @ weight.T + bias) == pytest.approx(expected, abs=1e-5)


def test_threshold__is_passed_by_one_in_twenty() -> None:
    found = np.random.default_rng(0).permutation(100).astype(np.float32)
    assert threshold(found) == 95  # of 101 ranks the 96th
    assert threshold(found[found < 10]) == 9  # too few for a quantile: the farthest
    random, passed = np.random.default_rng(1), []
    for _ in range(2000):
        *known, new = random.normal(size=40).astype(np.float32)
        passed.append(new > threshold(np.array(known)))
    assert np.mean(passed) == pytest.approx(0.05, abs=0.015)


def test_fit__noise_is_neither_certain_nor_sure(model: Model, tmp_path: Path) -> None:
    """Four photos per class, all recognised when put aside: noise is "not sure", and no score is above 9 in 10."""
    found = leap_zoo.fit(model, class_folders(tmp_path, {"red": 4, "green": 4}))
    card = found.head.card
    assert card.validation is not None
    assert (card.validation.accuracy, card.validation.n) == (1.0, 8)
    assert card.validation.confidence is not None
    assert 0.6 < card.validation.confidence <= 0.9
    assert card.validation.unsure is not None
    assert card.validation.unsure < 0.5
    noise = list(np.random.default_rng(0).integers(0, 256, (10, 40, 50, 3), dtype=np.uint8))
    answers = model.classify(noise, head=found.head)
    assert all(one.unsure and one.distance > card.threshold for one in answers)
    assert max(one[0].score for one in answers) <= 0.9 + 1e-6
    own = model.classify(tmp_path / "red" / "0.png", head=found.head)
    assert (own[0].label, own.unsure) == ("red", False)


def test_fit__one_photo_per_class_knows_no_doubt(model: Model, tmp_path: Path) -> None:
    head = leap_zoo.fit(model, class_folders(tmp_path, {"red": 1, "green": 1})).head
    answer = model.classify(np.zeros((40, 40, 3), np.uint8), head=head)
    assert (head.card.threshold, answer.unsure, answer.distance) == (None, False, None)
    assert answer[0].score <= 0.75 + 1e-6


def test_command__fits_and_classifies(tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_photos = class_folders(tmp_path / "train", {"red": 4, "green": 4})
    test_photos = class_folders(tmp_path / "test", {"red": 3, "green": 3}, start=70)
    common, path = ["--model", TINY, "--zoo", str(tiny_zoo)], tmp_path / "colours.head"
    arguments = ["fit", str(path), "--images", str(train_photos), *common]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for expected in ("green       4      4 of 4", "cross-validated accuracy: 100.0%", str(path)):
        assert expected in text
    assert text.count("average score of these answers: ") == text.count("(`not sure`): ") == 1
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["head"]["validation"]["n"] == 8
    assert found["head"]["validation"]["confidence"] <= 0.9
    assert found["head"]["validation"]["unsure"] < 1
    assert (found["bad"], found["file"], found["model"]) == ({}, str(path), TINY)
    assert CustomHead.load(path).labels == ["green", "red"]
    assert main(["classify", str(test_photos / "red" / "70.png"), "--head", str(path), "--json", *common]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["head"], answer["photos"][0]["predictions"][0]["label"]) == (str(path), "red")
    assert answer["photos"][0]["unsure"] == (answer["photos"][0]["distance"] > found["head"]["threshold"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_command__table_is_aligned_for_names_with_escapes(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = class_folders(tmp_path / "train", {"red\x1b[31m": 2, "green": 2})
    path = tmp_path / "colours.head"
    assert main(["fit", str(path), "--images", str(photos), "--model", TINY, "--zoo", str(tiny_zoo)]) == 0
    header, green, red = capsys.readouterr().out.splitlines()[:3]
    assert red.startswith(r"red\x1b[31m")
    assert len(header) == len(green) == len(red)


def test_command__classify_is_not_sure_of_noise(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common, path = ["--model", TINY, "--zoo", str(tiny_zoo)], tmp_path / "colours.head"
    photos = class_folders(tmp_path / "train", {"red": 4, "green": 4})
    assert main(["fit", str(path), "--images", str(photos), *common]) == 0
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    capsys.readouterr()
    assert main(["classify", str(tmp_path / "noise.png"), "--head", str(path), *common]) == 0
    first, *classes = capsys.readouterr().out.splitlines()
    assert first == "not sure: unlike the training photos"
    assert len(classes) == 2
    assert main(["classify", str(tmp_path / "noise.png"), "--json", *common]) == 0
    answer = json.loads(capsys.readouterr().out)["photos"][0]
    assert (answer["unsure"], answer["distance"]) == (False, None)


def test_command__bad_photo_is_reported_and_exits_2(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = class_folders(tmp_path / "train", {"red": 1, "green": 1})
    (photos / "red" / "bad.jpg").write_bytes(b"no photo")
    path = tmp_path / "colours.head"
    assert main(["fit", str(path), "--images", str(photos), "--model", TINY, "--zoo", str(tiny_zoo)]) == 2
    out, err = capsys.readouterr()
    assert "bad.jpg" in err
    assert "accuracy: unknown" in out
    assert path.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "colours.npz", "--images", "x"], "must end in .head"),
        (["fit", "absent/colours.head", "--images", "x"], "a folder that does not exist"),
    ],
)
def test_command__mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
