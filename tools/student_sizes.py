"""`python -m tools.student_sizes`: what the student sizes cost per photo, counted, into docs/students.md."""

from __future__ import annotations

from pathlib import Path

import torch

from train import recipe
from train.method.flops import count_flops
from train.method.student import SIZES, make_student

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "students.md"
HEAD = """\
| size | width | depth | heads | MLP | tokens | parameters (M) | GFLOPs | float32 (MB) |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
ABOUT = (
    "Written by `python -m tools.student_sizes`; do not edit. GFLOPs are of one photo through the student, a multiply "
    "and an add counted as two; parameters and float32 size are of the student without projection and heads."
)
NOTE = (
    "Any resolution that the patch divides is possible (`preprocessing.size`). `student.registers` adds as many "
    "tokens, each at the cost of one more patch; `student.layerscale` adds two learned vectors per block, which do not "
    "show here."
)


def cost(spec: recipe.Student, *, pixels: int) -> tuple[int, int, float]:
    """Tokens (CLS, registers, patches), parameters and FLOPs of one photo, on the student itself without heads."""
    with torch.device("meta"), torch.no_grad():  # shapes are enough: no memory, no arithmetic
        student = make_student(spec, pixels=pixels).eval()
        image = torch.empty(1, 3, pixels, pixels)
        flops = count_flops(lambda: student.forward_features(image))
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return student.num_prefix_tokens + student.patch_embed.num_patches, parameters, flops


def document() -> str:
    """The text of docs/students.md."""
    parts = ["# Students", ABOUT]
    for pixels, patch in ((224, 16), (224, 14), (160, 16)):
        lines = [HEAD]
        for size, shape in SIZES.items():  # width, depth, heads, hidden units
            tokens, parameters, flops = cost(recipe.Student(size=size, patch=patch), pixels=pixels)
            figures = round(parameters / 1e6, 2), round(flops / 1e9, 2), round(4 * parameters / 1e6, 1)
            cells = (f"`{size}`", *shape, tokens, *figures)
            lines.append(f"| {' | '.join(map(str, cells))} |")
        parts += [f"## {pixels} px, patches of {patch} px", "\n".join(lines)]
    return "\n\n".join([*parts, NOTE]) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
