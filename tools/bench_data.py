"""`python -m tools.bench_data [PHOTOS]`: how fast photos are decoded, augmented and read, and on how much memory.

Decoding: photos of a folder into a store. Augmentation: ours beside torchvision v2 with the same operations photo by
photo, in turns. Memory: one pass of random batches over a made store, in a process of its own. Waiting: the share of
the time that training steps waited for photos of that store.
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
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from tools.bench_train import Variant, make_step
from tools.turns import ratios, row, take_turns, wait
from train.clock import Clock
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture, Pieces, loader
from train.data.sources import Source, find_photos
from train.data.splits import Split
from train.data.store import Photos, Whole, open_photos
from train.errors import TrainError
from train.recipe import Recipe
from train.recipe_file import find_recipe, load_recipe
from train.research.results import Result, write_results

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST = 500  # photos that are decoded
WARM_UP, STEPS = 3, 10  # of the loop that may wait for photos
STATUS = Path("/proc/self/status")  # Linux; elsewhere memory is left out


def decoding(folder: Path, spec: Recipe, rounds: int) -> list[Result]:
    """Photos per second of CPU time, of at most MOST photos spread over a folder."""
    found, rate = find_photos(folder), []
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(MOST, len(found)), dtype=int)]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as store:
            start = time.process_time()
            rate.append(len(_store(chosen, spec.data.store_side, Path(store))) / (time.process_time() - start))
    about = f"{spec.data.store_side} px, {len(chosen)} photos"
    return [row(CPU, "decoding into a store", "photos per second of CPU time (per core)", rate, about)]


def augmentation(spec: Recipe, device: torch.device, rounds: int) -> list[Result]:
    """Photos per second of our augmentation and of torchvision's, and their ratio; a batch of the recipe's size."""
    side, size = spec.data.store_side, spec.preprocessing.size
    plain = msgspec.structs.replace(spec.augment, mix=False)  # torchvision's part has no mix
    pixels = torch.randint(0, 256, (spec.batch, side, side, 3), dtype=torch.uint8, device=device)
    aspect, ours, theirs = torch.ones(spec.batch), Augmenter(plain, size, 0, MEAN, STD), torchvision_peer(spec)
    photos = pixels.permute(0, 3, 1, 2).contiguous()
    calls = [lambda: ours(pixels, aspect, 0), lambda: torch.stack([theirs(photo) for photo in photos])]
    ours_rate, rate = [[spec.batch / seconds for seconds in one] for one in take_turns(calls, device, rounds)]
    name, about = "train.data.augment.Augmenter", f"{side} px to {size} px, batch {spec.batch}"
    return [
        row(device, name, "photos per second", ours_rate, about),
        row(device, "torchvision v2, photo by photo", "photos per second", rate, about),
        row(device, name, "speed over torchvision's", ratios(ours_rate, rate), about),
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
    """Peak memory of a process that reads a made store, over the size of the store and over that of a batch.

    Pages of a mapped file count as resident until the kernel takes them back; anonymous memory is without them.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak, added = pool.apply(pass_over, (amount, spec.data.store_side, spec.batch, folder))
    photo = 3 * spec.data.store_side**2
    name, about = f"a pass over a store, {spec.data.store_side} px", f"{amount} photos, batch {spec.batch}"
    return [
        row(CPU, name, "peak resident memory over the size of the store", [peak / (amount * photo)], about),
        row(CPU, name, "anonymous memory that it added over that of a batch", [added / (spec.batch * photo)], about),
    ]


def pass_over(amount: int, side: int, batch: int, folder: Path) -> tuple[int, int]:
    """Read every photo once: bytes of peak resident memory, and by how much anonymous memory rose meanwhile."""
    photos = made_store(amount, side, folder)
    before = most = _status("RssAnon")
    for pixels, _ in _batches(photos, batch, amount):
        pixels.sum()
        most = max(most, _status("RssAnon"))
    return _status("VmHWM"), most - before


def waiting(photos: Photos, spec: Recipe, device: torch.device) -> list[Result]:
    """The share of a short loop's time that steps waited for photos, which are read as the recipe says."""
    step = make_step(spec, Variant("", bf16=spec.precision != "fp32", plain=device.type == "cpu"), device)
    clock = Clock()
    for number, _ in enumerate(_batches(photos, spec.batch, spec.batch * (WARM_UP + STEPS), spec.data.workers)):
        clock.batch_arrived()
        step()
        wait(device)
        clock.step_ended()
        if number < WARM_UP:
            clock = Clock()
            clock.start()
    about = f"{STEPS} steps, {spec.data.workers} workers"
    return [
        row(device, f"a loop of recipe {spec.name}", "share of the time waiting for photos", [clock.wait_share], about)
    ]


def made_store(amount: int, side: int, folder: Path) -> Photos:
    """A store of one random photo so many times; made where there is none."""
    return _store([np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)] * amount, side, folder)


def _store(sources: list[Source], side: int, folder: Path) -> Photos:
    return open_photos(Split(sources, np.full(len(sources), -1, np.int64), ()), [Whole(side)], folder)[0]


def _batches(photos: Photos, batch: int, amount: int, workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
    epochs = Epochs.of([len(photos)], [1.0], batch=batch, seed=0, photos=amount)
    return loader(Mixture([photos]), Pieces(epochs, 1), workers=workers, pin=False)


def _status(field: str) -> int:
    """Bytes that the kernel counts for this process."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_data", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("photos", nargs="?", type=Path, help="folder or .tar of photos to decode (left out: none are)")
    parser.add_argument("--recipe", default="nano", help="recipe whose sizes, augmentation and step are taken (nano)")
    parser.add_argument("--stored", type=int, default=20_000, help="photos in the made store, which is deleted (20000)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of decoding and of augmentation (6)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of data_speed.csv (results)")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        spec = load_recipe(find_recipe(options.recipe))
        rows = decoding(options.photos, spec, options.rounds) if options.photos else []
        rows += augmentation(spec, device, options.rounds)
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
