"""The monitor: what it measures, where it writes it, and that the training does not feel it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from train import monitor
from train.data import Photos
from train.distill import Distiller
from train.errors import TrainError
from train.fit import distil
from train.monitor import Measurement, Monitor
from train.recipe import Recipe, load_recipe, save_recipe

SIDE = 32
Make = Callable[..., Distiller]


def photos(side: int, count: int = 60, classes: int = 3) -> Photos:
    random = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % classes
    pixels = random.integers(0, 60, (count, side, side, 3), dtype=np.uint8)
    pixels[np.arange(count), ..., labels % 3] += 180  # a colour per class
    return Photos(pixels, labels, tuple("abcdefghij"[:classes]))


def train(make_distiller: Make, folder: Path, *, watched: bool) -> Distiller:
    distiller = make_distiller(steps_per_epoch=4)
    watch = [Monitor(photos(SIDE), folder / monitor.FILE, every=1)] if watched else []
    distil(distiller, photos(40), folder, resume=False, callbacks=watch)
    return distiller


@pytest.fixture
def recipe(tree: Callable[[], dict]) -> Recipe:
    return msgspec.convert(tree(), Recipe)


def test_monitor__leaves_the_training_as_it_is(make_distiller: Make, tmp_path: Path) -> None:
    with_it = train(make_distiller, tmp_path / "with", watched=True)
    without = train(make_distiller, tmp_path / "without", watched=False)
    state = without.state_dict()
    assert state
    assert all(torch.equal(value, state[key]) for key, value in with_it.state_dict().items())
    assert with_it.curriculum.history == without.curriculum.history
    assert not (tmp_path / "without" / monitor.FILE).exists()


def test_monitor__measures_cls_and_patch_mean_after_each_epoch(make_distiller: Make, tmp_path: Path) -> None:
    train(make_distiller, tmp_path, watched=True)
    rows = monitor.read(tmp_path / monitor.FILE)
    assert [(row.epoch, row.step, row.metric, row.n) for row in rows] == [
        (epoch, 4 * epoch, f"10-NN, {kind}", 6) for epoch in (1, 2) for kind in ("cls", "patch_mean")
    ]
    assert all(0 <= row.low <= row.value <= row.high <= 1 for row in rows)
    assert max(row.value for row in rows) > 0.8  # a colour per class: even a fresh student sees that


def test_monitor__gives_back_mode_and_random_state(make_distiller: Make, tmp_path: Path) -> None:
    distiller = make_distiller()
    before = torch.get_rng_state()
    for mode in (True, False):
        distiller.student.train(mode)
        Monitor(photos(SIDE), tmp_path / monitor.FILE, every=1).measure(distiller, 1)
        assert distiller.student.training is mode
    assert torch.equal(torch.get_rng_state(), before)


def test_monitor__is_no_training_time(make_distiller: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Monitor.measure

    def slow(self: Monitor, module: Distiller, epoch: int) -> list[Measurement]:
        time.sleep(1.0)
        return measure(self, module, epoch)

    monkeypatch.setattr(Monitor, "measure", slow)
    start = time.perf_counter()
    distiller = train(make_distiller, tmp_path, watched=True)
    assert 0 < distiller.clock.seconds <= time.perf_counter() - start - 2.0


def test_monitor__resumed_run_has_no_row_twice(tmp_path: Path) -> None:
    file = tmp_path / monitor.FILE

    def row(epoch: int, value: float) -> Measurement:
        return Measurement(epoch, 10 * epoch, "10-NN, cls", value, 100, value - 0.05, value + 0.05)

    for epoch in (1, 2, 3):
        monitor.append(file, [row(epoch, 0.5)])
    monitor.append(file, [row(2, 0.6)])  # resumed after epoch 1
    assert monitor.read(file) == [row(1, 0.5), row(2, 0.6)]
    assert [path.name for path in tmp_path.iterdir()] == [monitor.FILE]


def test_monitor__says_when_the_file_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / monitor.FILE
    file.write_text("epoch,step\n1,zwei\n")
    with pytest.raises(TrainError, match=r"monitor\.csv was not written by the monitor .* move it away"):
        monitor.read(file)


def test_monitor__queries_are_a_tenth_with_its_share_of_each_class() -> None:
    labels = np.repeat(np.arange(3), (500, 300, 200)).astype(np.int64)
    queries, gallery = monitor.split(labels)
    assert np.bincount(labels[queries]).tolist() == pytest.approx([50, 30, 20], abs=1)
    assert np.bincount(labels[gallery]).tolist() == pytest.approx([450, 270, 180], abs=1)
    assert sorted(np.concatenate([queries, gallery])) == list(range(1000))
    assert all(map(np.array_equal, monitor.split(labels), (queries, gallery)))


def test_monitor__many_photos_are_not_all_looked_at() -> None:
    queries, gallery = monitor.split(np.arange(50_000) % 10)
    assert len(queries) == len(gallery) == 2000
    assert not set(queries) & set(gallery)
    assert np.bincount(gallery % 10).tolist() == pytest.approx([200] * 10, abs=2)


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (4, 1), (12, 1), (40, 4), (100, 10)])
def test_monitor__ten_times_a_run_by_default(recipe: Recipe, tmp_path: Path, epochs: int, every: int) -> None:
    (watch,) = monitor.for_recipe(msgspec.structs.replace(recipe, epochs=epochs), photos(SIDE), tmp_path)
    assert watch.every == every


def test_monitor__recipe_chooses(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    save_recipe(recipe, path)
    (watch,) = monitor.for_recipe(load_recipe(path, ["monitor=3"]), photos(SIDE), tmp_path)
    assert watch.every == 3
    assert monitor.for_recipe(load_recipe(path, ["monitor=0"]), photos(SIDE), tmp_path) == []
    with pytest.raises(TrainError, match="monitor"):
        load_recipe(path, ["monitor=-1"])


def test_monitor__silently_off_without_labels_or_with_too_little_to_tell(recipe: Recipe, tmp_path: Path) -> None:
    whole = photos(SIDE)
    no_labels = Photos(whole.pixels, np.full(len(whole), -1), ())
    one_class = Photos(whole.pixels, np.zeros(len(whole), np.int64), ("a",))
    for poor in (no_labels, one_class, photos(SIDE, count=19)):
        assert monitor.for_recipe(recipe, poor, tmp_path) == []
