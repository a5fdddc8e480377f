"""`python -m train`: help without torch, and one line with status 2 for what the user can mend."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from train.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe_file(tree: Callable[[], dict], photo_folders: Path, tmp_path: Path) -> Path:
    """The small recipe on drawn photos."""
    values = tree()
    values["data"] |= {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that the command line prints for a mistake, status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    plain = re.sub(r"\x1b\[\w", "", error).replace("\r", "\n")  # progress bars draw and wipe before it
    lines = [line for line in plain.splitlines() if line.strip()]
    assert lines[-1].strip().startswith("train: ")
    assert "Traceback" not in error
    return lines[-1]


def test_help__lists_the_recipes_without_torch() -> None:
    code = (
        "import sys\n"
        "from train.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print('loaded', {'torch', 'timm', 'lightning'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in (ROOT / "train" / "recipes").glob("*.yaml"):
        assert f"  {path.stem} " in done.stdout
        assert yaml.safe_load(path.read_text())["description"] in done.stdout
    assert "loaded set()" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("digist",), "did you mean 'digits'"),
        (("digits", "optimzer.lr=1"), "did you mean 'optimizer'"),
        (("digits", "--out", "{tmp}", "epochs=none"), "epochs"),
        (("{recipe}", "teacher.checkpoint={tmp}/absent.safetensors"), "no teacher file"),
        (("{recipe}", "teacher.checkpoint={tmp}/teacher.pth"), "pickles"),
        (("{recipe}", "teacher.checkpoint={tmp}/other.safetensors"), "does not fit"),
        (("{recipe}", "teacher.checkpoint={tmp}/broken.safetensors"), "not a safetensors file"),
        (("{recipe}", "teacher.checkpoint=null"), "needs a teacher"),
        (("{recipe}", "teacher.model=vit_tiny_patch"), "timm has no model"),
        (("{recipe}", "teacher.options.num_classes=7", "teacher.checkpoint={tmp}/seven.safetensors"), "7 outputs"),
        (("{recipe}", "student.patch=9"), "do not tile"),
        (("{recipe}", "student.size=mega"), "unknown student size"),
        (("digits", "student.size=mega"), "unknown student size"),
        pytest.param(
            ("digits", "precision=fp16"),
            "fp16 needs an NVIDIA GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (("{recipe}", "data.train={tmp}/absent"), "no folder"),
        (("{recipe}", "data.val={tmp}/empty"), "holds no photos"),
        (("{recipe}", "--out", "{tmp}/teacher.pth"), "is a file"),
    ],
)
def test_mistake__is_one_line(
    arguments: tuple[str, ...],
    named: str,
    recipe_file: Path,
    teacher_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    torch.save({}, tmp_path / "teacher.pth")
    save_file({"cls_token": torch.zeros(1, 1, 9)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    _with_classes(teacher_file, 7, tmp_path / "seven.safetensors")
    (tmp_path / "empty").mkdir()
    filled = [argument.format(tmp=tmp_path, recipe=recipe_file) for argument in arguments]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "run")]
    assert named in refused(capsys, *filled)
    assert not (tmp_path / "run").exists()


def _with_classes(teacher: Path, classes: int, path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(teacher)
    save_file(weights | {"head.weight": torch.zeros(classes, 48), "head.bias": torch.zeros(classes)}, path)


def test_out__that_holds_something_is_not_written_over(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert "not empty: continue it with --resume" in refused(capsys, recipe_file, "--out", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_resume__of_a_folder_without_a_run_trains_nothing(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = refused(capsys, recipe_file, "--out", tmp_path / "mistyped", "--resume")
    assert "no run" in line
    assert "--out" in line
    assert not (tmp_path / "mistyped").exists()


def test_photos__too_few_for_a_probe_are_found_out_before_training(
    own_folders: Path, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (own_folders / "train").rglob("*_[2-9].png"):
        path.unlink()
    for path in (own_folders / "train").rglob("*_1?.png"):
        path.unlink()
    line = refused(capsys, recipe_file, f"data.train={own_folders / 'train'}", "--out", tmp_path / "run")
    assert "6 photos of 3 classes are too few" in line
    assert not (tmp_path / "run").exists()
