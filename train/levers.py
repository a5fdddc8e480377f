"""`python -m train.levers`: what each change of a recipe gives, at equal epochs, measured on photos kept aside.

A tenth of the training photos is kept aside to choose by: the figures that are published play no part. Every lever is
judged against the same teacher, at its own resolution. Writes `results/levers.csv`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import msgspec
import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from leap_zoo.card import Metric, Preprocessing
from train import data, evaluate
from train.data import Photos
from train.distill import Distiller
from train.errors import TrainError
from train.evaluate import scores
from train.figures import Trial, trials_of, write_figures
from train.fit import distil
from train.hardware import describe
from train.recipe import Recipe, find_recipe, load_recipe
from train.run import commit, write_json
from train.slicing import choose
from train.teacher import Teacher, make_vit, normalisation

LEVERS = Path(__file__).with_name("levers.yaml")
ASIDE = 10  # one training photo in so many is learned from by no lever
NEIGHBOURS, GALLERY = 10, 2000
SPLIT = "a tenth of train, kept aside"


class Outcome(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a lever gave, kept in its folder. seconds: of CPU, all threads."""

    lever: str
    changes: list[str]
    student: str
    epochs: int
    photos: int
    metrics: list[Metric]
    seconds: float
    hardware: str
    commit: str


@dataclass(frozen=True)
class Aside:
    """Photos to choose by: pixels as deployed, with what the teacher says of them; and labelled ones to search in."""

    photos: Photos
    gallery: Photos
    space: Tensor  # (N, D_t)
    classes: Tensor  # (N,)


def main(arguments: list[str] | None = None) -> int:
    """Train the levers, measure them, write the table; exit status 2 for what the user can mend."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        levers = read_levers(options.levers)
        if unknown := set(options.only) - set(levers):
            raise TrainError(f"no lever {sorted(unknown)[0]!r} in {options.levers}; there are: {'; '.join(levers)}")
        chosen = {name: changes for name, changes in levers.items() if not options.only or name in options.only}
        if not options.gather:
            pull(options.recipe, options.overrides, chosen, options.out)
        outcomes = gather(levers, options.out)
    except TrainError as error:
        print(f"train.levers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.levers: interrupted; the same command continues", file=sys.stderr)
        return 130
    write_figures(options.results / "levers.csv", trials(outcomes))
    print(f"wrote {options.results / 'levers.csv'}, of {len(outcomes)} levers")
    return 0


def read_levers(path: Path) -> dict[str, list[str]]:
    """Name -> overrides. Raises TrainError."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()), dict[str, list[str]])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise TrainError(f"cannot read the levers {path}: {' '.join(str(error).split())}") from error


def pull(name: str, overrides: Sequence[str], levers: dict[str, list[str]], out: Path) -> None:
    """Train and measure each lever that is not measured yet, in a folder of its own."""
    recipes = {lever: load_recipe(find_recipe(name), [*overrides, *changes]) for lever, changes in levers.items()}
    first = next(iter(recipes.values()))
    stored = _photos(first, Preprocessing(size=first.data.store_side, short_side=first.data.store_side))
    shown = _photos(first, first.preprocessing)
    aside = np.arange(len(shown)) % ASIDE == 0
    judged: Aside | None = None
    for lever, recipe in recipes.items():
        folder = out / folder_name(lever)
        if (folder / "lever.json").is_file():
            continue
        if judged is None:
            judged = _judge_by(recipe, _some(shown, aside), _some(shown, ~aside & (shown.labels >= 0)))
        learned = _some(stored, ~aside)
        print(f"{lever}: {len(learned)} photos, {recipe.epochs} epochs")
        lightning.seed_everything(recipe.seed, verbose=False)
        vit = make_vit(recipe.teacher, recipe.preprocessing.size)
        steps = -(-len(learned) // recipe.batch)
        distiller = Distiller(recipe, Teacher(vit), *normalisation(vit), steps_per_epoch=steps)
        if recipe.student.init == "teacher":
            distiller.start_from_teacher(choose(learned.pixels))
        distil(distiller, learned, folder, resume=folder.exists())
        outcome = Outcome(
            lever=lever,
            changes=levers[lever],
            student=recipe.student.size,
            epochs=recipe.epochs,
            photos=len(learned),
            metrics=_measure(distiller.float().eval(), judged),
            seconds=round(distiller.clock.cpu_seconds, 1),
            hardware=describe(distiller.device),
            commit=commit(),
        )
        write_json(folder / "lever.json", outcome)


def gather(levers: dict[str, list[str]], out: Path) -> list[Outcome]:
    """The outcomes in OUT, in the order of the levers. Raises TrainError where there is none."""
    outcomes = []
    for lever in levers:
        file = out / folder_name(lever) / "lever.json"
        if file.is_file():
            try:
                outcomes.append(msgspec.json.decode(file.read_bytes(), type=Outcome))
            except msgspec.MsgspecError as error:
                raise TrainError(f"{file} was not written by train.levers ({error}); remove it") from error
    if not outcomes:
        raise TrainError(f"no lever was measured in {out} yet: leave out --gather, or name its folder with --out")
    return outcomes


def trials(outcomes: Sequence[Outcome]) -> list[Trial]:
    """A row per lever and metric."""
    same = ("lever", "student", "epochs", "photos", "seconds", "hardware", "commit")
    return [
        row
        for outcome in outcomes
        for row in trials_of(outcome.metrics, **{name: getattr(outcome, name) for name in same})
    ]


def folder_name(lever: str) -> str:
    """`... soft logits` -> `soft-logits`."""
    return re.sub(r"[^a-z0-9]+", "-", lever.lower()).strip("-")


def _photos(recipe: Recipe, spec: Preprocessing) -> Photos:
    splits, more = data.find_splits(recipe.data), data.find_more(recipe.data)
    photos = splits.train.decode(spec, "training photos")
    return photos.and_more(more.decode(spec, "further photos")) if len(more) else photos


def _some(photos: Photos, chosen: np.ndarray) -> Photos:
    return Photos(photos.pixels[chosen], photos.labels[chosen], photos.classes)


def _judge_by(recipe: Recipe, photos: Photos, gallery: Photos) -> Aside:
    spec = msgspec.structs.replace(recipe.teacher, pixels=None)
    own = int(make_vit(spec, recipe.preprocessing.size).pretrained_cfg["input_size"][-1])
    vit = make_vit(msgspec.structs.replace(spec, pixels=own), own)
    teacher, (mean, std) = Teacher(vit), normalisation(vit)

    def features(pixels: Tensor) -> dict[str, Tensor]:
        return {"space": teacher(evaluate.normalise(pixels, mean, std), teacher.blocks).cls}

    space = evaluate.extract(features, photos.pixels, "the teacher")["space"]
    some = np.linspace(0, len(gallery) - 1, min(GALLERY, len(gallery)), dtype=int)
    chosen = Photos(gallery.pixels[some], gallery.labels[some], gallery.classes)
    return Aside(photos, chosen, space, teacher.head(space).argmax(1).detach())


def _measure(distiller: Distiller, aside: Aside) -> list[Metric]:
    """10-NN of labelled photos; agreement with the teacher's top-1 and cosine to its embedding of all photos."""
    projection = distiller.folded_projection()
    mean, std = (buffer.flatten().tolist() for buffer in (distiller.pixel_mean, distiller.pixel_std))
    name = distiller.spec.data.name

    def features(pixels: Tensor) -> dict[str, Tensor]:
        images = evaluate.normalise(pixels.to(distiller.device), mean, std)
        cls = evaluate.pooled(distiller.student, images)["cls"]
        return {"cls": cls, "teacher": functional.linear(cls, projection["cls.weight"], projection["cls.bias"])}

    found = evaluate.extract(features, aside.photos.pixels, "photos kept aside")
    gallery = evaluate.extract(features, aside.gallery.pixels, "the gallery")
    labels = torch.from_numpy(aside.photos.labels)
    labelled = labels >= 0
    votes = evaluate.knn(gallery["cls"], torch.from_numpy(aside.gallery.labels), found["cls"][labelled], k=NEIGHBOURS)
    head = distiller.teacher.cpu().head
    agreed = scores.accuracy(head(found["teacher"]).argmax(1), aside.classes)
    cosine = functional.cosine_similarity(found["teacher"], aside.space)
    return [
        scores.share(f"{NEIGHBOURS}-NN, cls", name, SPLIT, scores.accuracy(votes, labels[labelled])),
        scores.share("agreement with the teacher's top-1", "all training photos", SPLIT, agreed),
        scores.mean("cosine to the teacher's embedding", "all training photos", SPLIT, cosine),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.levers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m train.levers baseline teacher.checkpoint=vit.safetensors data.train=... data.val=... epochs=2\n"
        '  python -m train.levers baseline ... --only "random start, last"     # one, in a process of its own\n'
        "  python -m train.levers --gather                                # write the table again",
    )
    parser.add_argument("recipe", nargs="?", default="baseline", help="the recipe that the levers change (baseline)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace values of the recipe for all levers")
    parser.add_argument(
        "--levers", type=Path, default=LEVERS, help="YAML: a name and its overrides (train/levers.yaml)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="LEVER", help="only this one; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs/levers"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of levers.csv")
    parser.add_argument("--gather", action="store_true", help="train nothing, write the table of what was measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
