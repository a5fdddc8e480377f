"""`python -m train.research.speed`: what makes a distillation step fast, and what early exit makes of it, here.

Every variant runs whole steps (augmentation, teacher, student forward and backward, similarity, optimiser) on random
photos and weights; neither matters to the time. All variants take turns within a round, and a ratio is of two
variants in the same round, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from train import recipe
from train.data.augment import Augmenter
from train.errors import TrainError
from train.loop import make_optimizer
from train.method import curriculum
from train.method.distiller import Distiller
from train.method.student import plain_attention
from train.method.teacher import Teacher, make_vit, normalisation
from train.recipe import Recipe
from train.recipe_file import find_recipe, load_recipe
from train.research.results import Result, write_results
from train.research.turns import ratios, row, show, take_turns

Step = Callable[[Tensor, Tensor], None]  # pixels uint8 (B, side, side, 3) and aspect ratios (B,), as a loader has them


@dataclass(frozen=True)
class Variant:
    """One way to take the step."""

    name: str
    fused: bool = False  # the optimiser
    bf16: bool = False
    plain: bool = False  # the attention: see train.method.student.plain_attention
    compiled: bool = False
    batch: int = 64
    block: int | None = None  # the target; None is the last
    grown: bool = False  # the student runs no deeper than the target
    teacher: bool = True  # else its tokens are there already: what the student's side of a step takes


def variants(blocks: int, *, compiled: bool = True) -> list[Variant]:
    """The plain step; each of the next three adds one thing to the one before; the others change the last of them."""
    steps = [Variant("plain eager fp32 step")]
    steps += [replace(steps[-1], name="+ fused optimiser", fused=True)]
    steps += [replace(steps[-1], name="+ bf16 autocast", bf16=True)]
    steps += [replace(steps[-1], name="+ plain attention", plain=True)]
    fast, middle = steps[-1], max(1, blocks // 2)
    steps += [replace(fast, name="all that, batch 128", batch=128)]
    steps += [replace(fast, name="all that, torch.compile", compiled=True)] * compiled
    steps += [replace(fast, name="all that, early exit at the middle block", block=middle)]
    return [*steps, replace(fast, name="all that, student grown to the middle block", block=middle, grown=True)]


def speed(spec: Recipe, chosen: list[Variant], device: torch.device, repeats: int, rounds: int) -> list[Result]:
    """Images/s of each variant, and the ratio to the first variant of the same round."""
    taken = take_turns([_call(spec, variant, device) for variant in chosen], device, repeats, rounds)
    rates = [[one.batch / seconds for seconds in row] for one, row in zip(chosen, taken, strict=True)]
    rows = []
    for variant, rate in zip(chosen, rates, strict=True):
        about = f"batch {variant.batch}"
        rows.append(row(device, variant.name, "images per second", rate, about))
        rows.append(
            row(device, variant.name, f"speed over that of the {chosen[0].name}", ratios(rate, rates[0]), about)
        )
    return rows


def early_exit(spec: Recipe, device: torch.device, repeats: int, rounds: int) -> list[Result]:
    """The step with target block k beside its prediction, with the whole student and with one grown to block k.

    The prediction is (step without a teacher) + k/L (whole teacher). The grown student's step without a teacher lies on
    the line between those of one block and of all.
    """
    fast = Variant("", fused=True, bf16=True, plain=device.type == "cpu", batch=spec.batch)
    teacher = Teacher(make_vit(_untrained(spec.teacher), spec.preprocessing.size)).to(device)
    plain_attention(teacher.vit, fast.plain)
    side, blocks = spec.preprocessing.size, teacher.blocks
    images = torch.randn(spec.batch, 3, side, side, device=device)

    def whole_teacher() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            teacher(images, blocks)

    stride = max(1, blocks // 4)
    depths = sorted({1, *range(stride, blocks + 1, stride)})
    asked = list(itertools.product((False, True), depths))
    alone = [replace(fast, block=block, grown=True, teacher=False) for block in (1, blocks)]
    steps = alone + [replace(fast, block=block, grown=grown) for grown, block in asked]
    whole, first, last, *taken = take_turns(
        [whole_teacher, *(_call(spec, variant, device) for variant in steps)], device, repeats, rounds
    )
    rows = []
    for (grown, block), seconds in zip(asked, taken, strict=True):
        depth = (block - 1) / max(1, blocks - 1) if grown else 1.0
        predicted = [a + depth * (b - a) + block / blocks * c for a, b, c in zip(first, last, whole, strict=True)]
        name, about = f"block {block} of {blocks}", "student grown to the block" if grown else "whole student"
        rows.append(row(device, name, "seconds of a step", seconds, about))
        rows.append(row(device, name, "step over its prediction", ratios(seconds, predicted), about))
    return rows


def make_step(spec: Recipe, variant: Variant, device: torch.device) -> Step:
    """A whole training step of a variant, as the loop takes it, on random weights."""
    target = recipe.Fixed(block=variant.block) if variant.block else recipe.Last()
    spec = msgspec.structs.replace(
        spec,
        curriculum=recipe.LeapGrow(start=variant.block or 1) if variant.grown else target,
        optimizer=msgspec.structs.replace(spec.optimizer, decay="cosine"),
        student=msgspec.structs.replace(spec.student, init="random"),
        precision="bf16" if variant.bf16 else "fp32",
    )
    teacher = Teacher(make_vit(_untrained(spec.teacher), spec.preprocessing.size)).to(device)
    plan = curriculum.make(spec.curriculum, teacher.blocks, steps_per_epoch=100, epochs=spec.epochs)
    distiller = Distiller(spec, teacher, plan).to(device)
    optimizer = make_optimizer(spec, distiller)
    augment = Augmenter(spec.augment, spec.preprocessing.size, spec.seed, *normalisation(teacher.vit))
    numbers, targets, parameters = itertools.count(), plan.targets, list(distiller.parameters())
    vits: tuple[Any, ...] = (distiller.student, teacher.vit)
    for vit in vits:
        plain_attention(vit, variant.plain)
        if variant.compiled:
            vit.forward_intermediates = torch.compile(vit.forward_intermediates)
    for group in optimizer.param_groups:
        group["fused"] = variant.fused
    side = spec.preprocessing.size
    ready = None if variant.teacher else teacher.at(torch.randn(variant.batch, 3, side, side, device=device), targets)

    def step(pixels: Tensor, aspect: Tensor) -> None:
        images = augment(pixels.to(device, non_blocking=True), aspect, next(numbers))
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16):
            loss, _ = distiller(images, ready or teacher.at(images, targets), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, spec.optimizer.clip or torch.inf)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _call(spec: Recipe, variant: Variant, device: torch.device) -> Callable[[], None]:
    shape = (variant.batch, spec.data.store_side, spec.data.store_side, 3)
    pixels, aspect = torch.randint(0, 256, shape, dtype=torch.uint8, device=device), torch.ones(variant.batch)
    step = make_step(spec, variant, device)
    return lambda: step(pixels, aspect)


def _untrained(spec: recipe.Teacher) -> recipe.Teacher:
    return msgspec.structs.replace(spec, checkpoint=None, pretrained=False, supervised=None)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the two tables; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m train.research.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Give the machine nothing else to do meanwhile. Random weights: no teacher file and no photos needed.",
    )
    add = parser.add_argument
    add("recipe", nargs="?", default="reference", help="recipe whose step is measured (reference)")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--steps", type=int, default=3, help="steps of each variant in a round (3)")
    add("--rounds", type=int, default=6, help="rounds after the one that warms up (6)")
    add("--no-compile", dest="compiled", action="store_false", help="leave torch.compile out")
    add("--out", type=Path, default=Path("results"), help="folder for the two CSV files (results)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        spec = load_recipe(find_recipe(options.recipe))
        blocks = Teacher(make_vit(_untrained(spec.teacher), spec.preprocessing.size)).blocks
        chosen = variants(blocks, compiled=options.compiled)
        for name, rows in (
            ("training_speed.csv", speed(spec, chosen, device, options.steps, options.rounds)),
            ("early_exit.csv", early_exit(spec, device, options.steps, options.rounds)),
        ):
            show(rows)
            write_results(options.out / name, rows)
    except TrainError as error:
        print(f"train.research.speed: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
