"""Settings under which training and exporting a student take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnxruntime
import pytest
import torch

from export import doubt, gate, int8, photos, publish
from leap_zoo.bench import Plan
from train.method import student

DEPTH, WIDTH, HEADS = 4, 48, 3

# What `python -m train` is given; the teacher has as many blocks as the student.
RECIPE = [
    "digits",
    "epochs=2",
    "batch=128",
    "teacher.options.embed_dim=48",
    f"teacher.options.depth={DEPTH}",
    "teacher.supervised.epochs=2",
]


@contextmanager
def small_export() -> Iterator[None]:
    """A student `digits` of few blocks, few photos for int8, a moment of timing, one thread.

    Models this small lose more to waiting threads than they gain, above all beside other work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEAP_ZOO_THREADS", "1")
        patch.setitem(student.SIZES, "digits", (WIDTH, DEPTH, HEADS, 4 * WIDTH))
        patch.setattr(photos, "CALIBRATION_PHOTOS", 8)
        patch.setattr(photos, "SELECTION_PHOTOS", 40)
        patch.setattr(int8, "SENSITIVITY_PHOTOS", 8)
        patch.setattr(int8, "SMOOTHING", (0.5,))
        patch.setattr(int8, "ROUNDS", 2)
        patch.setattr(publish, "TIMING", Plan(seconds=0.02, costs=False))
        patch.setattr(doubt, "DRAWN", 6)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def lenient_gate() -> Iterator[None]:
    """Let int8 files through whatever they lose; the gate itself has its own tests.

    OpenVINO's sums of 8-bit products overflow on processors without VNNI, where a student of few epochs loses much.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "LARGEST_DROP", 1.0)
        patch.setattr(gate, "SMALLEST_COSINE", -1.0)
        yield


def unfused(file: bytes) -> onnxruntime.InferenceSession:
    """A session that computes int8 in float, so that it judges the file, and not the processor's kernels for int8."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
