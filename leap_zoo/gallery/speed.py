"""`python -m leap_zoo.gallery.speed`: milliseconds per query of every engine, beside a plain product in numpy.

Vectors are drawn: unit vectors around a thousand centres, since real embeddings come in groups; so recall is a hint.
Writes `results/gallery_speed.csv` and the table of `docs/gallery.md`. Threads are set by OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from leap_zoo.cli.grammar import at_least_one
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.gallery import Gallery, Hit, Kind, Vectors, unit_rows
from leap_zoo.gallery.flat import FlatGallery

Row = dict[str, str | int]
BEGIN, END = "<!-- gallery-speed:begin (generated; do not edit) -->", "<!-- gallery-speed:end -->"
HEADS = (
    "photos",
    "dim",
    "engine",
    "build s",
    "open ms",
    "query ms",
    "p95 ms",
    "where ms",
    "recall@10",
    "device",
)
K, QUERIES, CENTRES, ADD = 10, 200, 1000, 10_000


def measure(count: int, dim: int) -> list[Row]:
    """A row per engine that is installed, for `count` vectors `dim` long."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CENTRES, dim))
    drawn = centres[random.integers(CENTRES, size=count + QUERIES)] + random.normal(size=(count + QUERIES, dim))
    vectors, queries = np.split(unit_rows(drawn, dim), [count])
    numpy = _times(lambda query: np.argpartition(vectors @ query[0], -K)[-K:], queries)
    rows: list[Row] = [_row(count, dim, "numpy, product and top 10", numpy)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "gallery"
        started = time.perf_counter()
        flat = FlatGallery(place, Kind(model="drawn", revision="1", space="student", dim=dim))
        for start in range(0, count, ADD):
            part = range(start, min(start + ADD, count))
            names = [f"/photos/{number // 100:05}/{number:08}.jpg" for number in part]
            flat.add(names, vectors[start : start + ADD], [{"label": f"{number % 100}"} for number in part])
        build = time.perf_counter() - started
        started = time.perf_counter()
        flat = FlatGallery(place)
        opened = time.perf_counter() - started
        exact = [flat.search(query, K)[0] for query in queries[:, None]]
        rows.append(_engine(count, dim, "flat", flat, queries, exact, build) | {"open ms": f"{1000 * opened:.0f}"})
        if importlib.util.find_spec("faiss") is not None:
            from leap_zoo.gallery.faiss_index import FaissGallery

            for name, hnsw_from in (("faiss, SQ8", sys.maxsize), ("faiss, HNSW", 1)):
                gallery = FaissGallery(flat, index_from=1, hnsw_from=hnsw_from)
                started = time.perf_counter()
                gallery.search(queries[:1], K)
                rows.append(_engine(count, dim, name, gallery, queries, exact, time.perf_counter() - started))
    return rows


def _engine(
    count: int, dim: int, name: str, gallery: Gallery, queries: Vectors, exact: Sequence[list[Hit]], build: float
) -> Row:
    found = [gallery.search(query, K)[0] for query in queries[:, None]]
    right = [len({hit.id for hit in one} & {hit.id for hit in other}) for one, other in zip(found, exact, strict=True)]
    where = _times(lambda query: gallery.search(query, K, {"label": "7"}), queries)
    return _row(count, dim, name, _times(lambda query: gallery.search(query, K), queries)) | {
        "build s": f"{build:.1f}",
        "where ms": f"{np.median(where):.3f}",
        "recall@10": f"{np.mean(right) / K:.3f}",
    }


def _row(count: int, dim: int, engine: str, times: list[float]) -> Row:
    empty: Row = dict.fromkeys(HEADS, "")
    return empty | {
        "photos": count,
        "dim": dim,
        "engine": engine,
        "query ms": f"{np.median(times):.3f}",
        "p95 ms": f"{np.quantile(times, 0.95):.3f}",
        "device": f"{cpu_name()} ({' '.join(instruction_sets())}), numpy {np.__version__}",
    }


def _times(search: Callable[[Vectors], object], queries: Vectors) -> list[float]:
    search(queries[:1])
    times = []
    for query in queries[:, None]:
        started = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - started))
    return times


def render(rows: Sequence[Row]) -> str:
    """The table, and on what it was measured."""
    heads = HEADS[:-1]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(str(row[head]) for head in heads)} |" for row in rows]
    return "\n".join([*lines, "", f"Median and 95th percentile; {rows[0]['device']}."])


def replace_table(text: str, rows: Sequence[Row]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render(rows)}\n\n{END}{after}"


def read_rows(path: Path) -> list[Row]:
    """The rows of the CSV."""
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m leap_zoo.gallery.speed", description=__doc__)
    parser.add_argument("--photos", type=at_least_one, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--dims", type=at_least_one, nargs="+", default=[128, 192], help="default: 128 192")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the CSV (%(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page (%(default)s)")
    options = parser.parse_args(arguments)
    rows = [row for dim in options.dims for row in measure(options.photos, dim)]
    with (options.results / "gallery_speed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    page = options.docs / "gallery.md"
    if page.is_file():
        page.write_text(replace_table(page.read_text(), rows))
    print(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
