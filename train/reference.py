"""The teacher's own figures, what a student could reach: measured once, kept in the run, found by its siblings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from leap_zoo.card import Metric
from train.data import Splits
from train.recipe import Recipe
from train.run import write_json

FILE = "teacher.json"


class Reference(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A teacher's figures, and a digest of everything that they depend on."""

    of: str
    metrics: list[Metric]


def of_teacher(recipe: Recipe, splits: Splits, folder: Path, measure: Callable[[], list[Metric]]) -> list[Metric]:
    """The figures in FOLDER, or in a run folder beside it, of the same teacher on the same photos; else measured.

    A resumed run and the next student of the same teacher need not wait for them again.
    """
    digest = _digest(recipe, splits)
    for place in [folder, *sorted(folder.parent.glob("*/"))]:
        try:
            known = msgspec.json.decode((place / FILE).read_bytes(), type=Reference)
        except (OSError, msgspec.MsgspecError):
            continue
        if known.of == digest:
            break
    else:
        known = Reference(of=digest, metrics=measure())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, known)
    return known.metrics


def _digest(recipe: Recipe, splits: Splits) -> str:
    """Of teacher (weights included), preprocessing, seed of the probe, and the photos by place and label."""
    digest = hashlib.sha256()
    for part in (recipe.teacher, recipe.preprocessing, recipe.data, recipe.seed):
        digest.update(msgspec.json.encode(part))
    if recipe.teacher.supervised is not None:  # it is trained in the run: by what the whole recipe says
        digest.update(msgspec.json.encode(recipe))
    if recipe.teacher.checkpoint is not None:
        digest.update(Path(recipe.teacher.checkpoint).read_bytes())
    for split in (splits.train, splits.val, splits.held_out):
        digest.update(split.labels.tobytes())
        for source in split.sources:
            digest.update(source.tobytes() if hasattr(source, "tobytes") else str(source).encode())
    return digest.hexdigest()
