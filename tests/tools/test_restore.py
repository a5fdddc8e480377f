"""`tools.restore`: torch weights from the int8 files inside the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from leap_zoo.loading import locate
from leap_zoo.store import BUNDLED
from leap_zoo.verify import read_golden
from tools import restore
from train.method.student import make_student
from train.published import Published
from train.recipe import Student


@pytest.mark.parametrize("size", ["micro", "nano", "tiny"])
def test_restored_student_embeds_as_its_file_does(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["restore", str(BUNDLED / f"leap-{size}"), "--out", str(tmp_path)])
    restore.main()
    found = Published.read(tmp_path)
    student = make_student(Student(size=size), pixels=160).eval()
    found.check(student, "vit_tiny_patch16_224", 192)
    student.load_state_dict(found.student)

    place, card = locate(f"leap-{size}", BUNDLED)
    golden = read_golden(place.read(card, card.golden))
    with torch.inference_mode():
        pixels = torch.from_numpy(golden["image"]).permute(0, 3, 1, 2) / 127.5 - 1
        cls = student.forward_features(pixels)[:, 0]
        teacher = cls @ found.projection["weight"].T + found.projection["bias"]
    for name, ours in (("embedding", cls), ("teacher_embedding", teacher)):
        file = golden[f"model_int8.onnx/{name}"]
        cosines = (normalize(ours, dim=1).numpy() * file).sum(1)
        assert cosines.min() > 0.97, f"{name}: {np.round(cosines, 4)}"
