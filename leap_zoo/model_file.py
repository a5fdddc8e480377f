"""A lone model file: ONNX, or the .xml of an OpenVINO IR with its .bin beside it.

It is verified if its sha256 is in a card: in the card.json beside it, or in one of the known zoos. Otherwise we only
have what the file says about itself: `export` writes the id, labels and preprocessing into the metadata of an ONNX
file, and into `<rt_info><leap_zoo>` of an .xml. The bytes may come from anyone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from leap_zoo.card import (
    MAX_DOCUMENT_BYTES,
    MAX_FILE_BYTES,
    Artifact,
    EmbeddingDims,
    File,
    Format,
    Golden,
    Head,
    Licences,
    ModelCard,
    ModelId,
    Name,
    Precision,
    Preprocessing,
    Tensor,
    Text,
)
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, LeapZooError, short
from leap_zoo.runtime import Signature
from leap_zoo.store import ModelFolder, ZooLocation, check_digest, models, read_inside

SUFFIXES = (".onnx", ".xml")
MAX_XML_BYTES = 8 * 1024 * 1024  # the .xml of a ViT of 12 blocks has about 0.6 MB
_ELSEWHERE = b"\n\x08location\x12"  # the key in an ONNX file before the name of an external weights file


class _Says(msgspec.Struct, frozen=True):
    """The metadata in a file. `labels`: head -> class names. `licences`: grantor -> license."""

    model_id: ModelId
    revision: Name
    description: Text
    preprocessing: Preprocessing
    labels: Annotated[dict[Name, Annotated[list[str], Meta(min_length=1)]], Meta(min_length=1)]
    licences: dict[str, str]
    default_head: str | None = None


_AS_JSON: Final[dict[str, Any]] = {
    "preprocessing": Preprocessing,
    "labels": dict[str, list[str]],
    "licences": dict[str, str],
}


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


@dataclass(frozen=True)
class ModelFile:
    """A lone model file, read once. `contents`: its bytes, and those of an .xml's .bin.

    `artifact` describes it as far as its bytes allow. `place` reads it again and checks it against `artifact`.
    """

    path: Path
    artifact: Artifact
    contents: list[bytes]

    @property
    def place(self) -> ModelFolder:
        """The folder that contains it."""
        return ModelFolder(self.path.absolute().parent)

    def known(self, zoo: ZooLocation | None = None) -> tuple[ModelCard, Artifact] | None:
        """The card that lists these bytes, and its artifact under the local file names; or None.

        Raises ArtifactCorrupt if the card.json beside the file lists different bytes under its name.
        """
        cards = self._beside()
        with contextlib.suppress(LeapZooError):  # a damaged zoo says nothing about this file
            cards += models(zoo)
        digests = [file.sha256 for file in self.artifact.files]
        for card in cards:
            for artifact in card.artifacts:
                if [file.sha256 for file in artifact.files] == digests:
                    return card, replace(artifact, file=self.artifact.file, weights=self.artifact.weights)
        return None

    def _beside(self) -> list[ModelCard]:
        place = self.place
        if not os.path.isfile(place.folder / "card.json"):
            return []
        card = place.card(place.entry())
        ours = {file.file: file.sha256 for file in self.artifact.files}
        fix = "download it again, or move it away from the card.json, which lists different bytes under its name"
        for listed in card.files:
            check_digest(f"{listed.file} of {card.id}", ours.get(listed.file, listed.sha256), listed.sha256, fix)
        return [card]

    def card(self, metadata: Mapping[str, str], outputs: Signature) -> ModelCard:
        """A card made from the file's own metadata; missing values are 0 or "unknown".

        metadata, outputs: from the session that runs it. Raises InvalidArgument, ArtifactCorrupt.
        """
        says = _read_metadata(metadata, short(self.path))
        shapes = {name: ["batch", *(axis or "?" for axis in shape[1:])] for name, (_, shape) in outputs.items()}
        widths = {name: shape[-1] for name, shape in shapes.items()}
        student, teacher = widths.get("embedding"), widths.get("teacher_embedding")
        try:
            if not isinstance(student, int) or not isinstance(teacher, int):
                raise ValueError("it does not have a student's outputs")
            return ModelCard(
                id=says.model_id,
                revision=says.revision,
                description=says.description,
                parameters=0,
                licences=Licences(
                    **{of: says.licences.get(of, "unknown") for of in ("code", "weights", "teacher", "data")}
                ),
                preprocessing=says.preprocessing,
                heads=[Head(name=name, output=f"logits_{name}", labels=labels) for name, labels in says.labels.items()],
                default_head=says.default_head or next(iter(says.labels)),
                inputs=[],
                outputs=[Tensor(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()],
                embedding_dims=EmbeddingDims(student=student, teacher=teacher),
                artifacts=[self.artifact],
                golden=Golden(
                    file="golden.npz", bytes=0, sha256="", tolerance={self.artifact.precision: {"default": 1.0}}
                ),
            )
        except ValueError as error:
            raise ArtifactCorrupt(f"{short(self.path)} is damaged ({error}): download it again") from error


def _read_metadata(entries: Mapping[str, str], name: str) -> _Says:
    if "model_id" not in entries:
        raise InvalidArgument(
            f"{name} is a model file without leap-zoo's metadata: give a file that leap-zoo published"
        )
    if sum(len(key) + len(text) for key, text in entries.items()) > MAX_DOCUMENT_BYTES:
        raise ArtifactCorrupt(f"the metadata of {name} has more than {MAX_DOCUMENT_BYTES} bytes")
    values: dict[str, Any] = dict(entries)
    if "licences" not in entries and "licence" in entries:  # files from before there were four
        values["licences"] = msgspec.json.encode({"weights": entries["licence"]}).decode()
    try:
        for key, kind in _AS_JSON.items():
            if key in values:
                values[key] = msgspec.json.decode(values[key], type=kind)
        return msgspec.convert(values, _Says)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArtifactCorrupt(f"the metadata of {name} is damaged ({error}): download it again") from error


def read_model_file(path: Path) -> ModelFile:
    """Read a lone model file, and the .bin beside an .xml. Raises InvalidArgument, ArtifactCorrupt for a link out."""
    data = _read(path, MAX_FILE_BYTES)
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    format: Format = "openvino" if start.startswith(b"<") else "onnx"
    contents, weights = [data], None
    if format == "openvino":
        if not start.startswith((b"<?xml", b"<net", b"<!--")):
            raise InvalidArgument(f"{short(path)} is a text file, perhaps a web page, not a model: download it again")
        if len(data) > MAX_XML_BYTES:
            raise InvalidArgument(f"{short(path)} has more than {MAX_XML_BYTES} bytes, too many for a model's .xml")
        beside = path.with_suffix(".bin")
        contents.append(_read(beside, MAX_FILE_BYTES))
        weights = File(file=beside.name, bytes=len(contents[1]), sha256=hashlib.sha256(contents[1]).hexdigest())
    elif _ELSEWHERE in data:
        raise InvalidArgument(
            f"{short(path)} keeps its weights in another file: give an ONNX file that contains its weights"
        )
    artifact = Artifact(
        file=path.name,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        precision=_precision(data, path.name),
        ir=1,
        minimum_runtime="0",
        format=format,
        weights=weights,
        opset=1 if format == "onnx" else None,
    )
    return ModelFile(path, artifact, contents)


def _precision(data: bytes, name: str) -> Precision:
    """int8 by the operators in the file, fp16 by the file's name, because no runtime reports the precision."""
    if b"DequantizeLinear" in data or b"FakeQuantize" in data:
        return "int8"
    return "fp16" if "fp16" in name.lower() else "fp32"


def _read(path: Path, limit: int) -> bytes:
    try:
        data = read_inside(path.parent, path, limit)
    except OSError as error:
        raise InvalidArgument(f"cannot read {short(path)} ({error.strerror}): check the path") from error
    if len(data) > limit:
        raise InvalidArgument(f"{short(path)} has more than {limit} bytes, too many for a model file")
    return data
