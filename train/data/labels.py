"""Readable names of class folders and of ImageNet's 1000 classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import timm.data


def class_labels(classes: tuple[str, ...]) -> list[str]:
    """Readable labels of class folders: the first name of a wnid in ImageNet's list, else the folder's name."""
    info = timm.data.ImageNetInfo("imagenet-1k")
    known = {wnid: info.index_to_description(index).split(",")[0] for index, wnid in enumerate(info.label_names())}
    return [known.get(name, name) for name in classes]


def imagenet_indices(classes: tuple[str, ...]) -> npt.NDArray[np.int64] | None:
    """The ImageNet-1k index of each class folder, or None if one of them is not a wnid."""
    wnids = {wnid: index for index, wnid in enumerate(timm.data.ImageNetInfo("imagenet-1k").label_names())}
    if not all(name in wnids for name in classes):
        return None
    return np.array([wnids[name] for name in classes], np.int64)


def imagenet_labels() -> list[str]:
    """The 1000 labels of ImageNet-1k in the order of a classifier's outputs: first name, doubles told apart."""
    info = timm.data.ImageNetInfo("imagenet-1k")
    full = [info.index_to_description(index) for index in range(info.num_classes())]
    short = [text.split(",")[0] for text in full]
    labels = []
    for index, (name, text) in enumerate(zip(short, full, strict=True)):
        if short.count(name) == 1:
            labels.append(name)
        else:  # two classes are called only `crane`: the definition distinguishes the bird from the machine
            labels.append(text if full.count(text) == 1 else info.index_to_description(index, detailed=True))
    return labels
