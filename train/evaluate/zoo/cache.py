"""What was answered and judged already, kept in a folder: the next command measures only what is new."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.errors import TrainError
from train.evaluate.zoo.photos import Pack
from train.evaluate.zoo.subjects import Subject
from train.figures import Figure

PROTOCOL = 1  # raise it when a figure comes to mean something else

Answers = dict[str, Tensor]


class Cache:
    """Answers of a subject to a pack (safetensors: its features by name, and `labels` of the photos), and its figures.

    Names are digests of all that a file depends on, so nothing in it is ever out of date. Raises TrainError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"cannot make {folder} ({error.strerror}); choose another --cache") from error

    def answers(self, subject: Subject, pack: Pack) -> Answers | None:
        """None: not yet."""
        try:
            return load_file(self._path("answers", "safetensors", subject, pack.digest))
        except (OSError, SafetensorError):  # not there; or broken, and then it is measured again
            return None

    def keep_answers(self, subject: Subject, pack: Pack, answers: Answers) -> None:
        """The tensors have the photos of the pack along their first axis."""
        path = self._path("answers", "safetensors", subject, pack.digest)
        try:
            save_file({name: value.contiguous() for name, value in answers.items()}, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        except (OSError, SafetensorError) as error:
            raise TrainError(f"cannot write {path} ({error}); make room, or choose another --cache") from error

    def figures(self, subject: Subject, of: str) -> list[Figure] | None:
        """None: not yet. of: digest of all else that the figures depend on."""
        try:
            return msgspec.json.decode(self._path("figures", "json", subject, of).read_bytes(), type=list[Figure])
        except (OSError, msgspec.MsgspecError):
            return None

    def keep_figures(self, subject: Subject, of: str, figures: list[Figure]) -> None:
        """For `figures` to find."""
        path = self._path("figures", "json", subject, of)
        try:
            path.write_bytes(msgspec.json.encode(figures))
        except OSError as error:
            raise TrainError(f"cannot write {path} ({error.strerror}); choose another --cache") from error

    def _path(self, kind: str, suffix: str, subject: Subject, of: str) -> Path:
        about = (PROTOCOL, subject.digest, subject.spec, subject.taught, sorted(subject.costs.items()), of)
        digest = hashlib.sha256(repr(about).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:32]}.{suffix}"
