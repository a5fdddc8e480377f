"""Verify that a published model gives the same answers on this device as on the publisher's.

hash -> load -> golden outputs -> report, for every artifact of a model. The golden file is an npz with `image`, uint8
(N, H, W, 3), preprocessed photos, and `<file>/<output>`, float32 (N, D), each artifact's answers on the publisher's
machine. `export.golden` writes it.
"""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact, Golden, ModelCard, Precision
from leap_zoo.device import cpu_name, instruction_sets, int8_saturates
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, LeapZooError, MissingExtra
from leap_zoo.loading import locate, open_artifact
from leap_zoo.model import Model, softmax
from leap_zoo.runtime import Provider
from leap_zoo.signing import check_signature
from leap_zoo.store import Zoo, ZooLocation, pull_command

MAX_GOLDEN_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class OutputReport:
    """One output compared with its golden values: the largest absolute difference, and this device's tolerance."""

    output: str
    difference: float
    tolerance: float
    ok: bool


@dataclass(frozen=True)
class ArtifactReport:
    """One file. `error` says why it failed or was skipped, and how to fix it; None if it passed.

    `skipped`: it could not be tested here (its runtime is not installed, or it was not pulled); not a failure.
    """

    file: str
    format: str
    precision: str
    ok: bool
    skipped: bool = False
    error: str | None = None
    runtime: str | None = None
    milliseconds: float | None = None  # for the golden photos in one batch, after a warm-up
    outputs: list[OutputReport] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All artifacts of a model on this device; `ok` if at least one passed and none failed.

    `signed`: the card has a signature by the given key; None if no key was given.
    """

    model: str
    revision: str
    ok: bool
    device: str
    isa: tuple[str, ...]
    artifacts: list[ArtifactReport]
    signed: bool | None = None


def verify(
    name: str | os.PathLike[str] | None = None,
    zoo: ZooLocation | None = None,
    key: str | os.PathLike[str] | None = None,
    *,
    providers: Sequence[Provider] | None = None,
) -> Report:
    """Check every artifact of a model on this device. A file that fails is reported, not raised.

    name: a model's id, or the path of its folder; default: as in `leap_zoo.load`.
    key: a PEM file with a public key, whose owner must have signed the card.
    providers: execution providers for ONNX files, as in `leap_zoo.load`; the report's `runtime` names the ones used.
    Raises UnknownModel, InvalidArgument; ArtifactCorrupt or InvalidCard if the index or the card itself is damaged;
    NotSigned, MissingExtra.
    """
    place, card = locate(name, zoo)
    if key is not None:
        check_signature(place, card, key)
    artifacts = [_verify_artifact(place, card, artifact, providers) for artifact in card.artifacts]
    return Report(
        model=card.id,
        revision=card.revision,
        ok=any(report.ok for report in artifacts) and all(report.ok or report.skipped for report in artifacts),
        device=cpu_name(),
        isa=instruction_sets(),
        artifacts=artifacts,
        signed=None if key is None else True,
    )


def read_golden(data: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a golden file, never more than 64 MiB of them, nothing unpickled. Raises ArtifactCorrupt."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_GOLDEN_BYTES:
            raise ArtifactCorrupt(
                f"the golden file expands to {unpacked} bytes, which is too large: export the model again"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = {name: arrays[name] for name in arrays.files}
    except ArtifactCorrupt:
        raise
    except Exception as error:  # numpy and zipfile pass on whatever their parsers raise
        raise ArtifactCorrupt(f"the golden file cannot be read ({error}): export the model again") from error
    for name, array in golden.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":  # other members are given as bytes
            raise ArtifactCorrupt(f"{name} in the golden file is not an array of numbers: export the model again")
    return golden


def tolerance(golden: Golden, precision: Precision, isa: tuple[str, ...]) -> float:
    """The card's tolerance for a precision on a CPU with these instruction sets: the strictest that applies."""
    by_isa = golden.tolerance[precision]
    return min((by_isa[name] for name in isa if name in by_isa), default=by_isa["default"])


def _verify_artifact(
    place: Zoo, card: ModelCard, artifact: Artifact, providers: Sequence[Provider] | None
) -> ArtifactReport:
    report = partial(ArtifactReport, artifact.file, artifact.format, artifact.precision)
    if not place.holds(card, artifact):
        return report(ok=False, skipped=True, error=f"not pulled: {pull_command(card, artifact)}")
    try:
        model = open_artifact(place, card, artifact, providers=providers if artifact.format == "onnx" else None)
        outputs, milliseconds = _compare(model, read_golden(place.read(card, card.golden)))
    except InvalidArgument:  # caused by the providers, not by the file
        raise
    except MissingExtra as error:
        return report(ok=False, skipped=True, error=str(error))
    except LeapZooError as error:
        return report(ok=False, error=str(error))
    worst = max(outputs, key=lambda output: (not output.ok, output.difference))
    fix = f"update {model.runtime}, or load another file"
    if artifact.format == "openvino" and artifact.precision == "int8" and int8_saturates():
        fix = "OpenVINO's sums of 8-bit products overflow on this processor, which has no VNNI: load the ONNX file"
    differs = (
        f"{artifact.file} of {card.id} answers differently on this device: {worst.output} by {worst.difference:.4g} "
        f"(limit: {worst.tolerance:.4g}): {fix}"
    )
    return report(
        ok=worst.ok,
        error=None if worst.ok else differs,
        runtime=model.runtime,
        milliseconds=milliseconds,
        outputs=outputs,
    )


def _compare(model: Model, golden: dict[str, npt.NDArray[np.generic]]) -> tuple[list[OutputReport], float]:
    """Compare every output with its golden values, and measure milliseconds. Raises ArtifactCorrupt."""
    artifact = model.artifact
    prefix = f"{artifact.file}/"
    expected = {name.removeprefix(prefix): values for name, values in golden.items() if name.startswith(prefix)}
    logits = {head.output for head in model.card.heads}
    needed = sorted({"embedding", "teacher_embedding"} | logits)
    if "image" not in golden or set(needed) - set(expected):
        missing = ", ".join(sorted(set(needed) - set(expected))) or "image"
        raise ArtifactCorrupt(f"the golden file lacks {missing} for {artifact.file}: export the model again")
    images, size = golden["image"].astype(np.uint8), model.card.preprocessing.size
    if not images.size or images.shape[1:] != (size, size, 3):
        raise ArtifactCorrupt(f"the golden file has photos of shape {images.shape}: export the model again")
    model.run(images, needed)
    started = time.perf_counter()
    found = model.run(images, needed)
    milliseconds = (time.perf_counter() - started) * 1000
    limit = tolerance(model.card.golden, artifact.precision, instruction_sets())
    outputs = []
    for name in needed:
        ours, theirs = found[name], expected[name].astype(np.float32)
        if ours.shape != theirs.shape:
            raise ArtifactCorrupt(
                f"{prefix}{name} in the golden file has shape {theirs.shape}, not {ours.shape}: export the model again"
            )
        if name in logits:
            ours, theirs = softmax(ours), softmax(theirs)
        difference = float(np.abs(ours - theirs).max())
        outputs.append(OutputReport(name, difference, limit, difference <= limit))  # NaN counts as a failure
    return outputs, milliseconds
