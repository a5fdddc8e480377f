"""Run a recipe, from photos to run folder: decode, train the teacher, distill, evaluate, report."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from lightning.fabric import Fabric, seed_everything
from safetensors.torch import save
from torch import nn

from leap_zoo.card import Metric
from leap_zoo.files import atomic_file
from train import processes
from train.data import labels, splits
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture
from train.data.store import Shown, View, Whole, open_photos
from train.errors import TrainError
from train.evaluate import monitor
from train.evaluate.features import normalise
from train.evaluate.protocols import check_labels
from train.evaluate.standard import Standard
from train.loop import Training, check_resume, train
from train.method import curriculum, flops, slicing
from train.method.distiller import Distiller
from train.method.schedule import last_block_share, schedule
from train.method.student import make_student, plain_attention
from train.method.supervised import train_teacher
from train.method.targets import TargetStore
from train.method.teacher import Teacher, check_teacher, make_vit, normalisation
from train.published import START, Published
from train.recipe import Recipe
from train.recipe_file import differences, load_recipe, save_recipe
from train.run import RECIPE, HeadInfo, ModelInfo, Run, RunReport, commit, hardware, save_run, save_skipped, versions

START_PHOTOS = 512  # some 50,000 tokens, by which a student that starts from its teacher is cut


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> Run | None:
    """Carry out a recipe in `folder`. Of several processes only the first evaluates, writes and has a run to return.

    Raises TrainError, before any training, for photos or a teacher that cannot be used.
    """
    begun_at = commit()  # the code that is running; the checkout may move on before the run ends
    fabric, data = processes.join(recipe), recipe.data
    first = processes.layout().first
    if first:
        _check_folder(recipe, folder, resume=resume)
    # What cannot work is refused now, not after photos were decoded and a teacher trained.
    student = make_student(recipe.student, pixels=recipe.preprocessing.size)
    before = Published.kept(folder, recipe.student)
    if recipe.teacher.supervised is None:
        shapes = check_teacher(recipe.teacher, recipe.preprocessing.size)
        if recipe.student.init == "teacher":
            slicing.check_sliceable(shapes, student)
        elif before:
            before.check(student, recipe.teacher.model, shapes.embed_dim)
    found = splits.find_splits(data)
    check_labels(found.train.labels, found.train.classes)
    seed_everything(recipe.seed, verbose=False)
    hosts = processes.layout().hosts if data.by_host else 1
    with processes.first_ahead(of_host=data.by_host):
        photos, probe = _photos(recipe, found)
    if data.by_host:  # a broken photo makes one share smaller
        least = processes.least([len(part) for part in photos.sets])
        photos = Mixture([part.first(most) for part, most in zip(photos.sets, least, strict=True)])
    # What is drawn for photo 7 of one machine is not what is drawn for photo 7 of another.
    own = msgspec.structs.replace(recipe, seed=recipe.seed + processes.layout().host) if data.by_host else recipe
    epochs = Epochs.of(
        [len(part) for part in photos.sets],
        [data.weight, *(weight for _, weight in found.more)],
        batch=recipe.batch // hosts,
        seed=own.seed,
        photos=data.epoch_photos and data.epoch_photos // hosts,
        views=data.views,
    )
    with processes.first_ahead():
        teacher = _teacher(recipe, found, folder, fabric)
    print(
        f"{recipe.name}: {len(photos) * hosts} photos to learn from, {len(found.held_out)} held out; "
        f"{recipe.epochs} epochs of {epochs.steps} steps of {recipe.batch}"
    )
    if recipe.teacher.head is not None and teacher.classes not in (1000, len(found.train.classes)):
        raise TrainError(
            f"the teacher's classifier has {teacher.classes} outputs, neither ImageNet's 1000 nor one per class of the "
            "photos; leave it out with teacher.head=null"
        )
    plan = curriculum.make(recipe.curriculum, teacher.blocks, steps_per_epoch=epochs.steps, epochs=recipe.epochs)
    seed_everything(recipe.seed, verbose=False)  # the student starts the same, whatever came before
    training = Training(Distiller(recipe, teacher, plan), plan)
    if recipe.student.init == "teacher":
        start = normalise(photos.spread(START_PHOTOS), *normalisation(teacher.vit))
        training.distiller.start_from_teacher(teacher.cpu(), start)  # of what is not on a GPU yet
    elif before:
        before.check(training.distiller.student, recipe.teacher.model, teacher.width)
        before.begin(training.distiller)
    begun = (
        {name: value.clone() for name, value in training.distiller.state_dict().items()} if recipe.student.kept else {}
    )
    watch = None
    if first:
        plain_attention(teacher.vit, fabric.device.type == "cpu")
        standard = Standard(recipe, found, probe, teacher.to(fabric.device))
        figures = standard.of_teacher()  # before the training: photos that cannot be measured on are refused
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            check_resume(recipe, epochs.steps, folder)  # before the run's own recipe is replaced
        save_recipe(recipe, folder / RECIPE)
        if before and not (folder / START / "card.json").exists():  # a kill may have come before it was kept
            before.keep(folder)
        save_skipped([each for part in photos.sets for each in part.skipped], folder)
        (shown,) = open_photos(probe, [Shown(recipe.preprocessing)], Path(data.store), "photos for the probe")
        watch = monitor.for_recipe(recipe, training, shown, folder, normalisation(teacher.vit))
    known = None
    if data.views:
        patches = (recipe.preprocessing.size // recipe.student.patch) ** 2
        known = TargetStore(own, photos, teacher, patches)
    train(own, teacher, training, photos, epochs, folder, fabric, known=known, resume=resume, after_epoch=watch)
    if not first:
        return None
    if begun:
        training.distiller.mix_in(begun, recipe.student.kept)
    seen = photos.sets[0].classes, len(photos) * hosts
    result = _finish(recipe, training, teacher, standard, figures, epochs, *seen, begun_at)
    result.report.continued = before.source if before else None
    save_run(folder, result)
    _draw(folder)
    return result


def _photos(recipe: Recipe, found: splits.Splits) -> tuple[Mixture, splits.Split]:
    """What the student learns from, decoded; and what the probe learns from, which is decoded with it if it is all."""
    store, whole = Path(recipe.data.store), Whole(recipe.data.store_side)
    chosen = np.random.default_rng(0).permutation(len(found.train))[: recipe.data.probe_photos]
    mine = processes.layout()
    host, hosts = (mine.host, mine.hosts) if recipe.data.by_host else (0, 1)
    both = hosts == 1 and len(chosen) == len(found.train)
    views: list[View] = [whole, Shown(recipe.preprocessing)] if both else [whole]
    sets = [open_photos(found.train.share(host, hosts), views, store, "training photos")[0]]
    for number, (split, _) in enumerate(found.more, 1):
        sets += open_photos(split.share(host, hosts), [whole], store, f"further photos, set {number}")
    return Mixture(sets), found.train.take(np.sort(chosen))


def _teacher(recipe: Recipe, found: splits.Splits, folder: Path, fabric: Fabric) -> Teacher:
    """The recipe's teacher: loaded, or trained here on labels and kept in FOLDER/teacher.safetensors."""
    spec, size = recipe.teacher, recipe.preprocessing.size
    if spec.supervised is None:
        if spec.checkpoint is None and not spec.pretrained:
            raise TrainError(
                "this recipe needs a teacher: give teacher.checkpoint=FILE.safetensors, or teacher.pretrained=true "
                "to fetch it by name"
            )
        return Teacher(make_vit(spec, size))
    file, classes = folder / "teacher.safetensors", len(found.train.classes)
    if file.is_file():  # a resumed run, or another process of this one
        return Teacher(make_vit(msgspec.structs.replace(spec, checkpoint=str(file), supervised=None), size, classes))
    vit: nn.Module = make_vit(spec, size, classes).to(fabric.device)
    photos = open_photos(found.train, [Whole(recipe.data.store_side)], Path(recipe.data.store), "labeled photos")
    print(f"training the teacher on {len(photos[0])} labeled photos, {spec.supervised.epochs} epochs")
    augment = Augmenter(msgspec.structs.replace(recipe.augment, mix=False), size, recipe.seed, *normalisation(vit))
    train_teacher(vit, spec.supervised, Mixture(photos), augment, recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, folder / RECIPE)  # killed from here on, the run can be resumed
    with atomic_file(file) as out:
        out.write(save(vit.state_dict()))
    return Teacher(vit)


def _finish(
    recipe: Recipe,
    training: Training,
    teacher: Teacher,
    standard: Standard,
    teacher_metrics: list[Metric],
    epochs: Epochs,
    classes: tuple[str, ...],
    photos: int,
    begun_at: str,
) -> Run:
    """Evaluate a distilled student and put the run together."""
    distiller = training.distiller.float().eval()
    projection = distiller.folded_projection()
    cost = flops.count(
        distiller, teacher, training.block_images, training.calibration_images, recipe.preprocessing.size
    )
    metrics, pooling, probe = standard.of_student(distiller.student, projection, distiller.classifier)
    names = labels.class_labels(classes)
    tensors = {f"projection.{key}": value.cpu() for key, value in projection.items()}
    tensors |= {f"heads.{recipe.data.head}.weight": probe.weight, f"heads.{recipe.data.head}.bias": probe.bias}
    heads, default = [HeadInfo(name=recipe.data.head, features="embedding", labels=names)], recipe.data.head
    if recipe.teacher.head is not None:
        for key, value in (distiller.classifier or teacher.vit.head).state_dict().items():
            tensors[f"heads.{recipe.teacher.head}.{key}"] = value.float().cpu()
        if teacher.classes == 1000:
            names, default = labels.imagenet_labels(), recipe.teacher.head
        heads.append(HeadInfo(name=recipe.teacher.head, features="teacher_embedding", labels=names))
    clock, moves, images = training.clock, training.curriculum.history, training.step * recipe.batch
    rate_share = last_block_share(schedule(recipe, epochs.steps), moves, teacher.blocks, training.step)
    report = RunReport(
        name=recipe.name,
        strategy=recipe.curriculum.strategy,
        epochs=recipe.epochs,
        seed=recipe.seed,
        metrics=metrics,
        teacher_metrics=teacher_metrics,
        last_block_rate_share=round(rate_share, 4),
        train_photos=photos,
        images_seen=images,
        train_seconds=round(clock.seconds, 1),
        cpu_seconds=round(clock.cpu_seconds, 1),
        data_wait=round(clock.wait_share, 4),
        images_per_second=round(images / clock.seconds, 1) if clock.seconds else 0.0,
        commit=begun_at,
        hardware=hardware(next(distiller.parameters()).device),
        versions=versions("torch", "timm", "lightning"),
        **cost._asdict(),
    )
    mean, std = normalisation(teacher.vit)
    return Run(
        recipe=recipe,
        info=ModelInfo(pooling=pooling, mean=mean, std=std, heads=heads, default_head=default),
        report=report,
        moves=moves,
        student=distiller.student.cpu(),
        tensors=tensors,
    )


def _draw(folder: Path) -> None:
    """Draw a finished run; a failed plot does not affect the run."""
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
