"""torchrun on two emulated hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("lightning", reason="the train extra is not installed")

from tools import scale_train
from train import checkpoint, log

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def hosts():
    why = scale_train.can_emulate()
    if why is not None:
        pytest.skip(why)
    with scale_train.two_hosts() as hosts:
        yield hosts


def test_hosts__train_together(hosts: list[scale_train.Host], tmp_path: Path) -> None:
    """What happens when one is killed takes minutes: `python -m tools.scale_train` measures it."""
    teacher = ["teacher.options.embed_dim=48", "teacher.options.depth=2", "teacher.supervised.epochs=1"]
    out = tmp_path / "run"
    scale_train.train_on(hosts, out, "digits", "epochs=1", "batch=128", *teacher, "monitor=0")
    steps = [row.step for row in log.read(out / log.FILE)]
    assert checkpoint.load(checkpoint.latest(out / "checkpoints"))["step"] == steps[-1] >= 10
    assert (out / "metrics.json").is_file()
