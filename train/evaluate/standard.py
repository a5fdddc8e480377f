"""The figures at the end of every run: the student's and, for reference, the teacher's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from leap_zoo.card import Metric
from train.data.labels import imagenet_indices
from train.data.splits import Split, Splits
from train.evaluate.datasets import Dataset, Task
from train.evaluate.features import Candidate, Features, of_student, teacher_features
from train.evaluate.protocols import Probe
from train.evaluate.survey import Cache, Plan, evaluate
from train.method.teacher import Teacher, normalisation
from train.recipe import Recipe
from train.run import Pooling


class Standard:
    """Probe and k-NN learn from `probe` and are tested on val, the teacher's head on held-out photos of its classes.

    Fidelity to the teacher is measured on the photos of all sets that `data.holdout` keeps aside. The teacher's
    embeddings are kept in the store of decoded photos for its next students, unless the store is read-only.
    """

    def __init__(self, recipe: Recipe, found: Splits, probe: Split, teacher: Teacher) -> None:
        name, store, headed = recipe.data.name, Path(recipe.data.store), recipe.teacher.head is not None
        own = headed and teacher.classes != 1000  # then val has the classes of the teacher's head
        val = Dataset(name, "val", found.val, logits=own)
        held_out, aside = list[Dataset](), list[Dataset]()
        indices = imagenet_indices(found.val.classes) if headed and not own else None
        if indices is not None and len(found.held_out):
            photos = Split(found.held_out.sources, indices[found.held_out.labels], found.held_out.classes)
            held_out = [Dataset(name, "held-out", photos, logits=True)]
        if len(found.aside):
            split = f"one in {recipe.data.holdout}, kept aside"
            aside = [Dataset("all training photos", split, found.aside, logits=headed)]
        tasks = [Task(Dataset(name, "train", probe), val)]
        self.plan = Plan(tasks, ("probe", "knn"), held_out=held_out, aside=aside)
        self.recipe, self.cache = recipe, Cache(store, store, batch=128)
        self.head, self.normalisation = teacher.head if headed else None, normalisation(teacher.vit)
        digest = hashlib.sha256(repr(recipe.teacher).encode())
        for key, values in teacher.vit.state_dict().items():
            digest.update(key.encode() + values.cpu().numpy().tobytes())
        kept = digest.hexdigest() if os.access(store, os.W_OK) else ""
        self.teacher = self._candidate("the teacher", teacher_features(teacher, logits=headed), kept)

    def of_teacher(self) -> list[Metric]:
        """The teacher on the student's photos; where it enlarges them, it sees less detail than in training.

        Raises TrainError for photos that cannot be measured on.
        """
        return self._measure(self.teacher)[0]

    def of_student(
        self, student: VisionTransformer, projection: Mapping[str, Tensor], classifier: nn.Module | None = None
    ) -> tuple[list[Metric], Pooling, Probe]:
        """The same figures; the pooling whose probe is better on a tenth of train; that probe.

        classifier: fitted to the student, instead of the teacher's own.
        """
        of_cls = projection["cls.weight"], projection["cls.bias"]
        features = of_student(student, of_cls, self.normalisation, classifier or self.head)
        metrics, probes = self._measure(self._candidate(self.recipe.name, features))
        pooling: Pooling = max(get_args(Pooling), key=lambda kind: probes[kind].selection)
        return metrics, pooling, probes[pooling]

    def _measure(self, candidate: Candidate) -> tuple[list[Metric], dict[str, Probe]]:
        return evaluate(candidate, self.plan, self.cache, {"the teacher": self.teacher}, seed=self.recipe.seed)

    def _candidate(self, subject: str, features: Features, digest: str = "") -> Candidate:
        spec = self.recipe.preprocessing
        return Candidate({"subject": subject}, get_args(Pooling), spec, digest, {}, lambda: features)
