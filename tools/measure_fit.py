"""`python -m tools.measure_fit MODEL [NAME] TRAIN TEST`: how good the heads of `leap-zoo fit` are (results/fit.csv).

Heads learn from 1, 2, 5, 10 and 20 photos of each of 20 classes of TRAIN, and are tested on the photos of TEST; classes
and photos are drawn anew 20 times. Written are the accuracy, the cross-validated accuracy that `fit` prints, and how
often the latter's interval holds the former.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import leap_zoo
from leap_zoo.card import Metric
from leap_zoo.errors import LeapZooError
from leap_zoo.fitting.classifiers import candidates
from leap_zoo.fitting.classifiers import train as learn
from leap_zoo.fitting.cross_validation import choose
from leap_zoo.intervals import wilson
from train.errors import TrainError
from train.evaluate.datasets import open_pair
from train.evaluate.features import from_file
from train.evaluate.protocols import mean, share
from train.evaluate.survey import Cache
from train.research.results import as_text, results_of, write_results
from train.run import commit

CLASSES, DRAWS, SHOTS = 20, 20, (1, 2, 5, 10, 20)


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
        where, metrics = (task.test.name, task.test.split), list[Metric]()
        for kind in candidate.kinds:
            for shots in SHOTS:
                found = own_classes(train[kind], train["labels"], test[kind], test["labels"], shots=shots)
                metrics += figures(f"fit, {shots} per class", kind, *where, *found)
        rows = results_of(metrics, {**candidate.about, "commit": commit()})
        write_results(options.out, rows)
    except (TrainError, LeapZooError, OSError) as error:
        print(f"measure_fit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(as_text(rows))
    return 0


def figures(
    name: str, kind: str, dataset: str, split: str, accuracy: Tensor, validated: Tensor, holds: Tensor
) -> list[Metric]:
    """The means of what `own_classes` returned; without cross-validation where one photo per class allows none."""
    found = [mean(f"{name}, accuracy, {kind}", dataset, split, accuracy)]
    if not validated.isnan().any():
        found.append(mean(f"{name}, cross-validated, {kind}", dataset, split, validated))
        found.append(share(f"{name}, interval holds, {kind}", dataset, split, holds))
    return found


def own_classes(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, shots: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a head to `shots` photos of each of CLASSES classes, drawn anew DRAWS times; test it on the same classes.

    train (N, D), train_labels (N,), test (M, D), test_labels (M,). Where there are fewer classes or photos, all are
    taken. Returns, per draw: accuracy on the test photos, the cross-validated accuracy, and whether its interval holds
    the former; the last two are NaN where there was one photo per class.
    Raises TrainError when train and test have fewer than two classes in common.
    """
    ours, theirs = (functional.normalize(part.float(), dim=1).numpy() for part in (train, test))
    our_labels, their_labels = train_labels.numpy(), test_labels.numpy()
    both = np.intersect1d(our_labels, their_labels)
    if len(both) < 2:
        raise TrainError("TRAIN and TEST need at least two classes in common")
    rows = []
    for draw in range(DRAWS):
        random = np.random.default_rng([seed, draw])
        names = random.permutation(both)[:CLASSES]
        shown = [random.permutation(np.flatnonzero(our_labels == name))[:shots] for name in names]
        labels, vectors = np.repeat(np.arange(len(names)), [len(part) for part in shown]), ours[np.concatenate(shown)]
        found = choose(vectors, labels, len(names), candidates(), draw)
        weight, bias = learn(found.candidate, vectors, labels, len(names))
        asked = np.isin(their_labels, names)
        right = float((names[(theirs[asked] @ weight.T + bias).argmax(1)] == their_labels[asked]).mean())
        claimed, held = np.nan, np.nan
        if len(found.tested):
            claimed = float((found.predicted == labels[found.tested]).mean())
            low, high = wilson(claimed, len(found.tested))
            held = float(low <= right <= high)
        rows.append((right, claimed, held))
    accuracy, validated, holds = torch.tensor(rows, dtype=torch.float64).T
    return accuracy, validated, holds


if __name__ == "__main__":
    sys.exit(main())
