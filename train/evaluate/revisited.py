"""The Revisited Oxford and Paris protocol (Radenovic et al. 2018), for those who have the photos.

Ground truth is JSON, {"gallery": [name, ...], "queries": [Query, ...]}. The original is a pickle and is never opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta
from PIL import Image
from torch import Tensor
from torch.nn import functional

from leap_zoo.card import Metric, Preprocessing
from leap_zoo.errors import ImageError
from leap_zoo.preprocess import open_image, to_tensor
from train.errors import TrainError
from train.evaluate import scores
from train.evaluate.features import Features, extract

Position = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]
CUTS = (1, 5, 10)
WHOLE = 2**20  # pixels: no photo has a longer side, so none is decoded at a fraction of its size


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A query photo, the box (x1, y1, x2, y2) in its pixels, and what the gallery holds of it, by position."""

    name: Name
    box: tuple[float, float, float, float]
    easy: list[Position]
    hard: list[Position]
    junk: list[Position]


class GroundTruth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names of the gallery's photos, and the queries."""

    gallery: Annotated[list[Name], Meta(min_length=1)]
    queries: Annotated[list[Query], Meta(min_length=1)]


# Which labels count as right, and which photos are taken out of the ranking first.
SETUPS = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}


def read_ground_truth(path: Path) -> GroundTruth:
    """Read and check the JSON. Raises TrainError."""
    if path.suffix == ".pkl":
        raise TrainError(
            f"{path.name} is a pickle and is never opened; docs/evaluation.md says how to write it as JSON"
        )
    try:
        truth = msgspec.json.decode(path.read_bytes(), type=GroundTruth)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainError(f"cannot read the ground truth {path}: {' '.join(str(error).split())}") from error
    for query in truth.queries:
        named = [*query.easy, *query.hard, *query.junk]
        if len(set(named)) < len(named):
            raise TrainError(f"query {query.name} names a photo twice: each is easy, hard or junk, once")
        if max(named, default=0) >= len(truth.gallery):
            raise TrainError(f"query {query.name} names a position behind the gallery's {len(truth.gallery)} photos")
    return truth


def average_precision(ranks: Tensor, right: int) -> float:
    """Area under precision over recall by the trapezoid rule, as the protocol's own evaluation has it.

    ranks: 0-based positions of the right photos in the ranking, ascending. right: how many there are to find, >= 1.
    """
    found = torch.arange(len(ranks), dtype=torch.float64)
    before = torch.where(ranks == 0, 1.0, found / ranks.clamp(min=1))
    return float(((before + (found + 1) / (ranks + 1)) / 2).sum()) / right


def rank(gallery: Tensor, queries: Tensor, truth: GroundTruth, setup: str) -> tuple[Tensor, Tensor]:
    """Rank gallery (G, D) for queries (Q, D), both in the order of `truth`, by cosine, in one of SETUPS.

    Returns, of queries with something to find, the average precision (Q',) and the precision at each of CUTS (Q', 3).
    Precision at k is over the first k, or up to the last right one where that comes before, as in the original.
    """
    similarity = functional.normalize(queries.float(), dim=1) @ functional.normalize(gallery.float(), dim=1).T
    precisions, at = [], []
    for row, query in zip(similarity.argsort(dim=1, descending=True, stable=True), truth.queries, strict=True):
        right, ignored = (
            torch.tensor([position for name in names for position in getattr(query, name)], dtype=torch.long)
            for names in SETUPS[setup]
        )
        if not len(right):
            continue
        ranks = torch.isin(row[~torch.isin(row, ignored)], right).nonzero().flatten()  # ascending
        precisions.append(average_precision(ranks, len(right)))
        cuts = [min(int(ranks.max()) + 1, cut) for cut in CUTS]
        at.append([int((ranks < cut).sum()) / cut for cut in cuts])
    return torch.tensor(precisions, dtype=torch.float64), torch.tensor(at, dtype=torch.float64)


def measure(features: Features, spec: Preprocessing, kinds: Sequence[str], folder: Path, path: Path) -> list[Metric]:
    """mAP and precision of each setup, of photos in `folder` by the ground truth in `path`. Raises TrainError.

    Queries are cropped to their box, then prepared like any photo.
    """
    truth = read_ground_truth(path)
    try:
        gallery = np.stack([to_tensor(_photo(folder, name), spec) for name in truth.gallery])
        queries = np.stack([to_tensor(_cropped(folder, query), spec) for query in truth.queries])
    except ImageError as error:
        raise TrainError(f"{folder}: {error}") from error
    ours, asked = extract(features, gallery, "gallery"), extract(features, queries, "queries")
    metrics = []
    for kind in kinds:
        for setup in SETUPS:
            precisions, at = rank(ours[kind], asked[kind], truth, setup)
            where = f"{path.stem}, {setup}", "queries"
            if len(precisions):
                metrics.append(scores.mean(f"revisited mAP, {kind}", *where, precisions))
                for number, cut in enumerate(CUTS):
                    metrics.append(scores.mean(f"revisited mP@{cut}, {kind}", *where, at[:, number]))
    if not metrics:
        raise TrainError(f"{path.name}: no query has a right answer")
    return metrics


def _photo(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.jpg"):
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise TrainError(f"{folder} has no photo {name} (nor {name}.jpg), which the ground truth names")


def _cropped(folder: Path, query: Query) -> Image.Image:
    photo = open_image(_photo(folder, query.name), draft_side=WHOLE)
    left, top = (max(0, round(value)) for value in query.box[:2])
    right, bottom = (min(side, round(value)) for side, value in zip(photo.size, query.box[2:], strict=True))
    if right <= left or bottom <= top:
        raise TrainError(f"the box of query {query.name} is outside its photo of {photo.width} x {photo.height} pixels")
    return photo.crop((left, top, right, bottom))
