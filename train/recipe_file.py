"""Recipes as YAML files: reading, overriding by `key=value`, writing; an unknown key names the nearest known one."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import msgspec
import yaml

from train.errors import TrainError
from train.recipe import CURRICULA, AnyCurriculum, Recipe

RECIPES = Path(__file__).parent / "recipes"
# What a resumed run may change: where its files are, how they are read, how often it is saved.
MAY_CHANGE = ("data.train", "data.val", "data.store", "teacher.checkpoint", "checkpoint_minutes")


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path, or by the name of one in `train/recipes`. Raises TrainError."""
    if Path(name).is_file():
        return Path(name)
    known = recipe_files()
    stems = {path.stem: path for path in known.values()}
    if Path(name).stem in stems:
        return stems[Path(name).stem]
    raise TrainError(f"no recipe {name!r}{_nearest(Path(name).stem, list(stems))}; the recipes are {', '.join(known)}")


def recipe_files() -> dict[str, Path]:
    """The recipes that ship: `nano`, ..., then those of folders, such as `paper/in100-vits`."""
    paths = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key=value` overrides (dotted keys, YAML values). Raises TrainError."""
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainError(f"cannot read the recipe {path}: {_one_line(error)}") from error
    if not isinstance(tree, dict):
        raise TrainError(f"{path} is no recipe: it must be a YAML mapping; start from one in train/recipes")
    for override in overrides or []:
        _apply(tree, override)
    strategy = _strategy(tree, path)
    try:
        return msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        raise TrainError(f"recipe {path.name}: {_explain(str(error), strategy)}") from error


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    path.write_text(yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False))


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ, but for those that change nothing in what is learned."""
    return [key for key, value in _flat(one).items() if value != _flat(other).get(key) and key not in MAY_CHANGE]


def _flat(spec: msgspec.Struct, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {prefix + "strategy": spec.strategy} if isinstance(spec, AnyCurriculum) else {}
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, msgspec.Struct) else {prefix + name: value}
    return flat


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
        if node is None:
            raise TrainError(f"{key!r} leads nowhere in this recipe: {parent!r} holds no further keys")
    if not isinstance(node, dict):
        raise TrainError(f"{key!r} leads nowhere in this recipe")
    try:
        node[leaf] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise TrainError(f"the value of {key!r} is no YAML: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string: only floats with a point and a signed exponent are numbers to it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)
_UNKNOWN = re.compile(r"unknown field `(.*?)`(?: - at `\$\.?(.*)`)?")


def _explain(message: str, strategy: str) -> str:
    found = _UNKNOWN.search(message)
    if not found:
        return message
    key, path = found[1], found[2] or ""
    node: Any = Recipe
    for part in filter(None, path.split(".")):
        kind = next((f.type for f in msgspec.structs.fields(node) if f.name == part), node)
        node = get_args(kind)[0] if isinstance(kind, UnionType) else kind  # `Supervised | None`
    if path == "curriculum":
        node = CURRICULA[strategy]
    known = [field.name for field in msgspec.structs.fields(node)]
    where = f" in `{path}`" if path else ""
    return f"unknown key `{key}`{where}{_nearest(key, known)}; known are {', '.join(known)}"


def _strategy(tree: dict[str, Any], path: Path) -> str:
    """The strategy that the recipe names, `leap` where it names none."""
    named = tree.get("curriculum", {})
    name = named.setdefault("strategy", "leap") if isinstance(named, dict) else "leap"
    if name not in CURRICULA:
        raise TrainError(
            f"recipe {path.name}: no strategy {name!r}{_nearest(str(name), list(CURRICULA))}; "
            f"the strategies are {', '.join(CURRICULA)}"
        )
    return str(name)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
