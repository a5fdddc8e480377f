"""A published student as the start of another training: the files for torch users in its folder, and its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from leap_zoo.card import Continued
from leap_zoo.errors import LeapZooError
from leap_zoo.files import atomic_file
from leap_zoo.store import ModelFolder
from train.errors import TrainError
from train.method.distiller import Distiller
from train.recipe import Student

WEIGHTS, PROJECTION = "model.safetensors", "projection.safetensors"
START = "start"  # the folder of a run with a copy of the student that it began as: the original may change


@dataclass(frozen=True)
class Published:
    """A published student: its ViT, its projection g into the teacher's space, and where they come from."""

    folder: Path
    student: dict[str, Tensor]
    projection: dict[str, Tensor]
    source: Continued

    @classmethod
    def read(cls, folder: Path) -> Published:
        """The files for timm in a model's folder, checked against its card. Raises TrainError."""
        try:
            place = ModelFolder(folder)
            card = place.card(place.entry())
            listed = {file.file: file for file in card.timm}
            if not {WEIGHTS, PROJECTION} <= listed.keys():
                raise TrainError(
                    f"{folder} has no weights to continue from: its card does not list {WEIGHTS}; take the folder that "
                    "`python -m export RUN --zoo ZOO` wrote, `leap-zoo pull --all`, or `python -m tools.restore`"
                )
            weights, rest = (load(place.read(card, listed[name])) for name in (WEIGHTS, PROJECTION))
            projection = {part: rest[f"projection.{part}"] for part in ("weight", "bias")}
        except (LeapZooError, SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise TrainError(f"student.init: {reason}") from error
        except KeyError as error:
            raise TrainError(f"student.init: {PROJECTION} of {folder} has no {error}: export the run again") from error
        before = card.training
        if before:  # its figures stay in its own card
            before = msgspec.structs.replace(before, teacher=msgspec.structs.replace(before.teacher, metrics={}))
        return cls(
            folder=folder,
            student={name: value for name, value in weights.items() if not name.startswith("head.")},
            projection=projection,
            source=Continued(id=card.id, revision=card.revision, training=before),
        )

    @classmethod
    def kept(cls, run: Path, recipe: Student) -> Published | None:
        """What a resumed run began as, from its own copy; else what the recipe names. Raises TrainError."""
        if recipe.continues is None:
            return None
        return cls.read(run / START if (run / START / "card.json").is_file() else recipe.continues)

    @torch.no_grad()
    def check(self, student: torch.nn.Module, teacher: str, width: int) -> None:
        """Refuse to continue another shape or teacher, of tokens of `width` channels. Raises TrainError."""
        training = self.source.training
        if training and training.teacher.name != teacher:
            problem = f"its teacher was {training.teacher.name}, not {teacher}"
        elif len(self.projection["weight"]) != width:
            problem = f"its teacher has {len(self.projection['weight'])} channels, not {width}"
        elif {n: v.shape for n, v in student.state_dict().items()} != {n: v.shape for n, v in self.student.items()}:
            problem = "it has another shape: set student.size and the other settings to its own"
        else:
            return
        raise TrainError(f"this student cannot continue {self.folder}: {problem}")

    def keep(self, run: Path) -> None:
        """Copy what `read` needs into the folder of a run, for when it is resumed. The card is last: see `kept`."""
        (run / START).mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, PROJECTION, "card.json"):
            with atomic_file(run / START / name) as file:
                file.write((self.folder / name).read_bytes())

    def begin(self, distiller: Distiller) -> None:
        """Overwrite a distiller's student and projection by these weights."""
        distiller.student.load_state_dict(self.student)
        distiller.projection.load_state_dict(self.projection)
