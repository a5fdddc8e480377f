"""`python -m train.evaluate.zoo ZOO`: every published file of a zoo beside the teacher; writes `results/zoo.csv`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from leap_zoo.errors import LeapZooError
from train import recipe
from train.errors import TrainError
from train.research.results import Result, as_text, write_results

DESCRIPTION = """\
Measure every published file of a zoo, as a user runs it (through leap_zoo), and the teacher beside it: linear probe and
10-NN of each data set, retrieval, the 1000 classes of the teacher's head, and how near a student is to its teacher.
Writes results/zoo.csv, a row per figure. A file that was measured on these photos already is not measured again."""
EPILOG = """\
example:
  python -m train.evaluate.zoo zoo --checkpoint vit_tiny_patch16_224.safetensors \\
      --data Imagenette imagenette/train imagenette/val --held-out 'ILSVRC2012_val*' \\
      --data Caltech-101 caltech101/train caltech101/test \\
      --data grocery train.txt test.txt --retrieval grocery \\
      --listed corridor ref query truth.json --sample imagenet1k_sample

TRAIN and TEST are folders with a folder per class, or text files of `path, label` lines. Held-out photos are left out
of TRAIN and stay in TEST; where the classes are ImageNet's wnids, the teacher's classes are measured on those of both.
--listed: two folders of photos and the right answers: a JSON list with, for each photo of QUERIES in the order of their
names, a list of positions in GALLERY, whose photos are ordered by name too.
The teacher is measured at its own resolution, and at that of its students.
Then: python -m export.cards writes the figures into the cards, make tables into docs/zoo.md and the README.
With --teacher-space MODEL, only the retrieval of that student is measured, in a gallery of its teacher's vectors and in
one of its own; this writes results/teacher_space.csv and the table of docs/teacher-space.md instead."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; exit status 2 for what the user can fix, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # reports of broken photos must not end up in the JSON
            rows = _run(options)
    except (TrainError, LeapZooError, ValueError, OSError) as error:
        print(f"train.evaluate.zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.evaluate.zoo: interrupted; the same command continues", file=sys.stderr)
        return 130
    print(msgspec.json.encode(rows).decode() if options.json else as_text(rows))
    return 0


def _run(options: argparse.Namespace) -> list[Result]:
    from train.evaluate import benchmark, datasets, plan, published, teacher_space

    tasks, imagenet = [], [datasets.open_sample(path) for path in options.sample]
    for words in options.data:
        task = datasets.open_pair(words)
        plan.check_disjoint(task)
        if options.held_out is not None:
            task, held = datasets.hold_out(task, options.held_out)
            imagenet += [held] if held else []
        tasks.append(replace(task, retrieval=task.test.name in options.retrieval))
    known = [task.test.name for task in tasks]
    if unknown := [name for name in options.retrieval if name not in known]:
        raise TrainError(f"--retrieval {unknown[0]} names no --data; there is {', '.join(known) or 'none'}")
    tasks += [datasets.open_listed(name, *map(Path, places)) for name, *places in options.listed]
    if not tasks and not imagenet:
        raise TrainError("which photos? give --data [NAME] TRAIN TEST, --listed or --sample; --help has an example")
    students = published.find_students(options.zoo, options.teacher, options.head)
    cache = benchmark.Cache(options.cache, options.store)
    given = options.checkpoint is not None or options.pretrained
    teacher = recipe.Teacher(model=options.teacher, checkpoint=options.checkpoint, pretrained=options.pretrained)
    if not given and (options.teacher_space or (imagenet and any(student.taught for student in students))):
        raise TrainError(f"students of {options.teacher} are compared with it: give --checkpoint FILE.safetensors")
    if options.teacher_space:
        pair = published.find_pair(options.teacher_space, students, teacher)
        rows = teacher_space.measure(*pair, tasks, cache)
        teacher_space.write(rows, options.out.parent / teacher_space.TABLE, options.docs / teacher_space.PAGE)
        return rows
    return benchmark.measure(
        students,
        published.find_teachers(teacher, students) if given else [],
        tasks,
        imagenet,
        cache,
        seed=options.seed,
        done=lambda rows: write_results(options.out, rows),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate.zoo",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    many: dict[str, Any] = {"action": "append", "default": []}
    add("zoo", type=Path, nargs="?", default=Path("zoo"), help="folder of the zoo (%(default)s)")
    add("--data", nargs="+", metavar="WORD", help="[NAME] TRAIN TEST; repeatable", **many)
    add("--held-out", metavar="PATTERN", help="file names of photos that no student learned from, such as 'held_*'")
    add("--retrieval", nargs="+", default=[], metavar="NAME", help="the --data on which retrieval is measured too")
    names = ("NAME", "GALLERY", "QUERIES", "TRUTH.json")
    add("--listed", nargs=4, metavar=names, help="retrieval with listed answers; repeatable", **many)
    add("--sample", type=Path, metavar="FOLDER", help="photos of ImageNet's classes, named WNID_*; repeatable", **many)
    add("--teacher", default="vit_tiny_patch16_224", help="as timm and the cards name it (%(default)s)")
    add("--checkpoint", metavar="FILE.safetensors", help="the teacher's weights")
    add("--pretrained", action="store_true", help="fetch the teacher's weights by name instead")
    add("--head", default="imagenet1k", help="the students' name of the teacher's classifier (%(default)s)")
    add("--teacher-space", metavar="MODEL", help="measure this student in a gallery of its teacher's vectors")
    add("--seed", type=int, default=0, help="of the probe's split (0)")
    add("--cache", type=Path, default=Path("runs/zoo-figures"), help="folder of embeddings and results (%(default)s)")
    add("--store", type=Path, default=Path("runs/photos"), help="folder of decoded photos (%(default)s)")
    add("--out", type=Path, default=Path("results/zoo.csv"), metavar="FILE", help="(%(default)s)")
    add("--docs", type=Path, default=Path("docs"), help="folder of teacher-space.md (%(default)s)")
    add("--json", action="store_true", help="print the rows as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
