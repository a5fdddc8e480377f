"""`python -m tools.int8_peak`: which share of this processor's int8 limit does each int8 file reach?

The limit is what a plain matrix product in int8 reaches in the same runtime on one thread, the best of a few sizes: the
same integer kernels, and nothing else to do. A file's share is the arithmetic of its student, over the time of a photo,
over that limit. Attention products, LayerNorm, Softmax and Gelu stay float, so no file reaches all of it. Products and
files take turns, and the call that needs the least CPU time counts, so that other work of the machine is left out.
Writes results/int8_peak.csv: the rows of this device and instruction set are replaced, others stay. `make tables` puts
them into docs/bench.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from leap_zoo.card import Architecture, Artifact, ModelCard
from leap_zoo.device import cpu_name, instruction_sets, int8_saturates
from leap_zoo.errors import MissingExtra
from leap_zoo.loading import open_artifact
from leap_zoo.runtime import EXACT_INT8, core, import_onnxruntime
from leap_zoo.store import Zoo, models
from tools.provenance import provenance
from train.research.results import Result, read_results, write_results

PEAK = Path("results") / "int8_peak.csv"
ROOT = Path(__file__).resolve().parent.parent
SIZES = ((101, 192, 576), (101, 192, 768), (101, 768, 192), (384, 384, 384), (512, 1024, 1024))  # rows, in, out
REPEATS = 4  # of the product in a graph, so that a call is no overhead
Call = Callable[[], Any]


def operations(card: ModelCard) -> float:
    """Multiplications and additions of one photo, by the card: linears, patches, attention products, heads.

    With pooling `cls` the last block computes queries and everything behind them for one token, as the files do.
    """
    shape = card.architecture
    if shape is None:
        raise ValueError(f"the card of {card.id} does not say its architecture: export it again")
    patches = (card.preprocessing.size // shape.patch) ** 2
    tokens, width = patches + 1 + shape.registers, shape.width
    hidden = round(width * shape.mlp_ratio)
    block = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    last = block if shape.pooling != "cls" else _last(shape, tokens, hidden)
    heads = width * card.embedding_dims.teacher + sum(
        len(head.labels) * max(width, card.embedding_dims.teacher) for head in card.heads
    )
    return 2.0 * (patches * 3 * shape.patch**2 * width + (shape.depth - 1) * block + last + heads)


def _last(shape: Architecture, tokens: int, hidden: int) -> int:
    """Keys and values for all tokens, the rest for one."""
    width = shape.width
    return tokens * 2 * width**2 + 2 * width**2 + 2 * width * hidden + 2 * tokens * width


def product(rows: int, inner: int, outer: int) -> bytes:
    """An ONNX graph: REPEATS int8 products in a row, (rows, inner) by (inner, outer) and back, in quantized form."""
    random = np.random.default_rng(0)
    nodes, constants = [], [
        numpy_helper.from_array(np.float32(0.02), "x_scale"), numpy_helper.from_array(np.uint8(128), "x_zero"),
    ]  # fmt: skip
    name = "x"
    for step in range(REPEATS):
        shape = (inner, outer) if step % 2 == 0 else (outer, inner)
        scales = np.full(shape[1], 0.002, np.float32)
        for part, value in (
            ("weight", random.integers(-127, 128, shape, dtype=np.int8)),
            ("scale", scales),
            ("zero", np.zeros(shape[1], np.int8)),
            ("bias", np.zeros(shape[1], np.int32)),
            ("bias_scale", scales * np.float32(0.02)),
        ):
            constants.append(numpy_helper.from_array(value, f"{part}_{step}"))
        nodes += [
            helper.make_node("QuantizeLinear", [name, "x_scale", "x_zero"], [f"q_{step}"]),
            helper.make_node("DequantizeLinear", [f"q_{step}", "x_scale", "x_zero"], [f"a_{step}"]),
            helper.make_node(
                "DequantizeLinear", [f"weight_{step}", f"scale_{step}", f"zero_{step}"], [f"w_{step}"], axis=1
            ),
            helper.make_node("DequantizeLinear", [f"bias_{step}", f"bias_scale_{step}"], [f"b_{step}"], axis=0),
            helper.make_node("Gemm", [f"a_{step}", f"w_{step}", f"b_{step}"], [f"y_{step}"]),
        ]
        name = f"y_{step}"
    last = inner if REPEATS % 2 == 0 else outer
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, last])],
        constants,
    )
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    return data


def _product_call(runtime: str, size: tuple[int, int, int]) -> Call:
    """One call of that product on one thread of a runtime."""
    data, x = product(*size), np.random.default_rng(1).normal(size=size[:2]).astype(np.float32)
    if runtime == "onnx":
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        if int8_saturates():
            options.add_session_config_entry(*EXACT_INT8)
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": x})
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.onnx"
        path.write_bytes(data)
        model = openvino.convert_model(path)
    how = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    request = core().compile_model(model, "CPU", how).create_infer_request()
    return lambda: request.infer({"x": x}, share_inputs=True)


def measure(zoo: Path, rounds: int) -> list[Result]:
    """Per int8 file of the zoo that runs here: its arithmetic, its time, and the limit of its runtime."""
    found = [(card, artifact) for card in models(zoo) for artifact in card.artifacts if artifact.precision == "int8"]
    calls: dict[tuple[str, ...], Call] = {}
    kept: list[tuple[ModelCard, Artifact, str]] = []
    for card, artifact in found:
        try:
            model = open_artifact(Zoo(zoo), card, artifact, 1)
        except MissingExtra as error:
            print(f"int8_peak: {artifact.file} of {card.id} is left out: {error}", file=sys.stderr)
            continue
        image = _photo(card)
        names = list(model.session.outputs)
        calls[card.id, artifact.file] = lambda model=model, image=image, names=names: model.session.run(image, names)
        kept.append((card, artifact, model.runtime))
    for runtime in sorted({artifact.format for _, artifact, _ in kept} & {"onnx", "openvino"}):
        for size in SIZES:
            calls[runtime, str(size)] = _product_call(runtime, size)
    fastest = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds + 1):
        for key, call in calls.items():
            call()  # brings its weights back into the caches
            started = time.process_time()
            call()
            fastest[key] = min(fastest[key], time.process_time() - started)
    about = provenance()
    rows = []
    for card, artifact, runtime in kept:
        rates = [2.0 * REPEATS * rows_ * inner * outer / fastest[artifact.format, str((rows_, inner, outer))]
                 for rows_, inner, outer in SIZES]  # fmt: skip
        values = {
            "GOP of a photo": operations(card) / 1e9,
            "fastest CPU ms of a photo": fastest[card.id, artifact.file] * 1e3,
            "GOP/s of a plain int8 product": max(rates) / 1e9,
        }
        rows += [
            Result(
                subject=card.id,
                variant=artifact.file,
                digest=artifact.sha256,
                metric=metric,
                value=float(f"{value:.6g}"),
                hardware=f"{cpu_name()} ({', '.join(instruction_sets())}), {runtime}",
                commit=about["commit"],
            )
            for metric, value in values.items()
        ]
    return rows


def _photo(card: ModelCard) -> npt.NDArray[np.uint8]:
    side = card.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def main() -> int:
    """Measure and write; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.int8_peak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, default=ROOT / "zoo", metavar="FOLDER", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="timed calls of each (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / PEAK, metavar="FILE", help="(%(default)s)")
    options = parser.parse_args()
    rows = measure(options.zoo, options.rounds)
    devices = {row.hardware.rpartition(",")[0] for row in rows}
    earlier = read_results(options.out) if options.out.is_file() else []
    kept = [row for row in earlier if row.hardware.rpartition(",")[0] not in devices]
    write_results(options.out, [*kept, *rows])
    for row in rows:
        print(f"{row.subject:12} {row.variant:16} {row.metric:32} {row.value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
