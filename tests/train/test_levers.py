"""Levers on drawn photos, through the command: what is measured is kept, and the table says what each gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from train.figures import Trial, read_figures
from train.levers import LEVERS, folder_name, main, read_levers
from train.recipe import find_recipe, load_recipe


@pytest.fixture(scope="module")
def pulled(tree: Callable[[], dict], photo_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a finished command: two levers, an epoch each."""
    root = tmp_path_factory.mktemp("levers")
    values = tree() | {"epochs": 1}
    values["data"] |= {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    (root / "recipe.yaml").write_text(yaml.safe_dump(values))
    levers = {"random start": [], "... teacher's weights": ["student.init=teacher", "curriculum={strategy: last}"]}
    (root / "levers.yaml").write_text(yaml.safe_dump(levers, sort_keys=False))
    words = [str(root / "recipe.yaml"), "--levers", str(root / "levers.yaml"), "--out", str(root / "runs")]
    words += ["--results", str(root / "results")]
    assert main(words) == 0
    return words


def rows(words: list[str]) -> list[Trial]:
    """The table that the command wrote."""
    return read_figures(Path(words[-1]) / "levers.csv", Trial)


def test_levers__the_table_has_each_lever_and_metric(pulled: list[str]) -> None:
    found = rows(pulled)
    assert [row.lever for row in found] == ["random start"] * 3 + ["... teacher's weights"] * 3
    assert {row.photos for row in found} == {32}  # 36 without every tenth
    cosine = {row.lever: row.value for row in found if row.metric.startswith("cosine")}
    assert cosine["... teacher's weights"] > cosine["random start"] + 0.05


def test_levers__what_is_measured_is_not_trained_again(pulled: list[str], capsys: pytest.CaptureFixture) -> None:
    before = rows(pulled)
    assert main(pulled) == 0
    assert "epochs" not in capsys.readouterr().out
    assert rows(pulled) == before


def test_levers__unknown_name_is_one_line(pulled: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*pulled, "--only", "luck"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_levers__nothing_measured_yet_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["baseline", "--gather", "--out", str(tmp_path)]) == 2
    assert "no lever was measured" in capsys.readouterr().err


def test_levers_that_ship__fit_the_recipe_and_have_folders_of_their_own() -> None:
    levers = read_levers(LEVERS)
    for changes in levers.values():
        load_recipe(find_recipe("baseline"), changes)
    assert len({folder_name(name) for name in levers}) == len(levers)
