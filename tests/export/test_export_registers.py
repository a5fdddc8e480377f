"""A student with registers and LayerScale: its registers are no patches, in training and in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_export import DEPTH
from torch.nn import functional

from export import onnx_writer
from export.card import metadata
from export.golden import draw
from export.graph import DeployedStudent, weights_of
from train.evaluate.features import of_run
from train.run import Run, load_run

REGISTERS = 16  # as many as patches: counted among them, they would move every mean


@pytest.fixture(scope="module")
def registers_folder(trained: Callable[..., Path]) -> Path:
    whole = ["curriculum.strategy=last", "optimizer.decay=cosine"]  # every block learns from the first step
    return trained(
        "epochs=1", "teacher.supervised.epochs=1", f"student.registers={REGISTERS}", "student.layerscale=0.3", *whole
    )


@pytest.fixture
def registers_run(registers_folder: Path) -> Run:
    return load_run(registers_folder)


def tokens(run: Run, pixels: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> the student's tokens (B, 1 + REGISTERS + N, D)."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (run.info.mean, run.info.std))
    with torch.inference_mode():
        return run.student.forward_features((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)


def test_run__brings_registers_and_layerscale_back(registers_run: Run) -> None:
    student = registers_run.student
    assert student.num_prefix_tokens == 1 + REGISTERS
    gammas = [value for name, value in student.named_parameters() if "gamma" in name]
    assert len(gammas) == 2 * DEPTH
    assert all(0 < (gamma - 0.3).abs().max() < 0.1 for gamma in gammas)


def test_run__is_measured_by_the_mean_of_patches_only(registers_run: Run) -> None:
    """On the features, since another order of sums may swap neighbours that are equally near."""
    images = draw(32)
    with torch.inference_mode():
        measured = of_run(registers_run)(torch.from_numpy(images))
    every = tokens(registers_run, images)
    torch.testing.assert_close(measured["patch_mean"], every[:, 1 + REGISTERS :].mean(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(measured["cls"], every[:, 0], atol=1e-4, rtol=1e-4)
    assert "10-NN, patch_mean" in {metric.name for metric in registers_run.report.metrics}


@pytest.mark.parametrize("pooling", ["cls", "patch_mean"])
def test_file__leaves_registers_out_and_answers_as_torch(registers_run: Run, pooling: str) -> None:
    registers_run.info.pooling = pooling
    model = DeployedStudent(registers_run).eval()
    proto = onnx_writer.finish(onnx_writer.write(weights_of(model)), metadata(registers_run))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = draw(32)
    found = dict(zip(model.names, session.run(model.names, {"image": images}), strict=True))
    with torch.inference_mode():
        expected = dict(zip(model.names, model(torch.from_numpy(images)), strict=True))
    for name in model.names:
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4, rtol=1e-5, err_msg=name)

    every = tokens(registers_run, images)
    features = every[:, 0] if pooling == "cls" else every[:, 1 + REGISTERS :].mean(1)
    np.testing.assert_allclose(found["embedding"], functional.normalize(features, dim=1).numpy(), atol=1e-4)
