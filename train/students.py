"""The sizes that we distil: plain timm ViTs, so that whatever reads timm reads our students.

`python -m train.students` prints what each size costs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import msgspec
import torch
from timm.models.vision_transformer import VisionTransformer

from train import recipe
from train.counter import count_flops
from train.errors import TrainError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "students.md"


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of a student; the MLP is four times as wide as the tokens."""

    width: int
    depth: int
    heads: int


SIZES: dict[str, Size] = {
    "digits": Size(width=48, depth=12, heads=3),  # for the embedded demo only
    "micro": Size(width=96, depth=12, heads=3),
    "nano": Size(width=128, depth=12, heads=4),
    "tiny": Size(width=192, depth=12, heads=3),  # ViT-T of DeiT (arXiv 2012.12877)
    "small": Size(width=384, depth=12, heads=6),  # ViT-S of DeiT
    "base": Size(width=768, depth=12, heads=12),  # ViT-B (arXiv 2010.11929)
}


def make_student(spec: recipe.Student, *, pixels: int) -> VisionTransformer:
    """A fresh student: image (B, 3, pixels, pixels) -> tokens (B, P + (pixels / patch)^2, width).

    The P = 1 + registers prefix tokens are CLS, then the registers. Raises TrainError for an unknown size or a patch
    that does not divide the image.
    """
    if spec.size not in SIZES:
        raise TrainError(f"unknown student size {spec.size!r}; the sizes are {', '.join(SIZES)}")
    if pixels % spec.patch:
        raise TrainError(
            f"patches of {spec.patch} px do not tile an image of {pixels} px; choose a multiple of {spec.patch}"
        )
    shape = SIZES[spec.size]
    return VisionTransformer(
        img_size=pixels,
        patch_size=spec.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        reg_tokens=spec.registers,
        init_values=spec.layerscale,
        num_classes=0,
    )


@dataclass(frozen=True)
class Cost:
    """What one photo costs a student. tokens: CLS, registers and patches. gflops: a multiply and an add are two."""

    size: str
    width: int
    depth: int
    heads: int
    tokens: int
    million_parameters: float
    gflops: float
    megabytes_fp32: float


def cost(spec: recipe.Student, *, pixels: int) -> Cost:
    """Counted on the student itself, projection and heads left out. Raises TrainError as `make_student` does."""
    with torch.device("meta"):  # shapes are enough: no memory, no arithmetic
        student = make_student(spec, pixels=pixels).eval()
        image = torch.empty(1, 3, pixels, pixels)
    with torch.no_grad():
        flops = count_flops(lambda: student.forward_features(image))
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return Cost(
        size=spec.size,
        **asdict(SIZES[spec.size]),
        tokens=student.num_prefix_tokens + student.patch_embed.num_patches,
        million_parameters=round(parameters / 1e6, 2),
        gflops=round(flops / 1e9, 2),
        megabytes_fp32=round(4 * parameters / 1e6, 1),
    )


def table(costs: list[Cost]) -> str:
    """The costs as a Markdown table."""
    titles = {"million_parameters": "parameters (M)", "gflops": "GFLOPs", "megabytes_fp32": "float32 (MB)"}
    columns = [field.name for field in fields(Cost)]
    rows = [[titles.get(name, name) for name in columns], ["---", *["---:"] * (len(columns) - 1)]]
    for line in costs:
        values = asdict(line)
        rows.append([f"`{line.size}`", *(str(values[name]) for name in columns[1:])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def document() -> str:
    """The text of docs/students.md."""
    parts = [
        "# Students",
        "Written by `python -m train.students --markdown`; do not edit. GFLOPs are of one photo through the student, a "
        "multiply and an add counted as two; parameters and float32 size are of the student without projection and "
        "heads.",
    ]
    for pixels, patch in ((224, 16), (224, 14), (160, 16)):
        parts += [f"## {pixels} px, patches of {patch} px", table(_costs(_spec_of(patch), pixels))]
    parts += [
        "Any resolution that the patch divides is possible (`preprocessing.size`). `student.registers` adds as many "
        "tokens, each at the cost of one more patch; `student.layerscale` adds two learned vectors per block, which do "
        "not show here."
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status (2 for what the user can mend)."""
    parser = argparse.ArgumentParser(
        prog="python -m train.students",
        description="What the student sizes cost per photo: parameters, FLOPs (a multiply and an add are two), tokens "
        "and float32 weights. Counted on the models, not estimated; nothing is trained.",
        epilog="A recipe chooses by student: {size: nano, patch: 16} and preprocessing: {size: 160, short_side: 176}."
        "\n\nexamples:\n"
        "  python -m train.students\n"
        "  python -m train.students --pixels 160 --json\n"
        "  python -m train.students --pixels 224 --patch 14 --registers 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pixels", type=_above_zero, default=224, help="side of the square photo (default: 224)")
    parser.add_argument("--patch", type=_above_zero, default=16, help="side of a patch in pixels (default: 16)")
    parser.add_argument("--registers", type=int, choices=range(65), metavar="N", default=0, help="0 (default) to 64")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same figures as JSON")
    form.add_argument("--markdown", action="store_true", help="rewrite docs/students.md, whatever the other options")
    options = parser.parse_args(arguments)
    try:
        costs = _costs(_spec_of(options.patch, options.registers), options.pixels)
    except TrainError as error:
        print(f"train.students: {error}", file=sys.stderr)
        return 2
    if options.markdown:
        DOCUMENT.write_text(document())
    elif options.json:
        print(msgspec.json.format(msgspec.json.encode(costs)).decode())
    else:
        print(table(costs))
    return 0


def _costs(spec: Callable[[str], recipe.Student], pixels: int) -> list[Cost]:
    return [cost(spec(size), pixels=pixels) for size in SIZES]


def _spec_of(patch: int, registers: int = 0) -> Callable[[str], recipe.Student]:
    return lambda size: recipe.Student(size=size, patch=patch, registers=registers)


def _above_zero(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pixels above zero")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
