"""Shards: many photos in pieces, and the Parquet file of vectors or classes that each piece becomes; extra `ray`.

A plan lists the pieces once, in `_plan.parquet` of the output folder. A piece is a list of photos, one row group of a
Parquet file, or one tar file. It becomes one `part-NNNNNN.parquet` with a row per photo:

    id      text: the photo's path or URL, TAR/MEMBER, or the value of the input's own column
    vector  float32 (D,), of length 1; null where the photo could not be read
    error   text: why it could not be read; null where it could

Classified photos have `label` (text), `score` (float32, 0..1) and `unsure` (null: the head has no threshold) in place
of the vector. A part is written whole or not at all, so a run that was killed continues with the pieces that have none.
Folders and files are local paths or URLs of fsspec (s3://, gs://, ...).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np

from leap_zoo.card import Head
from leap_zoo.errors import ImageError, InvalidArgument, MissingExtra, UnreadableFile, import_extra, short
from leap_zoo.files import atomic_file, check_place
from leap_zoo.folders import JUNK_FOLDERS, PHOTO_SUFFIXES, Found, name_of, photos_below
from leap_zoo.gallery import Kind
from leap_zoo.heads import CustomHead
from leap_zoo.model import Model, Row, predict
from leap_zoo.preprocess import LIMITS

PLAN = "_plan.parquet"  # readers of Parquet folders skip names that begin with _
KEY = b"leap_zoo"  # of the schema's metadata: the plan, or the kind of the vectors
ROWS = 1000  # photos per piece
FETCHED = 32  # photos of a remote store that are asked for at once
TARS = (".tar", ".tar.gz", ".tgz")
SHARDS = (".parquet", *TARS)

Photo = str | bytes | ImageError
Named = tuple[str, Photo]


class Piece(msgspec.Struct, frozen=True):
    """Work that becomes one part: `photos`, or the row group `group` of a Parquet file, or a tar file (`place`).

    Paths are bytes (`os.fsencode`), because names of files need not be valid UTF-8.
    """

    kind: Literal["photos", "parquet", "tar"]
    photos: list[bytes] = []
    place: bytes = b""
    group: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does, so that the process that continues it does the same; `columns`: see `Columns`."""

    kind: Kind
    precision: str
    inputs: list[str]
    columns: Columns
    rows: int = ROWS
    head: str | None = None  # whose classes are written; None: vectors
    pieces: list[Piece] = []

    def check_same(self, wanted: Plan, out: str) -> None:
        """Raises InvalidArgument when the folder `out` was begun for something else."""
        for name in ("kind", "precision", "inputs", "columns", "rows", "head"):
            ours, theirs = getattr(self, name), getattr(wanted, name)
            if ours != theirs:
                raise InvalidArgument(
                    f"{short(out)} was begun with another {name} ({short(ours)}, now {short(theirs)}): continue with "
                    "the same command, or give another --out"
                )


class Columns(msgspec.Struct, frozen=True):
    """The columns of a Parquet input. The photo: bytes, a path or URL, or a struct of bytes and path (as of hubs)."""

    photo: str | None = None  # None: the first of PHOTO_COLUMNS that is there
    id: str = "id"  # where it is missing, FILE:ROW


PHOTO_COLUMNS = ("bytes", "image", "path")


def part_name(number: int) -> str:
    """The file of a piece."""
    return f"part-{number:06d}.parquet"


def find_pieces(inputs: Sequence[str], rows: int = ROWS) -> list[Piece]:
    """Everything to embed in files, folders and URLs: photos, Parquet files and tar files, in a fixed order.

    Hidden and junk folders are left out. Raises InvalidArgument when there is nothing, or a place cannot be listed.
    """
    pieces: list[Piece] = []
    photos: list[bytes] = []
    for place in inputs:
        for one in _files(check_place(place, "the input")):
            if one.endswith(".parquet"):
                pieces += [Piece("parquet", place=os.fsencode(one), group=group) for group in range(_groups(one))]
            elif one.lower().endswith(TARS):
                pieces.append(Piece("tar", place=os.fsencode(one)))
            else:
                photos.append(os.fsencode(one))
    pieces += [Piece("photos", photos=photos[at : at + rows]) for at in range(0, len(photos), rows)]
    if not pieces:
        where = ", ".join(map(short, inputs[:3])) or "an empty list"
        raise InvalidArgument(f"no photos, Parquet or tar files in {where}: give a folder or file of them")
    return pieces


def _files(place: str) -> list[str]:
    """The photos, Parquet and tar files of a place, or the place itself where it is a file."""
    if "://" not in place:
        path = os.path.abspath(place)
        if not os.path.isdir(path):
            return [path]
        found = Found(suffixes=(*PHOTO_SUFFIXES, *SHARDS))
        files = photos_below(path, found)
        for folder, why in found.bad.items():
            if folder != name_of(path) or found.skipped["unreadable_folders"]:
                raise InvalidArgument(why)  # a set without a folder of it would look complete
        return [one for one in files if os.path.basename(one) != PLAN]
    system, root = open_system(place)
    with reading(place):
        if system.isfile(root):
            return [place]
        found_there = sorted(system.find(root))
    return [system.unstrip_protocol(one) for one in found_there if _wanted(one.removeprefix(root), SHARDS)]


def _wanted(path: str, more: tuple[str, ...] = ()) -> bool:
    """Whether a file in a store or a tar file is a photo, or ends in one of `more`, and is not in a hidden folder."""
    hidden = any(part.startswith((".", "_")) or part.lower() in JUNK_FOLDERS for part in PurePosixPath(path).parts)
    return path.lower().endswith((*PHOTO_SUFFIXES, *more)) and not hidden


def _groups(place: str) -> int:
    with reading(place), _open(place) as file:
        return int(_parquet().ParquetFile(file).num_row_groups)


def read_photos(piece: Piece, columns: Columns) -> Iterator[Named]:
    """The id of each photo of a piece, and its path, its bytes, or why it cannot be had.

    Raises InvalidArgument when the piece itself cannot be read.
    """
    place = os.fsdecode(piece.place)
    if piece.kind == "photos":
        yield from fetch((name_of(one), one) for one in map(os.fsdecode, piece.photos))
    elif piece.kind == "tar":
        yield from _members(place)
    else:
        with reading(place), _open(place) as file:
            parquet = _parquet().ParquetFile(file)
            start = sum(parquet.metadata.row_group(before).num_rows for before in range(piece.group))
            for batch in parquet.iter_batches(FETCHED, row_groups=[piece.group]):
                yield from fetch(named_rows(batch, columns, name_of(place), start))
                start += len(batch)


def named_rows(batch: Any, columns: Columns, place: str = "row", start: int = 0) -> Iterator[tuple[str, Any]]:
    """The id of each row of an Arrow batch or table, and its bytes or path. Raises InvalidArgument without a column."""
    names = batch.schema.names
    photo = next((name for name in ([columns.photo] if columns.photo else PHOTO_COLUMNS) if name in names), None)
    if photo is None:
        wanted = columns.photo or ", ".join(PHOTO_COLUMNS)
        raise InvalidArgument(
            f"{short(place)} has no column {wanted} (it has {', '.join(names)}): name it with --column"
        )
    ids = batch[columns.id].to_pylist() if columns.id in names else [None] * len(batch)
    for number, (one, value) in enumerate(zip(ids, batch[photo], strict=True), start):
        plain = value.as_py()
        if isinstance(plain, dict):
            plain = plain.get("bytes") or plain.get("path")
        yield f"{place}:{number}" if one is None else str(one), plain


def fetch(named: Iterable[tuple[str, Any]]) -> Iterator[Named]:
    """Photos as the model takes them: bytes and local paths as they are; what lies behind URLs is read, 32 at once."""
    waiting = iter(named)
    while part := list(islice(waiting, FETCHED)):
        urls = [value for _, value in part if isinstance(value, str) and "://" in value]
        read = _fetched(urls)
        for name, value in part:
            if value is None or value == b"":
                yield name, UnreadableFile("there is no photo in this row: its bytes or path are missing")
            elif not isinstance(value, (str, bytes)):
                yield name, UnreadableFile(f"a photo is bytes or a path, not {type(value).__name__}: check the column")
            else:
                yield name, read.get(value, value) if isinstance(value, str) else value


def _fetched(urls: Sequence[str]) -> dict[str, Photo]:
    groups: dict[str, list[str]] = {}
    for url in urls:
        groups.setdefault(url.partition("://")[0], []).append(url)
    read: dict[str, Photo] = {}
    for same in groups.values():
        try:
            system, _ = open_system(same[0])
        except InvalidArgument as error:  # no such kind of URL: of these rows alone
            read |= {url: UnreadableFile(str(error)) for url in same}
            continue
        paths = [str(system._strip_protocol(url)) for url in same]
        ends = [LIMITS.bytes + 1] * len(paths)  # one more, so that the decoder sees that a photo is too large
        answers = system.cat_ranges(paths, [0] * len(paths), ends, on_error="return")
        for url, answer in zip(same, answers, strict=True):
            why = UnreadableFile(f"cannot read {short(url)} ({short(answer)}): check the URL and permissions")
            read[url] = bytes(answer) if isinstance(answer, (bytes, bytearray)) else why
    return read


def _members(place: str) -> Iterator[Named]:
    """The photos of a tar file; where it breaks off, a row of its own says so."""
    try:
        with _open(place) as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile() or not _wanted(member.name):
                    continue
                content = archive.extractfile(member)
                assert content is not None  # a regular file has one
                yield name_of(f"{place}/{member.name}"), content.read(LIMITS.bytes + 1)
    except (OSError, tarfile.TarError, EOFError) as error:
        yield name_of(place), UnreadableFile(f"the tar file cannot be read to its end ({short(error)}): pack it again")


Answer = tuple[str, Row | None, str | None]


def answer_each(model: Model, photos: Iterable[Named], output: str) -> Iterator[Answer]:
    """For each photo, in order, its id, its row of `output`, and its error. Raises as `Model.answers` does."""
    names: deque[str] = deque()

    def each() -> Iterator[Photo]:
        for name, photo in photos:
            names.append(name)
            yield photo

    for answer in model.answers(each(), output):
        name = names.popleft()
        yield (name, None, str(answer)) if isinstance(answer, ImageError) else (name, answer, None)


def to_table(rows: Iterable[Answer], kind: Kind) -> Any:
    """An Arrow table of embeddings by `answer_each`, whose schema's metadata say what the vectors are."""
    arrow = import_extra("pyarrow", "ray")
    fields = [("id", arrow.string()), ("vector", arrow.list_(arrow.float32())), ("error", arrow.string())]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    return arrow.table(columns, arrow.schema(fields, {KEY: msgspec.json.encode(kind)}))


def to_labels(rows: Iterable[Answer], head: Head | CustomHead) -> Any:
    """An Arrow table of the best class of each row that `answer_each` gives of `head.output`."""
    arrow = import_extra("pyarrow", "ray")
    each = list(rows)
    good = [row for _, row, _ in each if row is not None]
    best = iter(predict(head, np.stack(good), 1) if good else [])
    found: list[dict[str, Any]] = []
    for name, row, error in each:
        found.append({"id": name, "error": error})
        if row is not None:
            one = next(best)
            unsure = None if one.distance is None else one.unsure
            found[-1] |= {"label": one[0].label, "score": one[0].score, "unsure": unsure}
    texts, unsure_field = arrow.string(), ("unsure", arrow.bool_())
    fields = [("id", texts), ("label", texts), ("score", arrow.float32()), unsure_field, ("error", texts)]
    return arrow.Table.from_pylist(found, arrow.schema(fields))


def read_vectors(place: str) -> Iterator[tuple[Kind | None, list[str], Any]]:
    """Ids and vectors float32 (N, D) of a Parquet file, or of the parts of a folder; rows with an error are left out.

    Also whose they are, where the file says so. Raises InvalidArgument for other files.
    """
    files = [one for one in _files(place) if one.endswith(".parquet")]
    if not files:
        raise InvalidArgument(f"no Parquet files in {short(place)}: give what leap-zoo embed --engine ray wrote")
    for one in files:
        with reading(one), _open(one) as file:
            parquet = _parquet().ParquetFile(file)
            about = (parquet.schema_arrow.metadata or {}).get(KEY)
            if not {"id", "vector"} <= set(parquet.schema_arrow.names):
                raise InvalidArgument(f"{short(one)} has no columns id and vector: give what leap-zoo embed wrote")
            kind = None if about is None else msgspec.json.decode(about, type=Kind)
            for batch in parquet.iter_batches(8192, columns=["id", "vector"]):
                kept = batch.filter(batch["vector"].is_valid())
                if len(kept):
                    if len(import_extra("pyarrow.compute", "ray").list_value_length(kept["vector"]).unique()) > 1:
                        raise ValueError("its vectors have different lengths")
                    rows = kept["vector"].flatten().to_numpy(zero_copy_only=False)
                    yield kind, kept["id"].to_pylist(), rows.reshape(len(kept), -1)


def write_table(table: Any, out: str, name: str) -> None:
    """A Parquet file in the folder `out`, whole or not at all. Raises InvalidArgument."""
    buffer = io.BytesIO()
    _parquet().write_table(table, buffer)
    with reading(out):
        if "://" not in out:
            with atomic_file(Path(out, name)) as file:
                file.write(buffer.getbuffer())
        else:  # an object appears when it is complete
            system, root = open_system(out)
            system.pipe_file(f"{root}/{name}", buffer.getvalue())


def save_plan(plan: Plan, out: str) -> None:
    """`_plan.parquet`: a row per piece, the rest in the schema's metadata."""
    import pyarrow

    rows = [msgspec.to_builtins(piece, builtin_types=(bytes,)) for piece in plan.pieces]
    about = msgspec.json.encode(msgspec.structs.replace(plan, pieces=[]))
    write_table(pyarrow.Table.from_pylist(rows).replace_schema_metadata({KEY: about}), out, PLAN)


def load_plan(out: str) -> Plan | None:
    """The plan of a folder that was begun; None: it was not. Raises InvalidArgument for a broken one."""
    with reading(out):
        if PLAN not in _listed(out):
            return None
        with _open(f"{out.rstrip('/')}/{PLAN}") as file:
            table = _parquet().read_table(file)
        plan = msgspec.json.decode((table.schema.metadata or {}).get(KEY, b""), type=Plan)
        return msgspec.structs.replace(plan, pieces=msgspec.convert(table.to_pylist(), list[Piece]))


def finished(out: str) -> set[str]:
    """The names of the parts that are there."""
    with reading(out):
        return {name for name in _listed(out) if name.startswith("part-")}


def _listed(out: str) -> list[str]:
    system, root = open_system(out)
    system.makedirs(root, exist_ok=True)
    system.invalidate_cache()
    return [PurePosixPath(one).name for one in system.ls(root, detail=False)]


def open_system(url: str) -> tuple[Any, str]:
    """The file system of an fsspec URL, and the path in it. Raises MissingExtra, InvalidArgument."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtra(f"{short(url)} cannot be opened ({error}): install that package on every node") from error
    except ValueError as error:
        raise InvalidArgument(f"{short(url)} cannot be opened ({error}): give a path or an fsspec URL") from error
    return system, str(path).rstrip("/")


def _open(place: str) -> Any:
    system, path = open_system(place)
    return system.open(path, "rb")


@contextmanager
def reading(place: str) -> Iterator[None]:
    """`with reading(place):` what the file system or Arrow complain about becomes InvalidArgument, on one line."""
    arrow = import_extra("pyarrow", "ray")
    try:
        yield
    except (OSError, ValueError, arrow.ArrowException, msgspec.MsgspecError, KeyError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidArgument(f"{short(place)} cannot be used ({why}): check the path and permissions") from error


def _parquet() -> Any:
    return import_extra("pyarrow.parquet", "ray")
