"""Pictures of trainings and studies: the right data in them, also of unfinished runs; a page that is safe."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from matplotlib.axes import Axes
from PIL import Image

from leap_zoo.card import Metric
from train import checkpoint, pipeline, table
from train.evaluate import monitor
from train.evaluate.monitor import Measurement
from train.log import LogRow
from train.method.curriculum import Move
from train.plot import report
from train.plot.__main__ import main
from train.plot.history import load_history
from train.plot.panels import REASONS
from train.plot.study import study_figure
from train.recipe import Recipe
from train.recipe_file import save_recipe
from train.research.results import Result
from train.run import RunReport, write_json

MOVES = [Move(10 * number, number + 1, 0.5, reason) for number, reason in enumerate(REASONS)]  # type: ignore[arg-type]
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
    score = Metric(name="linear probe, cls", dataset="drawn", split="val", n=18, value=0.75, interval=(0.5, 0.9))
    return RunReport(
        name="leap-tiny",
        strategy="leap",
        epochs=2,
        seed=0,
        metrics=[score],
        teacher_metrics=[msgspec.structs.replace(score, value=1.0, interval=(0.82, 1.0))],
        teacher_flops=2e15,
        total_flops=5e15,
        teacher_flops_saved=0.25,
        total_flops_saved=0.125,
        train_photos=36,
        train_seconds=61.0,
        cpu_seconds=60.0,
        data_wait=0.031,
        images_per_second=77.0,
        commit="abc",
        hardware="1 CPU thread",
        versions={"torch": "2"},
    )


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """The points of the one line with this label."""
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def test_report_figure__shows_what_was_logged(make_run: Folder) -> None:
    loss, similarity, rate, target, neighbours, speed = report.report_figure(
        [load_history(make_run(finished=True))]
    ).axes
    steps = list(range(10, 81, 10))
    assert line(loss, "leap") == (steps, pytest.approx([2 - step / 100 for step in steps]))
    assert line(similarity, "leap") == (steps, pytest.approx([step / 100 for step in steps]))
    assert line(rate, "leap") == (steps, pytest.approx([1e-3] * 8))
    assert line(speed, "leap") == (steps, pytest.approx([90.5] * 8))
    assert line(neighbours, "_cls") == ([1, 2], pytest.approx([0.5, 0.6]))
    assert line(neighbours, "_patch_mean") == ([1, 2], pytest.approx([0.6, 0.7]))
    for axes in (loss, similarity, rate, target, neighbours, speed):
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_report_figure__marks_each_move_by_its_reason(make_run: Folder) -> None:
    target = report.report_figure([load_history(make_run(finished=True))]).axes[3]
    stairs = target.lines[0]
    assert stairs.get_drawstyle() == "steps-post"
    assert list(zip(*line(target, "leap"), strict=True)) == [(m.step, m.block) for m in MOVES] + [(80, MOVES[-1].block)]
    for move in MOVES:
        assert line(target, f"_{move.reason}") == ([move.step], [move.block])
    assert len({item.get_marker() for item in target.lines[1:]}) == len(MOVES)
    assert [text.get_text() for text in target.get_legend().get_texts()] == [text for _, text in REASONS.values()]


def test_history__of_an_unfinished_run_takes_the_blocks_from_the_log(make_run: Folder) -> None:
    history = load_history(make_run())
    assert history.targets == [(0, 1), (10, 2)]
    assert "unfinished, 80 steps" in report.report_figure([history]).get_suptitle()


def test_history__of_an_unfinished_run_takes_the_moves_from_its_newest_checkpoint(make_run: Folder) -> None:
    folder = make_run()
    moves = [{"step": 0, "block": 1, "similarity": None, "reason": "start"}]
    checkpoint.save({"step": 10, "curriculum": {"history": moves}}, folder / "checkpoints")
    moves = [*moves, {"step": 17, "block": 2, "similarity": 0.5, "reason": "budget"}]
    checkpoint.save({"step": 30, "curriculum": {"history": moves}}, folder / "checkpoints")
    history = load_history(folder)
    assert history.moves == [Move(0, 1, None, "start"), Move(17, 2, 0.5, "budget")]
    assert history.targets == [(0, 1), (17, 2)]


def test_report_figure__of_a_run_that_has_only_begun(make_run: Folder) -> None:
    folder = make_run()
    for name in ("log.csv", monitor.FILE):
        (folder / name).unlink()
    texts = [text.get_text() for axes in report.report_figure([load_history(folder)]).axes for text in axes.texts]
    assert "nothing logged yet" in texts
    assert any("no monitor.csv" in text for text in texts)
    report.write_report(folder)
    assert (folder / "report.png").stat().st_size > 1000


def test_report_figure__of_several_has_a_line_and_a_label_per_run(make_run: Folder) -> None:
    folders = [make_run("a"), make_run("b", "last"), make_run("c", "last", seed=1)]
    figure = report.report_figure([load_history(folder) for folder in folders])
    names = ["leap", "last, seed 0", "last, seed 1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    for axes in figure.axes[:4]:
        lines = [item for item in axes.lines if item.get_label() in names]
        assert len({item.get_color() for item in lines}) == len(lines) == 3


def test_labels__fall_back_on_the_folder(make_run: Folder) -> None:
    one, other = report.labels([load_history(make_run("a")), load_history(make_run("b"))])
    assert one.endswith("/a")
    assert other.endswith("/b")


class Page(HTMLParser):
    """Tags, addresses and visible text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page__tells_the_run_and_asks_for_nothing(make_run: Folder) -> None:
    folder = make_run(finished=True)
    report.write_report(folder)
    source = (folder / "report.html").read_text()
    page = Page(source)
    (address,) = page.addresses
    assert address.startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://", source)
    for told in ("75.0% [50.0%, 90.0%]", "2000", "25.0%", "12.5%", "61 s", "3.1%", "timeout", "plateau", "epochs: 2"):
        assert told in page.text, told


def test_page__escapes_what_a_folder_says(make_run: Folder) -> None:
    evil = '<script>alert("1")</script><img src=//x onerror=y>'
    folder = make_run(finished=True, description=evil)
    write_json(
        folder / "metrics.json", msgspec.structs.replace(run_report(), hardware=evil, versions={evil: "</table>"})
    )
    report.write_report(folder)
    page = Page((folder / "report.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.text.count('alert("1")') >= 3  # there to be read: description, recipe, hardware


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_command__writes_the_kind_of_file_that_its_name_says(make_run: Folder, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"picture{suffix}"
    assert main([str(make_run()), "--out", str(out)]) == 0
    if suffix == ".svg":
        assert "optimiser step" in out.read_text()
    else:
        assert Image.open(out).size > (1000, 600)


@pytest.mark.parametrize(
    ("name", "content", "out", "told"),
    [
        ("recipe.yaml", None, None, "is not a run folder"),
        ("log.csv", "step,loss,block,similarity\nx,y,1,1\n", None, "log.csv is not a table"),
        ("curriculum.csv", "step,block\n1,x\n", None, "curriculum.csv is not a table"),
        ("metrics.json", "{}", None, "is not the report"),
        ("monitor.csv", "a\n1\n", None, "monitor.csv"),
        ("spare", "", "picture.gif", "must end in .png, .svg or .html"),
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
    write_report, folder = report.write_report, tmp_path / "run"

    def fail(folder: Path) -> None:
        write_report(folder)
        raise RuntimeError("no\npaint")

    monkeypatch.setattr(report, "write_report", fail)
    recipe = make_recipe(
        data={"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}, epochs=1, batch=16
    )
    assert pipeline.run(recipe, folder) is not None
    assert (folder / "report.png").is_file()
    assert (folder / "report.html").is_file()
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


def test_study_figure__has_a_dot_per_seed_and_a_bar_at_their_mean(tmp_path: Path) -> None:
    drawn = study_figure(STUDY, tmp_path / "images" / "study.png", "last")
    assert drawn is not None
    epochs, flops = drawn.axes
    assert line(epochs, "late")[1] == pytest.approx([10, 10])
    assert line(epochs, "leap")[1] == pytest.approx([-10, 0])
    bars = [item for item in epochs.lines if item.get_marker() == "_"]
    assert [list(item.get_ydata()) for item in bars] == [pytest.approx([10]), pytest.approx([-5])]
    assert bars[0].get_xdata()[0] < bars[1].get_xdata()[0]  # side by side
    assert [text.get_text() for text in flops.get_xticklabels()] == ["probe"]  # costs are left to the table
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["late", "leap"]
    assert Image.open(tmp_path / "images" / "study.png").width > 500


def test_study_figure__has_a_run_of_equal_flops_where_there_is_one(tmp_path: Path) -> None:
    drawn = study_figure(STUDY, tmp_path / "study.png", "last")
    assert drawn is not None
    assert line(drawn.axes[1], "late")[1] == pytest.approx([10, 10])  # its FLOPs are equal at equal epochs
    assert line(drawn.axes[1], "leap")[1] == pytest.approx([-10, 30])


def test_study_figure__of_one_cost_has_one_panel(tmp_path: Path) -> None:
    drawn = study_figure([row for row in STUDY if row.variant == "epochs"], tmp_path / "study.svg", "last")
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["At equal epochs"]


def test_study_figure__of_the_baseline_alone_is_none(tmp_path: Path) -> None:
    assert study_figure([row for row in STUDY if row.subject == "last"], tmp_path / "study.png", "last") is None
    assert not (tmp_path / "study.png").exists()
