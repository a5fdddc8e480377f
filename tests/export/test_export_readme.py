"""The README of a model: everything that its card knows, and nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import msgspec
import numpy as np
import pytest
import yaml
from PIL import Image
from whole_card import whole_card

from export import text
from export.text import CURRICULUM, described
from leap_zoo.card import CurriculumStep, ModelCard
from leap_zoo.cli import main

ROOT = Path(__file__).parents[2]


def readme(card: ModelCard) -> str:
    """The README of a card."""
    return described(card)["README.md"]


def picture(card: ModelCard) -> str | None:
    """The picture of its curriculum."""
    return described(card).get(CURRICULUM)


README = readme(whole_card())


def section(title: str, text: str = README) -> str:
    """From a heading to the next one of its level."""
    _, _, rest = text.partition(f"\n## {title}\n")
    assert rest, f"no section {title!r}"
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all lines of tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_files__each_with_its_weights() -> None:
    cells = {row[0].strip("`"): row[1:] for row in rows(section("Files"))}
    assert cells["model.onnx"][:4] == ["ONNX fp32", "10.00", "opset 17, IR 8", "ONNX Runtime 1.12"]
    assert cells["model_fp16.xml"][:4] == ["OpenVINO fp16", "0.60", "IR 11", "OpenVINO 2025.0"]
    assert cells["model_fp16.bin"][:2] == ["its weights", "5.00"]
    for artifact in whole_card().artifacts:
        for file in artifact.files:
            assert cells[file.file][-1] == f"`{file.sha256}`"


def test_metrics__a_column_per_artifact() -> None:
    text = section("Measured on the published files")
    first, second = text.split("### ")[1:]
    assert first.startswith("drawn, test, head `cranes`, n = 1000\n")
    assert rows(first) == [
        ["metric", "ONNX fp32", "ONNX int8", "OpenVINO fp16"],
        ["top-1", "75.00 % (73.00 % to 77.00 %)", "74.51 % (72.51 % to 76.51 %)", "75.01 % (73.01 % to 77.01 %)"],
        ["embedding cosine to fp32, mean", "", "0.9912", ""],
    ]
    assert second.startswith("drawn, test, head `tea-cups`, n = 500\n")
    assert rows(second) == [["metric", "ONNX fp32"], ["top-1", "50.00 % (48.00 % to 52.00 %)"]]


def test_latency__a_row_per_measurement() -> None:
    text = section("Latency")
    assert "### a made-up CPU (avx2, vnni)" in text
    assert rows(text)[1:] == [
        ["`model.onnx`", "onnxruntime 1.30", "1", "1", "100", "1.25", "1.5", "2.25", "90"],
        ["`model_fp16.xml`", "openvino 2026.1", "2", "1", "100", "2.5", "3", "4.5", ""],
    ]


def test_search__every_candidate_and_the_worst_layers() -> None:
    text = section("How the quantized files were chosen")
    assert "700 photos of drawn, selection" in text
    assert "after calibration on 300 other photos" in text
    assert "took 12.5 minutes with 1 thread on a made-up CPU (avx2, vnni)" in text
    cells = rows(text)
    assert cells[1:4] == [
        ["SmoothQuant 0.9", "onnx int8", "0.9913", "0.4956", "96.30 %", "0.25 %", "0.55", "published"],
        ["no SmoothQuant", "onnx int8", "0.7931", "0.3966", "96.30 %", "0.25 %", "0.53", "refused: cosine"],
        [r"crashed \| twice", "onnx int8", "0.0000", "0.0000", "96.30 %", "", "", "failed to build"],
    ]
    layers = [row[0] for row in cells[5:]]
    assert layers == [f"`blocks.{block}.mlp`" for block in range(11, 1, -1)]


def test_contract__is_complete_for_another_language() -> None:
    text = section("The file without leap_zoo")
    for part in ("apply_exif_orientation", "* 224.0 / 256.0", "BILINEAR", "antialias", "tensor<uint8_t> input({1, 224"):
        assert part in text
    assert 'session model("model.onnx")' in text
    assert 'logits_tea_cups = outputs["logits_tea-cups"];  // (1, 2)' in text
    assert "softmax(logits_cranes[0])" in text
    assert ["`logits_cranes`", "output", "float32", "(batch, 2)"] in rows(text)


def test_golden__tolerances_per_instruction_set() -> None:
    assert rows(section("Checking another runtime")) == [
        ["precision", "default", "vnni"],
        ["fp32", "0.001", ""],
        ["fp16", "0.01", ""],
        ["int8", "0.15", "0.05"],
    ]


def test_training_and_licences() -> None:
    text = section("Training")
    assert "strategy `leap`, 2.5 epochs, seed 3, commit `0123abc`" in text
    assert "saved 25.0 % of its FLOPs (3 PFLOPs run, 5 with" in text
    assert "Teacher: vit_made_up (made by code)" in text
    assert f"]({CURRICULUM})" in text
    assert rows(text)[1:3] == [["0", "3", "", "calibration"], ["400", "4", "0.710", "similarity"]]
    assert [row[1] for row in rows(section("Licenses"))[1:]] == ["Apache-2.0", "MIT", "CC-BY-4.0", "research only"]


def front_matter(card: ModelCard) -> dict:
    """The YAML at the top of the README."""
    return yaml.safe_load(readme(card).split("---\n")[1])


def test_metadata__is_valid_for_hubs() -> None:
    """By the hub's own client, which knows the schema."""
    hub = pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
    data = hub.ModelCard(README, ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "timm", "image-classification")
    assert {"leap-zoo", "onnx", "openvino", "timm", "image-feature-extraction"} <= set(data.tags)
    assert (data.datasets, data.metrics) == (["drawn"], ["accuracy"])
    assert data.model_name == "leap-whole"
    assert [(row.metric_name, row.metric_value, row.dataset_split) for row in data.eval_results] == [
        ("top-1, head cranes", 0.75, "test"),
        ("top-1, head tea-cups", 0.5, "test"),
    ]


def test_metadata__of_another_licence_and_without_figures() -> None:
    card = whole_card()
    bare = msgspec.structs.replace(
        card,
        timm=[],
        licences=msgspec.structs.replace(card.licences, weights="ours: look, but do not touch"),
        artifacts=[msgspec.structs.replace(card.artifacts[1], metrics=[])],
    )
    found = front_matter(bare)
    assert (found["license"], found["license_name"]) == ("other", "ours-look-but-do-not-touch")
    assert not {"library_name", "datasets", "metrics", "model-index"} & set(found)


def test_metadata__figures_are_not_comparisons_with_other_files() -> None:
    artifact = whole_card().artifacts[1]
    card = msgspec.structs.replace(whole_card(), artifacts=[artifact])
    assert "embedding cosine to fp32, mean" in {metric.name for metric in artifact.metrics}
    assert [row["metrics"] for row in front_matter(card)["model-index"][0]["results"]] == [
        [{"type": "accuracy", "value": 0.7451, "name": "top-1, head cranes"}]
    ]


@pytest.mark.parametrize("home", sorted((ROOT / "zoo").glob("*/")), ids=lambda home: home.name)
def test_readme__lines_of_a_shipped_folder_work_in_a_copy(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_lines(Path(shutil.copytree(home, tmp_path / "anywhere")), monkeypatch)


def test_readme__lines_of_an_exported_folder_work_in_a_copy(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_lines(Path(shutil.copytree(published / "leap-digits", tmp_path / "anywhere")), monkeypatch)


def run_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python and every command of the folder's README, in the folder."""
    for seed, name in enumerate(("photo.jpg", "other.jpg")):
        drawn = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(folder / name)
    monkeypatch.chdir(folder)
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks].count("python") >= 2
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
        else:
            for command in block.splitlines():
                program, *arguments = shlex.split(command, comments=True)
                assert program == "leap-zoo"
                differs = arguments[0] == "verify"  # int8 may, on a CPU that multiplies bytes another way
                assert main(arguments) in ((0, 1) if differs else (0,)), command


def test_readme__leaves_out_what_the_card_does_not_say() -> None:
    bare = msgspec.structs.replace(whole_card(), training=None, search=None, latency=[], architecture=None)
    text = readme(bare)
    for title in ("Training", "Latency", "How the quantized files were chosen"):
        assert f"## {title}\n" in README
        assert f"## {title}\n" not in text
    assert CURRICULUM not in text
    assert "A vision transformer of 12 blocks" in README
    assert "A vision transformer" not in text


def test_readme__python_in_it_is_formatted(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README)
    command = [sys.executable, "-m", "ruff", "format", "--preview", "--check", str(tmp_path / "README.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "No module named ruff" in done.stderr:
        pytest.skip("ruff is not installed")
    assert done.returncode == 0, done.stderr + done.stdout


def test_table__no_cell_breaks_it() -> None:
    assert text.row("x|y", "two\nlines", None) == r"| x\|y | two lines |  |"
    assert text.head("a", 2) == "| a | 2 |\n|---|---|"


def test_template__that_misses_a_name_fails() -> None:
    with pytest.raises(jinja2.UndefinedError, match="card"):
        text.render("readme.md", formats=[])


def test_figure__is_xml_with_every_reason() -> None:
    card = whole_card()
    drawn = picture(msgspec.structs.replace(card, id="a<b"))
    assert drawn is not None
    said = " ".join(ElementTree.fromstring(drawn).itertext())
    for part in (
        "a<b: the target block of vit_made_up",
        "optimizer step",
        "similarity: the student had come close enough",
        "retreat: back",
        "a whim",
    ):
        assert part in said
    assert "timeout" not in said


def test_figure__shows_the_moves() -> None:
    one, other = whole_card(), moved([(0, 3), (400, 4), (900, 3), (1500, 11)])
    assert picture(one) != picture(other)
    long = picture(moved([(100 * place, 1 + place % 24) for place in range(100)]))
    assert long is not None
    assert len(long) < 40_000


def test_figure__only_of_what_was_trained() -> None:
    assert picture(msgspec.structs.replace(whole_card(), training=None)) is None
    assert picture(moved([])) is None
    assert picture(moved([(0, 12)])) is not None


def moved(moves: list[tuple[int, int]]) -> ModelCard:
    """The whole card with another curriculum."""
    card = whole_card()
    assert card.training is not None
    steps = [CurriculumStep(step=step, block=block, similarity=None, reason="budget") for step, block in moves]
    return msgspec.structs.replace(card, training=msgspec.structs.replace(card.training, curriculum=steps))
