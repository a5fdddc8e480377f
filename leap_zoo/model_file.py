"""A lone model file: ONNX, or the .xml of an OpenVINO IR with its .bin beside it.

It is verified if its sha256 is in a card: in the card.json beside it, or in one of the known zoos. Otherwise we only
have what the file says about itself: `export` writes the id, labels and preprocessing into the metadata of an ONNX
file, and into `<rt_info><leap_zoo>` of an .xml. The bytes may come from anyone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from leap_zoo import card as cards
from leap_zoo.card import MAX_DOCUMENT_BYTES, MAX_FILE_BYTES, Artifact, File, Head, ModelCard, Precision, Tensor
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, short
from leap_zoo.files import failing_as
from leap_zoo.runtime import Signature
from leap_zoo.store import read_inside

SUFFIXES = (".onnx", ".xml")
MAX_XML_BYTES = 8 * 1024 * 1024  # the .xml of a ViT of 12 blocks has about 0.6 MB
_ELSEWHERE = b"\n\x08location\x12"  # the key in an ONNX file before the name of an external weights file
_AS_JSON = ("preprocessing", "labels", "licences")  # the other entries are text


class _Says(msgspec.Struct, frozen=True):
    """The metadata in a file. `labels`: head -> class names. `licences`: grantor -> license."""

    model_id: cards.ModelId
    revision: cards.Name
    description: cards.Text
    preprocessing: cards.Preprocessing
    labels: dict[cards.Name, list[str]]
    licences: dict[str, str] = {}
    default_head: str | None = None


def names_a_path(model: str | os.PathLike[str]) -> bool:
    """Whether a model is given by its path: an id has no slash and no model file's suffix. A URL is not a path."""
    if isinstance(model, os.PathLike):
        return True
    if "://" in model:
        return False
    return os.path.basename(model) != model or model in (".", "..") or names_a_file(model)


def names_a_file(model: str | os.PathLike[str]) -> bool:
    """Whether a model is given as the path of a lone file."""
    return Path(os.fsdecode(model)).suffix.lower() in SUFFIXES and not os.path.isdir(model)


def read_model_file(path: Path) -> tuple[Artifact, list[bytes]]:
    """A lone model file as far as its bytes describe it, and its contents: its bytes, and those of an .xml's .bin.

    Raises InvalidArgument, ArtifactCorrupt for a link out of the folder.
    """
    data = _read(path, MAX_FILE_BYTES)
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    is_xml, contents, weights = start.startswith(b"<"), [data], None
    if is_xml:
        if not start.startswith((b"<?xml", b"<net", b"<!--")):
            raise InvalidArgument(f"{short(path)} is a text file, perhaps a web page, not a model: download it again")
        if len(data) > MAX_XML_BYTES:
            raise InvalidArgument(f"{short(path)} has more than {MAX_XML_BYTES} bytes, too many for a model's .xml")
        beside = path.with_suffix(".bin")
        contents.append(_read(beside, MAX_FILE_BYTES))
        weights = _described(beside, contents[1])
    elif _ELSEWHERE in data:
        raise InvalidArgument(
            f"{short(path)} keeps its weights in another file: give an ONNX file that contains its weights"
        )
    artifact = Artifact(
        **msgspec.structs.asdict(_described(path, data)),
        precision=_precision(data, path.name),
        ir=1,
        minimum_runtime="0",
        format="openvino" if is_xml else "onnx",
        weights=weights,
        opset=None if is_xml else 1,
    )
    return artifact, contents


def card_of(artifact: Artifact, metadata: Mapping[str, str], outputs: Signature) -> ModelCard:
    """A card made from a file's own metadata; missing values are 0 or "unknown".

    metadata, outputs: from the session that runs it. Raises InvalidArgument, ArtifactCorrupt.
    """
    says = _read_metadata(metadata, short(artifact.file))
    shapes = {name: ["batch", *(axis or "?" for axis in shape[1:])] for name, (_, shape) in outputs.items()}
    widths = {name: shape[-1] for name, shape in shapes.items()}
    student, teacher = widths.get("embedding"), widths.get("teacher_embedding")
    licences = dict.fromkeys(("code", "weights", "teacher", "data"), "unknown")
    try:
        if not isinstance(student, int) or not isinstance(teacher, int):
            raise ValueError("it does not have a student's outputs")
        return ModelCard(
            id=says.model_id,
            revision=says.revision,
            description=says.description,
            parameters=0,
            licences=cards.Licences(**{of: says.licences.get(of, unknown) for of, unknown in licences.items()}),
            preprocessing=says.preprocessing,
            heads=[Head(name=name, output=f"logits_{name}", labels=labels) for name, labels in says.labels.items()],
            default_head=says.default_head or next(iter(says.labels)),
            inputs=[],
            outputs=[Tensor(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()],
            embedding_dims=cards.EmbeddingDims(student=student, teacher=teacher),
            artifacts=[artifact],
            golden=cards.Golden(file="golden.npz", bytes=0, sha256="", tolerance={artifact.precision: {"default": 1}}),
        )
    except (ValueError, StopIteration) as error:
        raise ArtifactCorrupt(f"{short(artifact.file)} is damaged ({error}): download it again") from error


def _read_metadata(entries: Mapping[str, str], name: str) -> _Says:
    if "model_id" not in entries:
        raise InvalidArgument(
            f"{name} is a model file without leap-zoo's metadata: give a file that leap-zoo published"
        )
    if sum(len(key) + len(text) for key, text in entries.items()) > MAX_DOCUMENT_BYTES:
        raise ArtifactCorrupt(f"the metadata of {name} has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        values: dict[str, Any] = {
            key: msgspec.json.decode(text) if key in _AS_JSON else text for key, text in entries.items()
        }
        if "licence" in entries:  # files from before there were four
            values.setdefault("licences", {"weights": entries["licence"]})
        return msgspec.convert(values, _Says)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArtifactCorrupt(f"the metadata of {name} is damaged ({error}): download it again") from error


def _described(path: Path, data: bytes) -> File:
    return File(file=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _precision(data: bytes, name: str) -> Precision:
    """int8 by the operators in the file, fp16 by the file's name, because no runtime reports the precision."""
    if b"DequantizeLinear" in data or b"FakeQuantize" in data:
        return "int8"
    return "fp16" if "fp16" in name.lower() else "fp32"


def _read(path: Path, limit: int) -> bytes:
    with failing_as(InvalidArgument, f"cannot read {short(path)}", "check the path"):
        data = read_inside(path.parent, path, limit)
    if len(data) > limit:
        raise InvalidArgument(f"{short(path)} has more than {limit} bytes, too many for a model file")
    return data
