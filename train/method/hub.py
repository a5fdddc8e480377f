"""Weights by name: one safetensors file from the hub. Pickled checkpoints are not fetched, let alone opened."""

from __future__ import annotations

from pathlib import Path

import timm
from huggingface_hub import hf_hub_download

from train.errors import TrainError

FILE = "model.safetensors"  # what timm's own repositories hold; custom names are those of other formats


def fetch_weights(model: str) -> Path:
    """The weights of a timm model, from the hub or from its local cache. Raises TrainError."""
    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    repository = config.hf_hub_id if config is not None else None
    if not repository:
        raise TrainError(
            f"timm names no safetensors weights for {model}; "
            "give them: teacher.pretrained=false teacher.checkpoint=FILE.safetensors"
        )
    try:
        return Path(hf_hub_download(repository, config.hf_hub_filename or FILE))
    except Exception as error:  # the client passes on errors of whatever HTTP library it uses; they share no ancestor
        reason = " ".join(str(error).split())[:160]
        raise TrainError(
            f"cannot fetch {model} from the hub ({type(error).__name__}: {reason}); where its licence must be "
            f"accepted first, log in with `hf auth login`; offline, download {FILE} of {repository} elsewhere and "
            "give it: teacher.pretrained=false teacher.checkpoint=FILE.safetensors"
        ) from error
