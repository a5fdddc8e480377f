"""Checkpoints without pickle: what goes in comes out, and nothing else is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from train.checkpoint import SafeCheckpointIO, latest
from train.errors import TrainError

tensors = st.sampled_from(
    [
        torch.tensor(3),
        torch.zeros(0, 2),
        torch.arange(6.0).view(2, 3).T,
        torch.tensor([True, False]),
        torch.tensor([1.5, -2], dtype=torch.bfloat16),
    ]
)
text = st.text(max_size=6) | st.sampled_from(["!tensor", "!tuple", "!pairs", "!"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | tensors
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(text | st.integers() | st.tuples(st.integers()), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal in type, structure and values; tensors by dtype and content."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_checkpoint__gives_back_what_was_saved(tmp_path: Path, tree: Any) -> None:
    checkpoint = {"state": tree, "step": 1}
    path = tmp_path / "folder" / "a.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint, path)
    assert same(SafeCheckpointIO().load_checkpoint(path), checkpoint)
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_checkpoint__of_tied_tensors_is_saved(tmp_path: Path) -> None:
    shared = torch.ones(3)
    SafeCheckpointIO().save_checkpoint({"a": shared, "b": shared}, tmp_path / "a.ckpt")
    assert torch.equal(SafeCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["b"], shared)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_checkpoint__that_is_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "trap": Trap(tmp_path / "fallen")}, tmp_path / "evil.ckpt")
    with pytest.raises(TrainError, match="no checkpoint of ours"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "fallen").exists()


def test_checkpoint__refuses_other_files(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "weights.ckpt")
    (tmp_path / "empty.ckpt").touch()
    for name in ("weights.ckpt", "empty.ckpt", "absent.ckpt"):
        with pytest.raises(TrainError, match=name):
            SafeCheckpointIO().load_checkpoint(tmp_path / name)


def test_checkpoint__takes_no_objects_and_leaves_the_last_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    SafeCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(TypeError, match="Trap"):
        SafeCheckpointIO().save_checkpoint({"step": 2, "trap": Trap(path)}, path)
    assert SafeCheckpointIO().load_checkpoint(path) == {"step": 1}


def test_checkpoint__is_removed_once(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    SafeCheckpointIO().save_checkpoint({}, path)
    for _ in range(2):
        SafeCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def checkpoint_of(path: Path, step: int, age: int) -> None:
    """A whole checkpoint of `step`, written so many seconds ago."""
    SafeCheckpointIO().save_checkpoint({"global_step": step, "w": torch.ones(9)}, path)
    os.utime(path, (1e9 - age, 1e9 - age))


def test_latest__is_the_newest_whatever_its_name(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    checkpoint_of(tmp_path / "epoch-010.ckpt", 9, age=30)
    checkpoint_of(tmp_path / "epoch-002.ckpt", 3, age=10)
    (tmp_path / "epoch-011.ckpt.partial").touch()
    assert latest(tmp_path) == tmp_path / "epoch-002.ckpt"


def test_latest__of_one_instant_is_the_one_of_more_steps(tmp_path: Path) -> None:
    for name, step in (("step-00000004.ckpt", 4), ("epoch-001.ckpt", 6), ("step-00000005.ckpt", 5)):
        checkpoint_of(tmp_path / name, step, age=0)
    assert latest(tmp_path) == tmp_path / "epoch-001.ckpt"


def test_latest__passes_over_files_that_are_cut_short(tmp_path: Path) -> None:
    checkpoint_of(tmp_path / "step-00000004.ckpt", 4, age=10)
    checkpoint_of(tmp_path / "step-00000005.ckpt", 5, age=5)
    whole = (tmp_path / "step-00000005.ckpt").read_bytes()
    (tmp_path / "step-00000005.ckpt").write_bytes(whole[:-4])
    assert latest(tmp_path) == tmp_path / "step-00000004.ckpt"
    (tmp_path / "step-00000004.ckpt").write_bytes(b"")
    with pytest.raises(TrainError, match=r"step-0000000\d.ckpt is no checkpoint of ours"):
        SafeCheckpointIO().load_checkpoint(latest(tmp_path))
