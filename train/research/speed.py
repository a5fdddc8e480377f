"""`python -m train.speed`: what makes a distillation step fast, and what early exit makes of it, on this machine.

Every variant runs whole steps (augmentation, teacher, student forward and backward, optimiser, similarity) on random
photos and weights, of which the time does not depend. All variants take turns within one round; a figure is the median
over rounds of the ratio to the first variant of the same round, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from tqdm import tqdm

from train import recipe
from train.distill import Distiller, plain_attention
from train.errors import TrainError
from train.hardware import describe
from train.recipe import find_recipe, load_recipe
from train.run import commit
from train.teacher import Teacher, make_vit, normalisation

SPEED = ["variant", "images_per_second", "ratio", "ratio_low", "ratio_high", "batch", "rounds", "hardware", "commit"]
EXIT = [
    "block",
    "blocks",
    "milliseconds",
    "predicted",
    "ratio",
    "ratio_low",
    "ratio_high",
    "rounds",
    "hardware",
    "commit",
]


@dataclass(frozen=True)
class Variant:
    """One way to take the step. `augment`: as the recipe says, or its plain form with hue and blur, photo by photo."""

    name: str
    precision: str = "fp32"
    fused: bool = False
    plain_augment: bool = True
    plain_attention: bool = False  # of the student: see train.distill.plain_attention
    compile: bool = False
    batch: int = 64
    block: int | None = None  # target block; None is the last
    teacher: bool = True  # else its tokens are there already: what the student's side of a step takes


PLAIN = Variant("plain eager fp32 loop")
STEPS = [PLAIN]  # each adds one thing to the one before
STEPS += [replace(STEPS[-1], name="+ cheap augmentation", plain_augment=False)]
STEPS += [replace(STEPS[-1], name="+ fused optimiser", fused=True)]
STEPS += [replace(STEPS[-1], name="+ bf16 autocast", precision="bf16")]
STEPS += [replace(STEPS[-1], name="+ plain attention", plain_attention=True)]
FAST = STEPS[-1]  # what the trainer does on a CPU
STEPS += [
    replace(FAST, name="all that, batch 128", batch=128),
    replace(FAST, name="all that, torch.compile", compile=True),
    replace(FAST, name="all that, early exit at the middle block", block=6),
]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the two tables; exit status 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        spec = load_recipe(find_recipe(options.recipe))
    except TrainError as error:
        print(f"train.speed: {error}", file=sys.stderr)
        return 2
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="lightning")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    variants = [variant for variant in STEPS if options.compile or not variant.compile]
    for name, header, rows in (
        ("training_speed.csv", SPEED, speed(spec, variants, device, options.steps, options.rounds)),
        ("early_exit.csv", EXIT, early_exit(spec, device, options.steps, options.rounds)),
    ):
        with (options.out / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        print("\n" + "\n".join("  ".join(f"{cell!s:>12.28}" for cell in row[:-2]) for row in [header, *rows]))
    return 0


def speed(
    spec: recipe.Recipe, variants: list[Variant], device: torch.device, steps: int, rounds: int
) -> list[list[object]]:
    """Rows of SPEED: images/s of each variant, and its ratio to the first one in the same round (median, range)."""
    calls = [(_step(spec, variant, device), variant.batch) for variant in variants]
    taken = _rounds([call for call, _ in calls], device, steps, rounds)
    rates = [[batch / seconds for seconds in row] for (_, batch), row in zip(calls, taken, strict=True)]
    rows: list[list[object]] = []
    for variant, row in zip(variants, rates, strict=True):
        ratios = [rate / plain for rate, plain in zip(row, rates[0], strict=True)]
        rows.append([variant.name, f"{statistics.median(row):.1f}", *_spread(ratios), variant.batch, rounds])
    return [[*row, describe(device), commit()] for row in rows]


def early_exit(spec: recipe.Recipe, device: torch.device, steps: int, rounds: int) -> list[list[object]]:
    """Rows of EXIT: the step with target block k against (step without a teacher) + k/L (whole teacher), per round."""
    fast = replace(FAST, batch=spec.batch)
    distiller, pixels = _distiller(spec, fast, device)
    blocks = distiller.teacher.blocks
    chosen = sorted({1, *range(max(1, blocks // 4), blocks + 1, max(1, blocks // 4))})
    images = torch.randn(len(pixels), 3, spec.preprocessing.size, spec.preprocessing.size, device=device)

    def teacher() -> None:
        with _autocast(fast, device):
            distiller.teacher(images, blocks)

    steps_of = [_step(spec, replace(fast, block=block), device) for block in chosen]
    alone = _step(spec, replace(fast, teacher=False), device)
    whole, student, *taken = _rounds([teacher, alone, *steps_of], device, steps, rounds)
    rows: list[list[object]] = []
    for block, row in zip(chosen, taken, strict=True):
        predicted = [own + block / blocks * full for own, full in zip(student, whole, strict=True)]
        ratios = [seconds / other for seconds, other in zip(row, predicted, strict=True)]
        middle = [f"{1000 * statistics.median(values):.1f}" for values in (row, predicted)]
        rows.append([block, blocks, *middle, *_spread(ratios), rounds, describe(device), commit()])
    return rows


def _step(spec: recipe.Recipe, variant: Variant, device: torch.device) -> Callable[[], None]:
    """A whole training step of a variant, as the trainer takes it."""
    distiller, pixels = _distiller(spec, variant, device)
    parameters = list(distiller.trained().parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=variant.fused, foreach=False)
    distiller.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    if not variant.teacher:
        side = distiller.spec.preprocessing.size
        with _autocast(variant, device):
            tokens = distiller.teacher.at(torch.randn(variant.batch, 3, side, side, device=device), (1,))
        distiller.teacher.at = lambda images, blocks: tokens  # type: ignore[method-assign]
    if variant.compile:
        distiller.student.forward_features = torch.compile(distiller.student.forward_features)

    def step() -> None:
        with _autocast(variant, device):
            loss = distiller.training_step(pixels, 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def _distiller(spec: recipe.Recipe, variant: Variant, device: torch.device) -> tuple[Distiller, torch.Tensor]:
    augment = recipe.Augment() if variant.plain_augment else spec.augment
    spec = msgspec.structs.replace(
        spec,
        augment=augment,
        curriculum=recipe.Fixed(block=variant.block) if variant.block else recipe.Last(),
        teacher=msgspec.structs.replace(spec.teacher, checkpoint=None, pretrained=False),
    )
    vit = make_vit(spec.teacher, spec.preprocessing.size)
    distiller = Distiller(spec, Teacher(vit), *normalisation(vit), steps_per_epoch=100).to(device)
    plain_attention(distiller.student, variant.plain_attention)
    if variant.plain_augment:
        distiller.augment.GROUP = 1
    side = spec.data.store_side
    return distiller, torch.randint(0, 256, (variant.batch, side, side, 3), dtype=torch.uint8, device=device)


def _rounds(calls: list[Callable[[], None]], device: torch.device, steps: int, rounds: int) -> list[list[float]]:
    """Seconds of one call, per call and round; the calls take turns. The first round warms up and is dropped."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in tqdm(range(rounds + 1), "rounds"):
        for call, row in zip(calls, taken, strict=True):
            _wait(device)
            start = time.perf_counter()
            for _ in range(steps):
                call()
            _wait(device)
            if turn:
                row.append((time.perf_counter() - start) / steps)
    return taken


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _autocast(variant: Variant, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=variant.precision == "bf16")


def _spread(ratios: list[float]) -> list[str]:
    return [f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Give the machine nothing else to do meanwhile. Random weights: no teacher file and no photos needed.",
    )
    parser.add_argument("recipe", nargs="?", default="reference", help="recipe whose step is measured (reference)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--steps", type=int, default=3, help="steps of each variant in a round (3)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the one that warms up (5)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the two CSV files (results)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
