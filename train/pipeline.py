"""A recipe from photos to run folder: decode, teach, distil, evaluate, report."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
from lightning.fabric import Fabric, seed_everything
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from leap_zoo.card import Metric
from train import processes
from train.data import labels, splits
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture
from train.data.store import Photos, Shown, Whole, open_photos
from train.errors import TrainError
from train.evaluate import monitor, standard
from train.evaluate.features import normalise, pooled
from train.evaluate.protocols import check_labels
from train.loop import Training, train
from train.method import curriculum, flops, slicing
from train.method.distiller import Distiller
from train.method.schedule import last_block_share, schedule
from train.method.student import make_student, plain_attention
from train.method.supervised import train_teacher
from train.method.targets import TargetStore
from train.method.teacher import Teacher, check_teacher, make_vit, normalisation
from train.recipe import Recipe
from train.recipe_file import differences, load_recipe, save_recipe
from train.run import RECIPE, HeadInfo, ModelInfo, Run, RunReport, commit, hardware, save_run, save_skipped, versions

START_PHOTOS = 512  # some 50,000 tokens, by which a student that starts from its teacher is cut


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> Run | None:
    """Carry out a recipe in `folder`. Of several processes only the first evaluates, writes and has a run to return.

    Raises TrainError, before any training, for photos or a teacher that cannot be used.
    """
    fabric = processes.join(recipe)
    mine = processes.layout()
    if mine.first:
        _check_folder(recipe, folder, resume=resume)
    # What cannot work is refused now, not after photos were decoded and a teacher trained.
    student = make_student(recipe.student, pixels=recipe.preprocessing.size)
    if recipe.teacher.supervised is None:
        shapes = check_teacher(recipe.teacher, recipe.preprocessing.size)
        if recipe.student.init == "teacher":
            slicing.check_sliceable(shapes, student)
    found = splits.find_splits(recipe.data)
    check_labels(found.train.labels, found.train.classes)
    seed_everything(recipe.seed, verbose=False)
    with processes.first_ahead():
        photos, probe_photos = _photos(recipe, found)
        weights = [recipe.data.weight, *(weight for _, weight in found.more)]
        sizes = [len(part) for part in photos.sets]
        epochs = Epochs.of(
            sizes,
            weights,
            batch=recipe.batch,
            seed=recipe.seed,
            photos=recipe.data.epoch_photos,
            views=recipe.data.views,
        )
        teacher = _teacher(recipe, photos, folder, fabric)
    print(
        f"{recipe.name}: {len(photos)} photos to learn from, {len(found.held_out)} held out; "
        f"{recipe.epochs} epochs of {epochs.steps} steps of {recipe.batch}"
    )
    classes = len(found.train.classes)
    if recipe.teacher.head is not None and teacher.classes not in (1000, classes):
        raise TrainError(
            f"the teacher's classifier has {teacher.classes} outputs, neither ImageNet's 1000 nor one per class of the "
            "photos; leave it out with teacher.head=null"
        )
    plan = curriculum.make(recipe.curriculum, teacher.blocks, steps_per_epoch=epochs.steps, epochs=recipe.epochs)
    seed_everything(recipe.seed, verbose=False)  # the student starts the same, whatever came before
    training = Training(Distiller(recipe, teacher, plan), plan)
    if recipe.student.init == "teacher":
        mean, std = normalisation(teacher.vit)
        start = normalise(photos.spread(START_PHOTOS), mean, std).to(fabric.device)
        training.distiller.to(fabric.device).start_from_teacher(teacher, start)
    watch = None
    if mine.first:
        judged = _judged(recipe, found, probe_photos)
        plain_attention(teacher.vit, fabric.device.type == "cpu")
        figures = standard.of_teacher(recipe, found, judged, teacher)
        folder.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder / RECIPE)
        save_skipped([each for part in photos.sets for each in part.skipped], folder)
        watch = monitor.for_recipe(recipe, training, judged.train, folder, normalisation(teacher.vit))
    known = None
    if recipe.data.views:
        patches = (recipe.preprocessing.size // recipe.student.patch) ** 2
        known = TargetStore(recipe, photos, teacher, patches)
    train(recipe, teacher, training, photos, epochs, folder, fabric, known=known, resume=resume, after_epoch=watch)
    if not mine.first:
        return None
    result = _finish(recipe, training, teacher, judged, figures, epochs, len(photos))
    save_run(folder, result)
    _draw(folder)
    return result


def _photos(recipe: Recipe, found: splits.Splits) -> tuple[Mixture, Photos]:
    """What the student learns from, and what the probe learns from; a photo of both is decoded once."""
    store, whole, shown = Path(recipe.data.store), Whole(recipe.data.store_side), Shown(recipe.preprocessing)
    amount = len(found.train)
    if amount <= recipe.data.probe_photos:
        train_photos, probe_photos = open_photos(found.train, [whole, shown], store, "training photos")
    else:
        (train_photos,) = open_photos(found.train, [whole], store, "training photos")
        chosen = np.random.default_rng(0).permutation(amount)[: recipe.data.probe_photos]
        (probe_photos,) = open_photos(found.train.take(np.sort(chosen)), [shown], store, "photos for the probe")
    others = [
        open_photos(split, [whole], store, f"further photos, set {n}")[0] for n, (split, _) in enumerate(found.more, 1)
    ]
    return Mixture([train_photos, *others]), probe_photos


def _judged(recipe: Recipe, found: splits.Splits, probe_photos: Photos) -> standard.Judged:
    store, shown = Path(recipe.data.store), [Shown(recipe.preprocessing)]
    (val,) = open_photos(found.val, shown, store, "validation photos")
    held_out = open_photos(found.held_out, shown, store, "held-out photos")[0] if len(found.held_out) else None
    aside = open_photos(found.aside, shown, store, "photos kept aside")[0] if len(found.aside) else None
    return standard.Judged(probe_photos, val, held_out, aside)


def _teacher(recipe: Recipe, photos: Mixture, folder: Path, fabric: Fabric) -> Teacher:
    """The recipe's teacher: loaded, or trained here on labels and kept in FOLDER/teacher.safetensors."""
    spec, size = recipe.teacher, recipe.preprocessing.size
    if spec.supervised is None:
        if spec.checkpoint is None and not spec.pretrained:
            raise TrainError(
                "this recipe needs a teacher: give teacher.checkpoint=FILE.safetensors, or teacher.pretrained=true "
                "to fetch it by name"
            )
        return Teacher(make_vit(spec, size))
    file, classes = folder / "teacher.safetensors", len(photos.sets[0].classes)
    if file.is_file():  # a resumed run, or another process of this one
        return Teacher(make_vit(msgspec.structs.replace(spec, checkpoint=str(file), supervised=None), size, classes))
    vit: nn.Module = make_vit(spec, size, classes).to(fabric.device)
    print(f"training the teacher on {len(photos.sets[0])} labelled photos, {spec.supervised.epochs} epochs")
    augment = Augmenter(msgspec.structs.replace(recipe.augment, mix=False), size, recipe.seed, *normalisation(vit))
    train_teacher(vit, spec.supervised, Mixture(photos.sets[:1]), augment, recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    save_file(vit.state_dict(), partial)
    save_recipe(recipe, folder / RECIPE)  # killed from here on, the run can be resumed
    os.replace(partial, file)
    return Teacher(vit)


def _finish(
    recipe: Recipe,
    training: Training,
    teacher: Teacher,
    judged: standard.Judged,
    teacher_metrics: list[Metric],
    epochs: Epochs,
    photos: int,
) -> Run:
    """Evaluate a distilled student and put the run together."""
    distiller = training.distiller.float().eval()
    device = next(distiller.parameters()).device
    mean, std = normalisation(teacher.vit)
    projection = distiller.folded_projection()
    cost = flops.count(
        distiller, teacher, training.block_images, training.calibration_images, recipe.preprocessing.size
    )

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = pooled(distiller.student, normalise(pixels.to(device), mean, std))
        return {**found, "teacher": functional.linear(found["cls"], projection["cls.weight"], projection["cls.bias"])}

    metrics, pooling, probe = standard.measure(recipe, features, judged, teacher)
    tensors = {f"projection.{key}": value.cpu() for key, value in projection.items()}
    tensors |= {f"heads.{recipe.data.head}.weight": probe.weight, f"heads.{recipe.data.head}.bias": probe.bias}
    names = labels.class_labels(judged.train.classes)
    heads = [HeadInfo(name=recipe.data.head, features="embedding", labels=names)]
    if recipe.teacher.head is not None:
        own = teacher.vit.head
        tensors |= {
            f"heads.{recipe.teacher.head}.weight": own.weight.detach().float().cpu(),
            f"heads.{recipe.teacher.head}.bias": own.bias.detach().float().cpu(),
        }
        names = labels.imagenet_labels() if teacher.classes == 1000 else names
        heads.append(HeadInfo(name=recipe.teacher.head, features="teacher_embedding", labels=names))
    default = recipe.teacher.head if recipe.teacher.head and teacher.classes == 1000 else recipe.data.head
    clock, steps, moves = training.clock, training.step, training.curriculum.history
    images = steps * recipe.batch
    share = schedule(recipe, epochs.steps)
    report = RunReport(
        name=recipe.name,
        strategy=recipe.curriculum.strategy,
        epochs=recipe.epochs,
        seed=recipe.seed,
        metrics=metrics,
        teacher_metrics=teacher_metrics,
        teacher_flops=cost.teacher,
        total_flops=cost.total,
        teacher_flops_saved=cost.teacher_saved,
        total_flops_saved=cost.total_saved,
        last_block_rate_share=round(last_block_share(share, moves, teacher.blocks, steps), 4),
        train_photos=photos,
        images_seen=images,
        train_seconds=round(clock.seconds, 1),
        cpu_seconds=round(clock.cpu_seconds, 1),
        data_wait=round(clock.wait_share, 4),
        images_per_second=round(images / clock.seconds, 1) if clock.seconds else 0.0,
        commit=commit(),
        hardware=hardware(device),
        versions=versions("torch", "timm", "lightning"),
    )
    return Run(
        recipe=recipe,
        info=ModelInfo(pooling=pooling, mean=mean, std=std, heads=heads, default_head=default),
        report=report,
        moves=moves,
        student=distiller.student.cpu(),
        tensors=tensors,
    )


def _draw(folder: Path) -> None:
    """Draw a finished run; whatever goes wrong with a picture, the run is there."""
    try:
        from train.plot import report  # matplotlib may be missing, or broken

        report.draw([folder])
    except Exception as error:
        print(f"{folder}: no picture of this run ({' '.join(str(error).split())}); try python -m train.plot {folder}")


def _check_folder(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """A fresh run wants an empty folder; a resumed one the folder of the same recipe (its photos may have moved)."""
    if folder.exists() and not folder.is_dir():
        raise TrainError(f"{folder} is a file: choose another --out")
    begun = folder.exists() and any(folder.iterdir())
    if begun and not resume:
        raise TrainError(f"{folder} is not empty: continue it with --resume, or choose another --out")
    if resume and not (folder / RECIPE).is_file():
        raise TrainError(f"there is no run in {folder} to resume: leave out --resume, or name its folder with --out")
    if resume and (changed := differences(load_recipe(folder / RECIPE), recipe)):
        raise TrainError(
            f"the run in {folder} was begun with another {', '.join(changed)}: resume with the recipe that began it, "
            "or choose another --out"
        )
