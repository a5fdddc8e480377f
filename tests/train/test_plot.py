"""Pictures of trainings and studies: the right data in them, also of unfinished runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from PIL import Image

from train import pipeline, table
from train.evaluate import monitor
from train.evaluate.monitor import Measurement
from train.log import LogRow
from train.method.curriculum import Move
from train.plot import report
from train.plot.__main__ import main
from train.plot.report import COLUMNS, REASONS
from train.plot.study import study_figure
from train.recipe import Recipe
from train.recipe_file import save_recipe
from train.research.results import Result
from train.run import RunReport, write_json

MOVES = [Move(10 * number, number + 1, 0.5, reason) for number, reason in enumerate(REASONS)]  # type: ignore[arg-type]
STEPS = list(range(10, 81, 10))
Folder = Callable[..., Path]


@pytest.fixture
def make_run(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Folder:
    """An unfinished run that has logged 80 steps; `finished` adds what the end of a run writes."""

    def make(name: str = "run", strategy: str = "leap", *, finished: bool = False, **values: object) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_recipe(make_recipe(curriculum={"strategy": strategy}, **values), folder / "recipe.yaml")
        rows = [LogRow(n, 2 - n / 100, 1 + (n > 10), n / 100, 1e-3, 90.5, 0.1) for n in range(10, 81, 10)]
        table.write(folder / "log.csv", rows)
        for epoch, share in ((1, 0.5), (2, 0.6)):
            kinds = (("cls", share), ("patch_mean", share + 0.1))
            monitor.append(
                folder / monitor.FILE,
                [Measurement(epoch, 8 * epoch, f"10-NN, {k}", v, 90, v - 0.1, v + 0.1) for k, v in kinds],
            )
        if finished:
            table.write(folder / "curriculum.csv", MOVES)
            write_json(folder / "metrics.json", run_report())
        return folder

    return make


def run_report() -> RunReport:
    return RunReport(
        name="leap-tiny",
        strategy="leap",
        epochs=2,
        seed=0,
        metrics=[],
        teacher_metrics=[],
        teacher_flops=2e15,
        total_flops=5e15,
        teacher_flops_saved=0.25,
        total_flops_saved=0.125,
        train_photos=36,
        train_seconds=61.0,
        images_per_second=77.0,
        commit="abc",
        hardware="1 CPU thread",
        versions={},
    )


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """The points of the one line with this label."""
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def test_report_figure__shows_what_was_logged(make_run: Folder) -> None:
    figure = report.report_figure([make_run(finished=True)])
    loss, similarity, rate, speed, target, neighbours = figure.axes
    name = "leap, seed 0"
    assert line(loss, name) == (STEPS, pytest.approx([2 - step / 100 for step in STEPS]))
    assert line(similarity, name) == (STEPS, pytest.approx([step / 100 for step in STEPS]))
    assert line(rate, name) == (STEPS, pytest.approx([1e-3] * 8))
    assert line(speed, name) == (STEPS, pytest.approx([90.5] * 8))
    assert [list(item.get_ydata()) for item in neighbours.lines] == [
        pytest.approx([0.5, 0.6]),
        pytest.approx([0.6, 0.7]),
    ]
    assert all(axes.get_title() and axes.get_xlabel() for axes in (*figure.axes, target))
    assert "25.0% of the teacher's, 12.5% of all" in figure.get_suptitle()


def test_report_figure__marks_each_move_by_its_reason(make_run: Folder) -> None:
    target = report.report_figure([make_run(finished=True)]).axes[len(COLUMNS)]
    stairs, *marks = target.lines
    assert stairs.get_drawstyle() == "steps-post"
    assert list(stairs.get_xdata()) == [*(move.step for move in MOVES), 80]
    assert list(stairs.get_ydata()) == [*(move.block for move in MOVES), MOVES[-1].block]
    assert [(*mark.get_xdata(), *mark.get_ydata()) for mark in marks] == [(move.step, move.block) for move in MOVES]
    assert [mark.get_marker() for mark in marks] == list(REASONS.values())
    assert [text.get_text() for text in target.get_legend().get_texts()] == list(REASONS)


def test_report_figure__of_an_unfinished_run_takes_the_blocks_from_the_log(make_run: Folder) -> None:
    figure = report.report_figure([make_run()])
    assert line(figure.axes[len(COLUMNS)], "leap, seed 0") == ([*STEPS, 80], [1] + [2] * 8)
    assert "unfinished" in figure.get_suptitle()


def test_draw__of_a_run_that_has_only_begun(make_run: Folder) -> None:
    folder = make_run()
    for name in ("log.csv", monitor.FILE):
        (folder / name).unlink()
    report.draw([folder])
    assert (folder / "report.png").stat().st_size > 1000


def test_command__draws_several_with_a_line_and_a_label_per_run(make_run: Folder, tmp_path: Path) -> None:
    folders = [make_run("a"), make_run("b", "last"), make_run("c", "last", seed=1)]
    figure = report.report_figure(folders)
    names = ["leap, seed 0", "last, seed 0", "last, seed 1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert len({item.get_color() for item in figure.axes[0].lines}) == 3
    assert main([*map(str, folders), "--out", str(tmp_path / "compare.png")]) == 0
    assert Image.open(tmp_path / "compare.png").size > (1000, 600)


def test_report_figure__names_runs_by_their_folders_where_nothing_else_differs(make_run: Folder) -> None:
    figure = report.report_figure([make_run("a"), make_run("b")])
    assert [text.get_text()[-2:] for text in figure.legends[0].get_texts()] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("name", "content", "out", "told"),
    [
        ("recipe.yaml", None, None, "is not a run folder"),
        ("log.csv", "step,loss,block,similarity\nx,y,1,1\n", None, "log.csv is not a table"),
        ("curriculum.csv", "step,block\n1,x\n", None, "curriculum.csv is not a table"),
        ("metrics.json", "{}", None, "is not the report"),
        ("monitor.csv", "a\n1\n", None, "monitor.csv"),
        ("spare", "", "picture.html", "cannot write"),
        ("spare", "", "nowhere/picture.png", "cannot write"),
    ],
)
def test_mistake__is_one_line(
    make_run: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
    out: str | None,
    told: str,
) -> None:
    folder = make_run()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert main([str(folder), "--out", str(tmp_path / (out or "picture.png"))]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_training__survives_a_painter_that_fails(
    make_recipe: Callable[..., Recipe],
    photo_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw, folder = report.draw, tmp_path / "run"

    def fail(runs: list[Path]) -> None:
        draw(runs)
        raise RuntimeError("no\npaint")

    monkeypatch.setattr(report, "draw", fail)
    recipe = make_recipe(
        data={"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}, epochs=1, batch=16
    )
    assert pipeline.run(recipe, folder) is not None
    assert (folder / "report.png").is_file()
    assert {row.metric for row in monitor.read(folder / monitor.FILE)} == {"10-NN, cls", "10-NN, patch_mean"}
    assert "no picture of this run (no paint)" in capsys.readouterr().out


def figure(change: str, cost: str, seed: int, value: float, metric: str = "probe", n: int | None = 100) -> Result:
    """One figure of a study."""
    return Result(
        subject=change, variant=cost, seed=seed, metric=metric, value=value, n=n, hardware="one thread", commit="abc"
    )


STUDY = [
    *(figure("last", "epochs", seed, 0.5 + seed / 10) for seed in (0, 1)),
    *(figure("late", "epochs", seed, 0.6 + seed / 10) for seed in (0, 1)),
    *(figure("leap", "epochs", seed, 0.4 + seed / 5) for seed in (0, 1)),
    figure("leap", "FLOPs", 1, 0.9),
    *(figure(change, "epochs", 0, 3.0, "total PFLOPs", None) for change in ("last", "late", "leap")),
]


def ahead(axes: Axes, change: str) -> list[list[float]]:
    """Points ahead of the baseline of a change: those of the seeds, per figure."""
    return [list(item.get_ydata()) for item in axes.lines if item.get_label() == change]


def test_study_figure__has_a_dot_per_seed_and_a_bar_at_their_mean(tmp_path: Path) -> None:
    drawn = study_figure(STUDY, tmp_path / "images" / "study.png", "last")
    assert drawn is not None
    epochs, flops = drawn.axes
    assert ahead(epochs, "late") == [pytest.approx([10, 10])]
    assert ahead(epochs, "leap") == [pytest.approx([-10, 0])]
    bars = [item for item in epochs.lines if item.get_marker() == "_"]
    assert [list(item.get_ydata()) for item in bars] == [pytest.approx([10]), pytest.approx([-5])]
    assert bars[0].get_xdata()[0] < bars[1].get_xdata()[0]  # side by side
    assert [text.get_text() for text in flops.get_xticklabels()] == ["probe"]  # costs are left to the table
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["late", "leap"]
    assert Image.open(tmp_path / "images" / "study.png").width > 500


def test_study_figure__has_a_run_of_equal_flops_where_there_is_one(tmp_path: Path) -> None:
    drawn = study_figure(STUDY, tmp_path / "study.png", "last")
    assert drawn is not None
    assert ahead(drawn.axes[1], "late") == [pytest.approx([10, 10])]  # its FLOPs are equal at equal epochs
    assert ahead(drawn.axes[1], "leap") == [pytest.approx([30])]  # the seed that was not trained again is left out


def test_study_figure__is_absent_for_the_baseline_alone(tmp_path: Path) -> None:
    assert study_figure([row for row in STUDY if row.subject == "last"], tmp_path / "study.png", "last") is None
    assert not (tmp_path / "study.png").exists()
