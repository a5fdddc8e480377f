"""The model repository for Triton and KServe: what Triton's own schema reads in it is what the card says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from export.triton import main, write_repository
from leap_zoo.store import find

MODEL = "leap-tiny-test"


def test_repository__has_tritons_layout(tiny_zoo: Path, tmp_path: Path) -> None:
    text_format = pytest.importorskip("google.protobuf.text_format", reason="protobuf is not installed")
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package tritonclient is not installed")
    schema = Path(spec.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    loader = importlib.util.spec_from_file_location("model_config_pb2", schema)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)  # without the rest of the client, which needs more packages
    home = write_repository(tmp_path, MODEL, zoo=str(tiny_zoo), threads=2)
    config = text_format.Parse((home / "config.pbtxt").read_text(), module.ModelConfig())
    _, card = find(MODEL, tiny_zoo)
    assert (config.name, config.max_batch_size) == (MODEL, 32)
    assert [(one.name, list(one.dims)) for one in config.input] == [("image", card.inputs[0].shape[1:])]
    assert [(one.name, list(one.dims)) for one in config.output] == [(one.name, one.shape[1:]) for one in card.outputs]
    assert config.input[0].data_type == module.TYPE_UINT8
    assert {one.data_type for one in config.output} == {module.TYPE_FP32}
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    for output in config.output:
        if output.label_filename:
            lines = (home / output.label_filename).read_text().splitlines()
            assert len(lines) == output.dims[0]


def test_repository__holds_the_published_file(tiny_zoo: Path, tmp_path: Path) -> None:
    import onnxruntime

    for precision, name in (("fp32", "model.onnx"), ("int8", "model_int8.onnx")):
        home = write_repository(tmp_path, MODEL, zoo=str(tiny_zoo), precision=precision)
        data = (home / "1" / "model.onnx").read_bytes()
        assert data == (tiny_zoo / MODEL / name).read_bytes()
    session = onnxruntime.InferenceSession(data)
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert session.run(["embedding"], {"image": pixels})[0].shape == (2, 8)


def test_service__names_its_storage(tiny_zoo: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    words = [str(tmp_path), "--model", MODEL, "--zoo", str(tiny_zoo)]
    assert main([*words, "--storage", "s3://bucket/repository"]) == 0
    service = yaml.safe_load((tmp_path / f"{MODEL}.yaml").read_text())
    assert service["kind"] == "InferenceService"
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/repository"
    assert main([*words, "--storage", 'a"b\n']) == 0
    service = yaml.safe_load((tmp_path / f"{MODEL}.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["storageUri"] == 'a"b\n'
