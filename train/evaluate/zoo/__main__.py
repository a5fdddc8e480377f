"""`python -m train.evaluate.zoo ZOO`: every published file of a zoo beside the teacher; writes `results/zoo.csv`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import msgspec

from leap_zoo.errors import LeapZooError
from train.errors import TrainError
from train.figures import Figure, write_figures

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
of TRAIN and stay in TEST; where the classes are ImageNet's wnids, those of both are asked for the teacher's classes.
The teacher is measured at its own resolution, and at that of its students.
Then: python -m export.cards writes the figures into the cards, make tables into docs/zoo.md and the README."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; exit status 2 for what the user can mend, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what is said of broken photos is no part of the JSON
            figures = _run(options)
    except (TrainError, LeapZooError, ValueError, OSError) as error:
        print(f"train.evaluate.zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.evaluate.zoo: interrupted; the same command continues", file=sys.stderr)
        return 130
    print(msgspec.json.encode(figures).decode() if options.json else _table(figures) + f"\nwrote {options.out}")
    return 0


def _run(options: argparse.Namespace) -> list[Figure]:
    from train import recipe
    from train.evaluate.zoo.cache import Cache
    from train.evaluate.zoo.photos import Survey, open_labelled, open_listed, open_sample
    from train.evaluate.zoo.subjects import find_students, find_teachers
    from train.evaluate.zoo.survey import measure

    pairs = [open_labelled(words, options.held_out, options.retrieval) for words in options.data]
    known = [labelled.test.name for labelled, _ in pairs]
    for name in options.retrieval:
        if name not in known:
            raise TrainError(f"--retrieval {name} names no --data; there is {', '.join(known) or 'none'}")
    imagenet = [held for _, held in pairs if held is not None]
    imagenet += [open_sample(folder.resolve().name, folder) for folder in options.sample]
    listed = [open_listed(name, *map(Path, places)) for name, *places in options.listed]
    survey = Survey([labelled for labelled, _ in pairs], listed, imagenet)
    if not survey.packs:
        raise TrainError("which photos? give --data [NAME] TRAIN TEST, --listed or --sample; --help has an example")
    students = find_students(options.zoo, options.teacher, options.head)
    teachers = []
    if options.checkpoint or options.pretrained:
        teacher = recipe.Teacher(model=options.teacher, checkpoint=options.checkpoint, pretrained=options.pretrained)
        teachers = find_teachers(teacher, students)
    elif imagenet and any(student.taught for student in students):
        raise TrainError(f"students of {options.teacher} are compared with it: give --checkpoint FILE.safetensors")
    return measure(
        students,
        teachers,
        survey,
        Cache(options.cache),
        seed=options.seed,
        done=lambda figures: write_figures(options.out, figures),
    )


def _table(figures: list[Figure]) -> str:
    lines = []
    for name in dict.fromkeys((figure.model, figure.file) for figure in figures):
        lines.append(" ".join(name))
        for figure in figures:
            if (figure.model, figure.file) != name or figure.n is None:
                continue
            where, interval = f"{figure.dataset}, {figure.split}", ""
            if figure.low is not None and figure.high is not None:
                interval = f"[{figure.low:.4f}, {figure.high:.4f}]"
            lines.append(f"  {figure.metric:48} {where:36} n={figure.n:<6} {figure.value:.4f} {interval}".rstrip())
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate.zoo",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("zoo", type=Path, nargs="?", default=Path("zoo"), help="folder of the zoo (%(default)s)")
    add("--data", nargs="+", action="append", default=[], metavar="WORD", help="[NAME] TRAIN TEST; repeatable")
    add("--held-out", metavar="PATTERN", help="file names of photos that no student learned from, such as 'held_*'")
    add("--retrieval", nargs="+", default=[], metavar="NAME", help="the --data on which retrieval is measured too")
    add(
        "--listed",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "GALLERY", "QUERIES", "TRUTH.json"),
        help="retrieval with listed answers, as of python -m train.evaluate.asymmetric; repeatable",
    )
    add(
        "--sample",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="photos of ImageNet's classes, named WNID_*: for the teacher's classes; repeatable",
    )
    add("--teacher", default="vit_tiny_patch16_224", help="as timm and the cards name it (%(default)s)")
    add("--checkpoint", metavar="FILE.safetensors", help="the teacher's weights")
    add("--pretrained", action="store_true", help="fetch the teacher's weights by name instead")
    add("--head", default="imagenet1k", help="the students' name of the teacher's classifier (%(default)s)")
    add("--seed", type=int, default=0, help="of the probe's split (0)")
    add("--cache", type=Path, default=Path("runs/zoo-figures"), help="folder of what is known already (%(default)s)")
    add("--out", type=Path, default=Path("results/zoo.csv"), metavar="FILE", help="(%(default)s)")
    add("--json", action="store_true", help="print the rows as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
