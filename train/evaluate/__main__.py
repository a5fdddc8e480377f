"""`python -m train.evaluate TARGET --data ...`: evaluate a student's features on your own photos."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leap_zoo.errors import LeapZooError
from train.errors import TrainError
from train.research.results import Result, as_text, updated, write_results

if TYPE_CHECKING:
    from train.evaluate.features import Candidate
    from train.evaluate.survey import Plan

SHOWN = Path("results/demo_photos.csv")  # photos of --world that the demo shows, left out of what is reported
PROTOCOLS = ("probe", "knn", "retrieval")
LISTED = "retrieval: the right answers are in a JSON file, or, with the word `folders`, in the folder of the same name"
SAMPLE = "photos of ImageNet's classes, named WNID_*; repeatable (with --peers, to calibrate int8 on)"
EPILOG = """\
examples:
  python -m train.evaluate runs/leap-nano                          # on the photos of its own recipe
  python -m train.evaluate leap-nano --data imagenette             # the bundled file; a folder with train/ and val/
  python -m train.evaluate leap-nano --data grocery train.txt test.txt --protocols retrieval --json
  python -m train.evaluate runs/leap-nano --revisited oxford5k/jpg roxford5k.json
  python -m train.evaluate zoo --checkpoint vit_tiny_patch16_224.safetensors --out results/zoo.csv \\
      --data Imagenette imagenette/train imagenette/val --held-out 'ILSVRC2012_val*' \\
      --data grocery train.txt test.txt --retrieval grocery --listed corridor ref query truth.json \\
      --sample imagenet1k_sample --listed paris5 paris paris_test folders --world nips2017/photos.csv --corrupted
docs/evaluation.md says what is measured, and how photos, lists and right answers are given."""


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print a table or JSON; exit status 2 for what the user can fix, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # reports of broken photos must not end up in the JSON
            rows = _run(options)
        if options.out:
            write_results(options.out, updated(options.out, rows))
    except (TrainError, LeapZooError, ValueError, OSError) as error:
        print(f"train.evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.evaluate: interrupted; the same command continues", file=sys.stderr)
        return 130
    print(msgspec.json.encode(rows).decode() if options.json else as_text(rows))
    return 0


def _run(options: argparse.Namespace) -> list[Result]:
    import leap_zoo
    from train import recipe
    from train.evaluate import features, survey
    from train.run import load_run

    target, data = Path(options.target), options.data
    is_zoo = (target / "index.json").is_file()
    if is_zoo:  # its tables have one kind of features
        students = features.from_zoo(target, options.teacher, options.head)
        students = [replace(student, kinds=("embedding",)) for student in students]
        students = _peers(options, target) if options.peers else students
    elif target.is_dir():
        run = load_run(target)
        students, own = [features.from_run(run, target)], run.recipe.data
        data = data or ([[own.name, own.train, own.val]] if own.train and own.val else [])
    else:
        model = leap_zoo.load(options.target, zoo=options.zoo, precision=options.precision, format=options.format)
        students = [features.from_file(model.card, model.artifact, lambda: model, options.teacher, options.head)]
    plan = _plan(options, data, (10,) if is_zoo else (10, 20))
    given = options.checkpoint is not None or options.pretrained
    if (plan.imagenet or plan.world) and not given and any(student.taught for student in students):
        raise TrainError(f"students of {options.teacher} are compared with it: give --checkpoint FILE.safetensors")
    spec = recipe.TeacherSettings(model=options.teacher, checkpoint=options.checkpoint, pretrained=options.pretrained)
    teachers = features.teachers_of(students, spec) if given else []
    cache = survey.Cache(options.cache, options.store)
    rows = survey.survey(students, teachers, plan, cache, seed=options.seed, students_only=options.students_only)
    if given and not is_zoo and students[0].taught:
        rows += survey.teacher_space(students[0], spec, plan.tasks, cache)
    return rows


def _peers(options: argparse.Namespace, zoo: Path) -> list[Candidate]:
    """Models by others; their int8 files are calibrated on --sample and timed beside those of the zoo."""
    import leap_zoo
    from train.evaluate import datasets, peers

    cards = leap_zoo.models(zoo)
    ours = [leap_zoo.load(card.id, zoo=zoo, precision="int8", format="onnx", threads=1) for card in cards]
    sample = datasets.open_sample(options.sample[0]) if options.sample else None
    return list(peers.peers(sample, options.cache, options.store, ours))


def _plan(options: argparse.Namespace, data: list[list[str]], neighbours: tuple[int, ...]) -> Plan:
    from train.evaluate import datasets, survey

    tasks, imagenet = [], [datasets.open_sample(folder) for folder in ([] if options.peers else options.sample)]
    for words in data:
        task, held = datasets.hold_out(datasets.open_pair(words), options.held_out)
        tasks.append(replace(task, retrieval=options.retrieval is None or task.test.name in options.retrieval))
        imagenet += held
    known = [task.test.name for task in tasks]
    if unknown := set(options.retrieval or []) - set(known):
        raise TrainError(f"--retrieval {min(unknown)} names no --data; there is {', '.join(known) or 'none'}")
    tasks += [datasets.open_listed(name, *map(Path, places)) for name, *places in options.listed]
    if not (tasks or imagenet or options.revisited or options.world):
        raise TrainError("which photos? give --data [NAME] TRAIN TEST, --listed, --sample, --world or --revisited")
    plan = survey.Plan(tasks, options.protocols, neighbours, imagenet, options.revisited)
    if options.world is None:
        return plan
    world, corrupted = datasets.open_world(options.world, SHOWN)
    return replace(plan, world=[world], corrupted=corrupted if options.corrupted else [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description="Evaluate frozen features by probe, k-NN and retrieval; with --checkpoint, also its teacher's.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add, many = parser.add_argument, dict[str, Any](action="append", default=[])
    add("target", metavar="TARGET", help="a run folder, the id of a model, or the folder of a zoo: all of its files")
    add("--zoo", help="folder of the zoo that the model is in (default: the bundled one)")
    add("--precision", choices=["fp32", "fp16", "int8"], help="of the model's file (int8)")
    add("--format", choices=["onnx", "openvino"], help="of the model's file (onnx)")
    words = "[NAME] TRAIN TEST, or a folder with train/ and val/ or test/; repeatable"
    add("--data", nargs="+", metavar="WORD", help=words, **many)
    add("--held-out", metavar="PATTERN", help="file names of photos that no student learned from, such as 'held_*'")
    add("--listed", nargs=4, metavar=("NAME", "GALLERY", "QUERIES", "TRUTH"), help=LISTED, **many)
    add(
        "--sample",
        type=Path,
        metavar="FOLDER",
        help=SAMPLE,
        **many,
    )
    add("--world", type=Path, metavar="PHOTOS.csv", help="photos that nobody learned from, of ImageNet's classes")
    add("--corrupted", action="store_true", help="also --world with noise, blur, JPEG compression and brightness")
    add("--revisited", nargs=2, type=Path, metavar=("PHOTOS", "TRUTH.json"), help="Revisited Oxford or Paris", **many)
    add("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, help="(all)")
    add("--retrieval", nargs="+", metavar="NAME", help="the --data on which retrieval is measured (all)")
    add("--peers", action="store_true", help="measure models by others instead (extra `peers`), of the same kind")
    add("--teacher", default="vit_tiny_patch16_224", help="as timm and the cards name it (%(default)s)")
    add("--checkpoint", metavar="FILE.safetensors", help="the teacher's weights: files are measured beside it")
    add("--pretrained", action="store_true", help="fetch the teacher's weights by name instead")
    add("--students-only", action="store_true", help="measure the teacher only where students are compared with it")
    add("--head", default="imagenet1k", help="the students' name of the teacher's classifier (%(default)s)")
    add("--seed", type=int, default=0, help="of the probe's split (0)")
    add("--cache", type=Path, default=Path("runs/embeddings"), help="folder of embeddings (%(default)s)")
    add("--store", type=Path, default=Path("runs/photos"), help="folder of decoded photos (%(default)s)")
    add("--json", action="store_true", help="print JSON")
    add("--out", type=Path, metavar="FILE.csv", help="also write the rows to a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
