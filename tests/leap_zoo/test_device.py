"""Threads from affinity and cgroup quota; instruction sets."""

import os
from pathlib import Path

import pytest

from leap_zoo import device


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota__version_2_takes_the_smallest_of_the_parents(tmp_path: Path) -> None:
    write(tmp_path / "proc", "0::/pods/one\n")
    write(tmp_path / "cgroup/pods/cpu.max", "150000 100000\n")
    write(tmp_path / "cgroup/pods/one/cpu.max", "max 100000\n")
    assert device.cgroup_quota(tmp_path / "proc", tmp_path / "cgroup") == 1.5


def test_quota__host_path_inside_a_container_falls_back_to_the_mount(tmp_path: Path) -> None:
    write(tmp_path / "proc", "0::/../../docker/abc\n")
    write(tmp_path / "cgroup/cpu.max", "200000 100000\n")
    assert device.cgroup_quota(tmp_path / "proc", tmp_path / "cgroup") == 2.0


def test_quota__missing_or_invalid_means_none(tmp_path: Path) -> None:
    assert device.cgroup_quota(tmp_path / "absent", tmp_path) is None
    write(tmp_path / "proc", "rubbish\n0::/\n\n")
    write(tmp_path / "cgroup/cpu.max", "nonsense\n")
    assert device.cgroup_quota(tmp_path / "proc", tmp_path / "cgroup") is None


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.9, 1), (2.0, 2), (99.0, 4), (None, 4)])
def test_available_threads__smallest_of_affinity_and_quota(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(device, "cgroup_quota", lambda: quota)
    assert device.available_threads() == threads


@pytest.mark.parametrize(
    ("cpuinfo", "names"),
    [
        ("flags : sse2 avx2 avx512f avx512_vnni\n", ("avx2", "avx512", "vnni")),
        ("flags : avx2 avx_vnni\n", ("avx2", "vnni")),
        ("Features : fp asimd asimddp\n", ("dotprod", "neon")),
        ("nothing here\n", ()),
    ],
)
def test_instruction_sets__from_cpuinfo(cpuinfo: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(device, "_cpuinfo", lambda: cpuinfo.splitlines())
    device.instruction_sets.cache_clear()
    assert device.instruction_sets() == names
    device.instruction_sets.cache_clear()
