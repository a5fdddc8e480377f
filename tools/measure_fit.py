"""`python -m tools.measure_fit MODEL [NAME] TRAIN TEST`: what the heads of `leap-zoo fit` are worth (results/fit.csv).

Heads learn from 1, 2, 3, 5, 10 and 20 photos of each of 5 and of 20 classes of TRAIN, and are tested on the photos of
TEST; classes and photos are drawn 20 times. Written are, as means over the draws: the accuracy, and that of a
logistic regression of the same photos; the cross-validated accuracy that `fit` prints, and how often its interval holds
the former; the mean score and the calibration error on the test photos; and the share of "not sure" among the test
photos of the classes (false alarms), those of the other classes, noise, and pages of text. Nothing is chosen here.
`make tables` then writes docs/your-classes.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

import leap_zoo
from export.doubt import calibration_error, noise, text_pages
from leap_zoo.card import Metric
from leap_zoo.doubt import bounded, distances
from leap_zoo.errors import LeapZooError
from leap_zoo.fitting import judge, learn
from leap_zoo.intervals import wilson
from leap_zoo.preprocess import to_tensor
from train.errors import TrainError
from train.evaluate.datasets import open_pair
from train.evaluate.features import extract, from_file
from train.evaluate.protocols import mean
from train.evaluate.survey import Cache
from train.research.results import as_text, results_of, write_results
from train.run import commit

CLASSES, DRAWS, SHOTS = (5, 20), 20, (1, 2, 3, 5, 10, 20)
DRAWN = 100  # pictures of noise, and as many pages of text
STRENGTH = 10.0  # C of the logistic regression: the best on other photos

Figures = dict[str, Tensor]  # (DRAWS,) each


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.measure_fit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="the id of a model")
    parser.add_argument("data", nargs="+", metavar="WORD", help="[NAME] TRAIN TEST, as of python -m train.evaluate")
    parser.add_argument("--zoo", help="folder of the zoo that the model is in (default: the bundled one)")
    parser.add_argument("--cache", type=Path, default=Path("runs/embeddings"), help="of embeddings (%(default)s)")
    parser.add_argument("--store", type=Path, default=Path("runs/photos"), help="of decoded photos (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/fit.csv"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        model, task = leap_zoo.load(options.model, zoo=options.zoo), open_pair(options.data)
        task.check_disjoint(["fit"])
        candidate, cache = (
            from_file(model.card, model.artifact, lambda: model, "", ""),
            Cache(options.cache, options.store),
        )
        train, test = cache.embeddings(candidate, task.train), cache.embeddings(candidate, task.test)
        unlike = {
            name: extract(candidate.open(), np.stack([to_tensor(one, model.card.preprocessing) for one in some]), name)
            for name, some in (("noise", noise(DRAWN)), ("text", text_pages(DRAWN)))
        }
        where, metrics = (task.test.name, task.test.split), list[Metric]()
        for kind in candidate.kinds:
            others = {name: _unit(features[kind]) for name, features in unlike.items()}
            photos = (train[kind], train["labels"], test[kind], test["labels"])
            for classes in CLASSES:
                for shots in SHOTS:
                    found = own_classes(*photos, others, classes=classes, shots=shots)
                    name = f"fit, {classes} classes, {shots} each"
                    metrics += [mean(f"{name}, {what}, {kind}", *where, values) for what, values in found.items()]
        rows = results_of(metrics, {**candidate.about, "commit": commit()})
        write_results(options.out, rows)
    except (TrainError, LeapZooError, OSError) as error:
        print(f"measure_fit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(as_text(rows))
    return 0


def own_classes(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    unlike: dict[str, npt.NDArray[np.float32]] | None = None,
    *,
    classes: int,
    shots: int,
    seed: int = 0,
) -> Figures:
    """Fit a head to `shots` photos of each of so many classes, in DRAWS random draws; test it on the same classes.

    train (N, D), train_labels (N,), test (M, D), test_labels (M,); unlike: by name, embeddings (U, D) of unit length of
    what is of none of the classes. Where there are fewer classes or photos, all are taken.
    Returns the figures of the module's docstring, per draw; those that cross-validation gives are left out where there
    is one photo per class. Raises TrainError when train and test have fewer than two classes in common.
    """
    ours, theirs, our_labels, their_labels = _unit(train), _unit(test), train_labels.numpy(), test_labels.numpy()
    both = np.intersect1d(our_labels, their_labels)
    if len(both) < 2:
        raise TrainError("TRAIN and TEST need at least two classes in common")
    rows: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        random = np.random.default_rng([seed, draw])
        names = np.sort(random.permutation(both)[:classes])
        shown = [random.permutation(np.flatnonzero(our_labels == name))[:shots] for name in names]
        labels, vectors = np.repeat(np.arange(len(names)), [len(part) for part in shown]), ours[np.concatenate(shown)]
        asked = np.isin(their_labels, names)
        truth = np.searchsorted(names, their_labels[asked])
        found = _one(vectors, labels, theirs[asked], truth, {"other classes": theirs[~asked]} | (unlike or {}), draw)
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}


def _one(
    vectors: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    asked: npt.NDArray[np.float32],
    truth: npt.NDArray[np.intp],
    unlike: dict[str, npt.NDArray[np.float32]],
    seed: int,
) -> dict[str, float]:
    """The figures of one head."""
    count = int(labels.max()) + 1
    judged = judge(vectors, labels, count, seed)
    weight, bias = learn(vectors, labels, count)
    scores = asked @ weight.T + bias
    logits = bounded(scores * np.float32(judged.scale), len(labels))
    right, sure = logits.argmax(axis=1) == truth, np.exp(logits.max(axis=1))
    logistic = LogisticRegression(C=STRENGTH, max_iter=1000).fit(vectors.astype(np.float64), labels)
    found = {
        "accuracy": float(right.mean()),
        "accuracy of logistic regression": float((logistic.predict(asked) == truth).mean()),
        "mean score": float(sure.mean()),
        "calibration error": calibration_error(sure, right, bins=10),
    }
    if judged.threshold is None:
        return found
    claimed = float((judged.predicted == labels[judged.tested]).mean())
    low, high = wilson(claimed, len(judged.tested))
    found |= {"cross-validated": claimed, "interval holds": float(low <= found["accuracy"] <= high)}
    for name, others in {"the classes": asked, **unlike}.items():
        if len(others):
            far = distances(others @ weight.T + bias) > judged.threshold
            found[f"not sure of {name}"] = float(far.mean())
    return found


def _unit(features: Tensor) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = functional.normalize(features.float(), dim=1).numpy()
    return rows


if __name__ == "__main__":
    sys.exit(main())
