"""A teacher's weights: from files of any maker, from the hub, or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from train import recipe
from train.errors import TrainError
from train.method import teacher as teachers
from train.method.teacher import Teacher, make_vit

SHARED = Path(__file__).parents[2].parent / "shared" / "teachers" / "vit_tiny_patch16_224.safetensors"


def spec(**values: object) -> recipe.TeacherSettings:
    options = {"patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 12}
    return recipe.TeacherSettings(**{"model": "vit_tiny_patch16_224", "options": options, **values})


def test_make_vit__keeps_a_classifier_of_any_number_of_classes(teacher: Teacher, teacher_file: Path) -> None:
    """timm itself drops a classifier that its configuration does not expect, without a word."""
    vit = make_vit(spec(checkpoint=str(teacher_file)), 32, classes=3)
    for name, value in teacher.vit.state_dict().items():
        torch.testing.assert_close(vit.state_dict()[name], value)


def test_make_vit__resamples_position_embeddings(teacher_file: Path) -> None:
    vit = make_vit(spec(checkpoint=str(teacher_file)), 48, classes=3)
    assert vit.pos_embed.shape[1] == 1 + 6 * 6


def one_line(caught: pytest.ExceptionInfo[TrainError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("blocks.3.mlp.fc1.bias"), "blocks.3.mlp.fc1.bias"),
        (lambda weights: weights.update({"more": torch.zeros(1)}), "more"),
        (lambda weights: weights.update({"norm.weight": torch.zeros(32)}), "norm.weight"),
        (lambda weights: weights.update({"pos_embed": torch.zeros(1, 8, 48)}), ""),
        (lambda weights: weights.update({"patch_embed.proj.weight": torch.zeros(3)}), ""),
        (lambda weights: weights.clear(), "cls_token"),
    ],
    ids=["missing", "unexpected", "other width", "odd grid", "odd patches", "empty"],
)
def test_make_vit__refuses_weights_of_another_model(
    change: Callable[[dict], object], named: str, teacher: Teacher, tmp_path: Path
) -> None:
    weights = dict(teacher.vit.state_dict())
    change(weights)
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(TrainError, match="does not fit vit_tiny_patch16_224 at 32 px") as caught:
        make_vit(spec(checkpoint=str(tmp_path / "other.safetensors")), 32, classes=3)
    assert named in one_line(caught)


def test_make_vit__refuses_the_file_of_another_size_or_family(teacher_file: Path) -> None:
    for change in ({"embed_dim": 96}, {"depth": 13}, {"depth": 11}):
        options = {**spec().options, **change}
        with pytest.raises(TrainError, match="does not fit"):
            make_vit(spec(checkpoint=str(teacher_file), options=options), 32, classes=3)
    with pytest.raises(TrainError, match="does not fit vit_small_patch16_dinov3"):
        make_vit(spec(checkpoint=str(teacher_file), model="vit_small_patch16_dinov3"), 32)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None], ids=["empty", "text", "truncated"])
def test_make_vit__refuses_files_that_are_not_safetensors(
    content: bytes | None, teacher_file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(teacher_file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(TrainError, match=r"broken\.safetensors is not a safetensors file") as caught:
        make_vit(spec(checkpoint=str(broken)), 32, classes=3)
    one_line(caught)


@pytest.mark.parametrize(
    ("values", "pixels", "reason"),
    [
        ({"model": "resnet18"}, 32, "resnet18 is not a ViT whose blocks"),
        ({"model": "swin_tiny_patch4_window7_224"}, 224, "is not a ViT whose blocks"),
        ({"model": "convnext_tiny"}, 32, "is not a ViT whose blocks"),
        ({"model": "mixer_b16_224"}, 32, "is not a ViT whose blocks"),
        ({"model": "vit_base_patch16_siglip_224"}, 32, "no CLS token"),
        ({"model": "vit_dwee_patch16_reg1_gap_256"}, 32, "no CLS token"),
        ({"model": "vit_small_patch14_dinov2", "options": {}}, 160, "multiple of 14"),
        ({"model": "vit_small_patch14_dinov2", "options": {}, "head": "imagenet1k"}, 224, "no classifier"),
        ({"model": "beit_base_patch16_224", "options": {}, "head": "imagenet1k"}, 224, "reads pooled patches"),
        ({"options": {"embed_dim": 50, "num_heads": 3}}, 32, "does not fit vit_tiny_patch16_224 at 32 px"),
        ({"options": {"widht": 50}}, 32, "widht"),
        ({"options": {"checkpoint_path": "weights.pth"}}, 32, "options.checkpoint_path: weights are loaded by"),
        ({"options": {"pretrained_cfg": {"file": "weights.pth"}}}, 32, "options.pretrained_cfg: weights are loaded by"),
    ],
)
def test_make_vit__refuses_before_it_fetches(
    values: dict, pixels: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "hf_hub_download", lambda *_: pytest.fail("weights were fetched"))
    with pytest.raises(TrainError, match=re.escape(reason)) as caught:
        make_vit(spec(pretrained=True, **values), pixels)
    one_line(caught)


def test_pretrained__loads_the_file_that_the_hub_gives(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose own configuration asks for a loader of another format included."""
    asked = []
    weights = dict(teacher.vit.state_dict())
    weights |= {"head.weight": torch.ones(21843, 48), "head.bias": torch.ones(21843)}
    save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(
        teachers, "hf_hub_download", lambda *names: asked.append(names) or str(tmp_path / "model.safetensors")
    )
    vit = make_vit(spec(model="vit_tiny_patch16_224.augreg_in21k", pretrained=True), 32)
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k", "model.safetensors")]
    for name, value in weights.items():
        torch.testing.assert_close(vit.state_dict()[name], value)


def hub_errors() -> dict[str, Exception]:
    request = httpx.Request("GET", "https://hub.invalid/model.safetensors")
    answer = httpx.Response(403, request=request)
    return {
        "gated": errors.GatedRepoError("Access to model is restricted.\nVisit the page", response=answer),
        "missing": errors.RepositoryNotFoundError("404", response=answer),
        "server": errors.HfHubHTTPError("500 Server Error", response=answer),
        "file": errors.EntryNotFoundError("no such file"),
        "offline": errors.LocalEntryNotFoundError("not in the cache"),
        "connection": httpx.ConnectError("Name or service not known", request=request),
        "slow": httpx.ReadTimeout("timed out", request=request),
        "full": OSError(28, "No space left on device"),
    }


@pytest.mark.parametrize("kind", hub_errors())
def test_pretrained__names_the_offline_way_when_the_hub_gives_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = hub_errors()[kind]

    def download(*_: str) -> str:
        raise error

    monkeypatch.setattr(teachers, "hf_hub_download", download)
    with pytest.raises(TrainError, match="cannot fetch vit_small_patch16_dinov3") as caught:
        make_vit(recipe.TeacherSettings(model="vit_small_patch16_dinov3", pretrained=True), 32)
    message = one_line(caught)
    assert type(error).__name__ in message
    assert message.endswith("teacher.pretrained=false teacher.checkpoint=FILE.safetensors")


def test_pretrained__without_weights_at_the_hub_says_so() -> None:
    with pytest.raises(TrainError, match="names no safetensors weights for vit_small_patch16_18x2_224"):
        make_vit(spec(model="vit_small_patch16_18x2_224", pretrained=True), 32)


# Files as their authors publish them: timm's key -> theirs.
def dinov2_keys(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    theirs = {"mask_token": torch.zeros(1, 48)}
    for key, value in weights.items():
        if "attn" not in key:  # SwiGLU packs its two inputs in one matrix
            key = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        theirs[key] = value
    return theirs


def dinov3_keys(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    theirs = {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.zeros(4)}
    for key, value in weights.items():
        key = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        theirs[key.replace("reg_token", "storage_tokens")] = value
    return theirs


@pytest.mark.parametrize(
    ("model", "rename"), [("vit_giant_patch14_dinov2", dinov2_keys), ("vit_small_patch16_dinov3", dinov3_keys)]
)
def test_make_vit__reads_the_key_names_of_the_authors(
    model: str, rename: Callable, make_teacher: Callable[..., Teacher], images: torch.Tensor, tmp_path: Path
) -> None:
    teacher = make_teacher(model, depth=3, num_classes=0)
    theirs = rename(teacher.vit.state_dict())
    assert not set(theirs) <= set(teacher.vit.state_dict())
    save_file(theirs, tmp_path / "theirs.safetensors")
    options = {"patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 3}
    loaded = Teacher(make_vit(spec(model=model, checkpoint=str(tmp_path / "theirs.safetensors"), options=options), 32))
    torch.testing.assert_close(loaded(images, 3).patches, teacher(images, 3).patches)


def test_make_vit__resamples_the_37_x_37_grid_of_dinov2(make_teacher: Callable[..., Teacher], tmp_path: Path) -> None:
    options = {"embed_dim": 48, "num_heads": 3, "depth": 2}
    published = make_teacher("vit_small_patch14_dinov2", patch_size=14, img_size=518, depth=2, num_classes=0).vit
    smooth = torch.linspace(0, 1, 37)[:, None].expand(37, 37)  # rises from the top row to the last
    published.pos_embed.data[:, 1:] = smooth.reshape(1, -1, 1)
    save_file(published.state_dict(), tmp_path / "dinov2.safetensors")
    chosen = spec(model="vit_small_patch14_dinov2", checkpoint=str(tmp_path / "dinov2.safetensors"), options=options)
    vit = make_vit(chosen, 224)
    assert vit.pos_embed.shape == (1, 1 + 16 * 16, 48)
    torch.testing.assert_close(vit.pos_embed[:, 0], published.pos_embed[:, 0])
    rows = vit.pos_embed[0, 1:, 0].unflatten(0, (16, 16))
    torch.testing.assert_close(rows[:, 3], (torch.arange(16) + 0.5) / 16, atol=0.03, rtol=0)


def test_make_vit__opens_no_pickle(tmp_path: Path) -> None:
    trap, fallen = tmp_path / "teacher.pth", tmp_path / "fallen"
    torch.save(_Trap(fallen), trap)
    with pytest.raises(TrainError, match="never opened"):
        make_vit(spec(checkpoint=str(trap)), 32)
    disguised = trap.rename(tmp_path / "teacher.safetensors")
    with pytest.raises(TrainError, match="not a safetensors file"):
        make_vit(spec(checkpoint=str(disguised)), 32)
    assert not fallen.exists()


class _Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_make_vit__names_near_models() -> None:
    with pytest.raises(TrainError, match=re.escape("timm has no model 'vit_tiny_patch16'; near: vit_tiny_patch16_224")):
        make_vit(spec(model="vit_tiny_patch16"), 32)


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared ImageNet teacher is not on this machine")
def test_shared_teacher__loads_at_160_px_and_stops_early() -> None:
    teacher = Teacher(make_vit(recipe.TeacherSettings(model="vit_tiny_patch16_224", checkpoint=str(SHARED)), 160))
    assert (teacher.blocks, teacher.width, teacher.classes) == (12, 192, 1000)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    every = teacher.at(images, range(1, 13))
    for block in (1, 6, 12):
        torch.testing.assert_close(teacher(images, block).patches, every[block - 1].patches, atol=1e-4, rtol=1e-4)
