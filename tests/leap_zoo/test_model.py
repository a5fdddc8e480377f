"""load, classify, embed and run, through the tiny model."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo import Model, Prediction
from leap_zoo.errors import InvalidArgument, NotAnImage, UnknownHead, UnknownSpace
from leap_zoo.preprocess import batch

TINY = "leap-tiny-test"


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(tiny_zoo: Path, request: pytest.FixtureRequest) -> Model:
    return leap_zoo.load(TINY, zoo=tiny_zoo, precision=request.param, threads=1)


def test_load__takes_int8_unless_told(tiny_zoo: Path) -> None:
    assert leap_zoo.load(TINY, zoo=tiny_zoo).artifact.precision == "int8"
    model = leap_zoo.load(TINY, zoo=str(tiny_zoo), precision="fp32")
    assert model.artifact.file == "model.onnx"
    assert model.card.id == TINY
    assert model.heads == ("colours", "brightness")


def test_load__absent_precision_names_the_others(tiny_zoo: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'fp16'.*onnx fp32, onnx int8"):
        leap_zoo.load(TINY, zoo=tiny_zoo, precision="fp16")


@pytest.mark.parametrize("threads", [0, -1, 5000, True, "many"])
def test_load__bad_threads_are_refused(tiny_zoo: Path, threads: int) -> None:
    with pytest.raises(InvalidArgument, match="threads"):
        leap_zoo.load(TINY, zoo=tiny_zoo, threads=threads)


def test_load__threads_argument_beats_environment(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_ZOO_THREADS", "3")
    assert leap_zoo.load(TINY, zoo=tiny_zoo).session.threads == 3
    assert leap_zoo.load(TINY, zoo=tiny_zoo, threads=1).session.threads == 1


def test_classify__names_the_colour(model: Model, colour_photos: dict[str, Path]) -> None:
    for name, path in colour_photos.items():
        predictions = model.classify(path)
        assert predictions[0].label == name
        scores = [p.score for p in predictions]
        assert scores == sorted(scores, reverse=True)
        assert sum(p.score for p in predictions) == pytest.approx(1, abs=1e-5)
        assert all(model.card.heads[0].labels[p.index] == p.label for p in predictions)


def test_classify__one_gives_a_list_and_many_a_list_of_lists(model: Model, colour_photos: dict[str, Path]) -> None:
    path = colour_photos["blue"]
    one = model.classify(path, top=1)
    assert isinstance(one[0], Prediction)
    for source in (str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))):
        assert model.classify(source, top=1) == one
    for many in ([path], (path,), np.asarray(Image.open(path))[None]):
        assert model.classify(many, top=1) == [one]
    assert model.classify([]) == []


def test_classify__top(model: Model, colour_photos: dict[str, Path]) -> None:
    assert len(model.classify(colour_photos["red"], top=2)) == 2
    assert len(model.classify(colour_photos["red"], top=99)) == 3
    for top in (0, -1, True, 1.5, "3"):
        with pytest.raises(InvalidArgument, match="top"):
            model.classify(colour_photos["red"], top=top)  # type: ignore[arg-type]


def test_classify__another_head(model: Model) -> None:
    white, black = np.full((2, 40, 40, 3), [[[[255]]], [[[0]]]], np.uint8)
    assert model.classify(white, head="brightness")[0].label == "bright"
    assert model.classify(black, head="brightness")[0].label == "dark"
    with pytest.raises(UnknownHead, match="did you mean 'brightness'"):
        model.classify(white, head="brightnes")


def test_classify__bad_photo_among_many_says_which(model: Model, colour_photos: dict[str, Path]) -> None:
    good = colour_photos["red"]
    with pytest.raises(NotAnImage, match="image 2 of 3"):
        model.classify([good, good, b"no photo"])


def test_embed__is_unit_length_in_both_spaces(model: Model, sample_photos: list[Path]) -> None:
    for space, length in (("student", 8), ("teacher", 12)):
        one = model.embed(sample_photos[0], space=space)
        many = model.embed(sample_photos, space=space)
        assert (one.shape, one.dtype) == ((length,), np.float32)
        assert (many.shape, many.dtype) == ((2, length), np.float32)
        assert np.abs(np.linalg.norm(many, axis=1) - 1).max() < 1e-5
        assert np.abs(many[0] - one).max() < 1e-5
        assert np.abs(many[0] - many[1]).max() > 0.01
        assert model.embed([], space=space).shape == (0, length)
    with pytest.raises(UnknownSpace, match="did you mean 'teacher'"):
        model.embed(sample_photos[0], space="techer")  # type: ignore[arg-type]


def test_run__more_than_a_batch_equals_one_by_one(model: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    together = model.run(images, ["embedding", "logits_brightness"])
    assert list(together) == ["embedding", "logits_brightness"]
    for name, values in together.items():
        alone = np.concatenate([model.run(image[None], [name])[name] for image in images])
        assert np.abs(values - alone).max() < 1e-5
    assert model.run(images[:0], ["teacher_embedding"])["teacher_embedding"].shape == (0, 12)


def test_run__large_batches_reach_the_runtime_in_parts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    run = model.session.run
    monkeypatch.setattr(model.session, "run", lambda image, outputs: sizes.append(len(image)) or run(image, outputs))
    model.run(np.zeros((70, 32, 32, 3), np.uint8), ["embedding"])
    assert sizes == [32, 32, 6]


@pytest.mark.parametrize(
    ("images", "outputs"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), ["embedding"]),
        (np.zeros((1, 33, 32, 3), np.uint8), ["embedding"]),
        (np.zeros((32, 32, 3), np.uint8), ["embedding"]),
        ([[1]], ["embedding"]),
        (np.zeros((1, 32, 32, 3), np.uint8), ["embeding"]),
        (np.zeros((1, 32, 32, 3), np.uint8), []),
    ],
)
def test_run__bad_arguments_are_refused(model: Model, images: np.ndarray, outputs: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        model.run(images, outputs)


def test_model__agrees_with_preprocess_and_run(model: Model, sample_photos: list[Path]) -> None:
    tensors = batch(sample_photos, model.card.preprocessing)
    assert np.array_equal(model.embed(sample_photos), model.run(tensors, ["embedding"])["embedding"])


def test_model__is_thread_safe(model: Model, colour_photos: dict[str, Path]) -> None:
    names = list(colour_photos) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: model.classify(colour_photos[name], top=1)[0].label, names))
    assert found == names
