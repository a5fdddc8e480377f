"""`leap-zoo`: list, show, classify, embed, verify.

Exit codes: 0 done; 1 `verify` found a model that must not be trusted; 2 something the user can mend, one line on
stderr.
Only argparse is imported here; a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from leap_zoo.errors import ArtifactCorrupt, ImageError, InvalidArgument, InvalidCard, LeapZooError, short

if TYPE_CHECKING:
    from leap_zoo.card import ModelCard
    from leap_zoo.model import Model

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
DEFAULT_MODEL = "leap-nano"

_EXAMPLES = """examples:
  leap-zoo list
  leap-zoo show leap-nano
  leap-zoo classify photo.jpg --top 3
  leap-zoo classify holiday/ --json > classes.json
  leap-zoo classify - < photo.jpg
  leap-zoo embed holiday/ --out holiday.npz
  leap-zoo verify leap-nano

environment:
  LEAP_ZOO_URL      folder of a zoo to look in before the bundled one
  LEAP_ZOO_THREADS  threads per model (default: what this machine allows)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    # What matters of Pillow's warnings (too many pixels, truncated) becomes an error of ours, on one line.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
        sys.stdout.flush()
        return code
    except LeapZooError as error:
        print(f"leap-zoo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _list(options: argparse.Namespace) -> int:
    from leap_zoo.registry import models

    cards = models(options.zoo)
    if options.json:
        keys = ("id", "revision", "family", "description", "parameters")
        rows = [
            {key: getattr(card, key) for key in keys}
            | {"precisions": [artifact.precision for artifact in card.artifacts], "heads": [h.name for h in card.heads]}
            for card in cards
        ]
        return _print_json(rows)
    for card in cards:
        files = ", ".join(f"{artifact.precision} {_size(artifact.bytes)}" for artifact in card.artifacts)
        print(f"{card.id}  {card.parameters / 1e6:.2f} M parameters  {files}\n    {card.description}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from leap_zoo.registry import find

    _, card = find(options.model, options.zoo)
    if options.json:
        return _print_json(card)
    print("\n".join(_card_lines(card)))
    return 0


def _card_lines(card: ModelCard) -> Iterable[str]:
    spec, dims, licences = card.preprocessing, card.embedding_dims, card.licences
    yield f"{card.id}  revision {card.revision}"
    yield f"  {card.description}"
    yield f"  parameters  {card.parameters:,}"
    yield f"  photo       short side to {spec.short_side} ({spec.filter}), centre {spec.size} x {spec.size}"
    yield f"  embeddings  student {dims.student}, teacher {dims.teacher}"
    for head in card.heads:
        default = " (default)" if head.name == card.default_head else ""
        sample = ", ".join(head.labels[:3]) + (", ..." if len(head.labels) > 3 else "")
        yield f"  head        {head.name}{default}: {len(head.labels)} classes: {sample}"
    yield f"  licences    code {licences.code}; weights {licences.weights}"
    yield f"              teacher {licences.teacher}; data {licences.data}"
    for artifact in card.artifacts:
        yield f"  {artifact.file}  {artifact.precision}  {_size(artifact.bytes)}  sha256 {artifact.sha256}"
        for metric in artifact.metrics:
            interval = "" if metric.interval is None else f" ({metric.interval[0]:.4g} to {metric.interval[1]:.4g})"
            head_name = f" [{metric.head}]" if metric.head else ""
            where = f"{metric.dataset} {metric.split}, n={metric.n}"
            yield f"    {metric.name}{head_name}  {metric.value:.4g}{interval}  {where}"
        for row in (row for row in card.latency if row.file == artifact.file):
            yield f"    {row.median_ms:.3g} ms median, batch {row.batch}, {row.threads} threads, {row.device}"
    if card.training is not None:
        training = card.training
        yield f"  training    {training.strategy} from {training.teacher.name}, {training.epochs:g} epochs"
        yield f"              {training.teacher_flops_saved:.1%} of the teacher's FLOPs saved; commit {training.commit}"


def _classify(options: argparse.Namespace) -> int:
    from leap_zoo.model import load

    photos = list(_expand(options.photos))
    model = load(options.model, zoo=options.zoo)
    head = options.head or model.card.default_head
    rows: list[dict[str, Any]] = []

    def one(source: str | bytes, name: str) -> None:
        predictions = model.classify(source, top=options.top, head=head)
        if options.json:
            rows.append({"photo": name, "predictions": predictions})
            return
        if len(photos) > 1:
            print(name)
        for prediction in predictions:
            print(f"{prediction.score:7.1%}  {prediction.label}")

    bad = _each_photo(photos, one, rows, prints=not options.json)
    if options.json:
        _print_json(_about(model) | {"head": head, "photos": rows})
    return 2 if bad else 0


def _embed(options: argparse.Namespace) -> int:
    from leap_zoo.model import load

    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise InvalidArgument(f"--out {short(options.out)}: its folder does not exist: create it first")
    photos = list(_expand(options.photos))
    model = load(options.model, zoo=options.zoo)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    embeddings: list[Any] = []

    def one(source: str | bytes, name: str) -> None:
        embedding = model.embed(source, space=options.space)
        if options.out is not None:
            names.append(name)
            embeddings.append(embedding)
        elif options.json:
            rows.append({"photo": name, "embedding": embedding.tolist()})
        else:
            print(name, *(f"{value:.6g}" for value in embedding), sep="\t")

    bad = _each_photo(photos, one, rows, prints=not options.json and options.out is None)
    if options.out is not None and embeddings:
        _save_embeddings(options.out, model, options.space, names, embeddings)
        if not options.json:
            print(f"{len(names)} embeddings of length {len(embeddings[0])} in {options.out}")
    if options.json:
        saved = {} if options.out is None else {"file": str(options.out), "embeddings": len(names)}
        _print_json(_about(model) | {"space": options.space} | saved | {"photos": rows})
    return 2 if bad else 0


def _verify(options: argparse.Namespace) -> int:
    from leap_zoo.verify import verify

    try:
        report = verify(options.model, options.zoo)
    except (ArtifactCorrupt, InvalidCard) as error:  # index or card themselves: as untrustworthy as a bad file
        if options.json:
            _print_json({"model": options.model, "ok": False, "error": str(error)})
        print(f"leap-zoo: {error}", file=sys.stderr)
        return 1
    if options.json:
        _print_json(report)
    else:
        print(f"{report.model} {report.revision} on {report.device} ({', '.join(report.isa) or 'unknown ISA'})")
    for artifact in report.artifacts:
        if not artifact.ok:
            print(f"leap-zoo: {artifact.error}", file=sys.stderr)
        if not options.json:
            print(f"{'ok  ' if artifact.ok else 'FAIL'}  {artifact.file}  {artifact.runtime or ''}".rstrip())
            for output in artifact.outputs:
                print(f"      {output.output}  differs by {output.difference:.2g}, at most {output.tolerance:.2g}")
    return 0 if report.ok else 1


def _expand(arguments: Iterable[str]) -> Iterable[str]:
    """The photos that the arguments mean: files as they are, folders as the photos below them, `-` as stdin."""
    for argument in arguments:
        if argument == "-" or not os.path.isdir(argument):
            yield argument
            continue
        below = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(argument)
            for name in names
            if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
        ]
        if not below:
            raise InvalidArgument(f"no photos in the folder {short(argument)}: give one that holds .jpg, .png, ...")
        yield from sorted(below)


def _each_photo(
    photos: Sequence[str], one: Callable[[str | bytes, str], None], rows: list[dict[str, Any]], *, prints: bool
) -> int:
    """Call `one` on each photo; report bad ones on stderr and in `rows`, and go on. Returns how many were bad.

    prints: whether `one` writes to stdout, where a progress bar on the same terminal would be in the way.
    """
    from leap_zoo.preprocess import MAX_BYTES
    from leap_zoo.progress import Progress

    bad = 0
    with Progress(len(photos), shown=not (prints and sys.stdout.isatty())) as progress:
        for photo in photos:
            name = os.fsencode(photo).decode("utf-8", "replace")  # file names need not be valid UTF-8
            try:
                one(sys.stdin.buffer.read(MAX_BYTES + 1) if photo == "-" else photo, name)
            except ImageError as error:
                bad += 1
                progress.clear()
                print(f"leap-zoo: {name}: {error}", file=sys.stderr)
                rows.append({"photo": name, "error": str(error)})
            progress.step()
    return bad


def _save_embeddings(path: Path, model: Model, space: str, names: list[str], embeddings: list[Any]) -> None:
    """npz: `embeddings` float32 (N, D), `photos` (N,), and which model and space they belong to."""
    import numpy as np

    try:
        with path.open("wb") as file:  # np.savez would append .npz to a name without it
            np.savez(
                file,
                embeddings=np.stack(embeddings),
                photos=np.array(names),
                model=np.array(model.card.id),
                revision=np.array(model.card.revision),
                space=np.array(space),
            )
    except OSError as error:
        raise InvalidArgument(f"--out {short(path)} cannot be written ({error.strerror}): choose another") from error


def _about(model: Model) -> dict[str, Any]:
    return {"model": model.card.id, "revision": model.card.revision, "precision": model.artifact.precision}


def _print_json(value: Any) -> int:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value)).decode())
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not the whole usage."""
        self.exit(2, f"leap-zoo: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--zoo", metavar="FOLDER", help="look in this zoo only")
    common.add_argument("--json", action="store_true", help="print one JSON document")
    many = _Parser(add_help=False, parents=[common])
    many.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos, or - for stdin")
    many.add_argument("--model", default=DEFAULT_MODEL, help="default: %(default)s")

    parser = _Parser(
        prog="leap-zoo",
        description="Small vision transformers, distilled by LEAP: classify and embed photos on this device.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_VersionAction, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, parent, text, example in (
        ("list", _list, common, "list the models of the zoo", "leap-zoo list --zoo my-zoo/"),
        ("show", _show, common, "show a model's card", "leap-zoo show leap-nano --json"),
        ("classify", _classify, many, "name what is in photos", "leap-zoo classify a.jpg b.jpg --top 3"),
        ("embed", _embed, many, "turn photos into vectors", "leap-zoo embed holiday/ --out holiday.npz"),
        ("verify", _verify, common, "check a model's files and answers on this device", "leap-zoo verify leap-nano"),
    ):
        command = commands.add_parser(name, parents=[parent], help=text, description=text, epilog=f"example: {example}")
        command.set_defaults(command=run)
        if parent is common and name != "list":
            command.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="default: %(default)s")
        if name == "classify":
            command.add_argument(
                "--top", type=_at_least_one, default=5, metavar="N", help="how many classes (default: %(default)s)"
            )
            command.add_argument("--head", help="which of the model's heads (default: the card's)")
        if name == "embed":
            command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
            command.add_argument("--out", type=Path, metavar="FILE.npz", help="write all embeddings to one file")
    return parser


class _VersionAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from leap_zoo import __version__

        print(f"leap-zoo {__version__}")
        parser.exit()


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {short(text)}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
