"""`python -m export.cards`: write the figures of `results/zoo.csv` into a zoo's cards, READMEs and index.

With --time, all files are timed again, in turns within one run, so that students can be compared. With --photos, doubt
is fitted to models that were published already.
Weights and revisions do not change; the sha256 of each changed card does, and so does the index.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from export import readme, text
from export.doubt import with_doubt
from export.latency import card_rows
from export.photos import kept_aside
from export.zoo import publish
from export.zoo_page import teacher_of
from leap_zoo.bench import Plan, bench
from leap_zoo.card import Metric, ModelCard
from leap_zoo.errors import InvalidArgument, LeapZooError
from leap_zoo.loading import choose_artifact, open_artifact
from leap_zoo.store import Zoo, models
from train.errors import TrainError
from train.research.results import Result, read_results

TIMING = Plan()  # one thread, one photo per call


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
    where: dict[str, Any] = {"dataset": figure.dataset, "split": figure.split, "n": figure.n or 0}
    return Metric(name=figure.metric, value=figure.value, interval=interval, **where)


def doubting(card: ModelCard, folders: Sequence[Path], zoo: Path) -> ModelCard:
    """The card with doubt, fitted on photos that the student was not trained on, if its default head answers."""
    head = card.head()
    if head is None:
        return card
    aside = kept_aside(head, card.preprocessing, folders)
    return with_doubt(card, open_artifact(Zoo(zoo), card, choose_artifact(card)), aside)


def main(arguments: list[str] | None = None) -> int:
    """Write the cards; exit status 2, with nothing written, for an error that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m export.cards",
        description="Write the figures that python -m train.evaluate measured into the cards of a zoo.",
        epilog="example: python -m export.cards --zoo zoo --figures results/zoo.csv && make tables",
    )
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="folder of the zoo (%(default)s)")
    parser.add_argument("--figures", type=Path, default=Path("results/zoo.csv"), metavar="FILE", help="(%(default)s)")
    parser.add_argument(
        "--photos", type=Path, action="append", metavar="FOLDER", help="fit doubt again, as `python -m export` does"
    )
    parser.add_argument("--time", action="store_true", help="time all files again on this device, which should be idle")
    options = parser.parse_args(arguments)
    try:
        figures = read_results(options.figures)
        cards = models(options.zoo)
        fresh = [with_figures(card, figures) for card in cards]
        if options.photos:
            fresh = [doubting(card, options.photos, options.zoo) for card in fresh]
        if options.time:
            rows, _ = bench([card.id for card in fresh], TIMING, options.zoo)
            fresh = [replace(card, latency=card_rows([row for row in rows if row.model == card.id])) for card in fresh]
        for card in fresh:
            readme.write(card, options.zoo / card.id)
            publish(options.zoo, card)
    except (LeapZooError, TrainError, OSError) as error:
        print(f"export.cards: {text.line(error)}", file=sys.stderr)
        return 2
    for before, after in zip(cards, fresh, strict=True):
        print(f"{after.id} {after.revision}: {'unchanged' if before == after else 'card, README and index written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
