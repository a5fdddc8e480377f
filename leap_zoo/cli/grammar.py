"""Shared by the commands: how they are declared, and common arguments."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, NoReturn

from leap_zoo.errors import masked, plain
from leap_zoo.loading import load
from leap_zoo.model import Model

_DEFAULT = "default: the smallest bundled student that classifies general photos well"


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line, without the usage text."""

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file)  # argparse would ignore that it cannot be written

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(2, f"leap-zoo: {masked(plain(message))}; see {self.prog} --help\n")


class Commands:
    """The commands of `leap-zoo`, in the order of --help."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        """Declare a command that calls `run`; returns its parser, which already has --json."""
        command = self._commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(command=run)
        return command


def place(text: str) -> str:
    """A path or a URL: `~` is expanded, as a shell does not after `=`. An unset variable, "", is an error."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: leave it out, or give a value")
    return os.path.expanduser(text)


def add_zoo(command: argparse.ArgumentParser) -> None:
    """--zoo."""
    command.add_argument("--zoo", type=place, metavar="FOLDER", help="search only this zoo")


def add_source(command: argparse._ActionsContainer) -> None:
    """--from."""
    command.add_argument(
        "--from",
        dest="source",
        type=place,
        metavar="URL_OR_FOLDER",
        help="a zoo or a model: http(s)://, hf://OWNER/NAME or a folder; default: LEAP_ZOO_URL",
    )


def add_model(command: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add the arguments for a model and its zoo: MODEL or --model, and --zoo."""
    if positional:
        command.add_argument("model", nargs="?", type=place, help=_DEFAULT)
    else:
        command.add_argument("--model", type=place, help=_DEFAULT)
    add_zoo(command)


def add_artifact(command: argparse.ArgumentParser, *, default: str | None = None, threads: bool = True) -> None:
    """Add --precision, --format, --threads and --provider. default: shown by --help."""
    precision, format = default or "int8 if the model has it", default or "onnx if the model has it"
    command.add_argument("--precision", choices=("int8", "fp16", "fp32"), help=f"default: {precision}")
    command.add_argument("--format", choices=("onnx", "openvino", "executorch"), help=f"default: {format}")
    if threads:
        command.add_argument(
            "--threads", type=int, metavar="N", help="default: the processors available to this process"
        )
    add_providers(command)


def add_providers(command: argparse.ArgumentParser) -> None:
    """--provider."""
    command.add_argument(
        "--provider",
        dest="providers",
        action="append",
        metavar="NAME",
        help="ONNX Runtime execution provider for ONNX files, e.g. CUDAExecutionProvider; may be repeated",
    )


def load_model(options: argparse.Namespace, name: str | None = None) -> Model:
    """Load the model that the options of `add_model` and `add_artifact` select; name: overrides the model."""
    return load(
        name or options.model,
        zoo=options.zoo,
        precision=options.precision,
        format=options.format,
        threads=options.threads,
        providers=options.providers,
    )


def add_photos(command: argparse.ArgumentParser) -> None:
    """Add the arguments for photos and the model that reads them."""
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos, or - for stdin")
    add_model(command)
    add_artifact(command)
