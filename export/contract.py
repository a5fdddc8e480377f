"""The part of a model's README that says how to run it: in Python, on the command line, and in any other language."""

from __future__ import annotations

import re

from export.markdown import code, table
from leap_zoo.card import Artifact, ModelCard


def python_and_commands(card: ModelCard) -> list[str]:
    """With `leap_zoo`."""
    return [
        *code(
            "python",
            f"""
import leap_zoo

model = leap_zoo.load("{card.id}")  # int8 where there is one; precision="fp32", format="openvino"
for prediction in model.classify("photo.jpg", top=5):
    print(prediction.label, prediction.score)
rows = model.embed(["photo.jpg", "other.jpg"], space="student")  # float32 (2, {card.embedding_dims.student})
alike = rows[0] @ rows[1]  # rows have unit length: this is their cosine
""",
        ),
        *code(
            "sh",
            f"""
leap-zoo pull {card.id}
leap-zoo verify {card.id}
leap-zoo classify photo.jpg --model {card.id} --top 5
""",
        ),
    ]


def input_contract(card: ModelCard) -> list[str]:
    """Without `leap_zoo`: from the bytes of a photo to the outputs, as C++-like pseudocode."""
    spec = card.preprocessing
    size, short = spec.size, spec.short_side
    lengths = {tensor.name: tensor.shape[-1] for tensor in card.outputs}
    heads = "\n".join(
        f'tensor<float> {_variable(head.output)} = outputs["{head.output}"];  // (1, {lengths[head.output]})'
        for head in card.heads
    )
    default = next(head for head in card.heads if head.name == card.default_head)
    return [
        "Scaling and normalisation are inside the graph. Only this is outside:",
        "",
        *code(
            "cpp",
            f"""
image photo = decode(bytes);            // 8 bits per channel, transparency laid over white
photo = apply_exif_orientation(photo);  // upright
photo = to_rgb(photo);                  // not BGR; grey becomes three equal channels

// The short side becomes {short} px, and the centre {size} x {size} of that is kept. In one step: the region of the
// photo that survives the crop is resampled, so that its corners need not lie on whole pixels. Resizing first and
// cropping then is the same but for a part of a pixel.
// The filter is {spec.filter} as in Pillow: when it shrinks, its support grows with the factor (antialiased). One that
// always looks at the same few pixels, as many libraries have under the same name, gives other pixels.
double side = min(photo.width, photo.height) * {size}.0 / {short}.0;
double left = (photo.width - side) / 2, top = (photo.height - side) / 2;
photo = resize_region(photo, left, top, side, side, /*to*/ {size}, {size}, {spec.filter.upper()}, /*antialias*/ true);

// NHWC, RGB, 0..255, neither scaled nor normalised. The batch may have any size.
tensor<uint8_t> input({{1, {size}, {size}, 3}}, photo.pixels());

session model("{card.artifacts[0].file}");
auto outputs = model.run({{{{"image", input}}}});

// Embeddings have unit length: their dot product is their cosine. Compare within one space only.
tensor<float> embedding = outputs["embedding"];  // (1, {lengths["embedding"]})
tensor<float> teacher_embedding = outputs["teacher_embedding"];  // (1, {lengths["teacher_embedding"]})
float cosine = dot(embedding[0], embedding_of_another_photo[0]);

// Logits, not scores.
{heads}
vector<float> scores = softmax({_variable(default.output)}[0]);  // in the order of the labels in card.json
""",
        ),
    ]


def golden_section(card: ModelCard) -> list[str]:
    """How to find out whether another runtime gives the right answers."""
    file, golden = card.artifacts[0].file, card.golden
    sets = list(dict.fromkeys(isa for by_isa in golden.tolerance.values() for isa in by_isa))
    return [
        f"`{golden.file}` holds photos, already preprocessed (`image`, uint8), and what each file answered where it "
        "was published (`<file>/<output>`, float32). `leap-zoo verify` compares them on your device. With another "
        "runtime, run `image` through the file and compare yourself:",
        "",
        *code(
            "python",
            f"""
import numpy as np

golden = np.load("{golden.file}", allow_pickle=False)
image = golden["image"]  # uint8 (N, {card.preprocessing.size}, {card.preprocessing.size}, 3)
expected = golden["{file}/embedding"]  # float32 (N, {card.embedding_dims.student})
found = run_elsewhere(image)["embedding"]
print(np.abs(found - expected).max())
""",
        ),
        "The largest absolute difference that is allowed, on embeddings and on the softmax of logits. The strictest "
        "column that the CPU has counts: int8 differs between CPUs with and without VNNI (x86) or dot products (ARM).",
        "",
        *table(
            ["precision", *sets],
            (
                [precision, *(f"{by_isa[isa]:g}" if isa in by_isa else "" for isa in sets)]
                for precision, by_isa in golden.tolerance.items()
            ),
        ),
    ]


def runs_on(artifact: Artifact) -> str:
    """The oldest runtime that an artifact is meant for."""
    runtime = "OpenVINO" if artifact.format == "openvino" else "ONNX Runtime"
    return f"{runtime} {artifact.minimum_runtime}"


def _variable(output: str) -> str:
    return re.sub(r"\W", "_", output, flags=re.ASCII)
