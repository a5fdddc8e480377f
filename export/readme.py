"""The README of a published model, generated from its card: nothing in it is typed by hand."""

from __future__ import annotations

from export.tables import interval, value
from leap_zoo.card import Artifact, Metric, ModelCard


def render(card: ModelCard) -> str:
    """Markdown."""
    return "\n".join([f"# {card.id}", "", f"{card.description}. Revision `{card.revision}`.", "", *_body(card)]) + "\n"


def _body(card: ModelCard) -> list[str]:
    size, short = card.preprocessing.size, card.preprocessing.short_side
    lines = [
        f"{card.parameters / 1e6:.2f} M parameters; photos of {size} x {size} px; embeddings of "
        f"{card.embedding_dims.student} (student) and {card.embedding_dims.teacher} (teacher's space) numbers; heads: "
        + ", ".join(f"`{h.name}` ({len(h.labels)} classes)" for h in card.heads)
        + f"; default `{card.default_head}`.",
        "",
        "## Files",
        "",
        "| file | precision | MB | opset / IR | sha256 |",
        "|---|---|---|---|---|",
        *(
            f"| `{a.file}` | {a.precision} | {a.bytes / 1e6:.2f} | {a.opset} / {a.ir} | `{a.sha256}` |"
            for a in card.artifacts
        ),
        "",
        "## Measured on the published files",
        "",
        "| precision | metric | head | data, split | n | value | 95 % interval |",
        "|---|---|---|---|---|---|---|",
        *(metric_row(a, m) for a in card.artifacts for m in a.metrics),
        "",
        "## Use",
        "",
        "```python",
        "import leap_zoo",
        f'model = leap_zoo.load("{card.id}")',
        'model.classify("photo.jpg", top=5)',
        'model.embed("photo.jpg", space="student")',
        "```",
        "",
        "Without `leap_zoo`, the file itself: input `image`, uint8 (batch, "
        f"{size}, {size}, 3), RGB, not normalised. Upright by EXIF; resize the short side to {short} px "
        f"({card.preprocessing.filter}), keep the centre {size} x {size}. Outputs: "
        + ", ".join(f"`{t.name}` {tuple(t.shape)}".replace("'", "") for t in card.outputs)
        + "; embeddings have unit length.",
        "",
    ]
    if card.training is not None:
        t = card.training
        lines += [
            "## Training",
            "",
            f"Recipe `{t.recipe}`, strategy `{t.strategy}`, {t.epochs:g} epochs, seed {t.seed}, commit `{t.commit}`. "
            f"Teacher: {t.teacher.name} ({t.teacher.provenance}). Early exit saved {t.teacher_flops_saved:.1%} of its "
            f"FLOPs ({t.teacher_flops / 1e15:.3g} PFLOPs run, {t.total_flops / 1e15:.3g} with the student's).",
            "",
            "| step | block | similarity | reason |",
            "|---|---|---|---|",
            *(
                f"| {s.step} | {s.block} | {'' if s.similarity is None else f'{s.similarity:.3f}'} | {s.reason} |"
                for s in t.curriculum
            ),
            "",
        ]
    licences = card.licences
    return [
        *lines,
        "## Licences",
        "",
        "| of | licence |",
        "|---|---|",
        f"| code | {licences.code} |",
        f"| weights | {licences.weights} |",
        f"| teacher | {licences.teacher} |",
        f"| data | {licences.data} |",
    ]


def metric_row(artifact: Artifact, metric: Metric) -> str:
    """One row of the table of metrics."""
    where = f"{metric.head or ''} | {metric.dataset}, {metric.split}"
    return f"| {artifact.precision} | {metric.name} | {where} | {metric.n} | {value(metric)} | {interval(metric)} |"
