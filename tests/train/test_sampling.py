"""Which photos a step sees: each as often as its weight says, and the same ones for any number of processes."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.sampling import Epochs, Mixture, read_ahead
from train.data.store import Photos
from train.errors import TrainError

seeds = st.integers(0, 2**32)
set_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=3)


def mixture(*sizes: int) -> Mixture:
    """Photos 2 x 2 whose shade is their position, of aspect 1 + position / 10."""
    sets, at = [], 0
    for size in sizes:
        shades = np.arange(at, at + size, dtype=np.uint8)
        pixels = np.tile(shades[:, None, None, None], (1, 2, 2, 3))
        sets.append(Photos(pixels, np.full(size, -1), (), (1 + shades / 10).astype(np.float32)))
        at += size
    return Mixture(sets)


def test_mixture__gives_photos_of_all_sets_by_position() -> None:
    photos = mixture(3, 1, 4)
    assert len(photos) == 8
    pixels, aspect = photos.read([7, 0, 3, 3, 2])
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (5, 2, 2, 3))
    assert pixels[:, 1, 1, 2].tolist() == [7, 0, 3, 3, 2]
    assert aspect.tolist() == pytest.approx([1.7, 1.0, 1.3, 1.3, 1.2])
    assert photos.spread(3)[:, 0, 0, 0].tolist() == [0, 3, 7]
    assert len(photos.spread(99)) == 8


@given(set_sizes, seeds, st.integers(0, 99))
def test_epoch__at_weight_1_has_each_photo_once(sizes: list[int], seed: int, epoch: int) -> None:
    epochs = Epochs.of(sizes, [1.0] * len(sizes), batch=1, seed=seed)
    assert sorted(epochs.order(epoch) % sum(sizes)) == list(range(sum(sizes)))


@settings(deadline=None)
@given(set_sizes, st.data(), seeds)
def test_epochs__over_time_show_each_photo_as_often_as_its_weight_says(
    sizes: list[int], data: st.DataObject, seed: int
) -> None:
    weights = data.draw(st.lists(st.floats(0.3, 3), min_size=len(sizes), max_size=len(sizes)))
    epochs = Epochs.of(sizes, weights, batch=1, seed=seed) if sum(sizes) > 3 else None
    if epochs is None:
        return
    count = 12
    seen = Counter(chain.from_iterable((epochs.order(epoch) % sum(sizes)).tolist() for epoch in range(count)))
    first = 0
    for size, weight in zip(sizes, weights, strict=True):
        times = [seen[position] for position in range(first, first + size)]
        assert max(times) - min(times) <= 1  # each before any is seen again
        assert abs(sum(times) - count * size * weight) <= count  # a set's photos in an epoch are a whole number
        first += size


@given(set_sizes, seeds, st.integers(1, 200))
def test_epoch__of_a_given_number_of_photos_keeps_the_shares(sizes: list[int], seed: int, photos: int) -> None:
    epochs = Epochs.of(sizes, [1.0] * len(sizes), batch=1, seed=seed, photos=photos)
    assert len(epochs.order(3)) == epochs.steps == photos
    for size, quota in zip(sizes, epochs.quotas, strict=True):
        assert abs(quota - photos * size / sum(sizes)) <= 1


@given(st.integers(1, 40), st.integers(1, 12), seeds, st.integers(0, 9))
def test_epoch__drops_its_incomplete_last_batch(size: int, batch: int, seed: int, epoch: int) -> None:
    if size < batch:
        with pytest.raises(TrainError, match=f"an epoch of {size} photos holds no batch of {batch}"):
            Epochs.of([size], [1.0], batch=batch, seed=seed)
        return
    epochs = Epochs.of([size], [1.0], batch=batch, seed=seed)
    order = epochs.order(epoch).tolist()
    assert epochs.steps == size // batch
    assert len(order) == len(set(order)) == epochs.steps * batch


def test_epoch__of_50_000_photos_has_195_batches_of_256() -> None:
    assert Epochs.of([50_000], [1.0], batch=256, seed=0).steps == 195


def test_epochs__differ_and_so_do_seeds() -> None:
    orders = {tuple(Epochs.of([40], [1.0], batch=8, seed=seed).order(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@settings(deadline=None)
@given(seed=seeds, processes=st.sampled_from([1, 2, 3]), accumulate=st.sampled_from([1, 2]), first=st.integers(0, 9))
def test_pieces__of_all_processes_are_the_batches_of_one_from_any_step_on(
    seed: int, processes: int, accumulate: int, first: int
) -> None:
    epochs = Epochs.of([20, 21], [1.0, 0.7], batch=12, seed=seed)  # 34 photos: 2 batches an epoch
    whole = list(epochs.pieces(5))
    assert [len(batch) for batch in whole] == [12] * 10
    taken = [list(epochs.pieces(5, first, rank, processes, accumulate)) for rank in range(processes)]
    assert [len(pieces) for pieces in taken] == [(10 - first) * accumulate] * processes
    for step, batch in enumerate(whole[first:]):
        pieces = [taken[rank][step * accumulate + turn] for rank in range(processes) for turn in range(accumulate)]
        assert [view for piece in pieces for view in piece] == batch.tolist()
        assert {len(piece) for piece in pieces} == {12 // processes // accumulate}


@given(set_sizes, seeds)
def test_views__are_new_in_each_turn_or_come_again_after_so_many(sizes: list[int], seed: int) -> None:
    total, turns = sum(sizes), range(5)
    fresh, fixed = (Epochs.of(sizes, [1.0] * len(sizes), batch=1, seed=seed, views=views) for views in (None, 2))
    assert sorted(chain(*(fresh.order(turn) for turn in turns))) == list(range(5 * total))
    for turn in turns:
        assert sorted(fixed.order(turn)) == list(range(turn % 2 * total, (turn % 2 + 1) * total))
        assert (fixed.order(turn) % total).tolist() == (fresh.order(turn) % total).tolist()


def test_read_ahead__gives_the_photos_of_each_piece_in_order() -> None:
    photos, epochs = mixture(5, 4), Epochs.of([5, 4], [1.0, 1.0], batch=4, seed=1)
    pieces = list(epochs.pieces(2, first=1))
    found = list(read_ahead(photos, pieces, pin=False))
    assert [views.tolist() for views, _, _ in found] == [piece.tolist() for piece in pieces]
    assert [pixels[:, 0, 0, 0].tolist() for _, pixels, _ in found] == [(piece % 9).tolist() for piece in pieces]
    assert len(pieces) == 3


def test_read_ahead__may_be_left_early_and_hands_on_what_goes_wrong() -> None:
    batches = read_ahead(mixture(4), (np.array([number]) for number in range(4)), pin=False)
    next(batches)
    batches.close()
    with pytest.raises(TypeError):
        list(read_ahead(mixture(4), [np.array(["no position"])], pin=False))
