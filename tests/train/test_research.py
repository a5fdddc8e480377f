"""A study through its command, on drawn photos: interrupted, continued, at equal epochs and at equal FLOPs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import yaml

from train.errors import TrainError
from train.research import page, runner
from train.research.__main__ import main
from train.research.results import Result, read_results, updated, write_results
from train.research.runner import STUDIES, Job, Study, load_study

STUDY = {
    "title": "A tiny study",
    "baseline": "last",
    "equal_flops": True,
    "changes": {
        "last": ["curriculum={strategy: last}"],
        "grow, late": ["curriculum={strategy: leap-grow, last_share: 0.5, every: 1}"],
    },
}

pytestmark = pytest.mark.timeout(900)  # processes of their own, maybe on a busy machine


@pytest.fixture(scope="module")
def words(tree: Callable[[], dict], photo_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of the command: two changes, one seed, four epochs of two steps."""
    root = tmp_path_factory.mktemp("research")
    values = tree() | {"epochs": 4, "batch": 16, "monitor": 0}
    values["data"] |= {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    (root / "recipe.yaml").write_text(yaml.safe_dump(values))
    (root / "tiny.yaml").write_text(yaml.safe_dump({**STUDY, "recipe": str(root / "recipe.yaml")}, sort_keys=False))
    places = [word for name in ("out", "results", "docs") for word in (f"--{name}", str(root / name))]
    return [str(root / "tiny.yaml"), "optimizer.lr=2e-3", "--seeds", "0", *places]


@pytest.fixture(scope="module")
def trained(words: list[str]) -> list[list[str]]:
    """The trainings of the command, which was interrupted in the second, then given again."""
    begun: list[list[str]] = []
    elsewhere = subprocess.run

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        if command[1:3] != ["-m", "train"]:
            return elsewhere(command, **options)
        begun.append(command)
        if len(begun) == 2:
            raise KeyboardInterrupt
        code, said = commands.start(*command[3:], output=Path(options["stdout"].name)).finish()
        return subprocess.CompletedProcess(command, code, said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.subprocess, "run", run)
        assert main(words) == 130
        assert main(words) == 0
    return begun


def rows(words: list[str]) -> list[Result]:
    return read_results(Path(words[words.index("--results") + 1]) / "tiny.csv")


def test_study__interrupted_trains_only_what_is_not_finished(trained: list[list[str]]) -> None:
    folders = [Path(command[command.index("--out") + 1]).name for command in trained]
    assert folders == [
        "last-epochs-seed-0",
        "grow-late-epochs-seed-0",  # interrupted
        "grow-late-epochs-seed-0",
        "grow-late-flops-seed-0",  # the baseline is at equal FLOPs as it is
    ]
    assert all({"optimizer.lr=2e-3", "seed=0"} <= set(command) for command in trained)
    assert "epochs=4" in trained[0]
    longer = int(next(word for word in trained[3] if word.startswith("epochs=")).removeprefix("epochs="))
    assert longer > 4


def test_study__at_equal_flops_trains_longer_for_the_same_cost(words: list[str], trained: list[list[str]]) -> None:
    assert trained
    cost = {(row.subject, row.variant): row.value for row in rows(words) if row.metric == "total PFLOPs"}
    assert set(cost) == {("last", "epochs"), ("grow, late", "epochs"), ("grow, late", "FLOPs")}
    assert cost["grow, late", "epochs"] < 0.9 * cost["last", "epochs"]
    assert cost["grow, late", "FLOPs"] == pytest.approx(cost["last", "epochs"], rel=0.15)  # whole epochs


def test_study__page_has_the_baseline_and_the_differences_from_it(words: list[str], trained: list[list[str]]) -> None:
    assert trained
    text = (Path(words[-1]) / "tiny.md").read_text()
    assert "# A tiny study" in text
    assert "## At equal epochs" in text
    assert "## At equal total FLOPs" in text
    assert text.count("| figure | data, split | n | ± | last | grow, late |") == 2
    line = next(line for line in text.splitlines() if line.startswith("| 10-NN, cls | drawn, val | 18 |"))
    last, grow = line.split("|")[-3:-1]
    assert re.fullmatch(r" \d+\.\d ", last)
    assert re.fullmatch(r" \d+\.\d \([+-]\d+\.\d\) ", grow)
    assert float(grow.split("(")[1].rstrip(") ")) == pytest.approx(float(grow.split("(")[0]) - float(last), abs=0.11)


def test_study__measure_only_trains_nothing_and_writes_the_same(
    words: list[str], trained: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained
    before, text = rows(words), (Path(words[-1]) / "tiny.md").read_text()
    monkeypatch.setattr(runner, "train_all", lambda *_, **__: pytest.fail("it trains"))
    assert main([*words, "--measure-only"]) == 0
    assert rows(words) == before
    assert (Path(words[-1]) / "tiny.md").read_text() == text


def test_study__a_failed_training_names_its_output(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2))
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "last-epochs-seed-0.txt says why; run the command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"baseline": "lats"}, "no change 'lats'; did you mean 'last'"),
        ({"chnages": {}}, "chnages"),
        ({"changes": {}}, "changes"),
        ({"changes": {**STUDY["changes"], "a b": [], "a-b": []}}, "'a b' and 'a-b' have the same folder"),
    ],
)
def test_study__that_is_wrong_is_one_line(tmp_path: Path, change: dict, named: str) -> None:
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump({**STUDY, "recipe": "digits", **change}))
    with pytest.raises(TrainError, match=named) as caught:
        load_study(str(tmp_path / "odd.yaml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainError, match="no study 'curriculun'; did you mean 'curriculum'"):
        load_study("curriculun")


def test_study__with_a_wrong_override_trains_nothing(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([words[0], "optimzer.lr=1", *words[2:]]) == 2
    assert "did you mean 'optimizer'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_that_ship__fit_their_recipes_and_have_folders_of_their_own(path: Path) -> None:
    from train.recipe_file import find_recipe, load_recipe

    study = load_study(path.stem)
    for change in study.changes.values():
        load_recipe(find_recipe(study.recipe), change)
    folders = {Job(change, 0, cost).folder for change in study.changes for cost in ("epochs", "FLOPs")}
    assert len(folders) == 2 * len(study.changes)


def test_page__marks_what_is_beyond_the_spread_of_the_seeds() -> None:
    """Paired differences .10, .11, .12: mean .11, t interval .11 +- 4.303 * .01 / sqrt 3 = .085 to .135. Ahead."""
    study = Study(**STUDY, recipe="digits")
    about = {"dataset": "drawn", "split": "val", "n": 100, "hardware": "h", "commit": "c", "variant": "epochs"}
    found = []
    for metric, better in (("probe", (0.60, 0.71, 0.82)), ("10-NN", (0.40, 0.80, 0.60))):
        for seed, value in enumerate((0.5, 0.6, 0.7)):
            low, high = value - 0.05, value + 0.05
            found.append(Result(subject="last", metric=metric, value=value, low=low, high=high, seed=seed, **about))
            found.append(Result(subject="grow, late", metric=metric, value=better[seed], seed=seed, **about))
    text = page.render(study, found, "results/tiny.csv")
    assert "| probe | drawn, val | 100 | 5.0 | 60.0 | **71.0** (+10.0, +11.0, +12.0) |" in text
    assert "| 10-NN | drawn, val | 100 | 5.0 | 60.0 | 60.0 (-10.0, +20.0, -10.0) |" in text
    assert "`c`" in text
    low, high = page.spread([10, 11, 12])
    assert (low, high) == pytest.approx((11 - 2.484, 11 + 2.484), abs=1e-3)


def test_updated__keeps_the_rows_of_another_seed(tmp_path: Path) -> None:
    about = {"subject": "last", "metric": "probe", "hardware": "h", "commit": "c"}
    first, second = (Result(seed=seed, value=0.5, **about) for seed in (0, 1))
    write_results(tmp_path / "rows.csv", [first])
    assert set(updated(tmp_path / "rows.csv", [second])) == {first, second}
