"""The README of a published model, generated from its card: nothing in it is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from export import figure, measured
from export.markdown import line, table, template
from export.metric_text import interval, value
from leap_zoo.card import Artifact, File, Licences, Metric, ModelCard, Training

# Licences under the names that hubs know; another one is `other`, and named beside it.
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0")
# Parts of a metric's name -> what a hub calls the task and the metric. Comparisons with other files are not among them.
HUB_METRICS = {
    "linear probe": ("image-classification", "accuracy"),
    "-NN": ("image-classification", "accuracy"),
    "mAP": ("image-feature-extraction", "mean_average_precision"),
    "ecall@1": ("image-feature-extraction", "recall_at_1"),
    "top-1": ("image-classification", "accuracy"),
}
_DEAD = "None answers by default: see its top-1 on photos of the world (nips2017) beside the teacher's below."
NOT_HUB_METRICS = ("drop", "agreement", "cosine")


def render(card: ModelCard) -> str:
    """Markdown, after the YAML that hubs read."""
    sections = {
        "Files": _files(card),
        "Use": _use(card),
        "Measured on the published files": measured.metric_sections(card),
        "Latency": measured.latency_sections(card.latency),
        "How the quantised files were chosen": measured.search_section(card.search) if card.search else [],
        "The file without leap_zoo": [*_ports(card), *_contract(card)],
        "Is another runtime right?": _golden(card),
        "Training": _training(card, card.training) if card.training else [],
        "Licences": _licences(card.licences),
    }
    front = yaml.safe_dump(metadata(card), sort_keys=False, allow_unicode=True, width=120)
    lines = ["---", *front.splitlines(), "---", "", f"# {card.id}", ""]
    lines += [f"{line(card.description)}. Revision `{card.revision}`.", "", *_about(card)]
    for title, section in sections.items():
        if section:
            lines += [f"## {title}", "", *section]
    return "\n".join(lines).rstrip("\n") + "\n"


def metadata(card: ModelCard) -> dict[str, Any]:
    """The front matter: what a hub's search and its page of results are made of. Figures are of the first file."""
    licence = card.licences.weights.lower()
    known = licence in HUB_LICENCES
    formats = dict.fromkeys(artifact.format for artifact in card.artifacts)
    figures = [(metric, *found) for metric in card.artifacts[0].metrics if (found := _hub_metric(metric))]
    own = dict.fromkeys(_slug(metric.dataset) for metric in card.artifacts[0].metrics if metric.head)
    return {
        "license": licence if known else "other",
        **({} if known else {"license_name": _slug(licence)}),
        **({"library_name": "timm"} if card.timm else {}),
        "pipeline_tag": "image-classification",
        "tags": [
            *("leap-zoo", "vision-transformer", "knowledge-distillation", "image-feature-extraction"),
            *(["timm", "safetensors"] if card.timm else []),
            *formats,
        ],
        **({"datasets": list(own)} if own else {}),
        **({"metrics": list(dict.fromkeys(kind for _, _, kind in figures))} if figures else {}),
        **({"model-index": [{"name": card.id, "results": _results(figures)}]} if figures else {}),
    }


def _hub_metric(metric: Metric) -> tuple[str, str] | None:
    if any(word in metric.name for word in NOT_HUB_METRICS):
        return None
    return next((known for part, known in HUB_METRICS.items() if part in metric.name), None)


def _results(figures: Sequence[tuple[Metric, str, str]]) -> list[dict[str, Any]]:
    """A result per task, data set and split, with its metrics."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for metric, task, kind in figures:
        name = f"{metric.name}, head {metric.head}" if metric.head else metric.name
        entry = {"type": kind, "value": round(metric.value, 5), "name": name}
        found.setdefault((task, metric.dataset, metric.split), []).append(entry)
    return [
        {
            "task": {"type": task},
            "dataset": {"name": dataset, "type": _slug(dataset), "split": split},
            "metrics": metrics,
        }
        for (task, dataset, split), metrics in found.items()
    ]


def _slug(name: str) -> str:
    """`Imagenette (160 px)` -> `imagenette`."""
    return re.sub(r"[^a-z0-9._]+", "-", re.sub(r"\(.*?\)", "", name.lower())).strip("-")


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
        + (f"; default `{card.default_head}`." if card.answers else f". {_DEAD}"),
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


def _use(card: ModelCard) -> list[str]:
    """In Python, on the command line, and in PyTorch."""
    dims, name = {"student": card.embedding_dims.student}, card.default_head
    named = {"head": "", "option": ""} if card.answers else {"head": f', head="{name}"', "option": f" --head {name}"}
    return [*template("use", **dims, **named), *(template("timm", **dims)[1:] if card.timm else [])]


def _contract(card: ModelCard) -> list[str]:
    """Without `leap_zoo`: from the bytes of a photo to the outputs, as C++-like pseudocode."""
    spec, dims = card.preprocessing, card.embedding_dims
    variables = {head.name: re.sub(r"\W", "_", head.output, flags=re.ASCII) for head in card.heads}
    heads = (
        f'tensor<float> {variables[head.name]} = outputs["{head.output}"];  // (1, {len(head.labels)})'
        for head in card.heads
    )
    return template(
        "contract",
        size=spec.size,
        short=spec.short_side,
        filter=spec.filter,
        FILTER=spec.filter.upper(),
        file=card.artifacts[0].file,
        student=dims.student,
        teacher=dims.teacher,
        heads="\n".join(heads),
        default=variables[card.default_head],
        **_doubted(card, variables[card.default_head]),
    )


def _doubted(card: ModelCard, logits: str) -> dict[str, str]:
    """What calibrates the default head's scores, and says when a photo is unlike what it learned from."""
    head = card.head()
    if head is None or head.doubt is None:
        return {"temperature": "", "unsure": ""}
    unsure = f"\nbool unsure = -log_sum_exp({logits}[0]) > {head.doubt.threshold:.6g};  // unlike what it learned from"
    return {"temperature": f" / {head.doubt.temperature:.6g}", "unsure": unsure}


def _golden(card: ModelCard) -> list[str]:
    """How to find out whether another runtime gives the right answers."""
    tolerance = card.golden.tolerance
    sets = list(dict.fromkeys(isa for by_isa in tolerance.values() for isa in by_isa))
    file = next((artifact.file for artifact in card.artifacts if artifact.format == "onnx"), None)
    if file is None:
        return []
    text = template(
        "golden",
        golden=card.golden.file,
        file=file,
        size=card.preprocessing.size,
        student=card.embedding_dims.student,
    )
    rows = (
        [precision, *(f"{by_isa[isa]:g}" if isa in by_isa else "" for isa in sets)]
        for precision, by_isa in tolerance.items()
    )
    return [*text, *table(["precision", *sets], rows)]


def _runs_on(artifact: Artifact) -> str:
    """The oldest runtime that an artifact is meant for."""
    return f"{'OpenVINO' if artifact.format == 'openvino' else 'ONNX Runtime'} {artifact.minimum_runtime}"


def _files(card: ModelCard) -> list[str]:
    rows = []
    for artifact in card.artifacts:
        form = f"IR {artifact.ir}" if artifact.opset is None else f"opset {artifact.opset}, IR {artifact.ir}"
        for file in artifact.files:
            alone = file is artifact
            rows.append(
                [
                    *(f"`{file.file}`", measured.label(artifact) if alone else "its weights"),
                    *(f"{file.bytes / 1e6:.2f}", form if alone else "", _runs_on(artifact) if alone else ""),
                    f"`{file.sha256}`",
                ]
            )
    rows += [_other(file, what) for file, what in [(card.golden, "golden outputs"), *((f, "timm") for f in card.timm)]]
    tools = sorted({f"{tool} {version}" for a in card.artifacts for tool, version in a.tools.items()})
    return [
        *table(["file", "what", "MB", "format", "runs on, from", "sha256"], rows),
        *([f"Built with {', '.join(tools)}.", ""] if tools else []),
    ]


def _other(file: File, what: str) -> list[str]:
    return [f"`{file.file}`", what, f"{file.bytes / 1e6:.2f}", "", "", f"`{file.sha256}`"]


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
