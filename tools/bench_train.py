"""`python -m tools.bench_train`: what a distillation step costs here, and what early exit makes of it.

Every variant takes whole steps (augmentation, teacher, student forward and backward, similarity, optimizer) on random
photos and weights; neither matters to the time. The variants take turns, and a ratio is of two in the same round.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from tools.turns import ratios, row, take_turns
from train import recipe
from train.data.augment import Augmenter
from train.errors import TrainError
from train.loop import make_optimizer
from train.method import curriculum
from train.method.distiller import Distiller
from train.method.student import plain_attention
from train.method.teacher import Teacher, make_vit, normalisation
from train.processes import usable
from train.recipe import Recipe
from train.recipe_file import find_recipe, load_recipe
from train.research.results import Result, write_results


@dataclass(frozen=True)
class Variant:
    """One way to take the step; the target is the last block unless `block` says otherwise."""

    name: str
    bf16: bool = True
    plain: bool = True  # the attention: see train.method.student.plain_attention
    compiled: bool = False
    block: int | None = None
    grown: bool = False  # the student runs no deeper than the target


PLAIN = Variant("plain eager fp32 step", bf16=False, plain=False)
FAST = replace(PLAIN, name="plain attention, fp32", plain=True)
VARIANTS = (
    PLAIN,
    FAST,
    replace(PLAIN, name="bf16 autocast", bf16=True),
    replace(FAST, name="plain attention, bf16", bf16=True),
    replace(FAST, name="plain attention, fp32, torch.compile", compiled=True),
)


def variants() -> list[Variant]:
    """VARIANTS, without bf16 where the processor would emulate it."""
    return [variant for variant in VARIANTS if not variant.bf16 or usable("bf16") == "bf16"]


def early_exits(blocks: int, *, plain: bool) -> list[Variant]:
    """The step at the last block, then with targets down to the first, the student whole and grown to the target."""
    bf16 = usable("bf16") == "bf16"
    depths = sorted({1, blocks, *range(max(1, blocks // 4), blocks, max(1, blocks // 4))}, reverse=True)
    return [
        Variant(f"block {block} of {blocks}, {kind} student", bf16, plain, block=block, grown=kind == "grown")
        for kind in ("whole", "grown")
        for block in depths
    ]


def compare(spec: Recipe, variants: Sequence[Variant], device: torch.device, rounds: int) -> list[Result]:
    """Seconds of a step of each variant, and its speed over that of the first in the same round."""
    taken = take_turns([make_step(spec, variant, device) for variant in variants], device, rounds)
    rows, about = [], f"batch {spec.batch}"
    for variant, seconds in zip(variants, taken, strict=True):
        rows.append(row(device, variant.name, "seconds of a step", seconds, about))
        rows.append(row(device, variant.name, f"speed over {variants[0].name}", ratios(taken[0], seconds), about))
    return rows


def make_step(spec: Recipe, variant: Variant, device: torch.device) -> Callable[[], None]:
    """A whole training step of a variant, as the loop takes it, on random weights and one random batch."""
    target = recipe.FixedSettings(block=variant.block) if variant.block else recipe.LastSettings()
    spec = msgspec.structs.replace(
        spec,
        curriculum=recipe.LeapGrowSettings(start=variant.block or 1) if variant.grown else target,
        optimizer=msgspec.structs.replace(spec.optimizer, decay="cosine"),
        student=msgspec.structs.replace(spec.student, init="random"),
        precision="bf16" if variant.bf16 else "fp32",
    )
    teacher = _teacher(spec, device)
    plan = curriculum.make(spec.curriculum, teacher.blocks, steps_per_epoch=100, epochs=spec.epochs)
    distiller = Distiller(spec, teacher, plan).to(device)
    optimizer = make_optimizer(spec, distiller)
    vits: tuple[Any, ...] = (distiller.student, teacher.vit)
    for vit in vits:
        plain_attention(vit, variant.plain)
        if variant.compiled:
            vit.forward_intermediates = torch.compile(vit.forward_intermediates)
    augment = Augmenter(spec.augment, spec.view_pixels, spec.seed, *normalisation(teacher.vit))
    views = (first + np.arange(spec.batch) for first in itertools.count(step=spec.batch))
    targets, parameters = plan.targets, list(distiller.parameters())
    shape = (spec.batch, spec.data.store_side, spec.data.store_side, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    aspect = torch.ones(spec.batch)

    def step() -> None:
        images = augment(pixels, aspect, next(views))  # (B, 3, size, size)
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16):
            loss, _ = distiller(images, teacher.at(images, targets), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, spec.optimizer.clip or torch.inf)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _teacher(spec: Recipe, device: torch.device) -> Teacher:
    untrained = msgspec.structs.replace(spec.teacher, checkpoint=None, pretrained=False, supervised=None)
    return Teacher(make_vit(untrained, spec.preprocessing.size)).to(device)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the two tables; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_train", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("recipe", nargs="?", default="nano", help="recipe whose step is measured (nano)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds after the one that warms up (6)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the two CSV files (results)")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        spec = load_recipe(find_recipe(options.recipe))
        exits = early_exits(_teacher(spec, device).blocks, plain=device.type == "cpu")
        write_results(options.out / "training_speed.csv", compare(spec, variants(), device, options.rounds))
        write_results(options.out / "early_exit.csv", compare(spec, exits, device, options.rounds))
    except TrainError as error:
        print(f"bench_train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
