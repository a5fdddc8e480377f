"""A model that is given by its path: a folder with its card, or a lone file (ONNX, or the .xml of an OpenVINO IR).

A lone file is known when its sha256 is in a card: the card.json beside it, or one of a zoo that is known here.
Otherwise it is unverified, and is what it says of itself: `export` writes its id, labels and preprocessing into the
metadata of an ONNX file, and into `<rt_info><leap_zoo>` of an .xml. The bytes may come from anybody.
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
from leap_zoo.runtime import Signature, open_session
from leap_zoo.store import ModelFolder, ZooLocation, differs, models, read_inside

SUFFIXES = (".onnx", ".xml")
MAX_XML_BYTES = 8 * 1024 * 1024  # the .xml of a ViT of 12 blocks has about 0.6 MB
_ELSEWHERE = b"\n\x08location\x12"  # in an ONNX file, the key of the name of a file that weights are in


class Says(msgspec.Struct, frozen=True):
    """What is written in a file. `labels` is head -> names of its classes, `licences` whose -> licence.

    Whoever made the file wrote it: nothing of it is verified.
    """

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
    """Whether a model is given by its path: no id has a slash, or ends like a model file. An address is no path."""
    if isinstance(model, os.PathLike):
        return True
    if "://" in model:
        return False
    return os.path.basename(model) != model or model in (".", "..") or Path(model).suffix.lower() in SUFFIXES


def open_folder(folder: Path) -> tuple[ModelFolder, ModelCard]:
    """The model in a folder that holds its card.json. Raises InvalidArgument, InvalidCard, ArtifactCorrupt."""
    place = ModelFolder(folder.absolute())
    (entry,) = place.index().models
    return place, place.card(entry)


@dataclass(frozen=True)
class ModelFile:
    """A lone model file, read once. `contents`: its bytes, and those of the .bin that belongs to an .xml.

    `artifact` describes it as far as the bytes tell. `place` reads it again, checked against `artifact`.
    """

    path: Path
    artifact: Artifact
    contents: list[bytes]

    @property
    def place(self) -> ModelFolder:
        """The folder that it is in."""
        return ModelFolder(self.path.absolute().parent)

    def known(self, zoo: ZooLocation | None = None) -> tuple[ModelCard, Artifact] | None:
        """The card that lists these bytes, and its artifact, under the names that the files have here; or None.

        Raises ArtifactCorrupt when the card.json beside the file lists other bytes under its name.
        """
        cards = self._beside()
        with contextlib.suppress(LeapZooError):  # a broken zoo says nothing about the file
            cards += models(zoo)
        digests = [file.sha256 for file in self.artifact.files]
        for card in cards:
            for artifact in card.artifacts:
                if [file.sha256 for file in artifact.files] == digests:
                    return card, replace(artifact, file=self.artifact.file, weights=self.artifact.weights)
        return None

    def says(self, entries: Mapping[str, str]) -> Says:
        """What the file says of itself, from its metadata. Raises InvalidArgument, ArtifactCorrupt."""
        name = short(self.path)
        if "model_id" not in entries:
            raise InvalidArgument(
                f"{name} is a model file, but leap-zoo's metadata is not in it: give a file that leap-zoo published"
            )
        if sum(len(key) + len(text) for key, text in entries.items()) > MAX_DOCUMENT_BYTES:
            raise ArtifactCorrupt(f"the metadata of {name} has more than {MAX_DOCUMENT_BYTES} bytes")
        values: dict[str, Any] = dict(entries)
        if "licences" not in entries and "licence" in entries:  # files of before there were four
            values["licences"] = msgspec.json.encode({"weights": entries["licence"]}).decode()
        try:
            for key, kind in _AS_JSON.items():
                if key in values:
                    values[key] = msgspec.json.decode(values[key], type=kind)
            return msgspec.convert(values, Says)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ArtifactCorrupt(f"the metadata of {name} is damaged ({error}): download it again") from error

    def card(self, entries: Mapping[str, str], outputs: Signature) -> ModelCard:
        """A card of what the file says of itself. What it does not say is 0 or "unknown". Raises as `says` does."""
        says = self.says(entries)
        shapes = {name: ["batch", *(axis or "?" for axis in shape[1:])] for name, (_, shape) in outputs.items()}
        widths = {name: shape[-1] for name, shape in shapes.items()}
        student, teacher = widths.get("embedding"), widths.get("teacher_embedding")
        try:
            if not isinstance(student, int) or not isinstance(teacher, int):
                raise ValueError("its outputs are not those of a student")
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

    def _beside(self) -> list[ModelCard]:
        """The card in the same folder, if there is one. Raises ArtifactCorrupt, InvalidCard."""
        if not os.path.isfile(self.place.folder / "card.json"):
            return []
        _, card = open_folder(self.place.folder)
        ours = {file.file: file.sha256 for file in self.artifact.files}
        for listed in card.files:
            if ours.get(listed.file, listed.sha256) != listed.sha256:
                what, found = f"{listed.file} of {card.id}", ours[listed.file]
                mend = "download it again, or move it away from the card.json that lists other bytes under its name"
                raise ArtifactCorrupt(differs(what, listed.sha256, found, mend))
        return [card]


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A model file for `leap-zoo show`. `weights`: the .bin of an .xml. `listed`: the model, revision and name under
    which a known card lists it. `inputs`, `outputs`: name -> dtype and shape, None for a free axis.
    """

    file: str
    format: Format
    bytes: int
    sha256: str
    weights: str | None
    inputs: Signature
    outputs: Signature
    says: Says
    listed: dict[str, str] | None


def describe(path: Path, zoo: ZooLocation | None = None) -> Described:
    """What a lone file is. Raises as `leap_zoo.load` does for it, but for a zoo that is broken."""
    file = read_model_file(path)
    artifact, known = file.artifact, file.known(zoo)
    session = open_session(artifact, file.contents, threads=1)
    return Described(
        file=artifact.file,
        format=artifact.format,
        bytes=artifact.bytes,
        sha256=artifact.sha256,
        weights=None if artifact.weights is None else artifact.weights.file,
        inputs=session.inputs,
        outputs=session.outputs,
        says=file.says(session.metadata),
        listed=None if known is None else _listed(*known),
    )


def _listed(card: ModelCard, artifact: Artifact) -> dict[str, str]:
    name = next(one.file for one in card.artifacts if one.sha256 == artifact.sha256)
    return {"model": card.id, "revision": card.revision, "file": name}


def read_model_file(path: Path) -> ModelFile:
    """Read a lone model file, and the .bin beside an .xml. Raises InvalidArgument, ArtifactCorrupt for a link out."""
    data = _read(path, MAX_FILE_BYTES)
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    format: Format = "openvino" if start.startswith(b"<") else "onnx"
    if format == "openvino" and not start.startswith((b"<?xml", b"<net", b"<!--")):
        raise InvalidArgument(f"{short(path)} is a web page or another text, not a model: download it again")
    contents, weights = [data], None
    if format == "openvino":
        if len(data) > MAX_XML_BYTES:
            raise InvalidArgument(
                f"{short(path)} has more than {MAX_XML_BYTES} bytes: the .xml of no model is that large"
            )
        beside = path.with_suffix(".bin")
        contents.append(_read(beside, MAX_FILE_BYTES))
        weights = File(file=beside.name, bytes=len(contents[1]), sha256=hashlib.sha256(contents[1]).hexdigest())
    elif _ELSEWHERE in data:
        raise InvalidArgument(
            f"{short(path)} has its weights in another file: give an ONNX file that holds all of them"
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
    """int8 by the operators that are in the file, fp16 by its name: no runtime tells."""
    if b"DequantizeLinear" in data or b"FakeQuantize" in data:
        return "int8"
    return "fp16" if "fp16" in name.lower() else "fp32"


def _read(path: Path, limit: int) -> bytes:
    try:
        data = read_inside(path.parent, path, limit)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InvalidArgument(f"cannot read {short(path)} ({_reason(error)}): check the path") from error
    if len(data) > limit:
        raise InvalidArgument(f"{short(path)} has more than {limit} bytes: no model file is that large")
    return data


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
