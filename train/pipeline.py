"""A recipe from photos to run folder: decode, teach, distil by each strategy, evaluate, report."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning
import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from leap_zoo.card import Metric, Preprocessing
from train import data, evaluate, flops, monitor, ranks, reference, slicing
from train.data import Augmenter, EpochSampler, Photos
from train.distill import Distiller, plain_attention
from train.errors import TrainError
from train.fit import check_machine, distil, train
from train.hardware import describe
from train.recipe import Recipe, differences, load_recipe, save_recipe
from train.run import (
    RECIPE,
    HeadInfo,
    ModelInfo,
    Pooling,
    Run,
    RunReport,
    commit,
    is_finished,
    load_run,
    save_run,
    save_skipped,
    versions,
)
from train.students import make_student
from train.supervised import SupervisedTeacher
from train.teacher import Teacher, check_teacher, make_vit, normalisation


@dataclass(frozen=True)
class Evaluation:
    """Photos as the deployed model will see them."""

    train: Photos
    val: Photos
    held_out: Photos | None


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> list[Run]:
    """Carry out a recipe; the first run is the recipe's own, in `folder`, rivals follow in `folder`/compare.

    Of several processes only the first evaluates, writes and has runs to return; all train (see `train.ranks`).
    Raises TrainError, before any training, for photos or a teacher that cannot be used.
    """
    _quiet()
    mine = ranks.join()
    check_machine(recipe, mine)
    if mine.first:
        _check_folder(recipe, folder, resume=resume)
    # What cannot be is refused now, not after photos were decoded and a teacher trained.
    student = make_student(recipe.student, pixels=recipe.preprocessing.size)
    if recipe.teacher.supervised is None:
        shapes = check_teacher(recipe.teacher, recipe.preprocessing.size)
        if recipe.student.init == "teacher":
            slicing.check_sliceable(shapes, student)
    lightning.seed_everything(recipe.seed, verbose=False)
    splits, more = data.find_splits(recipe.data), data.find_more(recipe.data)
    store = recipe.data.store_side
    stored = splits.train.decode(Preprocessing(size=store, short_side=store), "training photos")
    learned = stored
    if len(more):
        learned = stored.and_more(more.decode(Preprocessing(size=store, short_side=store), "further photos"))
    print(f"{recipe.name}: {len(learned)} photos to learn from, {len(splits.held_out)} held out")
    with ranks.first_ahead():
        teacher, (mean, std) = _teacher(recipe, stored, folder)
    if recipe.teacher.head is not None and teacher.classes not in (1000, len(stored.classes)):
        raise TrainError(
            f"the teacher's classifier has {teacher.classes} outputs, neither ImageNet's 1000 nor one per class of the "
            "photos; leave it out with teacher.head=null"
        )
    evaluation = None
    if mine.first:
        evaluation = Evaluation(
            splits.train.decode(recipe.preprocessing, "photos for the probe"),
            splits.val.decode(recipe.preprocessing, "validation photos"),
            splits.held_out.decode(recipe.preprocessing, "held-out photos") if len(splits.held_out) else None,
        )
        measure = partial(_evaluate_teacher, recipe, teacher, evaluation, mean, std)
        figures = reference.of_teacher(recipe, splits, folder, measure)
        folder.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder / RECIPE)
        save_skipped(learned.skipped, folder)
    runs = []
    for number, rival in enumerate([recipe.curriculum, *recipe.compare]):
        spec = msgspec.structs.replace(recipe, curriculum=rival, compare=[])
        home = folder / "compare" / rival.strategy if number else folder
        if resume and is_finished(home):
            runs.append(load_run(home))
            continue
        lightning.seed_everything(recipe.seed, verbose=False)  # each strategy starts from the same student
        distiller = Distiller(spec, teacher, mean, std, steps_per_epoch=-(-len(learned) // recipe.batch))
        if recipe.student.init == "teacher":
            distiller.start_from_teacher(slicing.choose(learned.pixels))
        watch = monitor.for_recipe(spec, evaluation.train, home) if evaluation else []
        distil(distiller, learned, home, resume=resume, callbacks=watch)
        if evaluation is None:  # the first of the processes has it, and goes on alone
            continue
        runs.append(_finish(distiller, evaluation, figures, len(learned), mean, std))
        save_run(home, runs[-1])
        _draw(home)
    return runs


def _draw(folder: Path) -> None:
    """Draw a finished run; whatever goes wrong with a picture, the run is there."""
    try:
        from train import plot  # matplotlib may be missing, or broken

        plot.write_report(folder)
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


def _teacher(recipe: Recipe, photos: Photos, folder: Path) -> tuple[Teacher, tuple]:
    spec, size = recipe.teacher, recipe.preprocessing.size
    if spec.supervised is None:
        if spec.checkpoint is None and not spec.pretrained:
            raise TrainError(
                "this recipe needs a teacher: give teacher.checkpoint=FILE.safetensors, or teacher.pretrained=true "
                "to fetch it by name"
            )
        vit = make_vit(spec, size)
        return Teacher(vit), normalisation(vit)
    file = folder / "teacher.safetensors"
    if file.is_file():  # a resumed run
        vit = make_vit(msgspec.structs.replace(spec, checkpoint=str(file), supervised=None), size, len(photos.classes))
        return Teacher(vit), normalisation(vit)
    vit = make_vit(spec, size, len(photos.classes))
    mean, std = normalisation(vit)
    epochs, batch = spec.supervised.epochs, spec.supervised.batch
    print(f"training the teacher on {len(photos)} labelled photos, {epochs} epochs")
    augment = Augmenter(msgspec.structs.replace(recipe.augment, mix=False), size, recipe.seed)
    steps = epochs * -(-len(photos) // batch)
    module = SupervisedTeacher(vit, mean, std, augment, spec.supervised.lr, steps)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(photos.pixels), torch.from_numpy(photos.labels)),
        batch_size=batch,
        sampler=EpochSampler(len(photos), recipe.seed),
    )
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        plugins=[ranks.environment(ranks.Layout())],  # the first of several processes trains it for all
    )
    train(trainer, module, loader)
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    save_file(vit.state_dict(), partial)
    save_recipe(recipe, folder / RECIPE)  # killed from here on, the run can be resumed
    os.replace(partial, file)
    return Teacher(vit), (mean, std)


def _finish(
    distiller: Distiller, evaluation: Evaluation, teacher_metrics: list[Metric], photos: int, mean: tuple, std: tuple
) -> Run:
    """Evaluate a distilled student and put the run together."""
    recipe, teacher = distiller.spec, distiller.teacher
    distiller = distiller.float().eval()
    projection = distiller.folded_projection()
    cost = flops.count(distiller)
    device = distiller.device
    weight, bias = projection["cls.weight"].to(device), projection["cls.bias"].to(device)

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = evaluate.pooled(distiller.student, evaluate.normalise(pixels.to(device), mean, std))
        return {**found, "teacher": functional.linear(found["cls"], weight, bias)}

    metrics, pooling, probe = _measure(recipe, features, evaluation, teacher)
    tensors = {f"projection.{key}": value.cpu() for key, value in projection.items()}
    tensors |= {f"heads.{recipe.data.head}.weight": probe.weight, f"heads.{recipe.data.head}.bias": probe.bias}
    labels = data.class_labels(evaluation.train.classes)
    heads = [HeadInfo(name=recipe.data.head, features="embedding", labels=labels)]
    if recipe.teacher.head is not None:
        own = teacher.vit.head
        tensors |= {
            f"heads.{recipe.teacher.head}.weight": own.weight.detach().float().cpu(),
            f"heads.{recipe.teacher.head}.bias": own.bias.detach().float().cpu(),
        }
        names = data.imagenet_labels() if teacher.classes == 1000 else labels
        heads.append(HeadInfo(name=recipe.teacher.head, features="teacher_embedding", labels=names))
    clock = distiller.clock
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
        train_photos=photos,
        train_seconds=round(clock.seconds, 1),
        cpu_seconds=round(clock.cpu_seconds, 1),
        data_wait=round(clock.wait_share, 4),
        images_per_second=round(photos * recipe.epochs / clock.seconds, 1) if clock.seconds else 0.0,
        commit=commit(),
        hardware=describe(device),
        versions=versions("torch", "timm", "lightning"),
    )
    return Run(
        recipe=recipe,
        info=ModelInfo(pooling=pooling, mean=mean, std=std, heads=heads, default_head=recipe.data.head),
        report=report,
        moves=distiller.curriculum.history,
        student=distiller.student.cpu(),
        tensors=tensors,
    )


def _measure(
    recipe: Recipe, features: Callable[[Tensor], dict[str, Tensor]], evaluation: Evaluation, teacher: Teacher
) -> tuple[list[Metric], Pooling, evaluate.Probe]:
    """Probe and k-NN on val for CLS and patch mean, the teacher's head on held-out photos.

    The pooling is chosen by the probes' selection score, on a tenth of train.
    """
    name = recipe.data.name
    train = evaluate.extract(features, evaluation.train.pixels, "train")
    val = evaluate.extract(features, evaluation.val.pixels, "val")
    train_labels, val_labels = torch.from_numpy(evaluation.train.labels), torch.from_numpy(evaluation.val.labels)
    metrics, probes = [], {}
    for kind in ("cls", "patch_mean"):
        probe = evaluate.linear_probe(train[kind], train_labels, len(evaluation.train.classes), seed=recipe.seed)
        probes[kind] = probe
        score = evaluate.accuracy(probe(val[kind]).argmax(1), val_labels)
        metrics.append(evaluate.share(f"linear probe, {kind}", name, "val", score))
        for k in (10, 20):
            votes = evaluate.knn(train[kind], train_labels, val[kind], k=k)
            metrics.append(evaluate.share(f"{k}-NN, {kind}", name, "val", evaluate.accuracy(votes, val_labels)))
    pooling: Pooling = max(probes, key=lambda kind: probes[kind].selection.value)  # type: ignore[assignment]
    if recipe.teacher.head is not None:
        metrics += _teacher_head(recipe, features, evaluation, teacher)
    return metrics, pooling, probes[pooling]


def _teacher_head(
    recipe: Recipe, features: Callable[[Tensor], dict[str, Tensor]], evaluation: Evaluation, teacher: Teacher
) -> list[Metric]:
    """Accuracy through the teacher's classifier, where the photos' classes are its own."""
    if teacher.classes == 1000:
        photos, split, indices = evaluation.held_out, "held-out", data.imagenet_indices(evaluation.val.classes)
    else:
        photos, split, indices = evaluation.val, "val", np.arange(teacher.classes)
    if photos is None or indices is None:
        return []
    space = evaluate.extract(features, photos.pixels, split)["teacher"]
    device = next(teacher.parameters()).device
    logits = teacher.head(space.to(device)).cpu()
    score = evaluate.accuracy(logits.argmax(1), torch.from_numpy(indices[photos.labels]))
    return [evaluate.share(f"top-1 of {teacher.classes} through the teacher's head", recipe.data.name, split, score)]


def _evaluate_teacher(
    recipe: Recipe, teacher: Teacher, evaluation: Evaluation, mean: tuple, std: tuple
) -> list[Metric]:
    """The same figures for the teacher itself: what a student could reach."""
    device = next(teacher.parameters()).device
    plain_attention(teacher.vit, device.type == "cpu")

    def features(pixels: Tensor) -> dict[str, Tensor]:
        tokens = teacher(evaluate.normalise(pixels.to(device), mean, std), teacher.blocks)
        return {"cls": tokens.cls, "patch_mean": tokens.patches.mean(1), "teacher": tokens.cls}

    return _measure(recipe, features, evaluation, teacher)[0]


def _quiet() -> None:
    """Lightning's tips and its remarks on worker counts are no news to the reader of a progress bar."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
