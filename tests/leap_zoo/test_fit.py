"""`fit`: from photos per class to a head, the choice of its kind, and how honest its accuracy is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo import CustomHead, InvalidArgument, Model
from leap_zoo.cli import main
from leap_zoo.fitting import score
from leap_zoo.fitting.classifiers import PROTOTYPES, SHRINKAGES, Candidate, candidates, train
from leap_zoo.fitting.classifiers import _logistic_regression as logistic_regression
from leap_zoo.fitting.cross_validation import choose, rounds

TINY = "leap-tiny-test"
DISCRIMINANTS = [Candidate("discriminant", shrinkage) for shrinkage in SHRINKAGES]


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


@pytest.fixture
def no_sklearn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    logistic_regression.cache_clear()
    yield
    logistic_regression.cache_clear()


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
    assert score(model, found.head, other).accuracy > 0.9
    assert model.classify(other / "green" / "50.png", head=found.head)[0].label == "green"


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
    assert copies.startswith("1 copies")


def test_score__leaves_out_what_the_head_learned_from(model: Model, tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"red": 2, "green": 2})
    found = leap_zoo.fit(model, tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    with pytest.raises(InvalidArgument, match="new to the head"):
        score(model, found.head, tmp_path / "test", learned=found.learned)
    draw(tmp_path / "test" / "red" / "new.png", 0, 77)
    judged = score(model, found.head, tmp_path / "test", learned=found.learned)
    assert (judged.n, len(judged.notes)) == (1, 1)
    assert score(model, found.head, tmp_path / "test").n == 5


@pytest.mark.parametrize("photos", [{1: [b""], 2: [b""]}, {"": [b""], "b": [b""]}, {"a": "a.jpg", "b": ["b.jpg"]}])
def test_fit__labels_are_texts_and_photos_are_lists(model: Model, photos: dict) -> None:
    with pytest.raises(InvalidArgument, match="give a label of text, and a list of photos"):
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
    head = leap_zoo.fit(model, tmp_path).head
    with pytest.raises(InvalidArgument, match="no class 'purple'"):
        score(model, head, {"purple": [tmp_path / "red" / "0.png"]})


@pytest.mark.parametrize("kind", ["prototypes", "logistic", "discriminant"])
@pytest.mark.parametrize("classes", [2, 5])
def test_train__every_kind_separates_what_is_apart(kind: str, classes: int) -> None:
    if kind == "logistic":
        pytest.importorskip("sklearn", reason="scikit-learn is the extra `fit`")
    strength = {"prototypes": None, "logistic": 100.0, "discriminant": 0.3}[kind]
    vectors, labels = clouds(8, classes, noise=0.2)
    weight, bias = train(Candidate(kind, strength), vectors, labels, classes)  # type: ignore[arg-type]
    assert (weight.shape, weight.dtype) == ((classes, 16), np.float32)
    assert (bias.shape, bias.dtype) == ((classes,), np.float32)
    others, theirs = clouds(30, classes, noise=0.2, seed=1)
    assert ((others @ weight.T + bias).argmax(axis=1) == theirs).mean() > 0.95


@pytest.mark.parametrize("classes", [2, 5])
def test_train__logistic_gives_scikit_learns_probabilities(classes: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the extra `fit`")
    vectors, labels = clouds(8, classes)
    weight, bias = train(Candidate("logistic", 10.0), vectors, labels, classes)
    expected = (
        linear.LogisticRegression(C=10.0, max_iter=1000).fit(vectors.astype(float), labels).predict_proba(vectors)
    )
    assert np.abs(leap_zoo.model.softmax(vectors @ weight.T + bias) - expected).max() < 1e-4


def test_candidates__without_scikit_learn(no_sklearn: None, model: Model, tmp_path: Path) -> None:
    assert {option.kind for option in candidates()} == {"prototypes", "discriminant"}
    found = leap_zoo.fit(model, class_folders(tmp_path, {"red": 5, "green": 5}))
    assert found.head.card.solver.startswith("numpy")
    assert "discriminant" in found.head.card.how


def test_candidates__with_scikit_learn() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is the extra `fit`")
    assert {option.kind for option in candidates()} == {"prototypes", "logistic"}


def test_choose__accuracy_on_noise_is_chance() -> None:
    """With labels that mean nothing, the best of many candidates on the same photos would look better than chance."""
    accuracies = []
    for seed in range(20):
        vectors, labels = clouds(12, 4, seed=seed)
        labels = np.random.default_rng(seed).permutation(labels)
        found = choose(vectors, labels, 4, [PROTOTYPES, *DISCRIMINANTS], seed)
        accuracies.append((found.predicted == labels[found.tested]).mean())
    assert abs(np.mean(accuracies) - 0.25) < 0.05


def test_choose__accuracy_is_that_of_new_photos() -> None:
    differences = []
    for seed in range(10):
        vectors, labels = clouds(10, 4, noise=1.5, seed=seed)
        found = choose(vectors, labels, 4, [PROTOTYPES, *DISCRIMINANTS], seed)
        weight, bias = train(found.candidate, vectors, labels, 4)
        others, theirs = clouds(200, 4, noise=1.5, seed=1000 + seed)
        new = ((others @ weight.T + bias).argmax(axis=1) == theirs).mean()
        differences.append((found.predicted == labels[found.tested]).mean() - new)
    assert -0.1 < np.mean(differences) < 0.05


@pytest.mark.parametrize("counts", [(2, 2), (1, 2), (1, 1, 9), (3, 3, 3), (1, 1, 4, 12), (40, 5)])
def test_choose__puts_every_photo_aside_once_but_the_only_one_of_its_class(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    vectors = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32)
    steps = []
    found = choose(vectors, labels, len(counts), [PROTOTYPES, *DISCRIMINANTS], step=lambda: steps.append(1))
    assert found.tested.tolist() == [i for i, label in enumerate(labels) if counts[label] > 1]
    assert len(steps) == rounds(labels)
    assert found.scale > 0


def test_choose__scores_are_probabilities() -> None:
    vectors, labels = clouds(20, 4, noise=1.5)
    found = choose(vectors, labels, 4, [PROTOTYPES, *DISCRIMINANTS])
    weight, bias = train(found.candidate, vectors, labels, 4)
    others, theirs = clouds(300, 4, noise=1.5, seed=1)
    scores = leap_zoo.model.softmax(((others @ weight.T + bias) * found.scale).astype(np.float32))
    assert abs(scores.max(axis=1).mean() - (scores.argmax(axis=1) == theirs).mean()) < 0.1


def test_command__fits_tests_and_classifies(tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_photos = class_folders(tmp_path / "train", {"red": 4, "green": 4})
    test_photos = class_folders(tmp_path / "test", {"red": 3, "green": 3}, start=70)
    common, path = ["--model", TINY, "--zoo", str(tiny_zoo)], tmp_path / "colours.head"
    arguments = ["fit", str(path), "--images", str(train_photos), "--test", str(test_photos), *common]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for expected in ("green       4      4 of 4", "cross-validated accuracy: 100.0%", "test photos", str(path)):
        assert expected in text
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["head"]["validation"]["n"] == 8
    assert found["test"]["n"] == 6
    assert (found["bad"], found["file"], found["model"]) == ({}, str(path), TINY)
    assert CustomHead.load(path).labels == ["green", "red"]
    assert main(["classify", str(test_photos / "red" / "70.png"), "--head", str(path), "--json", *common]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["head"], answer["photos"][0]["predictions"][0]["label"]) == (str(path), "red")


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
        (["fit", "absent/colours.head", "--images", "x"], "a folder that exists"),
    ],
)
def test_command__mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
