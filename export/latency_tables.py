"""What `leap-zoo bench` measured, as Markdown."""

from __future__ import annotations

from leap_zoo.bench import latency


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
