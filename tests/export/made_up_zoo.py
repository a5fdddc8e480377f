"""Three students and their teacher with made-up figures: what a page of the zoo is generated from."""

from __future__ import annotations

from msgspec.structs import replace
from whole_card import whole_card

from leap_zoo.card import Artifact, Latency, ModelCard
from train.research.results import Result

TEACHER = "vit_made_up"
PROBE, THOUSAND = "linear probe, embedding", "top-1 of 1000 classes"
MAP, COSINE, AGREEMENT = (
    "retrieval mAP, embedding",
    "cosine to the teacher, mean",
    "top-1 agreement with the teacher",
)
SIZES = {"leap-micro": 1_400_000, "leap-nano": 2_500_000, "leap-tiny": 5_500_000}


def made_up_cards() -> list[ModelCard]:
    """fp32 and int8 ONNX of each, timed on one thread; the larger the slower."""
    return [_card(name, parameters) for name, parameters in SIZES.items()]


def made_up_figures() -> list[Result]:
    """The larger the better, but for grocery's mAP, where nano falls behind micro; tiny is 6 points below in one."""
    rows = []
    for pixels, probe, thousand, mean in ((224, 0.98, 0.70, 0.40), (160, 0.97, 0.62, 0.31)):
        teacher = {"subject": f"{TEACHER} at {pixels} px", "variant": "vit.safetensors", "digest": "f" * 64}
        rows += [
            _figure(teacher, "parameters", 5_700_000),
            _figure(teacher, "bytes", 22_900_000),
            _figure(teacher, "pixels", pixels),
            *_measured(teacher, probe, thousand, mean),
        ]
    values = {
        "leap-micro": (0.80, 0.40, 0.20),
        "leap-nano": (0.90, 0.50, 0.19),
        "leap-tiny": (0.96, 0.58, 0.25),
    }
    for card in made_up_cards():
        for artifact in card.artifacts:
            ours = {"subject": card.id, "variant": artifact.file, "digest": artifact.sha256}
            rows += _measured(ours, *values[card.id])
            where = {"dataset": "drawn", "split": "held-out", "n": 500}
            rows.append(_figure(ours, COSINE, values[card.id][0] - 0.2, **where, low=0.5, high=0.8))
            rows.append(_figure(ours, AGREEMENT, values[card.id][1], **where, low=0.3, high=0.7))
    return rows


def _card(name: str, parameters: int) -> ModelCard:
    card, scale = whole_card(), parameters / 2_500_000
    artifacts = [_sized(artifact, name, scale) for artifact in card.artifacts if artifact.format == "onnx"]
    latency = [_timed(card.latency[0], artifact.file, scale) for artifact in artifacts]
    return replace(card, id=name, parameters=parameters, artifacts=artifacts, latency=latency)


def _sized(artifact: Artifact, name: str, scale: float) -> Artifact:
    digest = f"{sorted(SIZES).index(name)}{'a' if artifact.precision == 'fp32' else 'b'}" * 32
    return replace(artifact, bytes=int(artifact.bytes * scale), sha256=digest)


def _timed(row: Latency, file: str, scale: float) -> Latency:
    faster = 0.5 if "int8" in file else 1.0
    return replace(row, file=file, median_ms=3.0 * scale * faster, min_ms=2.9 * scale * faster)


def _measured(about: dict[str, str], probe: float, thousand: float, mean: float) -> list[Result]:
    val, test, held = (
        {"dataset": name, "split": split, "n": n}
        for name, split, n in (("drawn", "val", 3925), ("grocery", "test", 2485), ("drawn", "held-out", 500))
    )
    return [
        _figure(about, PROBE, probe, **val, low=probe - 0.01, high=probe + 0.01),
        _figure(about, MAP, mean, **test, low=mean - 0.006, high=mean + 0.006),
        _figure(about, THOUSAND, thousand, **held, low=thousand - 0.04, high=thousand + 0.04),
    ]


def _figure(about: dict[str, str], metric: str, value: float, **rest: object) -> Result:
    return Result(metric=metric, value=value, hardware="a CPU", commit="0123abc", **about, **rest)
