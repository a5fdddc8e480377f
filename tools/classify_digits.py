"""`python -m tools.classify_digits MODEL --zoo FOLDER`: classify handwritten digits with an exported file.

The end of `make train-demo`: scikit-learn's digits that no training saw go through `leap_zoo.load(...).classify`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import leap_zoo
from leap_zoo.errors import LeapZooError
from leap_zoo.intervals import wilson
from train.data.splits import find_splits
from train.recipe_file import find_recipe, load_recipe


def main() -> int:
    """Classify, print some digits beside what the file says of them, and the accuracy; exit 1 below 95 %."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.classify_digits", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="int8")
    options = parser.parse_args()
    digits = find_splits(load_recipe(find_recipe("digits")).data).val
    try:
        model = leap_zoo.load(options.model, zoo=options.zoo, precision=options.precision)
    except LeapZooError as error:
        print(f"classify_digits: {error}", file=sys.stderr)
        return 2
    photos = [np.asarray(source) for source in digits.sources]
    best = [predictions[0] for predictions in model.classify(photos, top=1)]
    for photo, prediction in list(zip(photos, best, strict=True))[:3]:
        rows = ["".join(" .:-=+*#%@"[int(value) * 9 // 255] * 2 for value in row) for row in photo]
        print("\n".join(rows) + f"\n-> {prediction.label} ({prediction.score:.0%})\n")
    right = [prediction.index == label for prediction, label in zip(best, digits.labels, strict=True)]
    share = sum(right) / len(right)
    low, high = wilson(share, len(right))
    print(
        f"{model.artifact.file} of {model.card.id} classifies {share:.1%} of {len(right)} unseen digits "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    return 0 if share >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
