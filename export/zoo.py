"""`python -m export.zoo add|index|sign`: model folders in a zoo that any static host can serve. Needs no torch.

A model is completed in another folder and then moved into its place. While it is, the index does not list it, so
all models that a zoo lists are complete, for a reader in between and after a process was killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from export.golden import golden_bytes, golden_file
from leap_zoo.card import OTHER_FILES, Index, IndexEntry, ModelCard
from leap_zoo.documents import index_entry, read_document, read_index, write_card, write_index
from leap_zoo.errors import InvalidArgument, InvalidCard, LeapZooError, nearest, short
from leap_zoo.files import write_file
from leap_zoo.locks import locked
from leap_zoo.settings import zoo_folder
from leap_zoo.signing import NEW_KEY, alone, hashing, key_file, reason
from leap_zoo.store import ModelFolder, Zoo, ZooLocation
from leap_zoo.verify import read_golden

TIMM = "model.safetensors"  # stands for all files that timm reads
STAGING, OLD, LOCK = ".staging-", ".old", ".lock"  # ZOO/.staging-DIGITS-MODEL/MODEL is the new folder, .../.old the old
DIGITS = 16
UNFINISHED = f".{'[0-9a-f]' * 16}.tmp"  # of `leap_zoo.files.write_file`, when it was killed


def publish(folder: ZooLocation, card: ModelCard) -> None:
    """`list_card`, after checking the card's files, which must lie in folder/<id>/ already.

    So a zoo never lists files that cannot be loaded. Raises ArtifactCorrupt, InvalidCard.
    """
    place = Zoo(zoo_folder(folder))
    for file in card.files:
        place.read(card, file)
    list_card(place.folder, card)


def list_card(zoo: Path, card: ModelCard) -> None:
    """Write `card` beside its files and list it in the zoo's index, which keeps its other models, sorted by id.

    A `model.sig` that belongs to another card is removed. Raises InvalidCard.
    """
    home = zoo / card.id
    before = read_document(home / "card.json") if (home / "card.json").exists() else None
    with _unlisted(zoo, card.id):
        data = write_card(home / "card.json", card)
        if before != data:
            (home / "model.sig").unlink(missing_ok=True)
        _list(zoo, index_entry(card, data))


def add(folder: str | os.PathLike[str], zoo: ZooLocation, files: Collection[str] = ()) -> ModelCard:
    """Check the model in `folder`, copy it into the zoo (creating the zoo if needed), and list it in its index.

    files: only these artifacts, with a card and golden outputs for them; `model.safetensors` stands for all files that
    timm reads. The folder of an earlier revision is replaced. Raises InvalidArgument, InvalidCard, ArtifactCorrupt.
    """
    source, place = ModelFolder(Path(folder).absolute()), zoo_folder(zoo).absolute()
    entry, card = _checked(source)
    contents = {name: data for name in OTHER_FILES if (data := source.other(entry, name)) is not None}
    if files:
        card, contents = _part(source, card, files)
    with replacing(place, card.id) as home:
        for file in card.files:
            (home / file.file).write_bytes(contents.get(file.file) or source.read(card, file))
        for name, data in contents.items():
            (home / name).write_bytes(data)
        if files:
            from export import text  # needs Jinja2; the other functions do not

            write_card(home / "card.json", card)
            text.describe(card, home)
    return card


def _part(source: Zoo, card: ModelCard, files: Collection[str]) -> tuple[ModelCard, dict[str, bytes]]:
    """The card of these artifacts alone, and its golden file. Raises InvalidArgument."""
    known = [artifact.file for artifact in card.artifacts] + [TIMM] * bool(card.timm)
    for name in files:
        if name not in known:
            raise InvalidArgument(f"{card.id} has no artifact {name!r}{nearest(name, known)}")
    if not {*files} - {TIMM}:
        raise InvalidArgument(f"{TIMM} alone is no model: name another file, too, such as {card.artifacts[0].file}")
    golden = read_golden(source.read(card, card.golden))
    content = golden_bytes({name: v for name, v in golden.items() if name.partition("/")[0] in ("image", *files)})
    kept = [artifact for artifact in card.artifacts if artifact.file in files]
    part = replace(
        card,
        artifacts=kept,
        timm=card.timm if TIMM in files else [],
        latency=[row for row in card.latency if row.file in files],
        golden=golden_file(content, kept),
    )
    return part, {part.golden.file: content}


@contextmanager
def replacing(zoo: Path, model: str) -> Iterator[Path]:
    """An empty folder, on the disk of the zoo, that replaces ZOO/MODEL at the end; the model is then listed.

    It needs all files and the card by then. An error leaves the zoo, which is created if needed, as it was. What killed
    processes left in the zoo is removed first. Raises InvalidArgument if ZOO/MODEL is not a model's folder.
    """
    home = zoo / model
    if os.path.lexists(home) and not (home / "card.json").exists() and not (home.is_dir() and not [*home.iterdir()]):
        raise InvalidArgument(f"{short(home)} exists and is not a model's folder: remove it, or choose another zoo")
    zoo.mkdir(parents=True, exist_ok=True)
    _recover(zoo)
    folder = zoo / f"{STAGING}{os.urandom(DIGITS // 2).hex()}-{model}"
    with locked(zoo / f"{folder.name}{LOCK}"):  # it tells others that this process lives
        (folder / model).mkdir(parents=True)
        try:
            yield folder / model
            _swap(folder / model, home)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _swap(staged: Path, home: Path) -> None:
    entry, old = ModelFolder(staged).entry(), staged.parent / OLD
    with _unlisted(home.parent, home.name):
        if home.exists():
            os.replace(home, old)
        try:
            os.replace(staged, home)
            _list(home.parent, entry)
        except BaseException:
            if not staged.exists():
                os.replace(home, staged)
            if old.exists():
                os.replace(old, home)
            raise


def _recover(zoo: Path) -> None:
    """Remove what killed processes left. A model that one was replacing, or has replaced, is listed again."""
    for name in {path.name.removesuffix(LOCK) for path in zoo.glob(f"{STAGING}*")}:
        with locked(zoo / f"{name}{LOCK}", wait=False) as mine:
            model = name[len(STAGING) + DIGITS + 1 :]
            if mine and model:
                _clean_up(zoo / name, zoo / model)
            elif mine and not (zoo / name / OLD).exists():  # of a version without the model's name; that stays
                shutil.rmtree(zoo / name, ignore_errors=True)


def _clean_up(left: Path, home: Path) -> None:
    old, entry = left / OLD, _whole(home)
    if entry or old.exists():
        with _unlisted(home.parent, home.name):
            if entry is None:
                shutil.rmtree(home, ignore_errors=True)
                os.replace(old, home)
                entry = _whole(home)
            if entry:
                _list(home.parent, entry)
    shutil.rmtree(left, ignore_errors=True)


def _whole(home: Path) -> IndexEntry | None:
    """The entry of the model in this folder, if all its files match."""
    try:
        return _checked(ModelFolder(home))[0]
    except (LeapZooError, OSError):
        return None


@contextmanager
def _unlisted(zoo: Path, model: str) -> Iterator[None]:
    """Leave a model out of the index while its files change, under the index's lock; an error lists it again."""
    index = zoo / "index.json"
    with locked(zoo / ".index.lock"):
        for left in (*zoo.glob(UNFINISHED), *(zoo / model).glob(UNFINISHED)):
            left.unlink()
        before = read_document(index) if index.exists() else None
        if before is not None:
            write_index(index, Index(models=[entry for entry in read_index(index).models if entry.id != model]))
        try:
            yield
        except BaseException:
            if before is not None:
                write_file(index, before)
            raise


def _list(zoo: Path, entry: IndexEntry) -> None:
    """Add the entry of a model that was `_unlisted`."""
    path = zoo / "index.json"
    entries = [entry, *(read_index(path).models if path.exists() else [])]
    write_index(path, Index(models=sorted(entries, key=lambda entry: entry.id)))


def reindex(folder: ZooLocation) -> list[ModelCard]:
    """Rebuild folder/index.json from the model folders there, after checking each one; return their cards.

    Raises InvalidArgument if there are no model folders; ArtifactCorrupt, InvalidCard; the index is then left
    unchanged.
    """
    place = zoo_folder(folder)
    _recover(place)
    found = [(path.parent.name, *_checked(ModelFolder(path.parent))) for path in sorted(place.glob("*/card.json"))]
    if not found:
        raise InvalidArgument(f"{short(place)} contains no model folders: give a zoo's folder")
    for name, _, card in found:
        if card.id != name:
            raise InvalidCard(
                f"{short(place / name)} contains {card.id}, but has another name: rename the folder to {card.id}"
            )
    with locked(place / ".index.lock"):
        write_index(place / "index.json", Index(models=[entry for _, entry, _ in found]))
    return [card for _, _, card in found]


def sign(folder: str | os.PathLike[str], key: str | os.PathLike[str]) -> list[Path]:
    """Sign the model in `folder`, or every model if it is a zoo, after checking the files.

    Returns the signatures' paths. key: a PEM file with an elliptic curve private key (P-256, P-384 or P-521), not
    encrypted. Raises InvalidArgument, InvalidCard, ArtifactCorrupt, MissingExtra.
    """
    private_key, folder = key_file(key), Path(folder).absolute()
    from model_signing import signing

    place = Zoo(folder) if os.path.isfile(folder / "index.json") else ModelFolder(folder)
    fix = f"give an unencrypted private key; {NEW_KEY}"
    signatures = []
    for model in place.index().models:
        entry, _ = _checked(place, model.id)
        with alone(entry.id, place.card_bytes(entry)) as (copy, path):
            try:
                config = signing.Config().set_hashing_config(hashing())
                config.use_elliptic_key_signer(private_key=private_key).sign(copy, path)
            except Exception as error:
                raise InvalidArgument(f"cannot sign with {short(private_key)} ({reason(error)}): {fix}") from error
            signatures.append(place.path(entry.id, "model.sig", entry.sha256))
            write_file(signatures[-1], path.read_bytes())
    return signatures


def _checked(place: Zoo, model: str | None = None) -> tuple[IndexEntry, ModelCard]:
    """The entry and the card of a model, once all its files match. Raises ArtifactCorrupt, InvalidCard."""
    entry = place.entry(model)
    card = place.card(entry)
    for file in card.files:
        place.read(card, file)
    return entry, card


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m export.zoo", description="A zoo that any static host can serve.")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="check a model's folder, copy it into a zoo, and list it")
    indexing = commands.add_parser("index", help="rebuild a zoo's index from its model folders")
    signing = commands.add_parser("sign", help="sign a model's folder, or every model of a zoo")
    adding.add_argument("folder", help="a model's folder")
    adding.add_argument("--file", action="append", default=[], metavar="NAME", help="only this file (may be repeated)")
    for command in (adding, indexing):
        command.add_argument("--zoo", required=True, metavar="FOLDER")
    signing.add_argument("folder", help="a model's folder, or a zoo")
    signing.add_argument("--key", required=True, metavar="PEM")
    options = parser.parse_args(arguments)
    try:
        if options.command == "sign":
            print(*sign(options.folder, options.key), sep="\n")
            print("publish model.sig with the model, and your public key in a place that users trust", file=sys.stderr)
            return 0
        adds = options.command == "add"
        for card in [add(options.folder, options.zoo, options.file)] if adds else reindex(options.zoo):
            print(f"{card.id} {card.revision}: {len(card.files)} files, all match the card")
    except (LeapZooError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
