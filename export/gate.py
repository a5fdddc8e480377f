"""The gate: the checks that a file must pass, run through `leap_zoo`, before it is published."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from export.graph import Graph
from export.photos import Labelled
from leap_zoo.card import Metric
from leap_zoo.errors import LeapZooError
from leap_zoo.intervals import Z95
from leap_zoo.model import Model

PARITY_BATCHES = (1, 2, 5)
PARITY_TOLERANCE = 1e-4  # largest absolute difference from torch, for embeddings and for logits up to 10
LARGEST_DROP = 0.005  # of top-1, against fp32
SMALLEST_COSINE = 0.995  # mean cosine of a file's embeddings to those of fp32
SELECTION_MARGIN = 0.001  # by which candidates must exceed the limit on the selection photos: the gate uses others
DROP, AGREEMENT = "top-1 drop from fp32", "top-1 agreement with fp32"
COSINE, LEAST_COSINE = "embedding cosine to fp32, mean", "embedding cosine to fp32, minimum"
GATE_PHOTOS = 900  # with fewer, a few answers make half a point, so only a significant drop is refused

Outputs = dict[str, npt.NDArray[np.float32]]


class GateFailed(LeapZooError):
    """An artifact failed a check, so it was not published; the message says which check."""


def judge(
    files: dict[str, Model], reference: str, sets: Sequence[Labelled], say: Callable[[str], None]
) -> tuple[dict[str, list[Metric]], dict[str, str]]:
    """The metrics of each file, and the files that must not be published, with the reason.

    reference: the first of the files, fp32 ONNX, which has passed `check_parity`.
    """
    metrics: dict[str, list[Metric]] = {name: [] for name in files}
    refused: dict[str, str] = {}
    for photos in sets:
        expected: Outputs = {}
        for name, file in files.items():
            say(f"measuring {name} on {len(photos.labels)} photos ({photos.dataset}, {photos.split})")
            found = answers(file, photos)
            metrics[name].append(photos.share("top-1", found[f"logits_{photos.head}"].argmax(1) == photos.labels))
            if photos.in_pairs:
                metrics[name].append(photos.share("Recall@1", recall_at_1(found["embedding"], photos.labels)))
            if name == reference:
                expected = found
                continue
            compared = fidelity(expected, found, photos)
            metrics[name] += compared.values()
            if reason := objection(compared):
                refused[name] = f"{name} was not published: {reason}"
    return metrics, refused


def answers(model: Model, photos: Labelled) -> Outputs:
    """What is compared: the embeddings, and the logits of the photos' head."""
    return model.run(photos.pixels, ["embedding", f"logits_{photos.head}"])


def check_parity(file: Model, model: Graph, pixels: npt.NDArray[np.uint8]) -> float:
    """Largest difference of the file's outputs from torch's, at batch 1, 2 and 5. Raises GateFailed.

    It is absolute; for an output with values beyond 10, it is divided by a tenth of the largest value.
    """
    worst = 0.0
    for size in PARITY_BATCHES:
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch))
        outputs = file.run(batch, model.names)
        for name, value in zip(model.names, expected, strict=True):
            # float32 has seven digits: in logits of 50 (of students of few classes) the fifth decimal is rounding.
            largest = max(1.0, float(value.abs().max()) / 10)
            difference = float(np.abs(outputs[name] - value.numpy()).max()) / largest
            if not difference <= PARITY_TOLERANCE:  # NaN fails too
                raise GateFailed(
                    f"{file.artifact.file} differs from torch by {difference:.2g} on {name} at batch {size} "
                    f"(limit: {PARITY_TOLERANCE:g}) and was not published: find out what the exporter changed"
                )
            worst = max(worst, difference)
    return worst


def fidelity(reference: Outputs, candidate: Outputs, photos: Labelled) -> dict[str, Metric]:
    """A candidate against fp32 on the same photos: paired drops of top-1 and Recall@1, agreement, embedding cosine."""
    logits = f"logits_{photos.head}"
    before, after = reference[logits].argmax(1), candidate[logits].argmax(1)
    cosine = (reference["embedding"] * candidate["embedding"]).sum(1)
    compared = [
        _drop(DROP, before == photos.labels, after == photos.labels, photos),
        photos.share(AGREEMENT, before == after),
        photos.metric(COSINE, float(cosine.mean())),
        photos.metric(LEAST_COSINE, float(cosine.min())),
    ]
    if photos.in_pairs:
        found = [recall_at_1(outputs["embedding"], photos.labels) for outputs in (reference, candidate)]
        compared.append(_drop("Recall@1 drop from fp32", found[0], found[1], photos))
    return {metric.name: metric for metric in compared}


def recall_at_1(embeddings: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """For each photo, whether its nearest neighbor has the same class. embeddings: (N, D), unit length."""
    nearest = []
    for start in range(0, len(embeddings), 1024):
        similar = embeddings[start : start + 1024] @ embeddings.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf  # a photo is not its own neighbor
        nearest.append(similar.argmax(1))
    right: npt.NDArray[np.bool_] = labels[np.concatenate(nearest)] == labels
    return right


def objection(compared: Mapping[str, Metric], margin: float = 0.0) -> str | None:
    """Why an artifact with this fidelity must not be published; None if it may. margin: added to the cosine's limit."""
    drop, cosine = compared[DROP], compared[COSINE]
    if drop.n >= GATE_PHOTOS and not drop.value <= LARGEST_DROP:
        return f"it loses {drop.value:.2%} of top-1 on {drop.n} photos (at most {LARGEST_DROP:.1%})"
    if drop.interval is not None and drop.interval[0] > LARGEST_DROP:
        return f"it loses {drop.value:.2%} of top-1 on {drop.n} photos, {drop.interval[0]:.2%} at the very least"
    least = SMALLEST_COSINE + margin
    if not cosine.value >= least:
        return f"its embeddings have a mean cosine of {cosine.value:.4f} to fp32 (at least {least:.4g})"
    return None


def _drop(name: str, before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], photos: Labelled) -> Metric:
    """The paired drop in accuracy from `before` to `after`, with its 95 % interval."""
    loss = before.astype(float) - after.astype(float)  # per photo: -1, 0, 1
    drop, half = float(loss.mean()), Z95 * float(loss.std()) / math.sqrt(len(loss))
    return photos.metric(name, drop, (drop - half, drop + half))
