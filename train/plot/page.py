"""report.html: a training on one page that asks nothing of the network: picture, figures, cost, moves, recipe."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import msgspec
import yaml

from leap_zoo.card import Metric
from train.plot.history import History
from train.run import RunReport

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
img { max-width: 100% } h2 { margin-top: 2.5rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } caption { text-align: left; color: #555 }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd }
pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 13px }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(histories: Sequence[History], picture: bytes) -> str:
    """The page of one run, or of several compared; `picture` is a PNG. Everything from the folders is escaped."""
    title = " and ".join(sorted({history.recipe.name for history in histories}))
    image = base64.b64encode(picture).decode("ascii")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}: training</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
        '<img alt="Loss, similarity, learning rate, target block, 10-NN accuracy and speed over the training" '
        f'src="data:image/png;base64,{image}">\n' + "".join(map(_section, histories)) + "</body>\n</html>\n"
    )


def _section(history: History) -> str:
    recipe = history.recipe
    parts = [
        f"<h2>{escape(history.strategy)}, seed {recipe.seed}</h2>\n<p>{escape(recipe.description)}</p>\n",
        _figures(history.report) if history.report else f"<p>Unfinished: {history.steps} steps so far.</p>\n",
        _moves(history),
        "<h3>Recipe</h3>\n<pre>",
        escape(yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False)),
        "</pre>\n",
    ]
    return "".join(parts)


def _figures(report: RunReport) -> str:
    teacher = {(metric.name, metric.split): metric for metric in report.teacher_metrics}
    rows = [
        (one.name, one.dataset, one.split, one.n, _share(one), _share(teacher.get((one.name, one.split))))
        for one in report.metrics
    ]
    cost = [
        ("teacher, forward", f"{report.teacher_flops / 1e12:.4g}", f"{report.teacher_flops_saved:.1%}"),
        ("teacher and student", f"{report.total_flops / 1e12:.4g}", f"{report.total_flops_saved:.1%}"),
    ]
    facts = {
        "training, wall clock": f"{report.train_seconds:.0f} s",
        "training, CPU time of all threads": None if report.cpu_seconds is None else f"{report.cpu_seconds:.0f} s",
        "waiting for photos": None if report.data_wait is None else f"{report.data_wait:.1%} of the wall clock",
        "speed": f"{report.images_per_second:.0f} images/s",
        "photos": f"{report.train_photos}, {report.epochs} epochs",
        "hardware": report.hardware,
        "commit": report.commit,
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    }
    return (
        _table("Figures, 95 % intervals in brackets", ("", "data set", "split", "n", "student", "teacher"), rows)
        + _table("Cost; saved against a run of all blocks at every step", ("", "TFLOPs", "saved"), cost)
        + _table("Time and place", ("", ""), [(name, text) for name, text in facts.items() if text is not None])
    )


def _moves(history: History) -> str:
    if not history.moves:
        return ""
    rows = [
        (move.step, move.block, "" if move.similarity is None else f"{move.similarity:.3f}", move.reason)
        for move in history.moves
    ]
    return _table("Target block of the teacher", ("step", "block", "similarity", "reason"), rows)


def _share(metric: Metric | None) -> str:
    if metric is None:
        return ""
    low, high = metric.interval or (metric.value, metric.value)
    return f"{metric.value:.1%} [{low:.1%}, {high:.1%}]"


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["".join(f"<th>{escape(head)}</th>" for head in heads)]
    lines += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f"<table>\n<caption>{escape(caption)}</caption>\n{body}</table>\n"
