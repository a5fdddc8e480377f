"""Recipes: every mistake is one line that names the nearest known key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from train.errors import TrainError
from train.method.student import SIZES
from train.recipe import CURRICULA, MoreData, Recipe
from train.recipe_file import RECIPES, differences, find_recipe, load_recipe, recipe_files, save_recipe


@pytest.fixture
def write(tree: Callable[[], dict], tmp_path: Path) -> Callable[..., Path]:
    """Write the small recipe, changed by `change`, and return its path."""

    def make(change: Callable[[dict], object] = lambda values: None) -> Path:
        values = tree()
        change(values)
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return make


@pytest.mark.parametrize("path", recipe_files().values(), ids=lambda path: path.stem)
def test_recipes__all_load_and_come_back_as_saved(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.student.size in SIZES
    assert recipe.preprocessing.size % recipe.student.patch == 0
    assert recipe.curriculum.strategy in CURRICULA
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


def test_recipes__are_found_by_name_and_by_path(write: Callable[..., Path]) -> None:
    assert find_recipe("digits") == find_recipe("digits.yaml") == RECIPES / "digits.yaml"
    assert find_recipe(str(write())) == write()
    with pytest.raises(TrainError, match="no recipe 'digist'; did you mean 'digits'"):
        find_recipe("digist")


@pytest.mark.parametrize("name", ["paper/in100-vits", "in100-vits", "in100-vits.yaml", "recipes/paper/in100-vits.yaml"])
def test_recipes__of_the_paper_are_found_in_their_folder(name: str) -> None:
    assert find_recipe(name) == RECIPES / "paper" / "in100-vits.yaml"
    with pytest.raises(TrainError, match=r"did you mean 'paper/in100-vit.'.*Known: .*digits,.*paper/in100-vits"):
        find_recipe("paper/in100-vitx")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimzer.lr=1", "unknown key 'optimzer'; did you mean 'optimizer'"),
        ("optimizer.lrr=1", "unknown key 'lrr' in optimizer; did you mean 'lr'"),
        ("teacher.supervised.epohs=1", "unknown key 'epohs' in teacher.supervised; did you mean 'epochs'"),
        ("preprocessing.shortside=9", "unknown key 'shortside' in preprocessing; did you mean 'short_side'"),
        ("epochs", "'epochs' is no override"),
        ("=1", "'=1' is no override"),
        ("epochs.more=1", "'epochs.more' leads nowhere"),
        ("seed.more.still=1", "'seed.more.still' leads nowhere"),
        ("epochs=[1", "the value of 'epochs' is no YAML"),
        ("epochs=many", "epochs"),
        ("epochs=0", "epochs"),
        ("optimizer.lr=-1e-3", "optimizer.lr"),
        ("curriculum.last_share=1.2", "curriculum.last_share"),
        ("curriculum.strategy=leep", "no strategy 'leep'; did you mean 'leap'"),
        ("curriculum.plateau_step=9", "unknown key 'plateau_step' in curriculum; did you mean 'plateau_steps'"),
        (
            "curriculum={strategy: linear, threshold: 0.8}",
            "unknown key 'threshold' in curriculum. Known: every, last_share, similarity",
        ),
        ("curriculum={strategy: last}", "optimizer.decay=last-block needs optimizer.decay_share: `last` has none"),
        ("augment.blur=0.5", "unknown key 'blur' in augment"),
        ("data.more=[{path: a, weight: 0}]", "data.more[0].weight"),
        ("data.head=own head", "data.head"),
        ("data.head=digits-teacher", "own names"),
        ("teacher.pretrained=true", "only one of"),
        ("data.train=photos", "digits need no folders"),
        ("name=../elsewhere", "name"),
    ],
)
def test_override__wrong_is_one_line_with_its_place(override: str, named: str) -> None:
    with pytest.raises(TrainError) as caught:
        load_recipe(find_recipe("digits"), [override])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("5.e-4", 5e-4), ("1.0e-3", 1e-3), ("2", 2.0), ("1e3", 1000.0)]
)
def test_numbers__with_an_exponent_are_numbers(text: str, value: float, write: Callable[..., Path]) -> None:
    assert load_recipe(find_recipe("digits"), [f"optimizer.lr={text}"]).optimizer.lr == value
    path = write()
    path.write_text(path.read_text() + f"optimizer: {{lr: {text}}}\n")
    assert load_recipe(path).optimizer.lr == value


def test_numbers__in_lists_too() -> None:
    recipe = load_recipe(find_recipe("digits"), ["augment.scale=[1e-1, 1]"])
    assert recipe.augment.scale == (0.1, 1.0)


def test_override__keeps_text_as_text_and_later_ones_win() -> None:
    recipe = load_recipe(find_recipe("digits"), ["name=leap-e1", "data.name=1e-3 of it", "seed=1", "seed=2"])
    assert (recipe.name, recipe.data.name, recipe.seed) == ("leap-e1", "1e-3 of it", 2)


def test_override__opens_sections_that_the_recipe_leaves_out(write: Callable[..., Path]) -> None:
    assert load_recipe(write(), ["augment.flip=0"]).augment.flip == 0


def test_override__of_the_strategy_leaves_the_settings_of_the_other_behind() -> None:
    assert load_recipe(find_recipe("digits")).curriculum.plateau_steps == 20
    changed = load_recipe(find_recipe("digits"), ["curriculum.strategy=linear", "curriculum.last_share=0.5"])
    assert (changed.curriculum.strategy, changed.curriculum.last_share) == ("linear", 0.5)
    same = load_recipe(find_recipe("digits"), ["curriculum.strategy=leap-grow"])
    assert same.curriculum.plateau_steps == 20


def test_more__is_a_path_or_a_path_with_its_weight(write: Callable[..., Path]) -> None:
    recipe = load_recipe(write(), ["data.more=[photos, {path: more.tar, weight: 0.25}]"])
    assert recipe.data.further == [MoreData(path="photos", weight=1.0), MoreData(path="more.tar", weight=0.25)]


def test_decay_share__is_the_optimisers_own_or_that_of_the_last_block(write: Callable[..., Path]) -> None:
    grow = ["curriculum={strategy: leap-grow, last_share: 0.4}", "optimizer.decay=last-block"]
    assert load_recipe(write(), grow).decay_share == 0.4
    assert load_recipe(write(), [*grow, "optimizer.decay_share=0.1"]).decay_share == 0.1
    assert load_recipe(write(), ["curriculum={strategy: last}"]).decay_share is None


def test_recipe__misspelt_in_the_file_is_named(write: Callable[..., Path]) -> None:
    with pytest.raises(TrainError, match=r"tiny.yaml: unknown key 'epoch'; did you mean 'epochs'"):
        load_recipe(write(lambda values: values.update(epoch=1)))


@pytest.mark.parametrize(
    "content", ["", "- a\n- b\n", "epochs: [1\n", "\x00", "epochs: !!python/object/apply:os.getcwd []\n"]
)
def test_recipe__that_is_not_a_mapping_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    with pytest.raises(TrainError, match=r"odd\.yaml") as caught:
        load_recipe(tmp_path / "odd.yaml")
    assert "\n" not in str(caught.value)


def test_recipe__defaults_are_the_published_ones(tree: Callable[[], dict]) -> None:
    import msgspec

    recipe = msgspec.convert(tree(), Recipe)
    curriculum, augment = recipe.curriculum, recipe.augment
    assert (curriculum.strategy, curriculum.threshold, curriculum.smoothing, curriculum.max_epochs) == (
        "leap",
        0.85,
        1,
        5,
    )
    assert (recipe.loss.targets, recipe.loss.cls_weight) == ("raw", 0.05)
    assert (augment.scale, augment.jitter, augment.grey, augment.mix) == ((0.14, 1), 0.8, 0.2, True)


def test_accumulate__cuts_the_batch_into_equal_pieces(write: Callable[..., Path]) -> None:
    assert load_recipe(write(), ["batch=12", "accumulate=3"]).accumulate == 3
    with pytest.raises(TrainError, match="batch=8 cannot be cut into accumulate=3 equal pieces"):
        load_recipe(write(), ["batch=8", "accumulate=3"])


def test_differences__ignore_how_often_a_run_is_saved(write: Callable[..., Path]) -> None:
    one = load_recipe(write())
    assert differences(one, load_recipe(write(), ["checkpoint_minutes=1", "data.train=elsewhere"])) == []
    assert differences(one, load_recipe(write(), ["accumulate=2"])) == ["accumulate"]
    other = load_recipe(write(), ["curriculum={strategy: last, every: 2}"])
    assert {"curriculum.strategy", "curriculum.every"} <= set(differences(one, other))
