"""The teacher's tokens for fixed views, computed once and kept on disk: dataset reinforcement (arXiv 2303.08983)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from train.data.sampling import Mixture, Views
from train.errors import TrainError
from train.method.distiller import match_grid
from train.method.teacher import Teacher, Tokens
from train.recipe import Recipe


class TargetStore:
    """Tokens of the teacher's last block for each view of each photo: float16 (1 + N, D), CLS first.

    Two files in `data.store`, named by a digest of all that the tokens depend on, so that students of the same teacher,
    photos, views and patch grid share them: `<digest>.tokens`, which takes up (1 + N) * D * 2 bytes per view that is
    known, and `<digest>.known`, a byte per view. patches: N, of the student. recalled: images that needed no teacher.
    """

    def __init__(self, recipe: Recipe, photos: Mixture, teacher: Teacher, patches: int) -> None:
        self.teacher, self.patches, self.recalled = teacher, patches, 0
        sets = [Path(getattr(part.pixels, "filename", "")).stem for part in photos.sets]
        depends = (
            sets,
            recipe.view_pixels,
            recipe.teacher.pixels,
            recipe.augment,
            recipe.preprocessing,
            recipe.seed,
            patches,
        )
        digest = hashlib.sha256(msgspec.json.encode(depends))
        for tensor in teacher.state_dict().values():
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        rows, name = len(photos) * (recipe.data.views or 1), digest.hexdigest()[:32]
        self.tokens = _zeros_at_first(recipe, f"{name}.tokens", np.float16, (rows, 1 + patches, teacher.width))
        self.known = _zeros_at_first(recipe, f"{name}.known", np.bool_, (rows,))

    def at(self, views: Views, images: Tensor) -> Tokens:
        """What the last block says of these views (B,), whose images (B, 3, H, W) are run where it is not known yet."""
        new = np.flatnonzero(~self.known[views])
        if len(new):
            found = self.teacher(images[torch.from_numpy(new).to(images.device)], self.teacher.blocks)
            patches = torch.empty(1, self.patches, 1)
            tokens = torch.cat([found.cls[:, None], match_grid(found.patches, patches)], 1)
            self.tokens[views[new]] = tokens.to("cpu", torch.float16).numpy()
            self.known[views[new]] = True
        self.recalled += len(views) - len(new)
        tokens = torch.from_numpy(self.tokens[views]).to(images.device).float()
        return Tokens(tokens[:, 1:], tokens[:, 0])


def _zeros_at_first(recipe: Recipe, name: str, kind: type, shape: tuple[int, ...]) -> Any:
    """An array in a file, which is sparse until it is filled."""
    path = Path(recipe.data.store) / name
    try:
        with path.open("ab") as file:
            file.truncate(np.dtype(kind).itemsize * int(np.prod(shape)))
        return np.memmap(path, kind, mode="r+", shape=shape)
    except OSError as error:
        raise TrainError(f"cannot keep the teacher's tokens in {path} ({error.strerror}); choose data.store") from error
