"""Checkpoints without pickle: what goes in comes out, and nothing else is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from safetensors.torch import save_file

from train import checkpoint
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
text = st.text(max_size=6)
integers = st.integers(-(2**63), 2**63 - 1)
leaves = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | text | tensors
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | integers, inner, max_size=3),
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
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_checkpoint__round_trips(tmp_path: Path, tree: Any) -> None:
    state = {"state": tree, "step": 1}
    path = checkpoint.save(state, tmp_path / "folder")
    assert same(checkpoint.load(path), state)
    assert [file.name for file in path.parent.iterdir()] == ["step-00000001.safetensors"]


def test_checkpoint__of_tied_tensors_is_saved(tmp_path: Path) -> None:
    shared = torch.ones(3)
    path = checkpoint.save({"step": 1, "a": shared, "b": shared, "c": shared[1:]}, tmp_path)
    assert torch.equal(checkpoint.load(path)["b"], shared)


def test_checkpoint__keeps_the_newest_two_and_removes_incomplete_ones(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half a file")
    for step in (9, 10, 110):
        checkpoint.save({"step": step}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000010.safetensors",
        "step-00000110.safetensors",
    ]


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_checkpoint__that_is_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "trap": Trap(tmp_path / "fallen")}, tmp_path / "evil.safetensors")
    with pytest.raises(TrainError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "evil.safetensors")
    assert not (tmp_path / "fallen").exists()


def test_checkpoint__refuses_other_files(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    rests = {
        "list": msgpack.encode([1, 2]),
        "text": b"\xc1",
        "gone": msgpack.encode({"step": msgpack.Ext(checkpoint.TENSOR, b"9")}),
        "odd": msgpack.encode({"step": msgpack.Ext(checkpoint.TENSOR, b"\xff")}),
    }
    for name, rest in rests.items():
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors", metadata={"rest": rest.hex()})
    (tmp_path / "empty.safetensors").touch()
    for name in ("weights", "list", "text", "gone", "odd", "empty", "absent"):
        with pytest.raises(TrainError, match=rf"{name}\.safetensors is not a checkpoint.*delete it"):
            checkpoint.load(tmp_path / f"{name}.safetensors")


def test_checkpoint__takes_no_objects_and_leaves_the_last_one_alone(tmp_path: Path) -> None:
    path = checkpoint.save({"step": 1}, tmp_path)
    with pytest.raises(TypeError, match="Trap"):
        checkpoint.save({"step": 1, "trap": Trap(path)}, tmp_path)
    assert checkpoint.load(path) == {"step": 1}


def test_latest__is_the_one_of_most_steps(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None
    for step in (99_999_999, 9):
        path = checkpoint.save({"step": step}, tmp_path)
    (tmp_path / ".0123456789abcdef.tmp").touch()
    assert checkpoint.latest(tmp_path).name == "step-99999999.safetensors" != path.name


def test_latest__passes_over_files_that_are_cut_short(tmp_path: Path) -> None:
    paths = [checkpoint.save({"step": step, "w": torch.ones(9)}, tmp_path) for step in (4, 5)]
    paths[1].write_bytes(paths[1].read_bytes()[:-4])
    assert checkpoint.latest(tmp_path) == paths[0]
    paths[0].write_bytes(b"")
    with pytest.raises(TrainError, match=r"step-00000005.safetensors is not a checkpoint"):
        checkpoint.load(checkpoint.latest(tmp_path))
