"""Linear CKA against the dense definition, cosine against a case that has an answer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.method.losses import MEASURES, cosine, linear_cka

shapes = st.tuples(st.integers(3, 24), st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**16)


def dense(x: torch.Tensor, y: torch.Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with (rows, rows) kernels, in float64."""
    x, y = x.double(), y.double()
    rows = len(x)
    centre = torch.eye(rows, dtype=torch.float64) - 1 / rows
    k, l_ = x @ x.T, y @ y.T

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.trace(a @ centre @ b @ centre)

    return float(hsic(k, l_) / (hsic(k, k) * hsic(l_, l_)).sqrt())


def pair(shape: tuple[int, int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Related features (rows, D_x), (rows, D_y) with means that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    rows, width, other = shape
    x = torch.randn(rows, width, generator=generator)
    y = x @ torch.randn(width, other, generator=generator) + torch.randn(rows, other, generator=generator)
    return x + 3, y - 2


@settings(deadline=None)
@given(shapes, seeds)
def test_cka__is_the_dense_one(shape: tuple[int, int, int], seed: int) -> None:
    x, y = pair(shape, seed)
    value = linear_cka(x, y)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(dense(x, y), abs=1e-4)


@settings(deadline=None)
@given(shapes, seeds, st.floats(0.01, 100))
def test_cka__ignores_rotation_scale_and_shift(shape: tuple[int, int, int], seed: int, scale: float) -> None:
    x, y = pair(shape, seed)
    rotation, _ = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(seed)))
    assert float(linear_cka(scale * x @ rotation + 1, y)) == pytest.approx(float(linear_cka(x, y)), abs=1e-3)


@settings(deadline=None)
@given(shapes, seeds)
def test_cka__lies_in_0_to_1_and_is_1_for_itself(shape: tuple[int, int, int], seed: int) -> None:
    x, y = pair(shape, seed)
    assert -1e-5 <= float(linear_cka(x, y)) <= 1 + 1e-5
    assert float(linear_cka(x, x)) == pytest.approx(1, abs=1e-5)


def test_cka__flattens_batches_of_tokens_to_rows() -> None:
    x, y = torch.randn(3, 5, 4), torch.randn(3, 5, 7)
    assert float(linear_cka(x, y)) == pytest.approx(dense(x.flatten(0, 1), y.flatten(0, 1)), abs=1e-5)


def test_cka__is_computed_in_float32_for_bf16_features_and_under_autocast() -> None:
    x, y = pair((64, 16, 16), 0)
    x, y = x.bfloat16(), y.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_cka(x, y)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(dense(x, y), abs=1e-5)


def test_cka__carries_no_gradient() -> None:
    assert not linear_cka(torch.randn(8, 3, requires_grad=True), torch.randn(8, 3)).requires_grad


def test_cka__of_constant_features_is_not_finite() -> None:
    assert torch.isnan(linear_cka(torch.ones(6, 3), torch.randn(6, 3)))


def test_cosine__is_the_mean_over_rows() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    y = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    assert float(cosine(x, y)) == pytest.approx((1 - 1 + 0.5**0.5) / 3)


def test_measures__are_finite_for_bf16_tokens_of_a_batch() -> None:
    x, y = pair((60, 7, 7), 0)
    for measure in MEASURES.values():
        assert 0.5 < float(measure((x + y).bfloat16(), x + y + 0.1)) < 1 + 1e-5
