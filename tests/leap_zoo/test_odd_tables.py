"""Odd Parquet files: what one row has spoils that row alone, and vectors are never read as others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leap_zoo.errors import ImageError, InvalidArgument
from leap_zoo.gallery import Kind
from leap_zoo.gallery.bulk import load_vectors
from leap_zoo.shards import PLAN, Columns, Piece, find_pieces, load_plan, read_photos

arrow = pytest.importorskip("pyarrow", reason="needs the extra ray")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")

KIND = Kind(model="m", revision="1", space="student", dim=2)
FLOATS = arrow.list_(arrow.float32())


def write(path: Path, /, **columns: Any) -> str:
    parquet.write_table(arrow.table(columns), path)
    return str(path)


@pytest.mark.parametrize("url", ["odd://bucket/a.jpg", "://", "a://"])
def test_read_photos__a_url_of_an_unknown_kind_is_one_bad_row(tmp_path: Path, url: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    paths = ["b.jpg", url, (tmp_path / "a.jpg").as_uri()]
    piece = Piece("parquet", place=write(tmp_path / "a.parquet", path=paths).encode())
    (_, first), (_, second), (_, third) = read_photos(piece, Columns())
    assert (first, third) == ("b.jpg", b"photo")
    assert isinstance(second, ImageError)


@pytest.mark.parametrize("inputs", [[], [""], [" "], ["\0"]])
def test_find_pieces__of_nothing(inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument):
        find_pieces(inputs)


@pytest.mark.parametrize("columns", [{"x": [1]}, {"kind": ["photos"]}])
def test_load_plan__of_another_table(columns: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / PLAN, **columns)
    with pytest.raises(InvalidArgument, match="cannot be used"):
        load_plan(str(tmp_path))


@pytest.mark.parametrize(
    "vectors",
    [
        arrow.array([[1, 2, 3], [1]], FLOATS),  # as many numbers as two rows of two
        arrow.array([[1], [1, 2]], FLOATS),
        arrow.array([[1, 2, 3], [1, 2, 3]], FLOATS),
        arrow.array([[], []], FLOATS),
        arrow.array([[None, 1], [0, 1]], FLOATS),
        arrow.array([["x", "y"], ["x", "y"]]),
        arrow.array(["x", "y"]),
        arrow.array([1.0, 2.0]),
        arrow.array([{"x": 1.0}, {"x": 1.0}]),
    ],
    ids=str,
)
def test_load_vectors__that_are_none(vectors: Any, tmp_path: Path) -> None:
    place = write(tmp_path / "v.parquet", id=["a", "b"], vector=vectors)
    with pytest.raises(InvalidArgument):
        load_vectors(str(tmp_path / "gallery"), place, KIND)


@pytest.mark.parametrize("kind", [FLOATS, arrow.large_list(arrow.float64()), arrow.list_(arrow.float32(), 2)], ids=str)
def test_load_vectors__in_any_list_type(kind: Any, tmp_path: Path) -> None:
    rows = arrow.array([[3, 4], None, [0, 1]], kind)
    gallery, added = load_vectors(
        str(tmp_path / "gallery"), write(tmp_path / "v.parquet", id=["a", "b", "c"], vector=rows), KIND
    )
    assert added == gallery.count() == 2
    assert gallery.search([3, 4], 1)[0].id == "a"
