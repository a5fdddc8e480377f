"""`python -m export.tables [--check]`: the README's tables, generated from the cards of zoo/ and from results/."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from leap_zoo.bench import latency
from leap_zoo.card import Metric, ModelCard
from leap_zoo.registry import models
from train.run import RunReport

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ZOO = ROOT / "zoo"


def main() -> int:
    """Rewrite the README, or with --check exit 1 when it differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m export.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on drift")
    check = parser.parse_args().check
    text = README.read_text()
    fresh = render(text)
    if check and fresh != text:
        print("README.md has drifted from cards and results: run `make tables`", file=sys.stderr)
        return 1
    if not check:
        README.write_text(fresh)
    return 0


def render(text: str) -> str:
    """The README's text with its generated blocks made anew."""
    text = _replace(text, "zoo", zoo_table(models(ZOO)))
    text = _replace(text, "latency", latency_tables(latency.newest(ROOT / latency.FOLDER)))
    reports = [
        msgspec.json.decode(path.read_bytes(), type=RunReport)
        for path in sorted((ROOT / "results").glob("leap-*.json"))
    ]
    return _replace(text, "training", "\n\n".join(training_table(report) for report in reports))


def zoo_table(cards: list[ModelCard]) -> str:
    """A row per published file: what it weighs, how fast it was, what it keeps; measured with the default head."""
    titles = ["model", "file", "MB", "ms", "top-1", "Recall@1", "top-1 drop from fp32", "cosine to fp32, mean / least"]
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    notes: dict[str, None] = {}
    runtimes: dict[str, None] = {}
    for card in cards:
        timed = {row.file: row for row in card.latency}
        for artifact in card.artifacts:
            found = {metric.name: metric for metric in artifact.metrics if metric.head == card.default_head}
            ms = timed.get(artifact.file)
            cells = [card.id, f"`{artifact.file}`", f"{artifact.total_bytes / 1e6:.2f}"]
            cells += [f"{ms.median_ms:.2f}" if ms else ""]
            cells += [_with_interval(found.get(name)) for name in ("top-1", "Recall@1", "top-1 drop from fp32")]
            cosines = [found.get(f"embedding cosine to fp32, {which}") for which in ("mean", "minimum")]
            cells.append(" / ".join(value(cosine) for cosine in cosines if cosine is not None))
            rows.append(f"| {' | '.join(cells)} |")
            for metric in found.values():
                notes[f"{metric.dataset}, {metric.split}, head `{metric.head}`, n = {metric.n}"] = None
            if ms:
                runtimes[f"{ms.device} ({', '.join(ms.isa)}), {ms.threads} thread, {ms.runtime}"] = None
    clock = f"ms: median of a photo ({'; '.join(runtimes)})" if runtimes else ""
    return "\n".join([*rows, "", ". ".join(filter(None, [*notes, clock])) + ". In brackets: 95 % intervals."])


def _with_interval(metric: Metric | None) -> str:
    return "" if metric is None else f"{value(metric)} ({interval(metric)})"


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
        cells = [f"{value(m)} ({interval(m)})" for m in (theirs, ours)]
        rows.append(f"| {ours.name}, {ours.dataset}, {ours.split} | {ours.n} | {' | '.join(cells)} |")
    cost = (
        f"{report.epochs} epochs of {report.train_photos} photos, seed {report.seed} (one seed), on "
        f"{report.hardware}: {report.train_seconds / 60:.0f} min. Early exit saved {report.teacher_flops_saved:.1%} of "
        f"the teacher's FLOPs, {report.total_flops_saved:.1%} of all ({report.total_flops / 1e15:.3g} PFLOPs run)."
    )
    return "\n".join(rows) + "\n\n" + cost


def value(metric: Metric) -> str:
    """Shares as per cent, cosines as they are."""
    return _show(metric, metric.value)


def interval(metric: Metric) -> str:
    """The 95 % interval, or nothing."""
    return " to ".join(_show(metric, end) for end in metric.interval) if metric.interval else ""


def _show(metric: Metric, number: float) -> str:
    return f"{number:.4f}" if "cosine" in metric.name else f"{number:.2%}".replace("%", " %")


def _replace(text: str, block: str, content: str) -> str:
    begin, end = f"<!-- {block}:begin (generated by `make tables`) -->\n", f"<!-- {block}:end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"README.md has no generated block {block!r}: put its two comment lines back")
    return f"{before}{begin}\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
