"""Recipes as YAML files: reading, overriding by `key=value`, writing; an unknown key names the nearest known one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from leap_zoo.documents import explain
from leap_zoo.errors import nearest
from leap_zoo.files import write_file
from train.errors import TrainError
from train.recipe import CURRICULA, Recipe

RECIPES = Path(__file__).parent / "recipes"
# A resumed run may change these: where its files are, how they are read, how often it is saved.
MAY_CHANGE = ("data.train", "data.val", "data.store", "teacher.checkpoint", "checkpoint_minutes", "epochs")


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path, or by the name of one in `train/recipes`. Raises TrainError."""
    return find_file(name, recipe_files(), "recipe")


def recipe_files() -> dict[str, Path]:
    """The recipes that ship: `nano`, ..., then those of folders, such as `paper/in100-vits`."""
    paths = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}


def find_file(name: str, known: dict[str, Path], what: str) -> Path:
    """A file given as a path, or by its name among the `known`, whatever folder is named. Raises TrainError."""
    stem = Path(name).stem
    found = Path(name) if Path(name).is_file() else {path.stem: path for path in known.values()}.get(stem)
    if found is None:
        raise TrainError(f"no {what} {name!r}{nearest(stem, known)}")
    return found


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` overrides (dotted keys, YAML values). Raises TrainError."""
    tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    curriculum = tree.setdefault("curriculum", {})
    strategy = curriculum.setdefault("strategy", "leap") if isinstance(curriculum, dict) else "leap"
    if strategy not in CURRICULA:
        raise TrainError(f"recipe {path.name}: no strategy {strategy!r}{nearest(str(strategy), CURRICULA)}")
    try:
        return msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        kind = CURRICULA[strategy] if "`$.curriculum`" in str(error) else Recipe
        raise TrainError(f"recipe {path.name}: {explain(str(error), kind)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file. Raises TrainError."""
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise TrainError(f"{path} is no YAML mapping; start from a file in train/recipes, or in train/research/studies")
    return tree


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    write_file(path, yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False).encode())


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ, except those that do not affect the result."""
    ours, theirs = (dict(_flat(msgspec.to_builtins(recipe))) for recipe in (one, other))
    return [key for key in ours | theirs if ours.get(key) != theirs.get(key) and key not in MAY_CHANGE]


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise TrainError(f"{override!r} is no override; write key=value, such as optimizer.lr=5e-4")
    *parents, leaf = key.split(".")
    if key == "curriculum.strategy" and tree.get("curriculum", {}).get("strategy", "leap") != text:
        tree["curriculum"] = {}  # the settings of one strategy mean nothing to another
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise TrainError(f"{key!r} leads nowhere in this recipe: {parents[-1]!r} holds no further keys")
    try:
        node[leaf] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise TrainError(f"the value of {key!r} is no YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string: only floats with a point and a signed exponent are numbers to it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)
