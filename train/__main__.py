"""`python -m train RECIPE [key=value ...]`: distil a student and leave a run folder that export can read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from train.errors import TrainError
from train.recipe_file import find_recipe, load_recipe, recipe_files


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for what the user can mend)."""
    options = _parser().parse_intermixed_args(arguments)  # key=value may follow an option
    try:
        recipe = load_recipe(find_recipe(options.recipe), options.overrides)
        from train import pipeline, run, summary  # torch takes seconds to import; --help needs none of it

        finished = pipeline.run(recipe, options.out or Path("runs") / recipe.name, resume=options.resume)
        if finished:  # of several processes only the first has one
            summary.show(finished)
        if finished and options.results:
            options.results.mkdir(parents=True, exist_ok=True)
            run.write_json(options.results / f"{recipe.name}.json", finished.report)
    except TrainError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train: interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Distil a small vision transformer from a frozen teacher, by LEAP or by a baseline.",
        epilog=_recipes() + "\n\nexamples:\n"
        "  python -m train digits\n"
        "  python -m train nano teacher.checkpoint=vit.safetensors data.train=photos/train data.val=photos/val\n"
        "  python -m train nano ... curriculum.strategy=last epochs=10 --out runs/nano-last\n"
        "  python -m train nano ... --resume",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="name of a recipe below, or the path of a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace values of the recipe (dotted keys)")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="also write the figures to FOLDER/NAME.json")
    return parser


def _recipes() -> str:
    return "recipes:\n" + "\n".join(
        f"  {name:16} {yaml.safe_load(path.read_text())['description']}" for name, path in recipe_files().items()
    )


if __name__ == "__main__":
    sys.exit(main())
