"""What a model file says about itself, with no card beside it: ONNX, or the .xml of an OpenVINO IR.

`export` writes the same entries into both: into the metadata of the ONNX model, and into `<rt_info><leap_zoo>` of the
.xml as `<key value="..."/>`. Reading them needs no runtime, and the bytes may come from anybody.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Final

import msgspec

from leap_zoo.card import Format, Preprocessing
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, short
from leap_zoo.lone.graphs import Port, read_onnx, read_openvino
from leap_zoo.store import ZooLocation, models

SUFFIXES = (".onnx", ".xml")
MAX_FILE_BYTES = 2**31  # no protobuf message is larger


class Says(msgspec.Struct, frozen=True):
    """What is written in a file. `labels` is head -> names of its classes, `licences` whose -> licence.

    Whoever made the file wrote it: nothing of it is verified.
    """

    model_id: str
    revision: str
    description: str
    preprocessing: Preprocessing
    labels: dict[str, list[str]]
    licences: dict[str, str]


class LoneFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model file. `ir` is the version of ONNX's IR or of OpenVINO's; `opset` is ONNX's.

    `weights` is the name of the .bin beside an OpenVINO .xml, when it is there.
    """

    file: str
    format: Format
    bytes: int
    sha256: str
    weights: str | None
    ir: int
    opset: int | None
    inputs: list[Port]
    outputs: list[Port]
    says: Says


class Listed(msgspec.Struct, frozen=True):
    """The model that a zoo lists a file under."""

    model: str
    revision: str
    file: str


def read_lone(path: str | os.PathLike[str]) -> LoneFile:
    """Read what a model file says about itself.

    Raises InvalidArgument when it cannot be read or is no model file of leap-zoo, ArtifactCorrupt when it is damaged.
    """
    data, name = _read(path), short(path)
    kind: Format = "openvino" if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" else "onnx"
    try:
        graph = read_openvino(data) if kind == "openvino" else read_onnx(data)
    except ValueError as error:
        raise InvalidArgument(
            f"{name} is no ONNX file and no OpenVINO .xml ({error}): give a model file; for weights in a .bin, its .xml"
        ) from error
    if "model_id" not in graph.entries:
        raise InvalidArgument(
            f"{name} is a model file but says nothing of leap-zoo's: it was made by something else, or stripped; "
            "give a file that leap-zoo published"
        )
    weights = Path(path).with_suffix(".bin")
    return LoneFile(
        file=Path(path).name,
        format=kind,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        ir=graph.ir,
        opset=graph.opset,
        weights=weights.name if kind == "openvino" and weights.is_file() else None,
        inputs=graph.inputs,
        outputs=graph.outputs,
        says=_says(graph.entries, name),
    )


def listed(file: LoneFile, zoo: ZooLocation | None = None) -> Listed | None:
    """The model whose card lists a file of this sha256, in the zoos that are known here; None when none does.

    Raises what reading those zoos raises.
    """
    for card in models(zoo):
        for artifact in card.artifacts:
            for published in artifact.files:
                if published.sha256 == file.sha256:
                    return Listed(card.id, card.revision, published.file)
    return None


_AS_JSON: Final[dict[str, Any]] = {
    "preprocessing": Preprocessing,
    "labels": dict[str, list[str]],
    "licences": dict[str, str],
}


def _says(entries: dict[str, str], name: str) -> Says:
    """The entries, decoded. Raises ArtifactCorrupt."""
    values: dict[str, Any] = dict(entries)
    if "licences" not in entries and "licence" in entries:  # files of before there were four
        values["licences"] = msgspec.json.encode({"weights": entries["licence"]}).decode()
    try:
        for key, kind in _AS_JSON.items():
            if key in values:
                values[key] = msgspec.json.decode(values[key], type=kind)
        return msgspec.convert(values, Says)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArtifactCorrupt(f"what {name} says about itself is damaged ({error}): download it again") from error


def _read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file. Raises InvalidArgument."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"{short(path)} is no regular file: give the path of a model file")
            if status.st_size > MAX_FILE_BYTES:
                raise InvalidArgument(
                    f"{short(path)} has {status.st_size} bytes; no model file of leap-zoo has so many"
                )
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InvalidArgument(f"cannot read {short(path)} ({reason}): check the path") from error
