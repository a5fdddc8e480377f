"""The paper's recipes against its own settings (docs/training.md), and values that follow from them by hand."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import commands
import pytest
import timm
from safetensors.torch import save_file

from train.__main__ import main
from train.data.sampling import Epochs
from train.evaluate.__main__ import main as evaluate
from train.loop import make_optimizer
from train.method import curriculum
from train.method.distiller import Distiller
from train.method.schedule import schedule
from train.method.teacher import Teacher, check_teacher
from train.recipe import Augment, LeapSettings, Loss, Recipe
from train.recipe_file import find_recipe, load_recipe
from train.run import load_run

STEPS = 195  # an epoch: 50,000 photos / 256, and the incomplete batch of 80 is dropped
BLOCKS, WIDTH = 40, 1536  # of the teacher, ViT-g/14


def paper(name: str) -> Recipe:
    return load_recipe(find_recipe(f"paper/{name}"))


def distiller(recipe: Recipe) -> Distiller:
    """The student, and the teacher's shapes without their 1.1 G weights."""
    teacher = Teacher(check_teacher(recipe.teacher, recipe.preprocessing.size))
    assert (teacher.blocks, teacher.width, teacher.vit.num_prefix_tokens) == (BLOCKS, WIDTH, 1 + 4)
    return Distiller(recipe, teacher, curriculum.make(recipe.curriculum, BLOCKS, steps_per_epoch=STEPS, epochs=100))


@pytest.mark.parametrize(
    ("name", "size", "layerscale", "threshold"),
    [
        ("in100-vits", "small", 1e-5, 0.85),
        ("in100-vitt", "tiny", None, 0.85),
        ("in1k-vits", "small", 1e-5, 0.80),
        ("in1k-vitt", "tiny", None, 0.80),
    ],
)
def test_recipe__has_the_papers_values(name: str, size: str, layerscale: float | None, threshold: float) -> None:
    recipe = paper(name)
    teacher, optimizer, augment = recipe.teacher, recipe.optimizer, recipe.augment
    assert recipe.name == f"leap-{name}"
    assert (teacher.model, teacher.pretrained, teacher.head) == ("vit_giant_patch14_reg4_dinov2", True, None)
    assert (recipe.student.size, recipe.student.patch, recipe.student.registers) == (size, 14, 0)
    assert (recipe.student.layerscale, recipe.student.init) == (layerscale, "random")
    assert (recipe.preprocessing.size, recipe.epochs, recipe.batch, recipe.precision) == (224, 100, 256, "fp16")
    assert recipe.curriculum == LeapSettings(similarity="cka", every=1, threshold=threshold, smoothing=1, max_epochs=5)
    assert recipe.loss == Loss(targets="raw", cls_weight=0.05)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("lars", 0.9, 1e-6)
    assert optimizer.lr == pytest.approx(6 * math.sqrt(256 / 1536), rel=1e-12)
    assert optimizer.lr == pytest.approx(2.449489742783178, rel=1e-15)
    assert (optimizer.decay, optimizer.final_share, optimizer.clip) == ("cosine", 0.001, 1)
    assert (augment.scale, augment.flip, augment.jitter, augment.grey, augment.mix) == ((0.14, 1), 0.5, 0.8, 0.2, True)
    assert augment.colour == (0.4, 0.4, 0.2, 0.1)
    assert "blur" not in Augment.__struct_fields__  # its sigma is 0 to .1 pixels: none


def test_epoch__has_195_steps() -> None:
    recipe = paper("in100-vits")
    assert Epochs.of([50_000], [1.0], batch=recipe.batch, seed=0).steps == STEPS


def test_vit_s__has_the_published_number_of_parameters() -> None:
    """The student is 384 wide, of 12 blocks:

    patches 14 * 14 * 3 * 384 + 384                     226,176
    CLS 384, positions (1 + 16 * 16) * 384               99,072
    a block: norms 4 * 384                                1,536
             queries, keys, values 384 * 1152 + 1152    443,520
             output 384 * 384 + 384                     147,840
             MLP 384 * 1536 + 1536 + 1536 * 384 + 384 1,181,568
             LayerScale 2 * 384                             768
    12 blocks of 1,775,232                           21,302,784
    last norm 2 * 384                                       768
    """
    student = distiller(paper("in100-vits")).student
    assert sum(parameter.numel() for parameter in student.parameters()) == 21_628_800


def test_vit_t__has_no_layerscale() -> None:
    """The student is 192 wide, of 12 blocks:

    patches 14 * 14 * 3 * 192 + 192                     113,088
    CLS 192, positions (1 + 16 * 16) * 192               49,536
    a block: norms 4 * 192                                  768
             queries, keys, values 192 * 576 + 576      111,168
             output 192 * 192 + 192                      37,056
             MLP 192 * 768 + 768 + 768 * 192 + 192      295,872
    12 blocks of 444,864                              5,338,368
    last norm 2 * 192                                       384
    """
    student = distiller(paper("in100-vitt")).student
    assert sum(parameter.numel() for parameter in student.parameters()) == 5_501_376


@pytest.mark.parametrize(("name", "width", "scales"), [("in100-vits", 384, 24), ("in100-vitt", 192, 0)])
def test_weight_decay__is_of_matrices_only(name: str, width: int, scales: int) -> None:
    """Decayed: patches 588 D, 12 D^2 in each of 12 blocks, the projection 1536 D. Spared: all else.

    That is: the bias of the patches, CLS and 257 positions; 13 D in each block (norms 4, biases of queries, keys and
    values 3, of the output 1, of the MLP 4 + 1); LayerScale; the last norm 2 D; the projection's bias.
    """
    recipe = paper(name)
    groups = make_optimizer(recipe, distiller(recipe)).param_groups
    sizes = {0.0: 0, 1e-6: 0}
    for group in groups:
        sizes[group["weight_decay"]] += sum(parameter.numel() for parameter in group["params"])
        assert group["lr"] == recipe.optimizer.lr
        assert group["momentum"] == 0.9
    assert sizes[1e-6] == 588 * width + 12 * 12 * width**2 + WIDTH * width
    assert sizes[0.0] == (1 + 1 + 257 + 12 * 13 + scales + 2) * width + WIDTH


def test_rate__of_every_step() -> None:
    """Ten epochs of warm-up are 1950 steps; the cosine has 17,550, and divides by 17,549."""
    share, steps = schedule(paper("in100-vits"), STEPS), 100 * STEPS
    assert [share(0), share(974), share(1949)] == pytest.approx([1 / 1950, 0.5, 1.0])
    assert share(1950) == 1.0
    assert share(1950 + 5000) == pytest.approx(0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * 5000 / 17549)))
    assert share(steps - 1) == pytest.approx(0.001)
    quarter = 0.001 + 0.999 * 0.5 * (1 + math.sqrt(0.5))  # cos(pi / 4)
    assert share(1950 + round(17549 / 4)) == pytest.approx(quarter, abs=1e-4)


def test_state_machine__times_out_at_every_fifth_end_of_an_epoch() -> None:
    """From block 21 it comes to 40, which it leaves no more; from block 1 to 20, and to 21 after the very last step."""
    for start, moves in ((21, 19), (1, 20)):
        plan = curriculum.make(paper("in100-vits").curriculum, BLOCKS, steps_per_epoch=STEPS, epochs=100)
        plan.calibrate([0.5 if block == start else 0.1 for block in range(1, BLOCKS + 1)])
        for step in range(1, 100 * STEPS + 1):
            plan.observe(step, 0.84)
        assert [move.step for move in plan.history] == [0] + [975 * turn for turn in range(1, moves + 1)]
        assert {move.reason for move in plan.history[1:]} == {"timeout"}
        assert plan.block == start + moves


def test_state_machine__a_begun_epoch_counts_after_an_advance_by_similarity() -> None:
    plan = curriculum.make(paper("in100-vits").curriculum, BLOCKS, steps_per_epoch=STEPS, epochs=100)
    plan.calibrate([0.5] + [0.1] * 39)
    for step in range(1, 2000):
        plan.observe(step, 0.85 if step == 1000 else 0.84)
    # Step 1000 is in the sixth epoch (975 to 1170): its end is the first of five, the end of the tenth, 1950, the last.
    found = [(move.step, move.block, move.reason) for move in plan.history]
    assert found == [(0, 1, "calibration"), (975, 2, "timeout"), (1000, 3, "similarity"), (1950, 4, "timeout")]


@pytest.fixture
def command(photo_folders: Path, store: Path, tmp_path: Path) -> list[str]:
    """The paper's recipe for ViT-T, by a teacher of two blocks and at 28 px, on drawn photos."""
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    vit = timm.create_model("vit_giant_patch14_reg4_dinov2", img_size=28, **options)
    save_file(vit.state_dict(), tmp_path / "teacher.safetensors")
    return [
        "paper/in100-vitt",
        "teacher.pretrained=false",
        f"teacher.checkpoint={tmp_path / 'teacher.safetensors'}",
        f"teacher.options={options}".replace("'", ""),
        "student.size=digits",
        "preprocessing.size=28",
        "preprocessing.short_side=32",
        f"data.train={photo_folders / 'train'}",
        f"data.val={photo_folders / 'val'}",
        f"data.store={store}",
        "data.store_side=36",
        "batch=8",
        "epochs=6",
        "curriculum.max_epochs=2",
        "precision=fp32",
        "--out",
        str(tmp_path / "run"),
    ]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.timeout(600)
def test_command__is_killed_resumed_and_evaluated(
    command: list[str], photo_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    begun = commands.start(*command, "checkpoint_minutes=1e-6", output=tmp_path / "said.txt")
    code, said = begun.signal_after(1, run, signal.SIGKILL)
    assert code == -signal.SIGKILL, said
    assert not (run / "metrics.json").exists()

    assert main([*command, "--resume"]) == 0
    assert "resumed after step" in capsys.readouterr().out
    finished = load_run(run)
    assert finished.report.images_seen == 6 * 4 * 8  # 36 photos: 4 whole batches an epoch
    assert finished.moves[0].reason == "calibration"
    assert finished.tensors["projection.cls.weight"].isfinite().all()
    assert evaluate([str(run), "--protocols", "knn"]) == 0
    assert "10-NN, cls" in capsys.readouterr().out
