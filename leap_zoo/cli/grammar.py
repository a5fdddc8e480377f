"""What the commands have in common: how they are declared, and the arguments that many of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from leap_zoo.errors import masked, plain, short

if TYPE_CHECKING:
    from leap_zoo.model import Model


_DEFAULT = "default: the smallest bundled student that knows photos of the world"


class Parser(argparse.ArgumentParser):
    """A user's mistake is one line, not the whole usage."""

    def print_help(self, file: Any = None) -> None:
        """As argparse does, which ignores that it failed."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(2, f"leap-zoo: {masked(plain(message))}; see {self.prog} --help\n")


class Commands:
    """The commands of `leap-zoo`, in the order in which --help lists them."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        """A command that `run` carries out; returns its parser, which has --json already."""
        command = self._commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(command=run)
        return command


def add_zoo(command: argparse.ArgumentParser) -> None:
    """--zoo."""
    command.add_argument("--zoo", metavar="FOLDER", help="look in this zoo only")


def add_model(command: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Which model, and of which zoo: MODEL or --model, and --zoo."""
    if positional:
        command.add_argument("model", nargs="?", help=_DEFAULT)
    else:
        command.add_argument("--model", help=_DEFAULT)
    add_zoo(command)


def add_artifact(command: argparse.ArgumentParser, *, default: str | None = None, threads: bool = True) -> None:
    """Which file of the model, and how it runs: --precision, --format, --threads, --provider. default: for --help."""
    precision, format = default or "int8 where the model has it", default or "onnx where the model has it"
    command.add_argument("--precision", choices=("int8", "fp16", "fp32"), help=f"default: {precision}")
    command.add_argument("--format", choices=("onnx", "openvino"), help=f"default: {format}")
    if threads:
        command.add_argument("--threads", type=at_least_one, metavar="N", help="default: what this machine allows")
    add_providers(command)


def add_providers(command: argparse.ArgumentParser) -> None:
    """--provider."""
    command.add_argument(
        "--provider",
        dest="providers",
        action="append",
        metavar="NAME",
        help="run ONNX files on this execution provider of ONNX Runtime, e.g. CUDAExecutionProvider; may be repeated",
    )


def load_model(options: argparse.Namespace, name: str | None = None) -> Model:
    """The model that the options of `add_model` and `add_artifact` mean; name: another one."""
    from leap_zoo.loading import load

    return load(
        name or options.model,
        zoo=options.zoo,
        precision=options.precision,
        format=options.format,
        threads=options.threads,
        providers=options.providers,
    )


def add_photos(command: argparse.ArgumentParser) -> None:
    """Photos, and the model that looks at them."""
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos, or - for stdin")
    add_model(command)
    add_artifact(command)


def not_negative(text: str, least: int = 0) -> int:
    """An argument that is a whole number."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {short(text)}")
    return int(text)


def at_least_one(text: str) -> int:
    """An argument that counts something."""
    return not_negative(text, 1)
