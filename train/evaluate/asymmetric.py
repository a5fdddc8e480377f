"""`python -m train.evaluate.asymmetric`: a gallery embedded by the big teacher, asked by the small student.

Both give vectors in the teacher's space. Beside it: student asks student (in either space), teacher asks teacher.
Writes `results/teacher_space.csv` and the table of `docs/teacher-space.md`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

import leap_zoo
from leap_zoo.card import Metric, Preprocessing
from leap_zoo.errors import LeapZooError
from leap_zoo.model import Model
from train import recipe
from train.data import Split
from train.errors import TrainError
from train.evaluate import scores
from train.evaluate.asymmetric_page import Row, render, replace_table
from train.evaluate.features import extract, of_artifact, of_teacher
from train.evaluate.plan import PhotoSets, same_photos
from train.evaluate.retrieval import retrieve_listed
from train.hardware import describe
from train.run import commit
from train.unlabelled import find_photos

MAX_TRUTH_BYTES = 256 * 1024 * 1024
EPILOG = """\
example:
  python -m train.evaluate.asymmetric leap-nano --checkpoint vit_tiny_patch16_224.safetensors \\
      --data grocery train.txt test.txt --listed corridor ref query truth.json

--data is as of `python -m train.evaluate`: TRAIN is the gallery, each photo of TEST asks, its own class is right.
--listed: two folders of photos and the right answers: a JSON list with, for each photo of QUERIES in the order of their
names, a list of positions in GALLERY, whose photos are ordered by name too."""


class Pair(NamedTuple):
    """Who embeds the gallery and who the queries, and in whose space they meet."""

    gallery: str
    queries: str
    space: str


PAIRS = (
    Pair("student", "student", "student"),
    Pair("student", "student", "teacher"),
    Pair("teacher", "student", "teacher"),
    Pair("teacher", "teacher", "teacher"),
)


@dataclass(frozen=True)
class Task:
    """Photos uint8 (G, H, W, 3) to search in, (Q, H, W, 3) that ask, and which answers are right, (Q, G) bool."""

    name: str
    split: str
    gallery: npt.NDArray[np.uint8]
    queries: npt.NDArray[np.uint8]
    right: Tensor

    @classmethod
    def of_sets(cls, sets: PhotoSets, spec: Preprocessing, per_class: int | None = None) -> Task:
        """Right is what has the query's class; `per_class`: the first so many photos of each class, on both sides.

        Raises TrainError when a photo would find itself.
        """
        if same_photos(sets) is not None:
            raise TrainError(f"{sets.name}: photos of TEST are in TRAIN, and would find themselves; take them out")
        first = [_first(split, per_class) for split in (sets.train, sets.test)]
        train, test = PhotoSets(sets.name, *first, sets.test_split).decode(spec)
        right = torch.from_numpy(test.labels)[:, None] == torch.from_numpy(train.labels)[None]
        return cls(sets.name, sets.test_split, train.pixels, test.pixels, right)

    @classmethod
    def listed(cls, name: str, gallery: Path, queries: Path, truth: Path, spec: Preprocessing) -> Task:
        """Right is what the file lists. Raises TrainError."""
        photos = [_decoded(folder, spec) for folder in (gallery, queries)]
        answers = read_answers(truth, len(photos[0]), len(photos[1]))
        right = torch.zeros(len(photos[1]), len(photos[0]), dtype=torch.bool)
        for query, found in enumerate(answers):
            right[query, found] = True
        return cls(name, queries.name, *photos, right)


def measure(model: Model, teacher: recipe.Teacher, tasks: Sequence[Task]) -> list[Row]:
    """mAP and recall@1 of every pair on every task, and how near the student's vectors are to the teacher's."""
    if model.card.training is not None:
        teacher = msgspec.structs.replace(teacher, pixels=model.card.training.teacher.pixels)
    student, big = of_artifact(model), of_teacher(teacher, model.card.preprocessing)
    about = {
        "student": f"{model.card.id} {model.card.revision} {model.artifact.precision}",
        "teacher": teacher.model + (f" at {teacher.pixels} px" if teacher.pixels else ""),
        "pixels": model.card.preprocessing.size,
        "hardware": describe(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "commit": commit(),
    }
    rows: list[Row] = []
    for task in tasks:
        vectors: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        ours, theirs = (
            [extract(each.features, photos, task.name) for photos in (task.gallery, task.queries)]
            for each in (student, big)
        )
        vectors["student", "student"] = ours[0]["embedding"], ours[1]["embedding"]
        vectors["student", "teacher"] = ours[0]["teacher"], ours[1]["teacher"]
        vectors["teacher", "teacher"] = theirs[0]["teacher"], theirs[1]["teacher"]
        for pair in PAIRS:
            gallery, queries = vectors[pair.gallery, pair.space][0], vectors[pair.queries, pair.space][1]
            rows += [_row(metric, task, pair, about) for metric in _figures(task, gallery, queries)]
        agreement = functional.cosine_similarity(ours[1]["teacher"], theirs[1]["teacher"])
        metric = scores.mean("cosine, student to teacher", task.name, task.split, agreement)
        rows.append(_row(metric, task, Pair("", "", "teacher"), about))
    return rows


def _figures(task: Task, gallery: Tensor, queries: Tensor) -> list[Metric]:
    found = retrieve_listed(gallery, queries, task.right)
    if not len(found.average_precision):
        raise TrainError(f"{task.name}: no query has a right answer in the gallery")
    first = scores.Score(found.recall_at_1.mean().item(), len(found.recall_at_1))
    return [
        scores.mean("mAP", task.name, task.split, found.average_precision),
        scores.share("recall@1", task.name, task.split, first),
    ]


def _row(metric: Metric, task: Task, pair: Pair, about: dict[str, Any]) -> Row:
    low, high = metric.interval or (metric.value, metric.value)
    return {
        "dataset": metric.dataset,
        "split": metric.split,
        "n": metric.n,
        "gallery_photos": len(task.gallery),
        "gallery": pair.gallery,
        "queries": pair.queries,
        "space": pair.space,
        "metric": metric.name,
        "value": f"{metric.value:.6g}",
        "low": f"{low:.6g}",
        "high": f"{high:.6g}",
    } | about


def _first(split: Split, per_class: int | None) -> Split:
    if per_class is None:
        return split
    chosen = [np.flatnonzero(split.labels == label)[:per_class] for label in range(len(split.classes))]
    return split.take(np.sort(np.concatenate(chosen)))


def _decoded(folder: Path, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    sources = find_photos(folder)
    photos = Split(list(sources), np.full(len(sources), -1, np.int64), ()).decode(spec, folder.name)
    if photos.skipped:
        raise TrainError(f"{photos.skipped[0][0]} cannot be decoded, and the right answers are listed by position")
    return photos.pixels


def read_answers(path: Path, gallery: int, queries: int) -> list[list[int]]:
    """For each query, the positions in the gallery that are right: JSON, bounded and checked. Raises TrainError."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MAX_TRUTH_BYTES), type=list[list[int]])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TrainError(f"cannot read the right answers {path}: {error}") from error
    if len(found) != queries or any(not 0 <= position < gallery for row in found for position in row):
        raise TrainError(
            f"{path.name} must have a list for each of the {queries} queries, of positions 0 to {gallery - 1}"
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; exit status 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        model = leap_zoo.load(options.model, zoo=options.zoo, precision=options.precision)
        spec = model.card.preprocessing
        if options.per_class is not None and options.per_class < 1:
            raise TrainError("--per-class must be at least 1")
        teacher = recipe.Teacher(model=options.teacher, checkpoint=options.checkpoint, pretrained=options.pretrained)
        tasks = [Task.of_sets(PhotoSets.from_words(words), spec, options.per_class) for words in options.data]
        for name, *places in options.listed:
            tasks.append(Task.listed(name, *map(Path, places), spec))
        if not tasks:
            raise TrainError("which photos? give --data [NAME] TRAIN TEST, or --listed NAME GALLERY QUERIES TRUTH.json")
        rows = measure(model, teacher, tasks)
        _write(rows, options.results / "teacher_space.csv", options.docs / "teacher-space.md")
    except (TrainError, LeapZooError, ValueError) as error:
        print(f"train.evaluate.asymmetric: {error}", file=sys.stderr)
        return 2
    print(render(rows))
    return 0


def _write(rows: list[Row], table: Path, page: Path) -> None:
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        if page.is_file():
            page.write_text(replace_table(page.read_text(), rows))
    except OSError as error:
        raise TrainError(f"cannot write {error.filename} ({error.strerror}): choose another place") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate.asymmetric",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("model", help="the id of a model (`leap-zoo list`), whose teacher is measured beside it")
    parser.add_argument("--zoo", help="folder of the zoo that the model is in (default: the bundled one)")
    parser.add_argument("--precision", choices=["fp32", "int8"], help="of the model's file (default: int8)")
    parser.add_argument("--teacher", default="vit_tiny_patch16_224", help="its teacher, as timm names it (%(default)s)")
    parser.add_argument("--checkpoint", metavar="FILE.safetensors", help="the teacher's weights")
    parser.add_argument("--pretrained", action="store_true", help="fetch the teacher's weights by name instead")
    parser.add_argument("--data", nargs="+", action="append", default=[], metavar="WORD", help="[NAME] TRAIN TEST")
    parser.add_argument(
        "--per-class", type=int, metavar="N", help="of --data, only the first N photos of each class, on both sides"
    )
    parser.add_argument(
        "--listed", nargs=4, action="append", default=[], metavar=("NAME", "GALLERY", "QUERIES", "TRUTH.json")
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the CSV (%(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
