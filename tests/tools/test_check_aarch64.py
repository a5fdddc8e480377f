"""The check on an emulated ARM: what it says where it cannot be done, and that the page has what was found."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import check_aarch64
from tools.check_aarch64 import CannotEmulate


def test_page__shows_the_results() -> None:
    found = json.loads(check_aarch64.RESULT.read_text())
    page = check_aarch64.PAGE.read_text()
    assert check_aarch64.render(page, found) == page, "run `python -m tools.check_aarch64`"
    assert set(found["cpus"]) == set(check_aarch64.CPUS)


def test_make_debian__says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CannotEmulate, match="apt-get install debootstrap"):
        check_aarch64.make_debian(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CannotEmulate, match="sudo"):
        check_aarch64.make_debian(tmp_path)


def test_main__cannot_is_two_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["check_aarch64", "--root", str(tmp_path), "--out", str(out)])
    assert check_aarch64.main() == 2
    assert "debootstrap is missing" in capsys.readouterr().err
    assert not out.exists()


def test_command__that_dies_is_reported_with_its_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died = subprocess.CompletedProcess([], -11, "", "one\nSegmentation fault\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    with pytest.raises(CannotEmulate, match="neoverse-n1: Segmentation fault"):
        check_aarch64._leap_zoo(tmp_path, "neoverse-n1", "verify", "leap-nano")


def test_table__shows_a_failure() -> None:
    found = json.loads(check_aarch64.RESULT.read_text())
    found["cpus"]["neoverse-n1"]["verify"]["artifacts"][0]["outputs"][0]["ok"] = False
    assert check_aarch64.table(found).count("**fails**") == 1
