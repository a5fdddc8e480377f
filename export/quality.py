"""The published files of a zoo and their figures: a line per file, the teacher's first, a column per figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from leap_zoo.card import Artifact, Latency, ModelCard
from leap_zoo.errors import InvalidArgument
from leap_zoo.loading import choose_artifact
from train.research.results import Result


class Column(NamedTuple):
    """A figure: what was measured, and on which data."""

    metric: str
    dataset: str
    split: str

    @property
    def title(self) -> str:
        """Short enough for a table's header."""
        name = self.metric.removesuffix(", embedding").removesuffix(" through the teacher's head")
        for long, short in (("linear probe", "probe"), ("retrieval mAP", "mAP"), ("the teacher", "teacher")):
            name = name.replace(long, short)
        return f"{self.dataset}, {self.split}: {name}"

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent; cosines are not."""
        return "cosine" not in self.metric


@dataclass(frozen=True)
class Line:
    """A published file with its figures by column, and its costs. The teacher and a `peer` have no card.

    A peer is another project's model that a user might choose instead.
    """

    model: str
    file: str
    costs: dict[str, float]
    figures: dict[Column, Result] = field(default_factory=dict)
    card: ModelCard | None = None
    artifact: Artifact | None = None
    peer: bool = False

    @property
    def latency(self) -> Latency | None:
        """For one photo on one thread, if the card has it."""
        rows = self.card.latency if self.card else []
        return next((row for row in rows if (row.file, row.threads, row.batch) == (self.file, 1, 1)), None)


def lines_of(cards: Iterable[ModelCard], figures: Sequence[Result]) -> list[Line]:
    """The teacher at each resolution, every artifact, then peers. Figures of unpublished files are left out.

    A line whose file was not measured has no figures.
    """
    by_sha256: dict[tuple[str, str, str], list[Result]] = {}
    for figure in figures:
        by_sha256.setdefault((figure.subject, figure.variant, figure.digest), []).append(figure)
    published = {card.id: card for card in cards}
    taught_by = {card.training.teacher.name for card in published.values() if card.training}
    others = [
        Line(model, file, _costs(found), _columns(found), peer=name not in taught_by)
        for (model, file, _), found in by_sha256.items()
        if (name := teacher_of(model)) is not None
    ]
    lines = [line for line in others if not line.peer]
    for card in published.values():
        for artifact in card.artifacts:
            found = by_sha256.get((card.id, artifact.file, artifact.sha256), [])
            costs: dict[str, float] = {"parameters": card.parameters, "bytes": artifact.total_bytes}
            costs["pixels"] = card.preprocessing.size
            lines.append(Line(card.id, artifact.file, costs, _columns(found), card, artifact))
    return [*lines, *(line for line in others if line.peer)]


def teacher_of(model: str) -> str | None:
    """The name of the teacher or peer in `NAME at N px`; None for a model of the zoo."""
    name, at, pixels = model.rpartition(" at ")
    return name if at and pixels.endswith(" px") else None


def columns_of(lines: Sequence[Line]) -> list[Column]:
    """All columns, in the order in which they were measured."""
    return list(dict.fromkeys(column for line in lines for column in line.figures))


def students_of(lines: Sequence[Line]) -> list[Line]:
    """One line per student, smallest first: the file that `leap_zoo.load` opens, int8 ONNX if there is one."""
    chosen = []
    for card in dict.fromkeys(line.card.id for line in lines if line.card):
        ours = [line for line in lines if line.model == card and line.card is not None]
        assert ours[0].card is not None
        try:
            artifact = choose_artifact(ours[0].card, "int8", "onnx")
        except InvalidArgument:
            artifact = choose_artifact(ours[0].card)
        chosen += [line for line in ours if line.artifact == artifact]
    return sorted(chosen, key=lambda line: line.costs["parameters"])


def number(column: Column, value: float) -> str:
    """A value of a column; shares in percent, without the sign."""
    return f"{100 * value:.1f}" if column.is_share else f"{value:.3f}"


def with_interval(column: Column, figure: Result | None) -> str:
    """The value, with its 95 % interval in brackets; empty if it was not measured."""
    if figure is None:
        return ""
    value = number(column, figure.value)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{number(column, figure.low)}, {number(column, figure.high)}]"


def with_half(column: Column, figure: Result | None) -> str:
    """The value, and half of its 95 % interval; empty if it was not measured."""
    if figure is None:
        return ""
    half = "" if figure.low is None or figure.high is None else f" ± {number(column, (figure.high - figure.low) / 2)}"
    return number(column, figure.value) + half


def _columns(figures: Sequence[Result]) -> dict[Column, Result]:
    return {Column(f.metric, f.dataset, f.split): f for f in figures if f.n is not None}


def _costs(figures: Sequence[Result]) -> dict[str, float]:
    return {figure.metric: figure.value for figure in figures if figure.n is None}
