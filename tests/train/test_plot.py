"""Pictures of trainings: the right data in them, from finished, unfinished and resumed runs; a page that is safe."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from matplotlib.axes import Axes
from PIL import Image

from leap_zoo.card import Metric
from train import monitor, pipeline, plot
from train.history import load_history
from train.monitor import Measurement
from train.recipe import Recipe, load_recipe, save_recipe
from train.run import RunReport, write_json

Rows = list[tuple[int, float, float, float]]  # step as Lightning counts, loss, block, similarity
MOVES = [
    (0, 1, "0.3", "calibration"),
    (20, 2, "0.9", "similarity"),
    (40, 3, "0.4", "timeout"),
    (50, 4, "0.4", "budget"),
    (60, 3, "0.1", "retreat"),
    (70, 4, "0.2", "schedule"),
]
Folder = Callable[..., Path]


def write_log(folder: Path, version: int, rows: Rows) -> Path:
    path = folder / "log" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["block", "epoch", "images/s", "loss", "similarity", "step", "seen"])
        for step, loss, block, similarity in rows:
            writer.writerow([block, 0, 90.5, loss, similarity, step, ""])
        writer.writerow(["", 0, "", "", "", rows[-1][0], 3])  # figures of an epoch
    return path


def climb(first: int, last: int, loss: float = 2.0) -> Rows:
    """A row per tenth step: loss falls from 2, the block is 1 for 20 steps, then 2."""
    return [(step, loss - step / 100, 1.0 + (step >= 20), step / 100) for step in range(first, last, 10)]


@pytest.fixture
def make_run(tree: Callable[[], dict], tmp_path: Path) -> Folder:
    """An unfinished run that has logged 80 steps; `finished` adds what the end of a run writes."""

    def make(name: str = "run", strategy: str = "leap", *, finished: bool = False, **values: object) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        recipe = msgspec.convert({**tree(), "curriculum": {"strategy": strategy}, **values}, Recipe)
        save_recipe(recipe, folder / "recipe.yaml")
        write_log(folder, 0, climb(9, 80))
        for epoch, share in ((1, 0.5), (2, 0.6)):
            kinds = (("cls", share), ("patch_mean", share + 0.1))
            monitor.append(
                folder / monitor.FILE,
                [Measurement(epoch, 8 * epoch, f"10-NN, {k}", v, 90, v - 0.1, v + 0.1) for k, v in kinds],
            )
        if finished:
            with (folder / "curriculum.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("step", "block", "similarity", "reason"), *MOVES])
            write_json(folder / "metrics.json", report())
        return folder

    return make


def report() -> RunReport:
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
    (found,) = [item for item in axes.lines if str(item.get_label()).startswith(label)]
    return list(found.get_xdata()), list(found.get_ydata())


def test_run_figure__shows_what_was_logged(make_run: Folder) -> None:
    loss, similarity, target, neighbours, *_ = plot.run_figure(load_history(make_run(finished=True))).axes
    points = loss.lines[0]
    assert list(points.get_xdata()) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert points.get_ydata()[:2] == pytest.approx([1.91, 1.81])
    dots = similarity.collections[0]
    assert dots.get_offsets()[:, 1].tolist() == pytest.approx([0.09 + 0.1 * i for i in range(8)])
    assert dots.get_array().tolist() == [1, 1, 2, 2, 2, 2, 2, 2]
    colours = dots.to_rgba(dots.get_array())
    assert (colours[0] != colours[-1]).any()
    assert line(neighbours, "CLS token") == ([1, 2], pytest.approx([0.5, 0.6]))
    assert line(neighbours, "mean of the patch tokens") == ([1, 2], pytest.approx([0.6, 0.7]))
    assert all(axes.get_title(loc="left") and axes.get_xlabel() and axes.get_ylabel() for axes in (loss, target))


def test_run_figure__marks_each_move_by_its_reason(make_run: Folder) -> None:
    target = plot.run_figure(load_history(make_run(finished=True))).axes[2]
    for step, block, _, reason in MOVES:
        assert line(target, reason) == ([step], [block])
    stairs = target.lines[0]
    assert stairs.get_drawstyle() == "steps-post"
    assert list(zip(stairs.get_xdata(), stairs.get_ydata(), strict=True)) == [m[:2] for m in MOVES] + [(80, 4)]
    markers = [item.get_marker() for item in target.lines[1:]]
    assert len(set(markers)) == len(MOVES)
    assert len(target.get_legend().get_texts()) == len(MOVES)


def test_run_figure__of_an_unfinished_run_takes_the_blocks_from_the_log(make_run: Folder) -> None:
    history = load_history(make_run())
    assert history.targets == [(0, 1), (29, 2)]
    figure = plot.run_figure(history)
    assert "unfinished, 80 steps" in figure.get_suptitle()
    assert list(figure.axes[2].lines[0].get_xdata()) == [0, 29, 80]


def test_run_figure__of_a_run_that_has_only_begun(make_run: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "young"
    folder.mkdir()
    save_recipe(load_recipe(make_run() / "recipe.yaml"), folder / "recipe.yaml")
    texts = [text.get_text() for axes in plot.run_figure(load_history(folder)).axes for text in axes.texts]
    assert "nothing logged yet" in texts
    assert any("no monitor.csv" in text for text in texts)
    assert plot.draw([folder]).stat().st_size > 1000


def test_history__of_a_resumed_run_is_one_story_and_the_later_tells_it(make_run: Folder) -> None:
    folder = make_run()
    write_log(folder, 10, [(49, 7.0, 3.0, 0.5)])
    write_log(folder, 2, [(39, 5.0, 2.0, 0.5), (49, 6.0, 2.0, 0.5), (59, 6.0, 2.0, 0.5)])
    log = load_history(folder).log
    assert [row.step for row in log] == [10, 20, 30, 40, 50]
    assert [row.loss for row in log[-2:]] == [5.0, 7.0]
    assert log[-1].block == 3


def test_history__a_line_that_is_being_written_is_left_for_later(make_run: Folder) -> None:
    folder = make_run()
    with (folder / "log" / "version_0" / "metrics.csv").open("a") as file:
        file.write("2.0,0,90.5,1.2345,0.2")
    assert load_history(folder).log[-1].step == 80


def test_history__of_an_unfinished_rival_has_its_own_strategy(make_run: Folder) -> None:
    folder = make_run(compare=[{"strategy": "last"}, {"strategy": "fixed", "block": 3}])
    rival = folder / "compare" / "fixed"
    write_log(rival, 0, climb(9, 30))
    history = load_history(rival)
    assert (history.strategy, history.recipe.curriculum.block, history.steps) == ("fixed", 3, 30)


def test_comparison__has_a_line_and_a_label_per_run(make_run: Folder) -> None:
    folders = [make_run("a"), make_run("b", "last"), make_run("c", "last", seed=1)]
    figure = plot.comparison_figure([load_history(folder) for folder in folders])
    _, similarity, target, neighbours = figure.axes
    names = ["leap", "last, seed 0", "last, seed 1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    for axes in (similarity, target):
        assert [item.get_label() for item in axes.lines] == names
        looks = {(item.get_color(), item.get_linestyle()) for item in axes.lines}
        assert len(looks) == 3
    assert line(neighbours, "last, seed 1, CLS token") == ([1, 2], pytest.approx([0.5, 0.6]))


def test_labels__fall_back_on_the_folder(make_run: Folder) -> None:
    one, other = plot.labels([load_history(make_run("a")), load_history(make_run("b"))])
    assert one != other
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
    source = plot.draw([folder], folder / "report.html").read_text()
    page = Page(source)
    (address,) = page.addresses
    assert address.startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://", source)
    for told in (
        "75.0% [50.0%, 90.0%]",
        "2 PFLOPs",
        "25.0%",
        "12.5%",
        "61 s",
        "3.1%",
        "timeout",
        "retreat",
        "epochs: 2",
    ):
        assert told in page.text, told


def test_page__escapes_what_a_folder_says(make_run: Folder) -> None:
    evil = '<script>alert("1")</script><img src=//x onerror=y>'
    folder = make_run(finished=True, description=evil)
    write_json(folder / "metrics.json", msgspec.structs.replace(report(), hardware=evil, versions={evil: "</table>"}))
    page = Page(plot.draw([folder], folder / "report.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.text.count('alert("1")') >= 3  # there to be read: description, recipe, hardware


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_draw__writes_the_kind_of_file_that_its_name_says(make_run: Folder, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"picture{suffix}"
    assert plot.main([str(make_run()), "--out", str(out)]) == 0
    if suffix == ".svg":
        assert "optimiser step" in out.read_text()
    else:
        assert Image.open(out).size > (1000, 600)


@pytest.mark.parametrize(
    ("name", "content", "out", "told"),
    [
        ("recipe.yaml", None, None, "is no run folder"),
        ("log/version_0/metrics.csv", "step,loss,block,similarity\nx,y,1,1\n", None, "is no log of a training"),
        ("curriculum.csv", "step,block\n1,2\n", None, "lists no moves"),
        ("metrics.json", "{}", None, "is no report"),
        ("monitor.csv", "a\n1\n", None, "was not written by the monitor"),
        ("spare", "", "picture.gif", "must end in .png, .svg or .html"),
        ("spare", "", "nowhere/picture.png", "cannot write"),
    ],
)
def test_mistake__is_one_line(
    make_run: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
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
    assert plot.main([str(folder), "--out", str(tmp_path / (out or "picture.png"))]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_training__leaves_its_picture_and_survives_a_painter_that_fails(
    tree: Callable[[], dict], photo_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    values = tree()
    values["data"] |= {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    values |= {"epochs": 1, "compare": [{"strategy": "last"}]}

    def fail(*_: object) -> None:
        raise RuntimeError("no\npaint")

    draw = plot.draw
    monkeypatch.setattr(plot, "draw", lambda runs, out=None: fail() if "compare" in str(runs[0]) else draw(runs, out))
    runs = pipeline.run(msgspec.convert(values, Recipe), tmp_path / "run")
    assert len(runs) == 2
    assert (tmp_path / "run" / "report.png").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    assert {row.metric for row in monitor.read(tmp_path / "run" / monitor.FILE)} == {"10-NN, cls", "10-NN, patch_mean"}
    assert (tmp_path / "run" / "compare" / "last" / "metrics.json").is_file()
    assert "no picture of this run (no paint)" in capsys.readouterr().out  # type: ignore[attr-defined]


def test_strategies_figure__has_a_dot_per_seed_and_the_mean(tmp_path: Path) -> None:
    shares = {"last": (0.5, 0.6), "leap": (0.7, 0.9), "linear": (0.6, 0.6)}
    rows = [
        {"strategy": name, "seed": seed, "probe": share, "seconds": 100.0 * share, "saved": None if seed else share}
        for name, both in shares.items()
        for seed, share in enumerate(both)
    ]
    probe, seconds, saved, *_ = plot.strategies_figure(rows, tmp_path / "figure.png").axes
    assert [label.get_text() for label in probe.get_yticklabels()] == ["last", "linear", "leap"]  # best on top
    assert line(probe, "leap") == ([0.7, 0.9], [2, 2])
    means = [item for item in probe.lines if item.get_marker() == "|"]
    assert [item.get_xdata()[0] for item in means] == pytest.approx([0.55, 0.6, 0.8])
    reference = next(item for item in probe.lines if item.get_linestyle() == "--")
    assert list(reference.get_xdata()) == pytest.approx([0.55, 0.55])
    assert line(saved, "leap") == ([0.7], [2])  # what was not measured is left out
    assert probe.xaxis.get_major_formatter()(0.5) == "50 %"
    assert "%" not in seconds.xaxis.get_major_formatter()(50.0)
    assert Image.open(tmp_path / "figure.png").width > 500


def test_strategies_figure__of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run"):
        plot.strategies_figure([], tmp_path / "figure.png")
