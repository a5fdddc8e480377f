"""`python -m train.research.data_speed [PHOTOS]`: how fast photos are decoded, augmented and read, on how much memory.

Decoding: photos of a folder into a store, per second of CPU time. Augmentation: ours beside torchvision v2 with the
same operations photo by photo, in turns. Memory: one pass of random batches over a made store. Pages of a mapped file
count as resident until the kernel takes them back, so anonymous memory is given beside them. Waiting: the share of the
time that steps waited for photos, in a run or in a short loop over the made store.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from torchvision.transforms import v2

from train.clock import Clock
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture, Pieces, loader
from train.data.sources import find_photos
from train.data.splits import unlabelled
from train.data.store import Photos, Whole, open_photos
from train.errors import TrainError
from train.plot.history import load_history
from train.recipe import Recipe
from train.recipe_file import find_recipe, load_recipe
from train.research.results import Result, write_results
from train.research.speed import Variant, make_step
from train.research.store_memory import STATUS, Memory, open_made
from train.research.turns import ratios, row, show, take_turns, wait

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 3  # steps of a loop before it is timed


def decoding(folder: Path, spec: Recipe, most: int, rounds: int) -> list[Result]:
    """Photos per second, on the wall clock and of CPU time, of at most so many photos spread over a folder."""
    found = find_photos(folder)
    split = unlabelled([found[i] for i in np.linspace(0, len(found) - 1, min(most, len(found)), dtype=int)])
    wall, cpu = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as store:
            start = time.perf_counter(), time.process_time()
            (photos,) = open_photos(split, [Whole(spec.data.store_side)], Path(store))
            wall.append(len(photos) / (time.perf_counter() - start[0]))
            cpu.append(len(photos) / (time.process_time() - start[1]))
    about = f"{spec.data.store_side} px, {len(split)} photos"
    return [
        row(CPU, "decoding into a store", "photos per second", wall, about),
        row(CPU, "decoding into a store", "photos per second of CPU time (per core)", cpu, about),
    ]


def augmentation(spec: Recipe, device: torch.device, rounds: int) -> list[Result]:
    """Photos per second of our augmentation and of torchvision's, and their ratio; a batch of the recipe's size."""
    side, size = spec.data.store_side, spec.preprocessing.size
    plain = msgspec.structs.replace(spec.augment, mix=False)  # torchvision's part has no mix
    pixels = torch.randint(0, 256, (spec.batch, side, side, 3), dtype=torch.uint8, device=device)
    aspect, ours, theirs = torch.ones(spec.batch), Augmenter(plain, size, 0, MEAN, STD), torchvision_peer(spec)
    photos = pixels.permute(0, 3, 1, 2).contiguous()
    taken = take_turns(
        [lambda: ours(pixels, aspect, 0), lambda: torch.stack([theirs(photo) for photo in photos])],
        device,
        1,
        rounds,
    )
    rates = [[spec.batch / seconds for seconds in one] for one in taken]
    about = f"{side} px to {size} px, batch {spec.batch}"
    return [
        row(device, "train.data.augment.Augmenter", "photos per second", rates[0], about),
        row(device, "torchvision v2, photo by photo", "photos per second", rates[1], about),
        row(device, "train.data.augment.Augmenter", "speed over torchvision's", ratios(*rates), about),
    ]


def torchvision_peer(spec: Recipe) -> v2.Compose:
    """The recipe's augmentation but for the mix: photo uint8 (3, side, side) -> float32 (3, size, size)."""
    part, size = spec.augment, spec.preprocessing.size
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=part.scale, antialias=True),
            v2.RandomHorizontalFlip(part.flip),
            v2.RandomApply([v2.ColorJitter(*part.colour)], part.jitter),
            v2.RandomGrayscale(part.grey),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def memory(amount: int, side: int, batch: int, folder: Path) -> list[Result]:
    """Peak memory of a process that reads a store, over the size of the store and over what a batch needs."""
    command = [sys.executable, "-m", "train.research.store_memory", *map(str, (amount, side, batch)), str(folder)]
    found = msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, type=Memory)
    photo = 3 * side * side
    anonymous, store = found.anonymous_peak - found.anonymous_before, amount * photo
    values = {
        "size of the store, bytes": store,
        "peak resident memory over the size of the store": found.peak / store,
        "peak resident memory, bytes": found.peak,
        "resident memory before the pass, bytes": found.before,
        "peak anonymous memory, bytes": found.anonymous_peak,
        "anonymous memory that the pass added, over that of a batch": anonymous / (batch * photo),
    }
    about = f"{amount} photos, batch {batch}"
    return [row(CPU, f"a pass over a store, {side} px", name, [value], about) for name, value in values.items()]


def waiting(photos: Photos, spec: Recipe, device: torch.device, steps: int) -> list[Result]:
    """The share of a short loop's time that steps waited for photos, which are read as the recipe says."""
    fast = Variant("", fused=True, bf16=spec.precision != "fp32", plain=device.type == "cpu", batch=spec.batch)
    step, clock, workers = make_step(spec, fast, device), Clock(), spec.data.workers
    epochs = Epochs.of([len(photos)], [1.0], batch=spec.batch, seed=0, photos=spec.batch * (WARM_UP + steps))
    batches = iter(loader(Mixture([photos]), Pieces(epochs, 1), workers=workers, pin=device.type == "cuda"))
    for _ in range(WARM_UP):
        step(*next(batches))
    wait(device)
    clock.start()
    for pixels, aspect in batches:
        clock.batch_arrived()
        step(pixels, aspect)
        wait(device)
        clock.step_ended()
    about = f"{steps} steps, {workers} workers"
    return [
        row(device, f"a loop of recipe {spec.name}", "share of the time waiting for photos", [clock.wait_share], about)
    ]


def waiting_of_run(folder: Path) -> list[Result]:
    """The same share, as a finished run measured it. Raises TrainError where there is none."""
    report = load_history(folder).report
    if report is None or report.data_wait is None:
        raise TrainError(f"{folder} is not a finished run; name one, or leave out --run to measure a short loop")
    return [
        Result(
            subject=f"run of recipe {report.name}",
            variant=f"{report.epochs} epochs",
            metric="share of the time waiting for photos",
            value=report.data_wait,
            hardware=report.hardware,
            commit=report.commit,
        )
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; exit status 2 for what the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m train.research.data_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Give the machine nothing else to do meanwhile. The made store takes 4 GB of disk, and is deleted.",
    )
    add = parser.add_argument
    add("photos", nargs="?", type=Path, help="folder or .tar of real photos to decode (left out: no decoding)")
    add("--recipe", default="nano", help="recipe whose sizes, augmentation and step are taken (nano)")
    add("--most", type=int, default=500, help="photos of the folder that are decoded (500)")
    add("--stored", type=int, default=50_000, help="photos in the made store (50000)")
    add("--side", type=int, default=160, help="their side in pixels (160)")
    add("--steps", type=int, default=10, help="steps of the loop that may wait for photos (10)")
    add("--rounds", type=int, default=6, help="rounds of augmentation, half as many of decoding (6)")
    add("--run", type=Path, help="finished run folder: its share of waiting, instead of a short loop's")
    add("--device", help="cpu or cuda, to augment and train on (default: cuda where there is one)")
    add("--scratch", type=Path, help="folder for the made store (default: the system's temporary folder)")
    add("--out", type=Path, default=Path("results"), help="folder of data_speed.csv (results)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        spec = load_recipe(find_recipe(options.recipe))
        rows = waiting_of_run(options.run) if options.run else []
        if options.photos:
            rows += decoding(options.photos, spec, options.most, max(1, options.rounds // 2))
        rows += augmentation(spec, device, options.rounds)
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            made = open_made(options.stored, options.side, Path(folder))
            if STATUS.is_file():
                rows += memory(options.stored, options.side, spec.batch, Path(folder))
            else:
                print("memory is not measured: this system has no /proc", file=sys.stderr)
            rows += [] if options.run else waiting(made, spec, device, options.steps)
        show(rows)
        write_results(options.out / "data_speed.csv", rows)
    except TrainError as error:
        print(f"train.research.data_speed: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
