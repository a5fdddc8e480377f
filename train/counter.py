"""Floating-point operations of a call, counted by running it."""

from __future__ import annotations

from collections.abc import Callable

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions of `call`; a multiply and an add count as two."""
    # Fused attention kernels are opaque to the counter on some devices; the plain one is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()
