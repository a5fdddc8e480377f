"""A tiny teacher, drawn photos and small recipes: everything here trains in seconds on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import msgspec
import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from train import processes
from train.data.sampling import Epochs, Mixture
from train.data.store import Photos
from train.loop import Training, train
from train.method import curriculum
from train.method.distiller import Distiller
from train.method.teacher import Teacher
from train.recipe import Recipe

SIDE, PATCH, BATCH = 32, 8, 8
CLASSES = ("blue", "green", "red")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of the tiny teacher


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small lose more to waiting threads than they gain, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is not drawn: that takes longer than to train it."""
    monkeypatch.setattr("train.plot.report.draw", lambda runs: None)


@pytest.fixture(scope="session")
def make_teacher() -> Callable[..., Teacher]:
    """A fresh teacher with spread-out weights: 32 px, 12 blocks of 48 unless told otherwise."""

    def make(model: str = "vit_tiny_patch16_224", **options: object) -> Teacher:
        torch.manual_seed(0)
        settings = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 48, "num_heads": 3, "depth": 12, **options}
        vit = timm.create_model(model, **settings)
        for parameter in vit.parameters():  # fresh timm weights are so small that all blocks look alike
            parameter.data += 0.1 * torch.randn_like(parameter)
        return Teacher(vit)

    return make


@pytest.fixture(scope="session")
def teacher(make_teacher: Callable[..., Teacher]) -> Teacher:
    """The tiny teacher, 3 classes. Read only."""
    return make_teacher(num_classes=len(CLASSES))


@pytest.fixture(scope="session")
def teacher_file(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher's weights."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_file(teacher.vit.state_dict(), path)
    return path


@pytest.fixture
def images() -> torch.Tensor:
    """Normalised images (4, 3, 32, 32)."""
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pixels() -> torch.Tensor:
    """Photos uint8 (6, 40, 40, 3)."""
    return torch.randint(0, 256, (6, 40, 40, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for decoded photos, shared by all runs of the session."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def tree(teacher_file: Path, store: Path) -> Callable[[], dict]:
    """A small recipe as plain values, a new copy per call."""

    def make() -> dict:
        return {
            "name": "leap-tiny",
            "description": "For tests",
            "student": {"size": "digits", "patch": PATCH},
            "teacher": {
                "model": "vit_tiny_patch16_224",
                "checkpoint": str(teacher_file),
                "options": {"patch_size": PATCH, "embed_dim": 48, "num_heads": 3, "depth": 12, "num_classes": 3},
                "head": "own",
            },
            "data": {"name": "drawn", "head": "colours", "store": str(store), "store_side": 40},
            "preprocessing": {"size": SIDE, "short_side": 36},
            "epochs": 2,
            "batch": BATCH,
        }

    return make


@pytest.fixture(scope="session")
def make_recipe(tree: Callable[[], dict]) -> Callable[..., Recipe]:
    """The small recipe; keywords replace values, and values within its sections."""

    def make(**parts: object) -> Recipe:
        values = tree()
        for key, part in parts.items():
            values[key] = {**values.get(key, {}), **part} if isinstance(part, dict) else part
        values.get("curriculum", {}).setdefault("strategy", "leap")
        return msgspec.convert(values, Recipe)

    return make


@pytest.fixture(scope="session")
def make_training(make_recipe: Callable[..., Recipe], teacher: Teacher) -> Callable[..., Training]:
    """A fresh student of the small recipe (keywords as of `make_recipe`) and its curriculum."""

    def make(*, steps_per_epoch: int = 4, teacher: Teacher = teacher, **parts: object) -> Training:
        recipe = make_recipe(**parts)
        plan = curriculum.make(recipe.curriculum, teacher.blocks, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs)
        torch.manual_seed(3)
        return Training(Distiller(recipe, teacher, plan), plan)

    return make


@pytest.fixture(scope="session")
def make_distiller(make_training: Callable[..., Training]) -> Callable[..., Distiller]:
    """A fresh distiller; keywords as of `make_training`."""
    return lambda **parts: make_training(**parts).distiller


@pytest.fixture(scope="session")
def photos() -> Mixture:
    """32 photos of noise, 40 x 40, in memory: 4 batches an epoch."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 40, 3), dtype=np.uint8)
    return Mixture([Photos(pixels, np.full(32, -1), (), np.ones(32, np.float32))])


@pytest.fixture(scope="session")
def learn(make_training: Callable[..., Training], photos: Mixture, teacher: Teacher) -> Callable[..., Training]:
    """Train the small recipe (keywords as of `make_training`) in a folder, by the real loop, on `photos`."""

    def run(
        folder: Path, *, resume: bool = False, after_epoch: Callable[[int], None] = lambda done: None, **parts: object
    ) -> Training:
        training = make_training(**parts)
        recipe = training.distiller.recipe
        epochs = Epochs.of([len(photos)], [1.0], batch=recipe.batch, seed=recipe.seed)
        fabric = processes.join(recipe)
        train(recipe, teacher, training, photos, epochs, folder, fabric, resume=resume, after_epoch=after_epoch)
        return training

    return run


def draw_folders(root: Path, train: int = 12, val: int = 6) -> Path:
    """A folder per class in root/train and root/val: noise with one strong colour; some named like a held-out set."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(0, 120, (44, 48, 3), dtype=np.uint8)
                noise[..., {"red": 0, "green": 1, "blue": 2}[name]] += 100
                kind = "kept" if number % 4 else "away"
                Image.fromarray(noise).save(folder / f"{kind}_{number}.png")
    return root


@pytest.fixture(scope="session")
def photo_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train (3 x 12) and val (3 x 6); every fourth file is called away_*. Read only."""
    return draw_folders(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def growing_recipe(tree: Callable[[], dict], photo_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file: the small recipe on drawn photos, 3 epochs of 4 steps, growing; a checkpoint after every step."""
    values = tree()
    values["data"] |= {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    values["student"]["classifier"] = "fitted"
    values |= {
        "epochs": 3,
        "checkpoint_minutes": 1e-6,
        "curriculum": {"strategy": "leap-grow", "last_share": 0.25, "every": 1},
        "loss": {"targets": "standardised"},
    }
    path = tmp_path_factory.mktemp("recipe") / "growing.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def growing_run(growing_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the growing recipe, in a process of its own. Read only."""
    folder = tmp_path_factory.mktemp("growing")
    code, said = commands.start(growing_recipe, "--out", folder / "run", output=folder / "said.txt").finish()
    assert code == 0, said
    return folder / "run"


@pytest.fixture
def own_folders(tmp_path: Path) -> Path:
    """The same, for a test that changes them."""
    return draw_folders(tmp_path / "photos")
