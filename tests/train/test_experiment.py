"""The experiment on digits, twice: what is trained is not trained again, and the table is the arithmetic it claims."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from train import rivals
from train.comparison import write_page
from train.experiment import COLUMNS, compare, main
from train.figures import Trial, read_figures
from train.run import load_run

TINY = [
    "digits",
    "epochs=1",
    "teacher.supervised.epochs=1",
    "curriculum={strategy: last}",
    "compare=[{strategy: linear, last_share: 0.5}]",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment carried out on one seed: folders runs, results, docs."""
    root = tmp_path_factory.mktemp("experiment")
    assert main([*TINY, *_places(root), "--seeds", "0"]) == 0
    return root


def _places(root: Path) -> list[str]:
    return [word for name in ("out", "results", "docs") for word in (f"--{name}", str(root / name))]


def _rows(root: Path) -> list[dict[str, str]]:
    with (root / "results" / "curriculum.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_experiment__writes_every_figure_beside_last(finished: Path) -> None:
    rows = _rows(finished)
    assert list(rows[0]) == COLUMNS
    by = {(row["strategy"], row["metric"]): row for row in rows}
    for metric in ("linear probe, cls", "10-NN, patch_mean", "teacher FLOPs saved", "CPU seconds"):
        last, linear = by["last", metric], by["linear", metric]
        assert float(linear["minus_last"]) == pytest.approx(float(linear["value"]) - float(last["value"]), abs=1e-4)
        assert float(last["minus_last"]) == 0
    assert float(by["linear", "teacher FLOPs saved"]["value"]) > 0.1
    assert float(by["linear", "advances by similarity"]["value"]) == 0
    assert ("last", "advances by similarity") not in by  # it never advances
    page = (finished / "docs" / "curriculum.md").read_text()
    assert "| linear probe, cls | scikit-learn digits, val | 360 |" in page
    assert (finished / "docs" / "images" / "curriculum-leap-digits.png").stat().st_size > 1000


def test_experiment__trains_only_the_seed_that_is_missing(finished: Path, capsys: pytest.CaptureFixture) -> None:
    weights = finished / "out" / "leap-digits-seed-0" / "student.safetensors"
    before = weights.stat().st_mtime_ns
    assert main([*TINY, *_places(finished), "--seeds", "0", "1"]) == 0
    assert weights.stat().st_mtime_ns == before
    assert "seed 0" not in capsys.readouterr().out
    assert {row["seed"] for row in _rows(finished)} == {"0", "1"}


def test_experiment__measures_transfer_again_only_when_its_photos_change(
    finished: Path, own_folders: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--transfer", "drawn", str(own_folders / "train"), str(own_folders / "val")]
    kept = finished / "out" / "leap-digits-seed-0" / "transfer.json"
    stamps = []
    for change in (False, False, True):
        if change:
            next((own_folders / "val").rglob("*.png")).unlink()
        assert main([*TINY, *_places(finished), "--measure-only", *words]) == 0
        stamps.append(kept.stat().st_mtime_ns)
        assert {row["n"] for row in _rows(finished) if row["dataset"] == "drawn"} == {"17" if change else "18"}
    assert stamps[0] == stamps[1] < stamps[2]


def test_experiment__without_a_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*TINY, *_places(tmp_path), "--measure-only"]) == 2
    assert "no finished run" in capsys.readouterr().err


def _row(strategy: str, seed: int, metric: str, value: float) -> dict:
    about = {"recipe": "r", "student": "nano", "photos": 9, "epochs": 1, "hardware": "1 CPU threads", "commit": "c"}
    where = {"dataset": "photos", "split": "val", "n": 100, "low": value - 0.1, "high": value + 0.1}
    return {**about, **where, "seed": seed, "strategy": strategy, "metric": metric, "value": value, "minus_last": None}


def test_compare__is_within_a_seed(tmp_path: Path) -> None:
    rows = compare(
        [
            _row("last", 0, "linear probe, cls", 0.5),
            _row("leap", 0, "linear probe, cls", 0.6),
            _row("last", 1, "linear probe, cls", 0.7),
            _row("leap", 1, "linear probe, cls", 0.65),
            _row("leap", 2, "linear probe, cls", 0.9),
            _row("last", 0, "CPU seconds", 200.0),
            _row("leap", 0, "CPU seconds", 150.0),
            _row("last", 0, "wall seconds", 900.0),  # on a CPU that had other things to do
            _row("leap", 0, "wall seconds", 300.0),
        ]
    )
    found = {(row["strategy"], row["seed"], row["metric"]): row for row in rows}
    assert found["leap", 0, "linear probe, cls"]["minus_last"] == pytest.approx(0.1)
    assert found["leap", 1, "linear probe, cls"]["minus_last"] == pytest.approx(-0.05)
    assert found["leap", 2, "linear probe, cls"]["minus_last"] is None
    assert found["leap", 0, "CPU time saved"]["value"] == pytest.approx(0.25)
    assert ("leap", 0, "wall time saved") not in found
    write_page(rows, tmp_path)
    page = (tmp_path / "curriculum.md").read_text()
    assert "| linear probe, cls | photos, val | 100 | 10.0 | 60.0 | 71.7 (+10.0, -5.0) |" in page
    assert "| CPU time saved | photos, val |" in page


def test_rivals__are_shown_before_the_student_that_ships(finished: Path, tmp_path: Path) -> None:
    run, out = finished / "out" / "leap-digits-seed-0", tmp_path / "rivals.csv"
    assert rivals.main([str(run), "--out", str(out)]) == 0
    found = read_figures(out, Trial)
    assert list(dict.fromkeys(trial.lever for trial in found)) == ["leap-digits, `linear`", "leap-digits, `last`"]
    probes = {trial.lever: trial.value for trial in found if trial.metric == "linear probe, cls"}
    assert probes["leap-digits, `last`"] == pytest.approx(load_run(run).report.metrics[0].value, abs=1e-6)


def test_rivals__of_a_run_without_is_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    alone = finished / "out" / "leap-digits-seed-0" / "compare" / "linear"
    assert rivals.main([str(alone), "--out", str(tmp_path / "rivals.csv")]) == 2
    assert "no finished rival" in capsys.readouterr().err
