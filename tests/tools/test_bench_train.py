"""The measuring commands on a small recipe: what they do and write. No test looks at a time."""

from __future__ import annotations

import itertools
import multiprocessing.dummy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("timm", reason="needs the extra: pip install leap-zoo[train]")

from tools import bench_data, bench_train, turns
from train.data.augment import Augmenter
from train.method.distiller import Distiller
from train.recipe import Recipe
from train.recipe_file import find_recipe, load_recipe, save_recipe
from train.research.results import read_results

CPU = torch.device("cpu")
SHALLOW = "teacher.options={patch_size: 8, embed_dim: 64, num_heads: 2, depth: 2}"


def recipe(*overrides: str) -> Recipe:
    return load_recipe(find_recipe("digits"), ["batch=2", SHALLOW, *overrides])


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    save_recipe(recipe(), tmp_path / "tiny.yaml")
    return str(tmp_path / "tiny.yaml")


def test_turns__drop_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def call(name: str, seconds: itertools.chain) -> Callable[[], None]:
        def spend() -> None:
            order.append(name)
            now[0] += next(seconds)

        return spend

    slow, fast = itertools.chain([100.0], itertools.repeat(3.0)), itertools.chain(itertools.repeat(0.5))
    assert turns.take_turns([call("slow", slow), call("fast", fast)], CPU, rounds=2) == [[3.0, 3.0], [0.5, 0.5]]
    assert order == ["slow", "fast"] * 3


def test_row__has_the_median_and_the_range_of_its_rounds() -> None:
    row = turns.row(CPU, "this", "ratio", turns.ratios([4.0, 2.0, 9.0], [2.0, 2.0, 3.0]))
    assert (row.value, row.low, row.high, row.n) == (2.0, 1.0, 3.0, 3)
    assert "CPU threads" in row.hardware


@pytest.mark.parametrize(("grown", "depth"), [(False, 12), (True, 6)])
def test_step__runs_no_block_that_it_need_not(monkeypatch: pytest.MonkeyPatch, grown: bool, depth: int) -> None:
    seen = []
    forward = Distiller.forward

    def watched(self: Distiller, images: torch.Tensor, tokens: list, targets: tuple[int, ...]) -> object:
        seen.append((targets, self.depth(targets[-1]), images.shape))
        return forward(self, images, tokens, targets)

    monkeypatch.setattr(Distiller, "forward", watched)
    bench_train.make_step(recipe(), bench_train.Variant("", block=1, grown=grown), CPU)()
    assert seen == [((1,), depth, (2, 3, 32, 32))]


def test_bench_train__writes_speed_and_early_exit(
    recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_train, "VARIANTS", bench_train.VARIANTS[:-1])  # to compile takes a minute
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_train.main([recipe_file, "--rounds", "1", "--out", str(tmp_path)]) == 0
    rows = read_results(tmp_path / "training_speed.csv")
    seconds = {row.subject: row.value for row in rows if row.metric == "seconds of a step"}
    assert list(seconds) == [variant.name for variant in bench_train.variants()]
    for row in rows:
        if row.metric == "speed over plain eager fp32 step":
            assert row.value == pytest.approx(seconds["plain eager fp32 step"] / seconds[row.subject], rel=1e-2)
    assert list(dict.fromkeys(row.subject for row in read_results(tmp_path / "early_exit.csv"))) == [
        f"block {block} of 2, {kind} student" for kind in ("whole", "grown") for block in (2, 1)
    ]


@pytest.mark.parametrize("tool", [bench_train, bench_data])
def test_tool__names_an_unknown_recipe(tool: object, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["refrence"] if tool is bench_train else ["--recipe", "refrence"]
    assert tool.main(words) == 2  # type: ignore[attr-defined]
    assert "did you mean 'reference'" in capsys.readouterr().err


def test_peer__does_what_the_augmentation_does() -> None:
    spec = recipe("augment={scale: [1.0, 1.0], flip: 1.0, jitter: 0.0, grey: 1.0, mix: false}")
    photos = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    peer = bench_data.torchvision_peer(spec)
    theirs = torch.stack([peer(photo) for photo in photos])
    augment = Augmenter(spec.augment, 32, 0, bench_data.MEAN, bench_data.STD)
    ours = augment(photos.permute(0, 2, 3, 1), torch.ones(2), np.arange(2))
    assert ours.shape == theirs.shape == (2, 3, 32, 32)
    assert float((ours - theirs).abs().mean()) < 0.15  # of a deviation; the two resize by different filters


def test_bench_data__writes_every_figure(recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # A thread in place of a process, which would import torch.
    monkeypatch.setattr(bench_data.multiprocessing, "get_context", lambda _: multiprocessing.dummy)
    photo = np.zeros((44, 48, 3), np.uint8)
    for number in range(3):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    words = [str(tmp_path), "--recipe", recipe_file, "--stored", "40", "--out", str(tmp_path)]
    assert bench_data.main(words) == 0
    values = {row.metric: row.value for row in read_results(tmp_path / "data_speed.csv")}
    assert values["photos per second of CPU time (per core)"] > 0
    assert values["speed over torchvision v2, photo by photo"] > 0
    assert 0 <= values["share of the time waiting for photos"] <= 1
    assert ("memory over that of a batch" in values) == bench_data.STATUS.is_file()
