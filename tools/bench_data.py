"""`python -m tools.bench_data [PHOTOS]`: how fast photos are decoded, augmented and read, and on how much memory.

Decoding: photos of a folder into a store. Augmentation: ours beside torchvision v2 with the same operations photo by
photo, in turns. Memory: what reading a store takes. Waiting: the share of the time that steps wait for photos of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from torchvision.transforms import v2

from tools.bench_train import Variant, make_step
from tools.turns import ratios, row, take_turns, wait
from train.clock import Clock
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture, read_ahead
from train.data.sources import Source, find_photos
from train.data.splits import Split
from train.data.store import Photos, Whole, open_photos
from train.errors import TrainError
from train.processes import usable
from train.recipe import Recipe
from train.recipe_file import find_recipe, load_recipe
from train.research.results import Result, write_results

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST, ROUNDS = 500, 6  # photos that are decoded; of decoding and of augmentation
WARM_UP, STEPS = 3, 10  # of the loop that may wait for photos
STATUS = Path("/proc/self/status")  # Linux; elsewhere memory is left out


def decoding(folder: Path, spec: Recipe) -> list[Result]:
    """Photos per second of CPU time, of at most MOST photos spread over a folder."""
    found, rate = find_photos(folder), []
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(MOST, len(found)), dtype=int)]
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as store:
            start = time.process_time()
            rate.append(len(_store(chosen, spec.data.store_side, Path(store))) / (time.process_time() - start))
    about = f"{spec.data.store_side} px, {len(chosen)} photos"
    return [row(CPU, "decoding into a store", "photos per second of CPU time (per core)", rate, about)]


def augmentation(spec: Recipe, device: torch.device) -> list[Result]:
    """Photos per second of our augmentation, and its speed over torchvision's; a batch of the recipe's size."""
    side, size = spec.data.store_side, spec.preprocessing.size
    plain = msgspec.structs.replace(spec.augment, mix=False)  # torchvision's part has no mix
    pixels = torch.randint(0, 256, (spec.batch, side, side, 3), dtype=torch.uint8, device=device)
    aspect, ours, theirs = torch.ones(spec.batch), Augmenter(plain, size, 0, MEAN, STD), torchvision_peer(spec)
    photos = pixels.permute(0, 3, 1, 2).contiguous()
    views = np.arange(spec.batch)
    calls = [lambda: ours(pixels, aspect, views), lambda: torch.stack([theirs(photo) for photo in photos])]
    our_seconds, their_seconds = take_turns(calls, device, ROUNDS)
    name, about = "train.data.augment.Augmenter", f"{side} px to {size} px, batch {spec.batch}"
    return [
        row(device, name, "photos per second", [spec.batch / seconds for seconds in our_seconds], about),
        row(device, name, "speed over torchvision v2, photo by photo", ratios(their_seconds, our_seconds), about),
    ]


def torchvision_peer(spec: Recipe) -> v2.Compose:
    """The recipe's augmentation but for the mix: photo uint8 (3, side, side) -> float32 (3, size, size)."""
    part = spec.augment
    operations = [
        v2.RandomResizedCrop(spec.preprocessing.size, scale=part.scale, antialias=True),
        v2.RandomHorizontalFlip(part.flip),
        v2.RandomApply([v2.ColorJitter(*part.colour)], part.jitter),
        v2.RandomGrayscale(part.grey),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    return v2.Compose(operations)


def memory(amount: int, spec: Recipe, folder: Path) -> list[Result]:
    """What one pass over a made store, in random batches, adds to a process's memory, over the bytes of a batch.

    Anonymous memory: the kernel takes pages of the mapped file back when it needs them.
    """
    side, batch = spec.data.store_side, spec.batch
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        added = pool.apply(memory_of_pass, (amount, side, batch, folder))
    over, about = [added / (3 * side**2 * batch)], f"{amount} photos, batch {batch}"
    return [row(CPU, f"a pass over a store, {side} px", "memory over that of a batch", over, about)]


def memory_of_pass(amount: int, side: int, batch: int, folder: Path) -> int:
    """Read every photo once; by how many bytes the anonymous memory of this process rose meanwhile."""
    photos = Mixture([made_store(amount, side, folder)])
    seen = [_anonymous()]
    for positions in np.array_split(np.random.default_rng(0).permutation(amount), amount // batch):
        photos.read(positions)
        seen.append(_anonymous())
    return max(seen) - seen[0]


def waiting(photos: Photos, spec: Recipe, device: torch.device) -> list[Result]:
    """The share of a short loop's time that steps waited for photos, which are read as the recipe says."""
    bf16 = usable(spec.precision) == "bf16"
    step = make_step(spec, Variant("", bf16, plain=device.type == "cpu"), device)
    epochs = Epochs.of([len(photos)], [1.0], batch=spec.batch, seed=0, photos=spec.batch * (WARM_UP + STEPS))
    clock = Clock()
    for number, _ in enumerate(read_ahead(Mixture([photos]), epochs.pieces(1), pin=False)):
        clock.batch_arrived()
        step()
        wait(device)
        clock.step_ended()
        if number < WARM_UP:
            clock = Clock()
            clock.start()
    about = f"{STEPS} steps"
    return [row(device, f"recipe {spec.name}", "share of the time waiting for photos", [clock.wait_share], about)]


def made_store(amount: int, side: int, folder: Path) -> Photos:
    """A store of one random photo so many times; made where there is none."""
    return _store([np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)] * amount, side, folder)


def _store(sources: list[Source], side: int, folder: Path) -> Photos:
    return open_photos(Split(sources, np.full(len(sources), -1, np.int64), ()), [Whole(side)], folder)[0]


def _anonymous() -> int:
    """Bytes of this process's memory that no file backs."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_data", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("photos", nargs="?", type=Path, help="folder or .tar of photos to decode (left out: none are)")
    parser.add_argument("--recipe", default="nano", help="recipe whose sizes, augmentation and step are taken (nano)")
    parser.add_argument("--stored", type=int, default=20_000, help="photos in the made store, which is deleted (20000)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of data_speed.csv (results)")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        spec = load_recipe(find_recipe(options.recipe))
        rows = decoding(options.photos, spec) if options.photos else []
        rows += augmentation(spec, device)
        with tempfile.TemporaryDirectory() as folder:
            photos = made_store(options.stored, spec.data.store_side, Path(folder))
            rows += memory(options.stored, spec, Path(folder)) if STATUS.is_file() else []
            rows += waiting(photos, spec, device)
        write_results(options.out / "data_speed.csv", rows)
    except TrainError as error:
        print(f"bench_data: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
