"""The README of a published model, generated from its card: nothing in it is typed by hand."""

from __future__ import annotations

from export import contract, figure, measured
from export.markdown import line, table
from export.metric_text import interval, value
from leap_zoo.card import Artifact, Licences, Metric, ModelCard, Training


def render(card: ModelCard) -> str:
    """Markdown."""
    sections = {
        "Files": _files(card),
        "Use": contract.python_and_commands(card),
        "Measured on the published files": measured.metric_sections(card),
        "Latency": measured.latency_sections(card.latency),
        "How the quantised files were chosen": measured.search_section(card.search) if card.search else [],
        "The file without leap_zoo": [*_ports(card), *contract.input_contract(card)],
        "Is another runtime right?": contract.golden_section(card),
        "Training": _training(card, card.training) if card.training else [],
        "Licences": _licences(card.licences),
    }
    lines = [f"# {card.id}", "", f"{line(card.description)}. Revision `{card.revision}`.", "", *_about(card)]
    for title, section in sections.items():
        if section:
            lines += [f"## {title}", "", *section]
    return "\n".join(lines).rstrip("\n") + "\n"


def metric_row(artifact: Artifact, metric: Metric) -> str:
    """One metric of an artifact as one row, for `python -m export`."""
    where = f"{metric.head or ''} | {metric.dataset}, {metric.split}"
    return f"| {artifact.precision} | {metric.name} | {where} | {metric.n} | {value(metric)} | {interval(metric)} |"


def _about(card: ModelCard) -> list[str]:
    size = card.preprocessing.size
    lines = [
        f"{card.parameters / 1e6:.2f} M parameters; photos of {size} x {size} px; embeddings of "
        f"{card.embedding_dims.student} (student) and {card.embedding_dims.teacher} (teacher's space) numbers; heads: "
        + ", ".join(f"`{h.name}` ({len(h.labels)} classes)" for h in card.heads)
        + f"; default `{card.default_head}`.",
        "",
    ]
    if (student := card.architecture) is not None:
        registers = f", {student.registers} registers" if student.registers else ""
        scale = ", LayerScale" if student.layer_scale else ""
        lines += [
            f"A vision transformer of {student.depth} blocks of width {student.width}, {student.heads} heads, "
            f"MLP ratio {student.mlp_ratio:g}, patches of {student.patch} px{registers}{scale}; "
            f"its embedding is {'the CLS token' if student.pooling == 'cls' else 'the mean of the patch tokens'}.",
            "",
        ]
    return lines


def _files(card: ModelCard) -> list[str]:
    rows = []
    for artifact in card.artifacts:
        form = f"IR {artifact.ir}" if artifact.opset is None else f"opset {artifact.opset}, IR {artifact.ir}"
        for file in artifact.files:
            alone = file is artifact
            rows.append(
                [
                    *(f"`{file.file}`", measured.label(artifact) if alone else "its weights"),
                    *(f"{file.bytes / 1e6:.2f}", form if alone else "", contract.runs_on(artifact) if alone else ""),
                    f"`{file.sha256}`",
                ]
            )
    golden = card.golden
    rows.append([f"`{golden.file}`", "golden outputs", f"{golden.bytes / 1e6:.2f}", "", "", f"`{golden.sha256}`"])
    tools = sorted({f"{tool} {version}" for a in card.artifacts for tool, version in a.tools.items()})
    return [
        *table(["file", "what", "MB", "format", "runs on, from", "sha256"], rows),
        *([f"Built with {', '.join(tools)}.", ""] if tools else []),
    ]


def _ports(card: ModelCard) -> list[str]:
    return table(
        ["tensor", "", "type", "shape"],
        (
            [f"`{tensor.name}`", kind, tensor.dtype, f"({', '.join(str(axis) for axis in tensor.shape)})"]
            for kind, tensors in (("input", card.inputs), ("output", card.outputs))
            for tensor in tensors
        ),
    )


def _training(card: ModelCard, training: Training) -> list[str]:
    lines = [
        f"Recipe `{training.recipe}`, strategy `{training.strategy}`, {training.epochs:g} epochs, seed "
        f"{training.seed}, commit `{training.commit}`. Teacher: {training.teacher.name} "
        f"({line(training.teacher.provenance)}). Early exit saved {100 * training.teacher_flops_saved:.1f} % of its "
        f"FLOPs ({training.teacher_flops / 1e15:.3g} PFLOPs run, {training.total_flops / 1e15:.3g} with the "
        "student's).",
        "",
    ]
    if training.curriculum:
        lines += [f"![The target block of {card.id} over the steps, and why it moved]({figure.FILE})", ""]
    return lines + table(
        ["step", "block", "similarity", "reason"],
        (
            [str(s.step), str(s.block), "" if s.similarity is None else f"{s.similarity:.3f}", s.reason]
            for s in training.curriculum
        ),
    )


def _licences(licences: Licences) -> list[str]:
    return table(
        ["of", "licence"],
        [
            ["code", licences.code],
            ["weights", licences.weights],
            ["teacher", licences.teacher],
            ["data", licences.data],
        ],
    )
