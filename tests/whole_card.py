"""A card with every part that a card may have. Its files do not exist and its figures are made up."""

from __future__ import annotations

from leap_zoo import card as cards

SIZES = {"model.onnx": 10_000_000, "model_int8.onnx": 3_000_000, "model_fp16.xml": 600_000, "model_fp16.bin": 5_000_000}


def whole_card() -> cards.ModelCard:
    """ONNX fp32 and int8, OpenVINO fp16; search, sensitivity, latency, architecture, training, curriculum."""
    labels = ["crane | bird", "crane, machine"]
    return cards.ModelCard(
        id="leap-whole",
        revision="abc123",
        description="Has every part",
        parameters=2_500_000,
        licences=cards.Licences(code="Apache-2.0", weights="MIT", teacher="CC-BY-4.0", data="research only"),
        preprocessing=cards.Preprocessing(size=224, short_side=256, filter="bilinear"),
        heads=[
            cards.Head(name="cranes", output="logits_cranes", labels=labels),
            cards.Head(name="tea-cups", output="logits_tea-cups", labels=["cup", "no cup"]),
        ],
        default_head="cranes",
        inputs=[cards.Tensor(name="image", dtype="uint8", shape=["batch", 224, 224, 3])],
        outputs=[
            cards.Tensor(name="embedding", dtype="float32", shape=["batch", 128]),
            cards.Tensor(name="teacher_embedding", dtype="float32", shape=["batch", 192]),
            cards.Tensor(name="logits_cranes", dtype="float32", shape=["batch", 2]),
            cards.Tensor(name="logits_tea-cups", dtype="float32", shape=["batch", 2]),
        ],
        embedding_dims=cards.EmbeddingDims(student=128, teacher=192),
        artifacts=[
            _artifact("model.onnx", "fp32", metrics=[_top1(0.75, "cranes", 1000), _top1(0.5, "tea-cups", 500)]),
            _artifact(
                "model_int8.onnx",
                "int8",
                quantisation={"method": "SmoothQuant", "alpha": 0.9, "ignored": ["/head"], "fast": True},
                metrics=[
                    _top1(0.7451, "cranes", 1000),
                    cards.Metric(
                        name="embedding cosine to fp32, mean", dataset="drawn", split="test", n=1000,
                        value=0.99125, head="cranes",
                    ),
                ],
            ),
            cards.Artifact(
                file="model_fp16.xml",
                bytes=SIZES["model_fp16.xml"],
                sha256="c" * 64,
                precision="fp16",
                format="openvino",
                weights=cards.File(file="model_fp16.bin", bytes=SIZES["model_fp16.bin"], sha256="d" * 64),
                ir=11,
                minimum_runtime="2025.0",
                tools={"openvino": "2026.1"},
                metrics=[_top1(0.7501, "cranes", 1000)],
            ),
        ],
        golden=cards.Golden(
            file="golden.npz",
            bytes=100_000,
            sha256="e" * 64,
            tolerance={
                "fp32": {"default": 0.001}, "fp16": {"default": 0.01}, "int8": {"default": 0.15, "vnni": 0.05},
            },
        ),
        architecture=cards.Architecture(
            patch=16, width=128, depth=12, heads=4, mlp_ratio=4, registers=3, layer_scale=True, pooling="patch_mean"
        ),
        search=cards.Search(
            dataset="drawn",
            split="selection",
            n=700,
            calibration_photos=300,
            device="a made-up CPU",
            isa=["avx2", "vnni"],
            threads=1,
            minutes=12.5,
            candidates=[
                _candidate("SmoothQuant 0.9", 0.9913, 0.55, "published"),
                _candidate("no SmoothQuant", 0.7931, 0.53, "refused: cosine"),
                _candidate("crashed | twice", 0.0, None, "failed to build"),
            ],
            sensitivity=[
                cards.Sensitivity(layer=f"blocks.{block}.mlp", cosine_mean=1 - block / 100) for block in range(12)
            ],
        ),
        latency=[
            cards.Latency(
                file=file, device="a made-up CPU", isa=["avx2", "vnni"], runtime=runtime, threads=threads, batch=1,
                n=100, min_ms=1.25 * threads, median_ms=1.5 * threads, p95_ms=2.25 * threads, peak_memory_bytes=memory,
            )
            for file, runtime, threads, memory in (
                ("model.onnx", "onnxruntime 1.30", 1, 90_000_000),
                ("model_fp16.xml", "openvino 2026.1", 2, None),
            )
        ],
        timm=[
            cards.File(file="config.json", bytes=1_000, sha256="f" * 64),
            cards.File(file="model.safetensors", bytes=10_000_000, sha256="9" * 64),
        ],
        training=cards.Training(
            recipe="whole.yaml",
            seed=3,
            commit="0123abc",
            epochs=2.5,
            strategy="leap",
            teacher=cards.Teacher(name="vit_made_up", provenance="made by code"),
            teacher_flops=3e15,
            total_flops=5e15,
            teacher_flops_saved=0.25,
            curriculum=[
                cards.CurriculumStep(step=0, block=3, similarity=None, reason="calibration"),
                cards.CurriculumStep(step=400, block=4, similarity=0.71, reason="similarity"),
                cards.CurriculumStep(step=900, block=3, similarity=0.2, reason="retreat"),
                cards.CurriculumStep(step=1500, block=12, similarity=0.5, reason="a whim"),
            ],
        ),
    )  # fmt: skip


def _artifact(
    file: str, precision: cards.Precision, *, metrics: list[cards.Metric], quantisation: dict[str, object] | None = None
) -> cards.Artifact:
    return cards.Artifact(
        file=file,
        bytes=SIZES[file],
        sha256=("a" if precision == "fp32" else "b") * 64,
        precision=precision,
        opset=17,
        ir=8,
        minimum_runtime="1.12",
        tools={"onnx": "1.23"},
        quantisation=quantisation,
        metrics=metrics,
    )


def _top1(value: float, head: str, n: int) -> cards.Metric:
    interval = (value - 0.02, value + 0.02)
    return cards.Metric(name="top-1", dataset="drawn", split="test", n=n, value=value, interval=interval, head=head)


def _candidate(name: str, cosine: float, relative_ms: float | None, outcome: str) -> cards.Candidate:
    return cards.Candidate(
        name=name,
        format="onnx",
        precision="int8",
        recipe={"alpha": 0.9},
        top1_drop=None if relative_ms is None else 0.0025,
        agreement=0.963,
        cosine_mean=cosine,
        cosine_min=cosine / 2,
        relative_ms=relative_ms,
        outcome=outcome,
    )
