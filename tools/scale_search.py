"""`python -m tools.scale_search FILE.npz ...`: recall and memory of quantized vectors, and how a search grows with n.

The files are of `leap-zoo embed PHOTOS --out FILE.npz`, one per model. Quantized vectors are searched by Qdrant's own
engine in this process (`pip install qdrant-edge-py`); growth is that of a gallery in a folder, exact.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from leap_zoo.embeddings import Embeddings
from leap_zoo.gallery import Kind, open_gallery
from tools.scale_results import HERE, Figure, figure, write

Vectors = npt.NDArray[np.float32]
K, QUERIES = 10, 500
BITS = {"float32": 32, "int8": 8, "binary": 1}


def recall(found: list[list[int]], exact: npt.NDArray[np.int64]) -> float:
    """The share of the K nearest that were found."""
    return float(
        np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in zip(found, exact, strict=True)])
    )


def quantized(vectors: Vectors, queries: Vectors, how: str) -> tuple[dict[str, list[list[int]]], float]:
    """What Qdrant's engine finds in quantized vectors, by how it searches; and the bytes per vector that it keeps."""
    import qdrant_edge as edge

    settings: Any = {
        "float32": None,
        "int8": edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=0.99, always_ram=True),
        "binary": edge.BinaryQuantizationConfig(always_ram=True),
    }[how]
    index = edge.HnswIndexConfig(16, 100, 10_000)
    shape = edge.EdgeVectorParams(vectors.shape[1], edge.Distance.Dot, hnsw_config=index, quantization_config=settings)
    small = edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1)
    found: dict[str, list[list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        shard = edge.EdgeShard.create(folder, edge.EdgeConfig({"": shape}, optimizers=small))
        for start in range(0, len(vectors), 1000):
            part = enumerate(vectors[start : start + 1000].tolist(), start)
            shard.update(edge.UpdateOperation.upsert_points([edge.Point(number, vector) for number, vector in part]))
        shard.optimize()
        ways = {"exact": (True, None, None)} if how == "float32" else {}
        ways |= {"HNSW": (False, False, None), "HNSW, rescored, 3 times K": (False, True, 3.0)}
        for way, (exact, rescore, over) in ways.items():
            if how == "float32" and rescore:
                continue
            again = None if how == "float32" else edge.QuantizationSearchParams(rescore=rescore, oversampling=over)
            params = edge.SearchParams(hnsw_ef=128, exact=exact, quantization=again)
            asked = [edge.SearchRequest(edge.Query.Nearest(query), K, params=params) for query in queries.tolist()]
            found[way] = [[int(hit.id) for hit in shard.search(one)] for one in asked]
        shard.flush()
        names = "quantized.data" if settings else "*.mmap"
        files = [one for one in Path(folder).rglob(names) if "vector" in str(one)]
        kept = sum(one.stat().st_size for one in files) / len(vectors)
        shard.close()
    return found, kept


def sizes_and_recall(path: Path, note: str) -> list[Figure]:
    """Of one model's vectors of real photos."""
    read = Embeddings.load(path)
    order = np.random.default_rng(0).permutation(len(read.vectors))
    queries, vectors = read.vectors[order[:QUERIES]], read.vectors[order[QUERIES:]]
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    dim = vectors.shape[1]
    about = f"{len(vectors)} photos, {QUERIES} queries, {dim} dimensions"
    rows: list[Figure] = []
    for how in BITS:
        found, kept = quantized(vectors, queries, how)
        subject = f"{read.model}, {how}"
        rows += [figure(subject, f"recall@{K}, {way}", recall(ids, exact), about, note) for way, ids in found.items()]
        if how != "float32":
            rows.append(figure(subject, "bytes per quantized vector, in its file", kept, about, note))
    return rows


def growth(path: Path, note: str, most: int) -> list[Figure]:
    """Of a gallery in a folder: time of a search and memory, at 10^3 vectors and more; real vectors plus noise."""
    read = Embeddings.load(path)
    random, rows = np.random.default_rng(0), []
    kind = Kind(model=read.model, revision=read.revision, space=read.space, dim=read.vectors.shape[1])  # type: ignore[arg-type]
    count, process = 1000, psutil.Process()
    while count <= most:
        with tempfile.TemporaryDirectory() as folder:
            before = process.memory_info().rss
            gallery = open_gallery(Path(folder, "gallery"), kind=kind)
            start = time.monotonic()
            for at in range(0, count, 10_000):
                size = min(10_000, count - at)
                rowed = read.vectors[random.integers(0, len(read.vectors), size)]
                noisy = rowed + random.normal(scale=0.02, size=rowed.shape).astype(np.float32)
                gallery.add([f"photo-{number}" for number in range(at, at + size)], noisy)
            added = time.monotonic() - start
            gallery.search(read.vectors[0], K)
            times = []
            for query in read.vectors[:10]:
                start = time.monotonic()
                gallery.search(query, K)
                times.append(time.monotonic() - start)
            memory = process.memory_info().rss - before
            on_disk = sum(one.stat().st_size for one in Path(folder).rglob("*") if one.is_file())
            gallery.close()
            del gallery
        subject = f"a gallery in a folder, {count} vectors"
        about = f"{kind.dim} dimensions, real vectors plus noise"
        rows += [
            figure(subject, "milliseconds per search, median of 10", 1000 * float(np.median(times)), about, note),
            figure(subject, "seconds to add", added, about, note),
            figure(subject, "megabytes on disk", on_disk / 1e6, about, note),
            figure(subject, "megabytes of memory", memory / 1e6, about, note),
        ]
        count *= 10
    return rows


def main() -> None:
    """Write `results/scale/search.csv`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.npz")
    parser.add_argument("--most", type=int, default=1_000_000, help="vectors of the largest gallery")
    parser.add_argument("--note", default="", help="about the machine, e.g. busy")
    options = parser.parse_args()
    rows = [row for file in options.files for row in sizes_and_recall(file, options.note)]
    write(HERE / "search.csv", rows + growth(options.files[0], options.note, options.most))


if __name__ == "__main__":
    main()
