"""From what a file answered to its figures. Names are those of `train.evaluate`, so they mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from leap_zoo.card import Metric
from train.evaluate import scores
from train.evaluate.knn import knn
from train.evaluate.probe import linear_probe
from train.evaluate.retrieval import Retrieval, retrieve, retrieve_listed
from train.evaluate.zoo.cache import Answers
from train.evaluate.zoo.photos import Labelled, Listed, Pack, Survey

NEIGHBOURS = 10

Ask = Callable[[Pack], Answers]


def judge(ask: Ask, survey: Survey, teachers: Mapping[str, Ask], *, seed: int = 0) -> list[Metric]:
    """Every figure of one subject. teachers: by what they are called in the names of figures.

    Shares are in 0..1, with 95 % intervals. The probe's rate is chosen on a tenth of its training photos. Raises
    TrainError.
    """
    metrics: list[Metric] = []
    for labelled in survey.labelled:
        metrics += _labelled(ask, labelled, seed)
    for listed in survey.listed:
        metrics += _listed(ask, listed)
    for pack in survey.imagenet:
        metrics += _imagenet(ask(pack), pack, {name: of(pack) for name, of in teachers.items()})
    return metrics


def _labelled(ask: Ask, labelled: Labelled, seed: int) -> list[Metric]:
    train, test = ask(labelled.train), ask(labelled.test)
    where = labelled.test.name, labelled.test.split
    ours, theirs = train["embedding"], test["embedding"]
    probe = linear_probe(ours, train["labels"], len(labelled.train.photos.classes), seed=seed)
    votes = knn(ours, train["labels"], theirs, k=NEIGHBOURS)
    metrics = [
        scores.share("linear probe, embedding", *where, scores.accuracy(probe(theirs).argmax(1), test["labels"])),
        scores.share(f"{NEIGHBOURS}-NN, embedding", *where, scores.accuracy(votes, test["labels"])),
    ]
    if labelled.retrieval:
        metrics += _retrieval(retrieve(ours, train["labels"], theirs, test["labels"]), labelled.test)
    return metrics


def _listed(ask: Ask, listed: Listed) -> list[Metric]:
    gallery, queries = (ask(pack)["embedding"] for pack in listed.packs)
    right = torch.zeros(len(queries), len(gallery), dtype=torch.bool)
    for query, found in enumerate(listed.answers):
        right[query, found] = True
    return _retrieval(retrieve_listed(gallery, queries, right), listed.queries)


def _retrieval(found: Retrieval, queries: Pack) -> list[Metric]:
    where = queries.name, queries.split
    first = scores.Score(found.recall_at_1.mean().item(), len(found.recall_at_1))
    return [
        scores.mean("retrieval mAP, embedding", *where, found.average_precision),
        scores.share("recall@1, embedding", *where, first),
    ]


def _imagenet(ours: Answers, pack: Pack, teachers: Mapping[str, Answers]) -> list[Metric]:
    """The teacher's 1000 classes, asked by its head, and how near an answer is to the teacher's own."""
    where = pack.name, pack.split
    metrics: list[Metric] = []
    if "logits" in ours:
        metrics += _top1(ours["logits"], ours["labels"], pack)
    for name, theirs in teachers.items():
        if "logits" in ours and "logits" in theirs:
            same = scores.accuracy(ours["logits"].argmax(1), theirs["logits"].argmax(1))
            metrics.append(scores.share(f"top-1 agreement with {name}", *where, same))
        if "teacher" in ours:
            cosine = functional.cosine_similarity(ours["teacher"], theirs["teacher"])
            least = Metric(
                name=f"cosine to {name}, minimum",
                dataset=pack.name,
                split=pack.split,
                n=len(cosine),
                value=cosine.min().item(),
            )
            metrics += [scores.mean(f"cosine to {name}, mean", *where, cosine), least]
    return metrics


def _top1(logits: Tensor, labels: Tensor, pack: Pack) -> Sequence[Metric]:
    where, head = (pack.name, pack.split), "through the teacher's head"
    right = scores.accuracy(logits.argmax(1), labels)
    metrics = [scores.share(f"top-1 of {logits.shape[1]} {head}", *where, right)]
    classes = labels.unique()  # sorted
    if len(classes) < logits.shape[1]:
        among = scores.accuracy(classes[logits[:, classes].argmax(1)], labels)
        metrics.append(scores.share(f"top-1 of its {len(classes)} classes {head}", *where, among))
    return metrics
