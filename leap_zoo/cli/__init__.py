"""`leap-zoo`: the command line. Each module in this package has a few commands and their output.

Exit codes: 0 done; 1 `verify` found a model that must not be trusted; 2 something the user can fix, one line on
stderr.
Runtimes, httpx and whatever else takes time are imported by the commands that need them.
"""

from __future__ import annotations

# The commands and what they need are imported in `main`, so that Ctrl-C during the imports has no traceback either.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

_EXAMPLES = """examples:
  leap-zoo list --from https://example.org/zoo
  leap-zoo pull leap-tiny --from https://example.org/zoo --to models/
  leap-zoo show models/leap-tiny/model_int8.onnx
  leap-zoo classify photo.jpg --top 3
  leap-zoo classify - < photo.jpg
  leap-zoo embed holiday/ --out holiday.npz
  leap-zoo fit flowers.head --images flowers/
  leap-zoo index holiday/
  leap-zoo search photo.jpg -k 5
for more examples: leap-zoo COMMAND --help

environment:
  LEAP_ZOO_URL      folder of a zoo to search first, or URL of a zoo to pull from
  LEAP_ZOO_HOME     folder for pulled files (default: ~/.cache/leap-zoo)
  LEAP_ZOO_OFFLINE  1: never use the network
  LEAP_ZOO_THREADS  threads per model (default: the processors available to this process)
  LEAP_ZOO_QDRANT_KEY  API key for a --gallery on a Qdrant server
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _run(_imported(_parser), arguments)
    except KeyboardInterrupt:
        return 130


def _imported(make: Callable[[], argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Call `make`, which imports the commands. Ctrl-C ends the process meanwhile, at once and without a word.

    Modules in C would turn the interrupt into an ImportError with a page of advice.
    """
    import signal
    import threading

    handler, ours = signal.default_int_handler, threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is handler
    try:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return make()
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    import logging
    import os
    import sys
    import warnings

    from leap_zoo.cli.output import complain, drop_streams, open_streams
    from leap_zoo.errors import InvalidArgument, LeapZooError, short

    has_stdout = open_streams()
    code = 0
    try:
        try:
            options = parser.parse_args(arguments)
            if not has_stdout:
                raise InvalidArgument("stdout is closed: redirect it to a file or to /dev/null")
            # Libraries' warnings and logs that matter (too many pixels, truncated) become our own one-line errors.
            warnings.simplefilter("ignore")
            logging.getLogger("PIL").setLevel(logging.CRITICAL)
            command: Callable[[argparse.Namespace], int] = options.command
            code = command(options)
            return code
        finally:
            sys.stdout.flush()
    except LeapZooError as error:
        complain(error)
        return 2
    except BrokenPipeError:  # the reader (such as `| head`) has stopped reading
        return code
    except OSError as error:  # usually a full disk behind stdout; other files have their own errors
        where = "stdout" if error.filename is None else short(error.filename)
        try:
            os.getcwd()
        except OSError:
            where = "the current folder"  # it was removed
        complain(f"{where} cannot be used ({error.strerror or error}): free some space, or choose another place")
        return 2
    finally:
        drop_streams()


def _parser() -> argparse.ArgumentParser:
    import argparse

    from leap_zoo import __version__
    from leap_zoo.cli import bench, fit, gallery, models, predict, pull
    from leap_zoo.cli.grammar import Commands, Parser

    parser = Parser(
        prog="leap-zoo",
        description="Small vision transformers, distilled by LEAP: classify and embed photos on this device.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"leap-zoo {__version__}")
    commands = Commands(parser)
    for module in (models, predict, fit, gallery, pull, bench):
        module.add(commands)
    return parser
