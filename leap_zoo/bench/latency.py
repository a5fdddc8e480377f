"""What was measured how fast: rows, and the CSV files of `results/latency`, named by hardware and versions."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from leap_zoo.card import Latency
from leap_zoo.errors import InvalidArgument, short
from leap_zoo.files import atomic_file

FOLDER = Path("results") / "latency"

Input = Literal["pixels", "jpeg"]

_SHORT = {"onnxruntime": "ort", "openvino": "ov"}


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contender of one run: milliseconds per call through `leap_zoo`, all contenders in turns.

    file: the artifact; for a peer, the fp32 file whose weights it has. format: `onnx`, `openvino`, or which peer:
    `torch`, or `torch-onnx`, which is what torch.onnx.export makes of it, on ONNX Runtime.
    isa: instruction sets, joined by spaces. input: `pixels` (ready-made arrays), or `jpeg`: decoding and resizing of
    every photo is timed too. n: calls timed. load_ms: from the file's bytes to the first answer, in a process of its
    own; peak_memory_bytes: of that process. times_fp32, times_eager, times_exported: how many times faster, by the
    fastest calls, than the fp32 ONNX file, PyTorch eager, and PyTorch's own ONNX file, in the same run on as many
    threads, photos and the same input; None without them.
    date: UTC, ISO 8601.
    """

    model: str
    revision: str
    file: str
    format: str
    precision: str
    runtime: str
    device: str
    isa: str
    threads: int
    batch: int
    input: Input
    n: int
    min_ms: float
    median_ms: float
    p95_ms: float
    images_per_second: float
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    times_fp32: float | None = None
    times_eager: float | None = None
    times_exported: float | None = None
    date: str


COLUMNS = Row.__struct_fields__


def file_name(rows: Sequence[Row]) -> str:
    """Hardware and versions as a file's name, e.g. `amd-epyc-avx2-avx512-vnni-ort1.32.0-ov2026.4.1.csv`."""
    runtimes = sorted({" ".join(row.runtime.split()[:2]) for row in rows})  # "torch 2.14.1 eager": not how
    versions = [f"{_SHORT.get(name, name)}{version}" for name, version in (line.split(" ", 1) for line in runtimes)]
    parts = [_slug(rows[0].device), *rows[0].isa.split(), *versions]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part) for part in parts)[:200] + ".csv"


def write_rows(folder: str | os.PathLike[str], rows: Sequence[Row]) -> Path:
    """Write the rows of a run into `folder`, which is made when missing; returns the file.

    A model's rows are replaced together, so that they are always of one run; other models in the file stay. Raises
    InvalidArgument when the folder cannot be written or the file there is not one of ours.
    """
    path = Path(folder) / file_name(rows)
    measured = {row.model for row in rows}
    kept = [row for row in read_rows(path) if row.model not in measured] if path.exists() else []
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted([*kept, *rows], key=lambda row: row.model):
        writer.writerow(["" if value is None else value for value in msgspec.structs.astuple(row)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise InvalidArgument(f"{short(path)} cannot be written ({error.strerror}): choose another --out") from error
    return path


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of one file. Raises InvalidArgument when it is not one that `write_rows` wrote."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if "model" not in (reader.fieldnames or []):
                raise TypeError("it has no column `model`")
            lines = list(reader)
        filled = [{key: value for key, value in line.items() if value != ""} for line in lines]
        return msgspec.convert(filled, list[Row], strict=False)
    except OSError as error:
        raise InvalidArgument(f"{short(path)} cannot be read ({error.strerror})") from error
    except (msgspec.ValidationError, csv.Error, UnicodeDecodeError, TypeError) as error:
        raise InvalidArgument(f"{short(path)} is no table of leap-zoo bench ({error}): move it elsewhere") from error


def newest(folder: str | os.PathLike[str]) -> list[list[Row]]:
    """Per hardware (device and instruction sets), every model's rows of its newest run; sorted by hardware, model."""
    runs: dict[tuple[str, str, str], list[Row]] = {}
    for path in sorted(Path(folder).glob("*.csv")):
        rows = read_rows(path)
        for model in {row.model for row in rows}:
            ours = [row for row in rows if row.model == model]
            key = (ours[0].device, ours[0].isa, model)
            if key not in runs or _date(ours) > _date(runs[key]):
                runs[key] = ours
    by_hardware: dict[tuple[str, str], list[Row]] = {}
    for device, isa, model in sorted(runs):
        by_hardware.setdefault((device, isa), []).extend(runs[device, isa, model])
    return list(by_hardware.values())


def slowdown(rows: Sequence[Row]) -> float:
    """The largest median over its fastest call: about 1.1 on a machine that does nothing else."""
    return max((row.median_ms / row.min_ms for row in rows if row.min_ms > 0), default=1.0)


def card_rows(rows: Sequence[Row]) -> list[Latency]:
    """The rows that belong in a card: those of published files, on ready-made pixels."""
    return [
        Latency(
            file=row.file,
            device=row.device,
            isa=row.isa.split(),
            runtime=row.runtime,
            threads=row.threads,
            batch=row.batch,
            n=row.n,
            min_ms=row.min_ms,
            median_ms=row.median_ms,
            p95_ms=row.p95_ms,
            peak_memory_bytes=row.peak_memory_bytes,
        )
        for row in rows
        if row.input == "pixels" and not row.format.startswith("torch")
    ]


def _date(rows: Sequence[Row]) -> str:
    return max(row.date for row in rows)


def _slug(device: str) -> str:
    """`Intel(R) Xeon(R) CPU @ 2.20GHz` -> `intel-xeon-cpu-2.20ghz`."""
    plain = re.sub(r"\((r|tm|c)\)", " ", device.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.") or "unknown"
