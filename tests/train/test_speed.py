"""The measuring commands on small recipes: what they write, and what their rows mean. No test looks at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from train.data.augment import Augmenter
from train.method.distiller import Distiller
from train.recipe import Recipe
from train.recipe_file import save_recipe
from train.research import data_speed, speed, turns
from train.research.results import read_results
from train.research.store_memory import STATUS, Memory, open_made, pass_over
from train.run import RunReport, write_json

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still but for the seconds that a test passes."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    return spend


def test_turns__drop_the_first_round_and_count_one_call(clock: Callable[[float], None]) -> None:
    order: list[str] = []
    slow = itertools.chain([100.0, 100.0], itertools.repeat(3.0))  # the round that warms up

    def one() -> None:
        order.append("one")
        clock(next(slow))

    def other() -> None:
        order.append("other")
        clock(0.5)

    assert turns.take_turns([one, other], CPU, repeats=2, rounds=2) == [[3.0, 3.0], [0.5, 0.5]]
    assert order == ["one", "one", "other", "other"] * 3


def test_row__has_the_median_and_the_range_of_its_rounds() -> None:
    row = turns.row(CPU, "this", "ratio", turns.ratios([4.0, 2.0, 9.0], [2.0, 2.0, 3.0]))
    assert (row.value, row.low, row.high, row.n) == (2.0, 1.0, 3.0, 3)
    assert "CPU threads" in row.hardware


def test_variants__add_one_thing_at_a_time() -> None:
    plain, fused, bf16, attention, *others = speed.variants(12)
    assert (plain.fused, plain.bf16, plain.plain) == (False, False, False)
    assert (fused.fused, fused.bf16, fused.plain) == (True, False, False)
    assert (bf16.fused, bf16.bf16, bf16.plain) == (True, True, False)
    assert (attention.fused, attention.bf16, attention.plain) == (True, True, True)
    assert [(one.compiled, one.block, one.grown) for one in others] == [
        (False, None, False),
        (True, None, False),
        (False, 6, False),
        (False, 6, True),
    ]
    assert not any(one.compiled for one in speed.variants(12, compiled=False))


@pytest.mark.parametrize(("grown", "depth"), [(False, 12), (True, 3)])
def test_step__runs_no_block_that_it_need_not(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, grown: bool, depth: int
) -> None:
    seen = []
    forward = Distiller.forward

    def watched(self: Distiller, images: torch.Tensor, tokens: list, targets: tuple[int, ...]) -> object:
        seen.append((targets, self.depth(targets[-1]), images.shape))
        return forward(self, images, tokens, targets)

    monkeypatch.setattr(Distiller, "forward", watched)
    step = speed.make_step(make_recipe(), speed.Variant("", batch=2, block=3, grown=grown), CPU)
    step(torch.zeros(2, 40, 40, 3, dtype=torch.uint8), torch.ones(2))
    assert seen == [((3,), depth, (2, 3, 32, 32))]


def test_command__writes_speed_and_early_exit(tmp_path: Path, tiny_recipe: Path) -> None:
    words = ["--steps", "1", "--rounds", "1", "--no-compile", "--device", "cpu", "--out", str(tmp_path)]
    assert speed.main([str(tiny_recipe), *words]) == 0
    rows = read_results(tmp_path / "training_speed.csv")
    assert len(rows) == 2 * len(speed.variants(2, compiled=False))
    rates = {row.subject: row.value for row in rows if row.metric == "images per second"}
    plain = rates["plain eager fp32 step"]
    for row in rows:
        if row.metric == "speed over that of the plain eager fp32 step":
            assert row.value == pytest.approx(rates[row.subject] / plain, rel=1e-3)
    rows = read_results(tmp_path / "early_exit.csv")
    kinds = ("whole student", "student grown to the block")
    assert list(dict.fromkeys((row.variant, row.subject) for row in rows)) == [
        (kind, f"block {block} of 2") for kind in kinds for block in (1, 2)
    ]


def test_command__names_an_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["refrence"]) == 2
    assert "did you mean `reference`" in capsys.readouterr().err


@pytest.fixture
def tiny_recipe(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """The file of a recipe with a teacher of two blocks."""
    options = {"patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 2, "num_classes": 3}
    save_recipe(make_recipe(teacher={"options": options}, batch=2), tmp_path / "tiny.yaml")
    return tmp_path / "tiny.yaml"


def test_peer__does_what_the_augmentation_does(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(augment={"scale": [1.0, 1.0], "flip": 1.0, "jitter": 0.0, "grey": 1.0, "mix": False})
    photos = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    peer = data_speed.torchvision_peer(recipe)
    theirs = torch.stack([peer(photo) for photo in photos])
    augment = Augmenter(recipe.augment, 32, 0, data_speed.MEAN, data_speed.STD)
    ours = augment(photos.permute(0, 2, 3, 1), torch.ones(2), 0)
    assert ours.shape == theirs.shape == (2, 3, 32, 32)
    assert float((ours - theirs).abs().mean()) < 0.15  # of a deviation; the two resize by different filters


@pytest.mark.skipif(not STATUS.is_file(), reason="needs /proc")
def test_memory__of_a_pass_is_counted_by_the_kernel(tmp_path: Path) -> None:
    photos = open_made(40, 32, tmp_path)
    assert photos.pixels.shape == (40, 32, 32, 3)
    found = pass_over(photos, batch=8)
    assert 0 < found.anonymous_before <= found.anonymous_peak <= found.peak
    assert found.before <= found.peak


def test_memory__is_told_over_the_store_and_over_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store, batch = 1000 * 3 * 16 * 16, 10 * 3 * 16 * 16
    told = msgspec.json.encode(Memory(before=5, peak=2 * store, anonymous_before=100, anonymous_peak=100 + 3 * batch))
    monkeypatch.setattr(data_speed.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": told}))
    values = {row.metric: row.value for row in data_speed.memory(1000, 16, 10, tmp_path)}
    assert values["peak resident memory over the size of the store"] == 2
    assert values["anonymous memory that the pass added, over that of a batch"] == 3


def test_data_command__writes_every_figure(photo_folders: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    words = ["--recipe", str(tiny_recipe), "--stored", "40", "--side", "40", "--steps", "2", "--rounds", "1"]
    assert data_speed.main([str(photo_folders / "val"), *words, "--most", "5", "--out", str(tmp_path)]) == 0
    rows = read_results(tmp_path / "data_speed.csv")
    subjects = {row.subject for row in rows}
    assert {"decoding into a store", "train.data.augment.Augmenter", "torchvision v2, photo by photo"} <= subjects
    assert any("a pass over a store" in subject for subject in subjects) == STATUS.is_file()
    (waiting,) = [row for row in rows if row.metric == "share of the time waiting for photos"]
    assert waiting.variant == "2 steps, 0 workers"
    assert np.isfinite([row.value for row in rows]).all()


def test_data_command__takes_the_waiting_of_a_run(tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(tiny_recipe.read_text())
    words = ["--recipe", str(tiny_recipe), "--stored", "8", "--side", "40", "--rounds", "1", "--run", str(tmp_path)]
    assert data_speed.main([*words, "--out", str(tmp_path)]) == 2  # not finished
    cost = {"teacher_flops": 1.0, "total_flops": 1.0, "teacher_flops_saved": 0.0, "total_flops_saved": 0.0}
    about = {"commit": "abc", "hardware": "there", "versions": {}}
    speed_of = {"train_photos": 8, "train_seconds": 9.0, "images_per_second": 8.0, "data_wait": 0.25}
    report = RunReport(
        name="leap-tiny",
        strategy="leap",
        epochs=2,
        seed=0,
        metrics=[],
        teacher_metrics=[],
        **cost,
        **about,  # type: ignore[arg-type]
        **speed_of,  # type: ignore[arg-type]
    )
    write_json(tmp_path / "metrics.json", report)
    assert [(row.value, row.hardware) for row in data_speed.waiting_of_run(tmp_path)] == [(0.25, "there")]
