"""Latencies: the CSV files of `results/latency`, the tables generated from them, and the rows of cards."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from export import text
from leap_zoo.bench import SECONDS, Plan, Row, bench
from leap_zoo.card import Latency
from leap_zoo.errors import InvalidArgument, short
from leap_zoo.files import atomic_file
from leap_zoo.store import ZooLocation

FOLDER = Path("results") / "latency"
PEAK = Path("results") / "int8_peak.csv"  # written by tools.int8_peak
_SHORT = {"onnxruntime": "ort", "openvino": "ov"}


class Measured(Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row, which may also be the same model in PyTorch (`torch`) or exported by torch.onnx.export (`torch-onnx`).

    times_eager, times_exported: like `times_fp32`, relative to PyTorch eager and to PyTorch's own ONNX file.
    """

    times_eager: float | None = None
    times_exported: float | None = None


COLUMNS = Measured.__struct_fields__


def card_rows(rows: Sequence[Row]) -> list[Latency]:
    """The rows for a card: those of published files."""
    return [
        Latency(
            isa=row.isa.split(), **{name: getattr(row, name) for name in Latency.__struct_fields__ if name != "isa"}
        )
        for row in rows
        if not row.format.startswith("torch")
    ]


def latency_rows(name: str, zoo: ZooLocation, *, seconds: float = SECONDS) -> list[Latency]:
    """Rows for the card of a model in a (staged) zoo: every file that runs here, on one thread, one photo per call."""
    return card_rows(bench([name], Plan(seconds=seconds), zoo)[0])


def file_name(rows: Sequence[Row]) -> str:
    """Hardware and versions as a file's name, e.g. `amd-epyc-avx2-avx512-vnni-ort1.32.0-ov2026.4.1.csv`."""
    runtimes = sorted({" ".join(row.runtime.split()[:2]) for row in rows})  # "torch 2.14.1 eager": without the mode
    versions = [f"{_SHORT.get(name, name)}{version}" for name, version in (line.split(" ", 1) for line in runtimes)]
    parts = [_slug(rows[0].device), *rows[0].isa.split(), *versions]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part) for part in parts)[:200] + ".csv"


def write_rows(folder: str | os.PathLike[str], rows: Sequence[Row]) -> Path:
    """Write the rows of a run into `folder`, which is created if missing; returns the file.

    A model's rows are replaced together, so that they are always from one run; other models in the file stay. Raises
    InvalidArgument if the folder cannot be written or its file is not a table of latencies.
    """
    path = Path(folder) / file_name(rows)
    measured = {row.model for row in rows}
    kept = [row for row in read_rows(path) if row.model not in measured] if path.exists() else []
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted([*kept, *rows], key=lambda row: row.model):
        writer.writerow(["" if (value := getattr(row, name, None)) is None else value for name in COLUMNS])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(content.getvalue().encode())
    except OSError as error:
        raise InvalidArgument(f"{short(path)} cannot be written ({error.strerror}): choose another --out") from error
    return path


def read_rows(path: str | os.PathLike[str]) -> list[Measured]:
    """The rows of one file. Raises InvalidArgument if `write_rows` did not write it."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if "model" not in (reader.fieldnames or []):
                raise TypeError("there is no column `model`")
            lines = list(reader)
        filled = [{key: value for key, value in line.items() if value != ""} for line in lines]
        return msgspec.convert(filled, list[Measured], strict=False)
    except OSError as error:
        raise InvalidArgument(f"{short(path)} cannot be read ({error.strerror})") from error
    except (msgspec.ValidationError, csv.Error, UnicodeDecodeError, TypeError) as error:
        raise InvalidArgument(f"{short(path)} is not a table of latencies ({error}): move it elsewhere") from error


def newest(folder: str | os.PathLike[str]) -> list[list[Measured]]:
    """For each hardware (device and instruction sets), each model's newest rows; sorted by hardware, model."""
    runs: dict[tuple[str, str, str], list[Measured]] = {}
    for path in sorted(Path(folder).glob("*.csv")):
        rows = read_rows(path)
        for model in {row.model for row in rows}:
            ours = [row for row in rows if row.model == model]
            key = (ours[0].device, ours[0].isa, model)
            if key not in runs or _date(ours) > _date(runs[key]):
                runs[key] = ours
    by_hardware: dict[tuple[str, str], list[Measured]] = {}
    for device, isa, model in sorted(runs):
        by_hardware.setdefault((device, isa), []).extend(runs[device, isa, model])
    return list(by_hardware.values())


def latency_tables(measured: Sequence[Sequence[Measured]]) -> str:
    """Markdown, one table per hardware: milliseconds per call, and the speedup over others in the same run."""
    return text.render("latency.md", measured=measured).rstrip("\n")


def _date(rows: Sequence[Row]) -> str:
    return max(row.date for row in rows)


def _slug(device: str) -> str:
    """`Intel(R) Xeon(R) CPU @ 2.20GHz` -> `intel-xeon-cpu-2.20ghz`."""
    plain = re.sub(r"\((r|tm|c)\)", " ", device.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.") or "unknown"
