"""Heads by name, without HTTP: bounded, whole or not there, the same for every process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydantic", reason="needs the extra: pip install leap-zoo[serve]")

from refused_requests import refused

from leap_zoo.errors import UnknownHead
from leap_zoo.heads import CustomHead
from serve.problems import Refused
from serve.stores import Limits, Stores, open_stores


def test_head__is_there_after_reopening(tmp_path: Path, head: CustomHead) -> None:
    open_stores(tmp_path).heads.create("mine", head)
    again = open_stores(tmp_path).heads
    assert again.get("mine").head.card == head.card
    np.testing.assert_array_equal(again.get("mine").head.weight, head.weight)
    assert [(one.name, one.head.card.labels) for one in again.list()] == [("mine", head.labels)]


def test_head__name_that_is_taken(stores: Stores, head: CustomHead) -> None:
    stores.heads.create("mine", head)
    assert refused(lambda: stores.heads.create("mine", head)) == (409, "head_exists")
    other = CustomHead(head.card, head.weight * 2, head.bias)
    stores.heads.create("mine", other, replace=True)
    np.testing.assert_array_equal(stores.heads.get("mine").head.weight, other.weight)


def test_head__replaced_by_another_process_is_the_new_one(tmp_path: Path, head: CustomHead) -> None:
    one, other = open_stores(tmp_path).heads, open_stores(tmp_path).heads
    one.create("mine", head)
    assert other.get("mine").head is other.get("mine").head  # read once
    one.create("mine", CustomHead(head.card, head.weight * 2, head.bias), replace=True)
    np.testing.assert_array_equal(other.get("mine").head.weight, head.weight * 2)
    one.delete("mine")
    with pytest.raises(UnknownHead):
        other.get("mine")


def test_head__missing(stores: Stores, head: CustomHead) -> None:
    stores.heads.create("mine", head)
    with pytest.raises(UnknownHead, match="did you mean 'mine'"):
        stores.heads.get("mime")
    with pytest.raises(UnknownHead):
        stores.heads.delete("mime")


def test_head__limits_of_number_and_bytes(tmp_path: Path, head: CustomHead) -> None:
    heads = open_stores(tmp_path / "few", limits=Limits(heads=1)).heads
    heads.create("one", head)
    assert refused(lambda: heads.create("two", head)) == (409, "too_many_heads")
    heads.create("one", head, replace=True)
    heads.delete("one")
    heads.create("two", head)
    small = open_stores(tmp_path / "small", limits=Limits(head_bytes=100)).heads
    assert refused(lambda: small.create("one", head)) == (409, "head_too_large")


def test_head__of_one_name_by_many_threads_is_made_once(stores: Stores, head: CustomHead) -> None:
    def create(_: int) -> str:
        try:
            stores.heads.create("mine", head)
        except Refused as refused:
            return refused.code
        return "made"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(create, range(6))) == ["head_exists"] * 5 + ["made"]


def test_head__leftovers_of_a_killed_writer_are_swept(tmp_path: Path, head: CustomHead) -> None:
    stores = open_stores(tmp_path)
    (tmp_path / "heads" / ".0123456789abcdef.tmp").write_bytes(b"half")
    assert not stores.heads.list()
    stores.heads.create("mine", head)
    assert [path.name for path in (tmp_path / "heads").iterdir()] == ["mine.head"]


def test_head__damaged_is_reported_without_a_path(stores: Stores, head: CustomHead, tmp_path: Path) -> None:
    stores.heads.create("mine", head)
    (tmp_path / "data/heads/mine.head").write_bytes(b"x")
    with pytest.raises(Refused) as caught:
        stores.heads.get("mine")
    assert (caught.value.status, caught.value.code) == (500, "head_damaged")
    assert str(tmp_path) not in caught.value.detail
    assert not stores.heads.list()
    stores.heads.delete("mine")


def test_list__reads_each_head_once(stores: Stores, head: CustomHead, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"head-{number}" for number in range(20)]
    for name in names:
        stores.heads.create(name, head)
    read: list[str] = []
    load = CustomHead.load
    monkeypatch.setattr(CustomHead, "load", lambda path: (read.append(path.stem), load(path))[1])
    for _ in range(3):
        assert sorted(one.name for one in stores.heads.list()) == sorted(names)
    assert sorted(read) == sorted(names)
    stores.heads.create(names[0], CustomHead(head.card, head.weight * 2, head.bias), replace=True)
    stores.heads.list()
    assert read[len(names) :] == [names[0]]


def test_memory__holds_a_bounded_number_of_bytes(
    stores: Stores, head: CustomHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 heads of 4 MiB stayed in memory, and so did what they replaced."""
    size = stores.heads.create("one", head).bytes
    monkeypatch.setattr("serve.stores.HELD_BYTES", 2 * size)
    loaded: list[Path] = []
    load = CustomHead.load
    monkeypatch.setattr(CustomHead, "load", lambda path: loaded.append(path) or load(path))
    for name in ("two", "three"):
        stores.heads.create(name, head)
    for _ in range(3):
        assert [stores.heads.get(name).name for name in ("one", "two")] == ["one", "two"]
    assert len(loaded) == 2
    assert len(stores.heads.list()) == 3
    assert len(stores.heads._held) == 2
    stores.heads.create("two", CustomHead(head.card, head.weight * 2, head.bias), replace=True)
    stores.heads.get("two")
    assert len(stores.heads._held) <= 2
