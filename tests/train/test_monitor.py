"""The monitor: what it measures, where it writes it, and that the training does not feel it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from train import clock
from train.data.store import Photos
from train.errors import TrainError
from train.evaluate import monitor
from train.evaluate.monitor import Measurement, Monitor
from train.loop import Training

SIDE, NORMALISATION = 32, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
Make = Callable[..., Training]


def photos(count: int = 60, classes: int = 3) -> Photos:
    """A strong colour per class."""
    random = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % classes
    pixels = random.integers(0, 60, (count, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[np.arange(count), ..., labels % 3] += 180
    return Photos(pixels, labels, tuple("abcdefghij"[:classes]), np.ones(count, np.float32))


def test_monitor__leaves_the_training_as_it_is(learn: Make, make_training: Make, tmp_path: Path) -> None:
    look = Monitor(photos(), NORMALISATION)
    watched = make_training()

    def after_epoch(done: int) -> None:
        look.measure(watched, done)

    with_it = learn(tmp_path / "with", after_epoch=after_epoch)
    without = learn(tmp_path / "without")
    state = without.distiller.state_dict()
    assert state
    assert all(torch.equal(value, state[key]) for key, value in with_it.distiller.state_dict().items())
    assert with_it.curriculum.history == without.curriculum.history


def test_monitor__measures_cls_and_patch_mean(make_training: Make) -> None:
    training = make_training()
    training.step = 8
    rows = Monitor(photos(), NORMALISATION).measure(training, 2)
    assert [(row.epoch, row.step, row.metric, row.n) for row in rows] == [
        (2, 8, f"10-NN, {kind}", 6) for kind in ("cls", "patch_mean")
    ]
    assert all(0 <= row.low <= row.value <= row.high <= 1 for row in rows)
    assert max(row.value for row in rows) > 0.8  # a colour per class: even a fresh student sees that


def test_monitor__measures_a_growing_student_at_its_depth(make_training: Make) -> None:
    training = make_training(curriculum={"strategy": "leap-grow", "start": 3})
    student, seen = training.distiller.student, []
    for number, block in enumerate(student.blocks, 1):
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
    Monitor(photos(), NORMALISATION).measure(training, 1)
    assert set(seen) == {1, 2, 3}


def test_monitor__gives_back_mode_and_random_state(make_training: Make) -> None:
    distiller = (training := make_training()).distiller
    before = torch.get_rng_state()
    for mode in (True, False):
        distiller.train(mode)
        Monitor(photos(), NORMALISATION).measure(training, 1)
        assert distiller.student.training is mode
    assert torch.equal(torch.get_rng_state(), before)


def test_monitor__is_no_training_time(learn: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def slow(done: int) -> None:
        now[0] += 1000

    training = learn(tmp_path, after_epoch=slow)
    assert now[0] == 2000
    assert training.clock.seconds == 0


def test_monitor__resumed_run_has_no_row_twice(tmp_path: Path) -> None:
    file = tmp_path / monitor.FILE

    def row(epoch: int, value: float) -> Measurement:
        return Measurement(epoch, 10 * epoch, "10-NN, cls", value, 100, 0.25, 0.75)

    for epoch in (1, 2, 3):
        monitor.append(file, [row(epoch, 0.5)])
    monitor.append(file, [row(2, 0.6)])  # resumed after epoch 1
    assert monitor.read(file) == [row(1, 0.5), row(2, 0.6)]
    assert [path.name for path in tmp_path.iterdir()] == [monitor.FILE]


def test_monitor__refuses_an_invalid_table(tmp_path: Path) -> None:
    file = tmp_path / monitor.FILE
    file.write_text("epoch,step\n1,zwei\n")
    with pytest.raises(TrainError, match=r"monitor\.csv is not a table of Measurement rows"):
        monitor.read(file)


def test_monitor__queries_are_a_tenth_with_its_share_of_each_class() -> None:
    labels = np.repeat(np.arange(3), (500, 300, 200)).astype(np.int64)
    queries, gallery = monitor.split(labels)
    assert np.bincount(labels[queries]).tolist() == pytest.approx([50, 30, 20], abs=1)
    assert np.bincount(labels[gallery]).tolist() == pytest.approx([450, 270, 180], abs=1)
    assert sorted(np.concatenate([queries, gallery])) == list(range(1000))
    assert all(map(np.array_equal, monitor.split(labels), (queries, gallery)))
    queries, gallery = monitor.split(np.arange(50_000) % 10)
    assert len(queries) == len(gallery) == 2000  # many photos are not all looked at


def watch(make_training: Make, folder: Path, shown: Photos, **parts: object) -> Callable[[int], None] | None:
    """What a recipe with these parts has done after its epochs."""
    training = make_training(**parts)
    return monitor.for_recipe(training.distiller.recipe, training, shown, folder, NORMALISATION)


def test_monitor__ten_times_a_run_by_default(make_training: Make, tmp_path: Path) -> None:
    after_epoch = watch(make_training, tmp_path, photos(), epochs=40)
    assert after_epoch is not None
    for done in range(1, 9):
        after_epoch(done)
    assert [row.epoch for row in monitor.read(tmp_path / monitor.FILE)] == [4, 4, 8, 8]


def test_monitor__measures_as_often_as_the_recipe_says_and_at_the_end(make_training: Make, tmp_path: Path) -> None:
    after_epoch = watch(make_training, tmp_path, photos(), monitor=3, epochs=7)
    assert after_epoch is not None
    for done in range(1, 8):
        after_epoch(done)
    assert [row.epoch for row in monitor.read(tmp_path / monitor.FILE)] == [3, 3, 6, 6, 7, 7]


def test_monitor__is_off_where_the_recipe_says_so_or_photos_do_not_allow_it(
    make_training: Make, tmp_path: Path
) -> None:
    whole = photos()
    no_labels = Photos(whole.pixels, np.full(len(whole), -1), (), whole.aspect)
    one_class = Photos(whole.pixels, np.zeros(len(whole), np.int64), ("a",), whole.aspect)
    assert watch(make_training, tmp_path, whole, monitor=0) is None
    for poor in (no_labels, one_class, photos(count=19)):
        assert watch(make_training, tmp_path, poor) is None
