"""The student as timm reads it, from the files of its folder alone."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from torch.nn.functional import normalize

from export import card as cards
from export import onnx_writer
from export.card import Built
from export.formats import timm as for_timm
from export.formats.timm import TimmStudent
from export.gate import GateFailed, check_parity
from export.golden import draw, file_of, golden_bytes, golden_file
from export.graph import DeployedStudent, weights_of
from export.zoo import publish
from leap_zoo.card import ModelCard, Preprocessing
from leap_zoo.documents import read_card
from leap_zoo.errors import InvalidArgument
from leap_zoo.loading import choose_artifact, open_artifact
from leap_zoo.model import Model
from leap_zoo.preprocess import to_tensor
from leap_zoo.store import ModelFolder
from train.method.student import make_student
from train.run import Run, load_run

ROOT = Path(__file__).parents[2]
SHIPPED = [path.parent.name for path in sorted((ROOT / "zoo").glob("*/model.safetensors"))]
PHOTOS = 32


@pytest.fixture(scope="module", params=["cls, own head", "cls, teacher's head", "patch mean, registers, LayerScale"])
def built(
    request: pytest.FixtureRequest, run_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DeployedStudent, Path]:
    """The model in torch, and a folder with fp32 file, timm's files and card, of a student with random weights."""
    run = load_run(run_folder)
    names = [head.name for head in run.info.heads]
    assert [head.features for head in run.info.heads] == ["embedding", "teacher_embedding"]
    recipe, info = run.recipe, replace(run.info, pooling="cls", default_head=names["teacher" in request.param])
    if "registers" in request.param:
        recipe = replace(recipe, student=replace(recipe.student, registers=3, layerscale=0.3))
        info = replace(info, pooling="patch_mean", default_head=names[1])
    torch.manual_seed(0)
    student = make_student(recipe.student, pixels=recipe.preprocessing.size).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no bias stays zero, no scale one
    run = replace(run, recipe=recipe, info=info, student=student)
    zoo = tmp_path_factory.mktemp("zoo")
    model = DeployedStudent(run).eval()
    write_model(run, model, zoo)
    return model, zoo / run.recipe.name


def write_model(run: Run, model: DeployedStudent, zoo: Path) -> None:
    home = zoo / run.recipe.name
    home.mkdir()
    fp32 = Built(
        ("onnx", "fp32"),
        (onnx_writer.finish(onnx_writer.write(weights_of(model)), {}).SerializeToString(deterministic=True),),
    )
    contents = for_timm.files(model, run.recipe.preprocessing, licence="MIT", description="a student")
    for name, content in {"model.onnx": fp32.contents[0], **contents}.items():
        (home / name).write_bytes(content)
    content = golden_bytes({"image": draw(run.recipe.preprocessing.size)})
    (home / "golden.npz").write_bytes(content)
    golden = golden_file(content, [fp32.artifact])
    timm = [file_of(name, content) for name, content in contents.items()]
    publish(zoo, replace(cards.card(run, model, [fp32.artifact]), golden=golden, timm=timm))


def opened(folder: Path) -> tuple[ModelCard, Model]:
    """The card and the fp32 file."""
    card = read_card(folder / "card.json")
    return card, open_artifact(ModelFolder(folder), card, choose_artifact(card, "fp32", "onnx"), 1)


def normalised(vit: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(vit.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def check_as_timm_users_do(folder: Path, pixels: np.ndarray) -> None:
    """create_model, forward, and without a classification: all equal to the fp32 file."""
    card, file = opened(folder)
    vit = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    bare = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    labels = vit.pretrained_cfg["label_names"]
    head = next(head for head in card.heads if list(head.labels) == list(labels) and head.name in _chosen(card, folder))
    expected = file.run(pixels, ["embedding", head.output])
    with torch.inference_mode():
        largest = max(10.0, float(np.abs(expected[head.output]).max()))  # float32 has seven digits
        np.testing.assert_allclose(vit(normalised(vit, pixels)), expected[head.output], atol=largest * 1e-5)
        embedding = normalize(bare(normalised(bare, pixels)))
        np.testing.assert_allclose(embedding, expected["embedding"], atol=1e-4)


def _chosen(card: ModelCard, folder: Path) -> set[str]:
    """The heads that are not in projection.safetensors."""
    tensors = load_file(folder / for_timm.PROJECTION)
    return {head.name for head in card.heads if f"heads.{head.name}.weight" not in tensors}


def test_timm__gives_the_student(built: tuple[DeployedStudent, Path]) -> None:
    model, folder = built
    size = model.student.patch_embed.img_size[0]
    check_as_timm_users_do(folder, np.random.default_rng(1).integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8))


def test_timm__classifies_by_the_default_head_unless_it_reads_another_token(
    built: tuple[DeployedStudent, Path],
) -> None:
    model, folder = built
    card, _ = opened(folder)
    reads_cls = {head.name: head.features == "teacher_embedding" for head in model.info.heads}[card.default_head]
    other = model.pooling == "patch_mean" and reads_cls
    assert _chosen(card, folder) == {"digits" if other else card.default_head}


def test_timm__a_student_whose_heads_all_read_another_token_has_no_classifier(run: Run) -> None:
    info = replace(run.info, pooling="patch_mean", heads=run.info.heads[1:], default_head=run.info.heads[1].name)
    contents = for_timm.files(
        DeployedStudent(replace(run, info=info)), run.recipe.preprocessing, licence="MIT", description="a student"
    )
    config = json.loads(contents["config.json"])
    assert (config["num_classes"], config["model_args"]["num_classes"]) == (0, 0)
    assert "label_names" not in config


def test_timm__crops_and_normalises_as_the_card_says(built: tuple[DeployedStudent, Path]) -> None:
    model, folder = built
    card, _ = opened(folder)
    vit = timm.create_model(f"local-dir:{folder}", pretrained=True)
    resize, crop, *_, norm = timm.data.create_transform(**timm.data.resolve_model_data_config(vit)).transforms
    spec = card.preprocessing
    assert (resize.size, resize.interpolation.value, crop.size) == (spec.short_side, spec.filter, (spec.size,) * 2)
    assert (norm.mean.tolist(), norm.std.tolist()) == (pytest.approx(model.info.mean), pytest.approx(model.info.std))


@pytest.mark.parametrize(("size", "short"), [(160, 176), (224, 256), (224, 224), (28, 29), (384, 439), (511, 997)])
def test_crop__gives_timm_back_the_short_side(size: int, short: int) -> None:
    assert int(size / for_timm._crop(Preprocessing(size=size, short_side=short))) == short


def test_files__same_student_same_bytes(run: Run, published: Path) -> None:
    folder = published / "leap-digits"
    again = for_timm.files(
        DeployedStudent(run).eval(),
        run.recipe.preprocessing,
        licence="Apache-2.0",
        description=run.recipe.description,
    )
    assert again == {name: (folder / name).read_bytes() for name in again}


def test_publish__lists_what_timm_reads(published: Path, card: ModelCard) -> None:
    assert [file.file for file in card.timm] == ["config.json", "projection.safetensors", "model.safetensors"]
    check_as_timm_users_do(published / "leap-digits", draw(card.preprocessing.size))


def test_student__is_the_same_on_every_output_and_batch(built: tuple[DeployedStudent, Path]) -> None:
    _, folder = built
    card, file = opened(folder)
    assert (
        check_parity(file, TimmStudent(card, partial(ModelFolder(folder).read, card)), draw(card.preprocessing.size))
        < 1e-4
    )


def test_student__of_other_weights_is_refused(built: tuple[DeployedStudent, Path]) -> None:
    _, folder = built
    card, file = opened(folder)
    student = TimmStudent(card, partial(ModelFolder(folder).read, card))
    for value in (0.5, float("nan")):
        torch.nn.init.constant_(student.student.blocks[3].mlp.fc1.bias, value)
        with pytest.raises(GateFailed, match=r"differs from torch"):
            check_parity(file, student, draw(card.preprocessing.size))
    with pytest.raises(InvalidArgument, match="has no files for timm"):
        TimmStudent(replace(card, timm=[]), partial(ModelFolder(folder).read, card))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped__timm_gives_the_student_of_the_int8_file(name: str) -> None:
    """Its fp32 ONNX file, which the export compares with timm, is not in the checkout."""
    folder = ROOT / "zoo" / name
    card = read_card(folder / "card.json")
    photos = sorted((ROOT / "serve" / "demo" / "samples").glob("*.jpg"))
    pixels = np.stack([to_tensor(photo, card.preprocessing) for photo in photos])
    bare = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        embeddings = normalize(bare(normalised(bare, pixels))).numpy()
    file = open_artifact(ModelFolder(folder), card, choose_artifact(card, "int8", "onnx"), 1)
    cosines = (embeddings * file.run(pixels, ["embedding"])["embedding"]).sum(1)
    assert cosines.min() > 0.95
