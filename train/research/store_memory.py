"""`python -m train.research.store_memory PHOTOS SIDE BATCH FOLDER`: the memory of one pass over a made store, as JSON.

A process of its own for `train.research.data_speed`: it imports and does nothing else. Linux only.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.sampling import Epochs, Mixture, Pieces, loader
from train.data.splits import unlabelled
from train.data.store import Photos, Whole, open_photos

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Bytes: resident and anonymous memory before the pass, and the most of each since the process began."""

    before: int
    peak: int
    anonymous_before: int
    anonymous_peak: int


def open_made(amount: int, side: int, folder: Path) -> Photos:
    """A store of so many photos, all of one file; made where there is none."""
    photo = folder / "photo.bmp"
    if not photo.is_file():
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photo)
    return open_photos(unlabelled([photo] * amount), [Whole(side)], folder, "made photos")[0]


def pass_over(photos: Photos, batch: int) -> Memory:
    """Read every photo of a store once, in random batches."""
    pieces = Pieces(Epochs.of([len(photos)], [1.0], batch=batch, seed=0), 1)
    before = _status()
    anonymous = before["RssAnon"]
    for pixels, _ in loader(Mixture([photos]), pieces, workers=0, pin=False):
        pixels.sum()
        anonymous = max(anonymous, _status()["RssAnon"])
    return Memory(before["VmRSS"], _status()["VmHWM"], before["RssAnon"], anonymous)


def _status() -> dict[str, int]:
    """The bytes that the kernel counts for this process, by their names in /proc/self/status."""
    fields = (line.split() for line in STATUS.read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in fields if words[-1] == "kB"}


if __name__ == "__main__":
    count, pixels_a_side, per_batch = map(int, sys.argv[1:4])
    print(json.dumps(asdict(pass_over(open_made(count, pixels_a_side, Path(sys.argv[4])), per_batch))))
