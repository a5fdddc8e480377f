"""`python -m train.evaluate` says the same of a run folder and of the file that was exported from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.evaluate.__main__ import main
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


def test_evaluation__of_run_and_fp32_file_agree(
    run_folder: Path, run: Run, published: Path, squares: Path, capsys: pytest.CaptureFixture
) -> None:
    figures, kept = [], ["--cache", str(squares / "cache"), "--store", str(squares / "store")]
    for subject in ([str(run_folder)], ["leap-digits", "--zoo", str(published), "--precision", "fp32"]):
        capsys.readouterr()
        assert main([*subject, "--data", str(squares), *kept, "--protocols", "knn", "retrieval", "--json"]) == 0
        figures.append({m["metric"]: m["value"] for m in json.loads(capsys.readouterr().out)})
    ours, file = figures
    photo = 1 / 16  # a student of three epochs has close neighbours, which rounding may swap
    for protocol, tolerance in (("10-NN", photo), ("retrieval mAP", 0.03), ("recall@1", photo)):
        assert file[f"{protocol}, embedding"] == pytest.approx(ours[f"{protocol}, {run.info.pooling}"], abs=tolerance)
        assert file[f"{protocol}, teacher"] == pytest.approx(ours[f"{protocol}, teacher"], abs=tolerance)
