"""Photos beyond a run's own: they decide whether its files include the teacher's classifier, and when to doubt it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.doubt import MorePhotos, decoded, kept_aside
from export.errors import ExportError
from leap_zoo.card import DEAD_HEAD, GENERAL, Metric
from train.data.sources import Source, find_photos
from train.data.splits import Split
from train.evaluate.__main__ import SHOWN
from train.evaluate.datasets import Dataset, open_world
from train.evaluate.features import Candidate, Features, from_run, of_run, teachers_of
from train.evaluate.survey import Cache, Plan, evaluate
from train.run import Run


def with_more_photos(
    run: Run, folder: Path, aside: Sequence[Path] | None, world: Path | None, drawings: Path | None, cache: Path
) -> tuple[Run, MorePhotos]:
    """The run, without a head that is too poor on photos of the world; and the photos to measure its files on.

    aside: folders of labeled photos, not used if the head is left out; world: a CSV; drawings: a folder. Raises
    TrainError, ExportError.
    """
    left_out, pictures = None, None
    if world is not None:
        listed = open_world(world, SHOWN)[0]
        run, left_out = without_dead_head(run, folder, listed, Cache(cache, Path(run.recipe.data.store)))
    if drawings is not None:
        sources: list[Source] = list(find_photos(drawings))
        labels = np.zeros(len(sources), np.int64)  # nobody asks for them
        pictures = decoded(run, Dataset("drawings", drawings.resolve().name, Split(sources, labels, ())))
    return run, MorePhotos(
        aside=kept_aside(run, aside) if aside and left_out is None else None,
        world=decoded(run, listed) if world is not None and left_out is None else None,
        drawings=pictures,
        left_out=left_out,
    )


def without_dead_head(run: Run, folder: Path, world: Dataset, cache: Cache) -> tuple[Run, Metric | None]:
    """The run, and None; or, if the student is too poor with the teacher's head: the run without it, and its top-1.

    world: photos with labels among the head's 1000 classes. The head is dropped if its top-1 (0..1) is less than
    DEAD_HEAD times the teacher's at the teacher's best resolution. Raises ExportError if the run has no such head,
    TrainError if photos or the teacher are missing.
    """
    name = str(run.recipe.teacher.head)
    if not any(head.name == name and len(head.labels) == 1000 for head in run.info.heads):
        raise ExportError("--world measures the teacher's head of 1000 classes, which this run does not have")
    student = replace(from_run(run, folder), open=partial(_features, run, name), classifies=True)
    teacher = teachers_of([], msgspec.structs.replace(run.recipe.teacher, pixels=None))[0]
    ours, theirs = (_top1(candidate, world, cache) for candidate in (student, teacher))
    print(f"{name} on {world.name}: top-1 {ours.value:.1%} on {ours.n} photos; the teacher's is {theirs.value:.1%}")
    if ours.value >= DEAD_HEAD * theirs.value:
        return run, None
    print(f"{name} is left out of the files: its top-1 is less than {DEAD_HEAD:.0%} of the teacher's")
    heads = [head for head in run.info.heads if head.name != name]
    if not heads:
        raise ExportError(f"no head would be left without {name}: set data.head to train a probe")
    info = msgspec.structs.replace(run.info, heads=heads, default_head=heads[0].name)
    tensors = {key: tensor for key, tensor in run.tensors.items() if not key.startswith(f"heads.{name}.")}
    return msgspec.structs.replace(run, info=info, tensors=tensors), ours


def _top1(candidate: Candidate, world: Dataset, cache: Cache) -> Metric:
    metrics, _ = evaluate(candidate, Plan([], world=[world]), cache)
    return next(metric for metric in metrics if metric.name == GENERAL)


def _features(run: Run, head: str) -> Features:
    """The outputs of the run's student, with `logits` from its copy of the teacher's head."""
    features = of_run(run)
    weight, bias = (run.tensors[f"heads.{head}.{key}"] for key in ("weight", "bias"))

    def found(pixels: Tensor) -> dict[str, Tensor]:
        answers = features(pixels)
        with torch.no_grad():
            return {**answers, "logits": functional.linear(answers["teacher"].cpu(), weight, bias)}

    return found
