"""Whether the teacher's classifier is worth shipping in a student's files: on photos that nobody learned from."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from export.errors import ExportError
from leap_zoo.card import DEAD_HEAD, GENERAL, Metric
from train.evaluate.datasets import Dataset
from train.evaluate.features import Candidate, Features, from_run, of_run, teachers_of
from train.evaluate.survey import Cache, Plan, evaluate
from train.run import Run


def without_dead_head(run: Run, folder: Path, world: Dataset, cache: Cache) -> tuple[Run, Metric | None]:
    """The run without the teacher's head where the student makes too little of it, and then its top-1 for the card.

    world: photos with labels among the head's 1000 classes. The head is dead when its top-1 (0..1) is less than
    DEAD_HEAD times the teacher's, given photos of the size that is best for the teacher. Raises ExportError without
    such a head, TrainError for photos or a teacher that are not there.
    """
    name = str(run.recipe.teacher.head)
    if not any(head.name == name and len(head.labels) == 1000 for head in run.info.heads):
        raise ExportError("--world measures the teacher's head of 1000 classes, which this run does not have")
    student = replace(from_run(run, folder), open=partial(_features, run, name), classifies=True)
    teacher = teachers_of([], msgspec.structs.replace(run.recipe.teacher, pixels=None))[0]
    ours, theirs = (_top1(candidate, world, cache) for candidate in (student, teacher))
    print(f"{name} on {world.name}: {ours.value:.1%} of {ours.n} photos right, the teacher {theirs.value:.1%}")
    if ours.value >= DEAD_HEAD * theirs.value:
        return run, None
    print(f"{name} is left out of the files: less than {DEAD_HEAD:.0%} of what the teacher reaches")
    heads = [head for head in run.info.heads if head.name != name]
    if not heads:
        raise ExportError(f"no head is left without {name}: set data.head to have a probe")
    info = msgspec.structs.replace(run.info, heads=heads, default_head=heads[0].name)
    tensors = {key: tensor for key, tensor in run.tensors.items() if not key.startswith(f"heads.{name}.")}
    return msgspec.structs.replace(run, info=info, tensors=tensors), ours


def _top1(candidate: Candidate, world: Dataset, cache: Cache) -> Metric:
    metrics, _ = evaluate(candidate, Plan([], world=[world]), cache)
    return next(metric for metric in metrics if metric.name == GENERAL)


def _features(run: Run, head: str) -> Features:
    """What the run's student says, with `logits` by its own copy of the teacher's head."""
    features = of_run(run)
    weight, bias = (run.tensors[f"heads.{head}.{key}"] for key in ("weight", "bias"))

    def found(pixels: Tensor) -> dict[str, Tensor]:
        answers = features(pixels)
        with torch.no_grad():
            return {**answers, "logits": functional.linear(answers["teacher"].cpu(), weight, bias)}

    return found
