"""`python -m export.cards`: write the figures of `results/zoo.csv` into a zoo's cards, READMEs and index.

Weights and revisions do not change; the sha256 of each changed card does, and so does the index.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from export import text
from export.tables import teacher_of
from export.zoo import publish, reindex
from leap_zoo.card import Metric, ModelCard
from leap_zoo.errors import InvalidArgument, LeapZooError
from train.errors import TrainError
from train.research.results import Result, read_results


def with_figures(card: ModelCard, figures: Sequence[Result]) -> ModelCard:
    """The card with these figures of its files, and of its teacher for reference.

    They replace earlier ones of the same name, data set and split; the gate's figures, which name a head, stay.
    Raises InvalidArgument for an artifact without figures.
    """
    known = text.by((figure for figure in figures if figure.n is not None), "subject", "variant", "digest")
    artifacts = []
    for artifact in card.artifacts:
        ours = [_metric(figure) for figure in known.get((card.id, artifact.file, artifact.sha256), [])]
        if not ours:
            raise InvalidArgument(
                f"{artifact.file} of {card.id} has changed since it was measured: "
                "run python -m train.evaluate zoo again"
            )
        new = text.by(ours, "name", "dataset", "split", "head")
        kept = [m for m in artifact.metrics if (m.name, m.dataset, m.split, m.head) not in new]
        artifacts.append(replace(artifact, metrics=[*kept, *ours]))
    card = replace(card, artifacts=artifacts)
    if card.training is None:
        return card
    teacher = card.training.teacher
    reached = {
        subject.rpartition(" at ")[2]: [_metric(figure) for figure in rows]
        for (subject, *_), rows in known.items()
        if teacher_of(subject) == teacher.name
    }
    return replace(card, training=replace(card.training, teacher=replace(teacher, metrics=reached)))


def _metric(figure: Result) -> Metric:
    interval = None if figure.low is None or figure.high is None else (figure.low, figure.high)
    n = figure.n or 0
    where = {"dataset": figure.dataset, "split": figure.split}
    return Metric(name=figure.metric, value=figure.value, interval=interval, n=n, **where)


def main(arguments: list[str] | None = None) -> int:
    """Write the cards; exit status 2, with nothing written, for an error that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m export.cards",
        description="Write the figures that python -m train.evaluate measured into the cards of a zoo.",
        epilog="example: python -m export.cards --zoo zoo --figures results/zoo.csv && make tables",
    )
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="folder of the zoo (%(default)s)")
    parser.add_argument("--figures", type=Path, default=Path("results/zoo.csv"), metavar="FILE", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        figures = read_results(options.figures)
        cards = reindex(options.zoo)  # checks every file before any card is written
        fresh = [with_figures(card, figures) for card in cards]
        for card in fresh:
            text.describe(card, options.zoo / card.id)
            publish(options.zoo, card)
    except (LeapZooError, TrainError, OSError) as error:
        print(f"export.cards: {text.line(error)}", file=sys.stderr)
        return 2
    for before, after in zip(cards, fresh, strict=True):
        print(f"{after.id} {after.revision}: {'unchanged' if before == after else 'card, README and index written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
