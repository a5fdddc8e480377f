"""Any sequence of writes leaves a folder's gallery like a dictionary that is searched by brute force."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from leap_zoo.gallery import Kind, flat
from leap_zoo.gallery.flat import FlatGallery

DIM = 3
KIND = Kind(model="m", revision="1", space="student", dim=DIM)
NAMES = st.lists(st.sampled_from([f"photo {i}" for i in range(12)]), unique=True, max_size=6)
LABELS = st.sampled_from(["cat", "dog"])


class Galleries(RuleBasedStateMachine):
    """Two objects on one folder, one that writes and one that only reads, beside the dictionary."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.few_dead, flat.FEW_DEAD = flat.FEW_DEAD, 4  # so that compaction happens on its own too
        self.gallery = FlatGallery(Path(self.folder.name) / "gallery", KIND)
        self.reader = FlatGallery(Path(self.folder.name) / "gallery")
        self.model: dict[str, tuple[np.ndarray, str]] = {}

    @rule(names=NAMES, seed=st.integers(0, 2**32 - 1), label=LABELS)
    def add(self, names: list[str], seed: int, label: str) -> None:
        vectors = np.random.default_rng(seed).normal(size=(len(names), DIM))
        self.gallery.add(names, vectors, [{"label": label}] * len(names))
        self.model |= {
            name: (vector / np.linalg.norm(vector), label) for name, vector in zip(names, vectors, strict=True)
        }

    @rule(names=NAMES)
    def delete(self, names: list[str]) -> None:
        assert self.gallery.delete(names) == len(self.model.keys() & set(names))
        for name in names:
            self.model.pop(name, None)

    @rule()
    def reopen(self) -> None:
        self.gallery = FlatGallery(self.gallery.folder)

    @rule(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 15), label=st.none() | LABELS)
    def search(self, seed: int, k: int, label: str | None) -> None:
        queries = np.random.default_rng(seed).normal(size=(2, DIM))
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        where = None if label is None else {"label": label}
        for query, hits in zip(queries, self.reader.search(queries, k, where), strict=True):
            scores = {name: float(query @ vector) for name, (vector, own) in self.model.items() if label in (None, own)}
            assert len(hits) == min(k, len(scores))
            assert all(abs(hit.score - scores[hit.id]) < 1e-5 for hit in hits)
            assert all(hit.metadata == {"label": self.model[hit.id][1]} for hit in hits)
            assert np.allclose([hit.score for hit in hits], sorted(scores.values(), reverse=True)[:k], atol=1e-5)

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        if hasattr(self, "model"):
            assert self.reader.count() == len(self.model)
            assert {item.id for item in self.reader.items()} == self.model.keys()
            named = {file.file for file in self.gallery.snapshot().manifest.files()}
            assert {path.name for path in self.gallery.folder.iterdir()} == named | {"manifest.json"}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            flat.FEW_DEAD = self.few_dead
            self.folder.cleanup()


TestGalleries = Galleries.TestCase
TestGalleries.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
