"""`python -m train.evaluate` says the same of a run folder and of the file that was exported from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from export.golden import draw
from leap_zoo.model import Model
from train.evaluate.__main__ import main
from train.evaluate.features import of_artifact, of_run
from train.run import Run


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Grey squares at four places, a class each: folders train (4 x 8) and test (4 x 4)."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for place in range(4):
            folder = tmp_path / split / f"place_{place}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                row, column = 16 * (place // 2), 16 * (place % 2)
                pixels[row : row + 16, column : column + 16] += 150
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def test_evaluation__of_run_and_fp32_file_is_of_the_same_features(run: Run, fp32: Model) -> None:
    """Features, not figures: a student of few epochs has close neighbours, which the order of sums may swap."""
    pixels = torch.from_numpy(draw(32))
    with torch.inference_mode():
        ours, file = of_run(run)(pixels), of_artifact(fp32)(pixels)
    for name, counterpart in (("embedding", run.info.pooling), ("teacher", "teacher")):
        torch.testing.assert_close(
            functional.normalize(file[name], dim=1), functional.normalize(ours[counterpart], dim=1), atol=1e-4, rtol=0
        )


def test_evaluation__of_run_and_fp32_file_has_the_same_figures(
    run_folder: Path, run: Run, published: Path, squares: Path, capsys: pytest.CaptureFixture
) -> None:
    figures, kept = [], ["--cache", str(squares / "cache"), "--store", str(squares / "store")]
    for subject in ([str(run_folder)], ["leap-digits", "--zoo", str(published), "--precision", "fp32"]):
        capsys.readouterr()
        assert main([*subject, "--data", str(squares), *kept, "--protocols", "knn", "retrieval", "--json"]) == 0
        figures.append({m["metric"]: m["n"] for m in json.loads(capsys.readouterr().out)})
    ours, file = figures
    for protocol in ("10-NN", "retrieval mAP", "recall@1"):
        assert file[f"{protocol}, embedding"] == ours[f"{protocol}, {run.info.pooling}"] == 16
        assert file[f"{protocol}, teacher"] == ours[f"{protocol}, teacher"] == 16
