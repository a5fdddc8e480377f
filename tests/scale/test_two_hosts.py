"""torchrun on two emulated hosts: one is killed, and the run ends with as many steps as one that was not."""

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


def test_host__that_is_killed_comes_back(hosts: list[scale_train.Host], tmp_path: Path) -> None:
    teacher = ["teacher.options.embed_dim=48", "teacher.options.depth=2", "teacher.supervised.epochs=1"]
    words = ["digits", "epochs=2", "batch=128", *teacher, "checkpoint_minutes=0.000001", "monitor=0"]
    out = tmp_path / "run"
    scale_train.train_on(hosts, out, *words, killed=1, after=2)
    said = (tmp_path / f"{hosts[0].device}.txt").read_text()
    assert "resumed after step" in said
    steps = [row.step for row in log.read(out / log.FILE)]
    assert steps == sorted(set(steps))
    assert (out / "metrics.json").is_file()
    assert checkpoint.load(checkpoint.latest(out / "checkpoints"))["step"] >= steps[-1] >= 20
