"""All subjects on all photos: each pack is decoded once per preprocessing, each photo embedded once per subject."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from leap_zoo.card import Metric, Preprocessing
from train.data import Photos
from train.errors import TrainError
from train.evaluate.features import extract
from train.evaluate.zoo.cache import Answers, Cache
from train.evaluate.zoo.judge import judge
from train.evaluate.zoo.photos import Pack, Survey
from train.evaluate.zoo.subjects import Subject
from train.figures import Figure
from train.hardware import describe
from train.run import commit

BATCH = 32  # larger ones leave the processor's caches: the teacher takes a quarter longer for a photo


def measure(
    students: Sequence[Subject],
    teachers: Sequence[Subject],
    survey: Survey,
    cache: Cache,
    *,
    seed: int = 0,
    done: Callable[[list[Figure]], None] = lambda figures: None,
) -> list[Figure]:
    """The figures of the teachers, the own resolution first, then of the students; only what is not in `cache` is new.

    done: called with all figures so far whenever the students of another preprocessing, or a teacher, are finished.
    Raises TrainError, and what a file that cannot be run raises.
    """
    everyone = [*teachers, *students]
    asked = {subject: _references(subject, teachers) for subject in everyone}
    of = {subject: _digest(survey, asked[subject], seed) for subject in everyone}
    by_spec: dict[Preprocessing, list[Subject]] = {}
    for student in students:
        by_spec.setdefault(student.spec, []).append(student)
    for group in (*by_spec.values(), *([teacher] for teacher in teachers)):  # the teacher takes longest: last
        new = [subject for subject in group if cache.figures(subject, of[subject]) is None]
        spent = _ask_all(new, {teacher for subject in new for teacher in asked[subject].values()}, survey, cache)
        for subject in new:
            start = time.process_time()
            references = {name: partial(_known, cache, teacher) for name, teacher in asked[subject].items()}
            found = _rows(subject, judge(partial(_known, cache, subject), survey, references, seed=seed))
            cache.keep_figures(subject, of[subject], found)
            took = f"{spent[subject]:.0f} CPU seconds to embed, {time.process_time() - start:.0f} to judge"
            print(f"{subject.model} {subject.file}: {len(found)} figures, {took}", file=sys.stderr)
        done([figure for subject in everyone for figure in cache.figures(subject, of[subject]) or []])
    return [figure for subject in everyone for figure in cache.figures(subject, of[subject]) or []]


def _references(subject: Subject, teachers: Sequence[Subject]) -> dict[str, Subject]:
    """The teachers that a subject is compared with, by what they are called: it saw the same pixels, or its own."""
    own = teachers[0] if teachers else None
    named = {}
    if subject.taught and teachers:
        named["the teacher"] = next(teacher for teacher in teachers if teacher.spec == subject.spec)
    if own is not None and subject.spec != own.spec and (subject.taught or subject in teachers):
        named[f"the teacher at {own.spec.size} px"] = own
    return named


def _digest(survey: Survey, references: Mapping[str, Subject], seed: int) -> str:
    named = [(name, teacher.digest, teacher.spec) for name, teacher in references.items()]
    return hashlib.sha256(repr((survey.digest, named, seed)).encode()).hexdigest()


def _ask_all(new: Sequence[Subject], references: set[Subject], survey: Survey, cache: Cache) -> Mapping[Subject, float]:
    """Embed what is not known yet; returns the CPU seconds that each subject took."""
    spent: dict[Subject, float] = defaultdict(float)
    wanted = [(subject, pack) for subject in new for pack in survey.packs]
    wanted += [(teacher, pack) for teacher in references - set(new) for pack in survey.imagenet]
    missing = [(subject, pack) for subject, pack in wanted if cache.answers(subject, pack) is None]
    opened = {subject: subject.open() for subject, _ in dict(missing).items()}  # all must run before the first does
    for spec in dict.fromkeys(subject.spec for subject, _ in missing):
        for pack in survey.packs:
            ours = [subject for subject, one in missing if one is pack and subject.spec == spec]
            if not ours:
                continue
            what = f"{pack.name}, {pack.split}"
            photos = _decoded(pack, what, ours[0])
            for subject in ours:
                start = time.process_time()
                answers = extract(opened[subject], photos.pixels, f"{what}: {subject.model} {subject.file}", BATCH)
                if not pack.logits:
                    answers.pop("logits", None)
                labels = torch.from_numpy(photos.labels)
                cache.keep_answers(subject, pack, {**answers, "labels": labels})
                spent[subject] += time.process_time() - start
    return spent


def _decoded(pack: Pack, what: str, subject: Subject) -> Photos:
    photos = pack.photos.decode(subject.spec, what)
    if photos.skipped and (photos.labels < 0).all():
        raise TrainError(f"{photos.skipped[0][0]} cannot be decoded, and the right answers are listed by position")
    return photos


def _known(cache: Cache, subject: Subject, pack: Pack) -> Answers:
    answers = cache.answers(subject, pack)
    if answers is None:
        raise TrainError(f"{cache.folder} lost answers while it was read; run the same command again")
    return answers


def _rows(subject: Subject, metrics: Sequence[Metric]) -> list[Figure]:
    about = {
        "model": subject.model,
        "revision": subject.revision,
        "file": subject.file,
        "sha256": subject.sha256,
        "hardware": describe(subject.device),
        "commit": commit(),
    }
    rows = [Figure(metric=name, value=float(value), **about) for name, value in subject.costs.items()]
    for metric in metrics:
        low, high = metric.interval or (None, None)
        where = {"dataset": metric.dataset, "split": metric.split, "n": metric.n}
        rows.append(Figure(metric=metric.name, **where, value=metric.value, low=low, high=high, **about))
    return rows
