"""`python -m export.tables [--check]`: the README's tables and docs/zoo.md, from the cards of zoo/ and results/."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from export import zoo_figure, zoo_page
from export.metric_text import cell
from export.quality import Line, lines_of
from leap_zoo.bench import latency
from leap_zoo.errors import LeapZooError
from leap_zoo.registry import models
from train.errors import TrainError
from train.figures import Figure, Trial, read_figures
from train.run import RunReport

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "zoo.md"
PICTURE = ROOT / "docs" / "images" / zoo_figure.FILE
ZOO = ROOT / "zoo"
FIGURES = ROOT / "results" / "zoo.csv"
TRIALS = {  # title of a section of docs/zoo.md -> what was tried
    "What each lever gave": ROOT / "results" / "levers.csv",
    "Against a plain `last` student of equal cost": ROOT / "results" / "zoo_rivals.csv",
}


def main() -> int:
    """Rewrite them, or with --check exit 1 when one differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m export.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on drift")
    check = parser.parse_args().check
    try:
        lines = zoo_lines()
        fresh = {README: render(README.read_text()), PAGE: zoo_page.render(models(ZOO), lines, read_trials())}
    except (LeapZooError, TrainError) as error:
        print(f"export.tables: {error}", file=sys.stderr)
        return 2
    drifted = [path for path, text in fresh.items() if not path.is_file() or path.read_text() != text]
    drawn = zoo_figure.digest(lines)
    if drawn is not None and (not PICTURE.is_file() or drawn not in PICTURE.read_text()):
        drifted.append(PICTURE)
    if check and drifted:
        names = ", ".join(str(path.relative_to(ROOT)) for path in drifted)
        print(f"{names}: drifted from cards and results: run `make tables`", file=sys.stderr)
        return 1
    if not check:
        for path, text in fresh.items():
            path.write_text(text)
        if (picture := zoo_figure.draw(lines)) is not None:
            PICTURE.write_bytes(picture)
    return 0


def zoo_lines() -> list[Line]:
    """The published files of zoo/ with their figures; without, where nothing was measured yet. Raises TrainError."""
    return lines_of(models(ZOO), read_figures(FIGURES, Figure) if FIGURES.is_file() else [])


def render(text: str) -> str:
    """The README's text with its generated blocks made anew."""
    text = _replace(text, "zoo", zoo_page.compact_table(zoo_lines()))
    text = _replace(text, "latency", latency_tables(latency.newest(ROOT / latency.FOLDER)))
    reports = [
        msgspec.json.decode(path.read_bytes(), type=RunReport)
        for path in sorted((ROOT / "results").glob("leap-*.json"))
    ]
    return _replace(text, "training", "\n\n".join(training_table(report) for report in reports))


def read_trials() -> dict[str, list[Trial]]:
    """What was tried in training, by the title of its section, where it was measured. Raises TrainError."""
    return {title: read_figures(path, Trial) for title, path in TRIALS.items() if path.is_file()}


def latency_tables(measured: list[list[latency.Row]]) -> str:
    """A table per hardware, of what `leap-zoo bench` measured there."""
    return "\n\n".join(latency_table(rows) for rows in measured) or "Nothing was measured yet."


def latency_table(rows: list[latency.Row]) -> str:
    """Milliseconds per call of every row, and how many times faster than its two references in the same run."""
    first = rows[0]
    titles = ["model", "file", "runtime", "threads", "batch", "input", "min ms", "median", "p95", "n", "photos/s"]
    titles += ["load ms", "peak MB", "x our fp32 ONNX", "x PyTorch eager", "x torch.onnx.export"]
    lines = [f"{first.device} ({first.isa}), {max(row.date for row in rows)[:10]}:", ""]
    lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        file = "the same weights" if row.format.startswith("torch") else f"{row.format} {row.precision}"
        cells = [row.model, file, row.runtime, str(row.threads), str(row.batch), row.input]
        cells += [f"{row.min_ms:.2f}", f"{row.median_ms:.2f}", f"{row.p95_ms:.2f}", str(row.n)]
        cells += [f"{row.images_per_second:.0f}", "" if row.load_ms is None else f"{row.load_ms:.0f}"]
        cells += ["" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}"]
        cells += [
            "" if times is None else f"{times:.2f}" for times in (row.times_fp32, row.times_eager, row.times_exported)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def training_table(report: RunReport) -> str:
    """The figures of a run beside its teacher's, and what it cost."""
    rows = [f"| `{report.name}`, strategy `{report.strategy}` | n | teacher | student |", "|---|---|---|---|"]
    for theirs, ours in zip(report.teacher_metrics, report.metrics, strict=True):
        cells = [cell(metric) for metric in (theirs, ours)]
        rows.append(f"| {ours.name}, {ours.dataset}, {ours.split} | {ours.n} | {' | '.join(cells)} |")
    cost = (
        f"{report.epochs} epochs of {report.train_photos} photos, seed {report.seed} (one seed), on "
        f"{report.hardware}: {report.train_seconds / 60:.0f} min. Early exit saved {report.teacher_flops_saved:.1%} of "
        f"the teacher's FLOPs, {report.total_flops_saved:.1%} of all ({report.total_flops / 1e15:.3g} PFLOPs run)."
    )
    return "\n".join(rows) + "\n\n" + cost


def _replace(text: str, block: str, content: str) -> str:
    begin, end = f"<!-- {block}:begin (generated by `make tables`) -->\n", f"<!-- {block}:end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"README.md has no generated block {block!r}: put its two comment lines back")
    return f"{before}{begin}\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
