"""`python -m export`: help without torch, status 2 and one line for a mistake, 1 for a file that was refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import leap_zoo
from export import int8
from export.__main__ import main

ROOT = Path(__file__).parents[2]


def test_help__needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from export.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print('loaded', {'torch', 'timm', 'onnx', 'nncf'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--zoo" in done.stdout
    assert "loaded set()" in done.stdout


def test_mistake__is_one_line_with_status_2(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken = Path(shutil.copytree(run_folder, tmp_path / "broken"))
    (broken / "student.safetensors").write_bytes(b"no weights")
    (tmp_path / "file").touch()
    for arguments, named in (
        ([tmp_path / "absent"], "not a finished run"),
        ([broken], "is inconsistent"),
        ([run_folder, "data.trian=x"], "did you mean 'train'"),
        ([run_folder, "student.size=nano"], "is inconsistent"),
        ([run_folder, "data.source=folders"], "give data.train=FOLDER"),
    ):
        assert main([*map(str, arguments), "--zoo", str(tmp_path / "zoo")]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("export: ")
        assert named in lines[0]
    assert main([str(run_folder), "--zoo", str(tmp_path / "file")]) == 2
    assert not list(tmp_path.glob("zoo/**/*"))


def test_export__prints_what_it_published_and_what_it_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise ValueError("no int8 today")

    monkeypatch.setattr(int8, "quantize", nothing)
    files = ["--format", "onnx", "--precision", "fp32", "--precision", "int8"]
    assert main([str(run_folder), "--zoo", str(tmp_path), "data.licence=told again", *files]) == 1
    said = capsys.readouterr()
    (card,) = leap_zoo.models(tmp_path)
    assert card.licences.data == "told again"
    assert card.artifacts[0].sha256 in said.out
    assert "export: model_int8.onnx was not published" in said.err
    assert "no int8 today" in said.err

    assert main(["--zoo", str(tmp_path), "--precision", "fp32", str(run_folder)]) == 0
    assert main(["--zoo", str(tmp_path), "--precision", "fp32", "--format", "openvino", str(run_folder)]) == 2
    assert [artifact.precision for card in leap_zoo.models(tmp_path) for artifact in card.artifacts] == ["fp32"]


def test_unfinished_run__is_not_exported(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("metrics.json"))  # it is written last
    assert main([str(tmp_path / "run"), "--zoo", str(tmp_path / "zoo")]) == 2
    assert "not a finished run" in capsys.readouterr().err
