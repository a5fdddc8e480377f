"""A teacher's head that the student makes too little of is not shipped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from export.photos import MorePhotos, for_gate, without_dead_head
from leap_zoo.card import GENERAL, WORLD
from leap_zoo.errors import InvalidArgument
from train.recipe import TeacherSettings
from train.run import HeadInfo, Run

SEEN = 7  # the class that the teacher sees everywhere


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / WORLD / "photos").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 99, 0)).save(tmp_path / WORLD / "photos" / f"{number}.png")
    rows = "".join(f"{number}.png,{SEEN}\n" for number in range(4))
    (tmp_path / WORLD / "photos.csv").write_text(f"file,class_index\n{rows}")
    return tmp_path / WORLD / "photos.csv"


@pytest.fixture
def taught(run: Run, tmp_path: Path) -> Run:
    """The run, as if a teacher of 1000 classes had taught it, and with that teacher's head, which sees class 0."""
    teacher = timm.create_model("vit_tiny_patch16_224")
    torch.nn.init.zeros_(teacher.head.weight)
    teacher.head.bias.data = torch.eye(1000)[SEEN]
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    spec = TeacherSettings(
        model="vit_tiny_patch16_224", checkpoint=str(tmp_path / "teacher.safetensors"), head="imagenet1k"
    )
    width = run.tensors["projection.cls.bias"].shape[0]
    run.tensors |= {"heads.imagenet1k.weight": torch.zeros(1000, width), "heads.imagenet1k.bias": torch.eye(1000)[0]}
    run.info.heads.append(HeadInfo(name="imagenet1k", features="teacher_embedding", labels=list(map(str, range(1000)))))
    run.info.default_head = "imagenet1k"
    return msgspec.structs.replace(run, recipe=msgspec.structs.replace(run.recipe, teacher=spec))


def test_dead_head__is_left_out_and_its_figure_is_kept(taught: Run, world: Path) -> None:
    shipped, photos, figure = without_dead_head(taught, world)
    assert "imagenet1k" not in [head.name for head in shipped.info.heads]
    assert not any(key.startswith("heads.imagenet1k") for key in shipped.tensors)
    assert shipped.info.default_head == shipped.info.heads[0].name
    assert figure is not None
    assert (figure.name, figure.dataset, figure.n, figure.value, figure.head) == (GENERAL, WORLD, 4, 0, None)
    assert photos.pixels.shape == (4, 32, 32, 3)


def test_living_head__stays(taught: Run, world: Path) -> None:
    taught.tensors["heads.imagenet1k.bias"] = torch.eye(1000)[SEEN]
    shipped, photos, figure = without_dead_head(taught, world)
    assert figure is None
    assert shipped is taught
    assert for_gate(shipped, MorePhotos(world=photos))[-1] is photos  # the gate compares int8 and fp32 on them, too


def test_without_a_head_of_1000_classes__there_is_nothing_to_judge(run: Run, world: Path) -> None:
    with pytest.raises(InvalidArgument, match="1000 classes"):
        without_dead_head(run, world)
