"""`python -m train.research.sizes`: what the student sizes cost per photo; --markdown writes docs/students.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch

from train import recipe
from train.errors import TrainError
from train.method.flops import count_flops
from train.method.student import SIZES, make_student

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "students.md"
TITLES = ("size", "width", "depth", "heads", "tokens", "parameters (M)", "GFLOPs", "float32 (MB)")


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
    with torch.device("meta"), torch.no_grad():  # shapes are enough: no memory, no arithmetic
        student = make_student(spec, pixels=pixels).eval()
        image = torch.empty(1, 3, pixels, pixels)
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


def costs(pixels: int, patch: int, registers: int = 0) -> list[Cost]:
    """The cost of every size. Raises TrainError for a patch that does not divide the photo."""
    return [cost(recipe.Student(size=size, patch=patch, registers=registers), pixels=pixels) for size in SIZES]


def table(lines: Sequence[Cost]) -> str:
    """The costs as a Markdown table."""
    rows: list[Sequence[object]] = [TITLES, ["---", *["---:"] * (len(TITLES) - 1)]]
    rows += [[f"`{line.size}`", *list(asdict(line).values())[1:]] for line in lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def document() -> str:
    """The text of docs/students.md."""
    parts = [
        "# Students",
        "Written by `python -m train.research.sizes --markdown`; do not edit. GFLOPs are of one photo through the "
        "student, a multiply and an add counted as two; parameters and float32 size are of the student without "
        "projection and heads.",
    ]
    for pixels, patch in ((224, 16), (224, 14), (160, 16)):
        parts += [f"## {pixels} px, patches of {patch} px", table(costs(pixels, patch))]
    parts += [
        "Any resolution that the patch divides is possible (`preprocessing.size`). `student.registers` adds as many "
        "tokens, each at the cost of one more patch; `student.layerscale` adds two learned vectors per block, which do "
        "not show here."
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status (2 for what the user can fix)."""
    parser = argparse.ArgumentParser(
        prog="python -m train.research.sizes",
        description="What the student sizes cost per photo: parameters, FLOPs (a multiply and an add are two), tokens "
        "and float32 weights. Counted on the models, not estimated; nothing is trained.",
    )
    add = parser.add_argument
    add("--pixels", type=int, default=224, help="side of the square photo (224)")
    add("--patch", type=int, default=16, help="side of a patch in pixels (16)")
    add("--registers", type=int, default=0, help="tokens of no patch (0)")
    add("--json", action="store_true", help="the same figures as JSON")
    add("--markdown", action="store_true", help="rewrite docs/students.md, whatever the other options")
    options = parser.parse_args(arguments)
    try:
        if options.markdown:
            DOCUMENT.write_text(document())
            return 0
        if min(options.pixels, options.patch) < 1 or not 0 <= options.registers <= 64:
            raise TrainError("--pixels and --patch must be above zero, --registers 0 to 64")
        found = costs(options.pixels, options.patch, options.registers)
    except TrainError as error:
        print(f"train.research.sizes: {error}", file=sys.stderr)
        return 2
    print(msgspec.json.format(msgspec.json.encode(found)).decode() if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
