"""The Revisited Oxford and Paris protocol (Radenovic et al. 2018); the photos are not included.

Ground truth is JSON, {"gallery": [name, ...], "queries": [Query, ...]}. The original is a pickle and is never opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from msgspec import Meta
from torch import Tensor

from leap_zoo.card import Metric, Preprocessing
from leap_zoo.errors import ImageError
from leap_zoo.preprocess import open_image, to_tensor
from train.errors import TrainError
from train.evaluate.features import Features, extract
from train.evaluate.protocols import mean, similarities

Positions = list[Annotated[int, Meta(ge=0)]]
CUTS = (1, 5, 10)
WHOLE = 2**20  # pixels: no photo has a longer side, so none is decoded at a fraction of its size
SETUPS = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}  # what is right; the rest is taken out


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A query photo, the box (x1, y1, x2, y2) in its pixels, and what the gallery holds of it, by position."""

    name: str
    box: tuple[float, float, float, float]
    easy: Positions
    hard: Positions
    junk: Positions

    def named(self, kinds: Sequence[str] = ("easy", "hard", "junk")) -> list[int]:
        """The positions of these kinds."""
        return [position for kind in kinds for position in getattr(self, kind)]


class GroundTruth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names of the gallery's photos, and the queries."""

    gallery: Annotated[list[str], Meta(min_length=1)]
    queries: Annotated[list[Query], Meta(min_length=1)]

    def __post_init__(self) -> None:
        for query in self.queries:
            named = query.named()
            if len(set(named)) < len(named):
                raise ValueError(f"query {query.name} names a photo twice: each is easy, hard or junk, once")
            if max(named, default=0) >= len(self.gallery):
                raise ValueError(f"query {query.name} names a position behind the gallery's {len(self.gallery)} photos")


def read_ground_truth(path: Path) -> GroundTruth:
    """Read and check the JSON. Raises TrainError."""
    if path.suffix == ".pkl":
        raise TrainError(
            f"{path.name} is a pickle and is never opened; docs/evaluation.md says how to write it as JSON"
        )
    try:
        return msgspec.json.decode(path.read_bytes(), type=GroundTruth)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainError(f"cannot read the ground truth {path}: {' '.join(str(error).split())}") from error


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
    order = torch.cat([part.argsort(dim=1, descending=True, stable=True) for _, part in similarities(gallery, queries)])
    precisions, at = [], []
    for row, query in zip(order.numpy(), truth.queries, strict=True):
        if not (right := query.named(SETUPS[setup])):
            continue
        ignored = np.setdiff1d(query.named(), right)
        ranks = torch.from_numpy(np.flatnonzero(np.isin(row[~np.isin(row, ignored)], right)))  # ascending
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
                metrics.append(mean(f"revisited mAP, {kind}", *where, precisions))
                for cut, values in zip(CUTS, at.T, strict=True):
                    metrics.append(mean(f"revisited mP@{cut}, {kind}", *where, values))
    if not metrics:
        raise TrainError(f"{path.name}: no query has a right answer")
    return metrics


def _photo(folder: Path, name: str) -> Path:
    """The published ground truth names photos without `.jpg`."""
    return folder / name if (folder / name).is_file() else folder / f"{name}.jpg"


def _cropped(folder: Path, query: Query) -> npt.NDArray[np.uint8]:
    photo = np.asarray(open_image(_photo(folder, query.name), draft_side=WHOLE))
    left, top, right, bottom = (max(0, round(value)) for value in query.box)
    crop = photo[top:bottom, left:right]
    if not crop.size:
        height, width, _ = photo.shape
        raise TrainError(f"the box of query {query.name} is outside its photo of {width} x {height} pixels")
    return crop
