"""Bulk embedding and classification on Ray Data, on one machine or a cluster; extra `ray`.

    ray.data.read_parquet("s3://lake/photos").map_batches(
        Embed,
        fn_constructor_kwargs={"model": "leap-tiny"},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=8),
    )

`Embed` and `Classify` are for pipelines of your own. `embed_photos` writes Parquet shards of vectors, or of the classes
of a head, that a later run can complete.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import msgspec

from leap_zoo.card import Head
from leap_zoo.errors import InvalidArgument, LeapZooError, import_extra, short, whole_number
from leap_zoo.files import check_place
from leap_zoo.folders import name_of
from leap_zoo.gallery import Kind
from leap_zoo.heads import CustomHead
from leap_zoo.loading import load
from leap_zoo.model import Model, Space, output_of
from leap_zoo.progress import Progress
from leap_zoo.settings import read_settings
from leap_zoo.shards import (
    ROWS,
    Columns,
    Named,
    Piece,
    Plan,
    answer_each,
    fetch,
    find_pieces,
    finished,
    load_plan,
    named_rows,
    part_name,
    read_photos,
    save_plan,
    to_labels,
    to_table,
    write_table,
)


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """A model as each node finds it: as `leap_zoo.load` does, or pulled from `source` (each file once per node).

    revision: None, or the one that it must have; a node with another one refuses to work.
    """

    model: str | None = None
    source: str | None = None
    zoo: str | None = None
    precision: Any = None
    format: Any = None
    threads: int | None = 1
    revision: str | None = None

    def open(self) -> Model:
        """Load it. Raises as `leap_zoo.load` and `leap_zoo.pull` do, InvalidArgument for another revision."""
        name, zoo = self.model, self.zoo
        if self.source is not None:
            from leap_zoo.pull import pull

            name = pull(name, self.source, precision=self.precision, format=self.format).model
            zoo = str(read_settings().home)
        model = load(name, zoo=zoo, precision=self.precision, format=self.format, threads=self.threads)
        if self.revision not in (None, model.card.revision):
            raise InvalidArgument(
                f"this node has {model.card.id} {model.card.revision}, the run is for {self.revision}: pull the same "
                "model on every node, or give --from"
            )
        return model


class _Answers:
    """A model, and how photos become a table: of vectors in a space, or of the best classes of a head."""

    def __init__(self, model: Model, space: str = "student", head: Head | CustomHead | None = None) -> None:
        self.model, self.head, self.kind = model, head, Kind.of(model, space)

    def table(self, photos: Iterable[Named]) -> Any:
        """Photos -> Arrow table, row by row. Raises as `Model.answers` does."""
        if self.head is not None:
            return to_labels(answer_each(self.model, photos, self.head.output), self.head)
        return to_table(answer_each(self.model, photos, output_of(self.kind.space)), self.kind)


class Embed:
    """A class for `ray.data.Dataset.map_batches(..., batch_format="pyarrow")`: photos in, ids and vectors out.

    The batch has the photo in a column `bytes`, `image` or `path` (or `column`), and perhaps an `id`. The answer has
    `id`, `vector` and `error`, as `leap_zoo.shards` describes: a bad photo is a row with its error.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        space: Space = "student",
        column: str | None = None,
        id: str = "id",
        **which: Any,
    ) -> None:
        """which: source, zoo, precision, format, threads (default: 1), revision, as in `Which`."""
        self.answers = _Answers(Which(model=model, **which).open(), space)
        self.columns = Columns(column, id)

    def __call__(self, batch: Any) -> Any:
        """Arrow table -> Arrow table, row by row."""
        return self.answers.table(fetch(named_rows(batch, self.columns)))


class Classify(Embed):
    """As `Embed`, but the answer has `label`, `score`, and `unsure` of the best class in place of the vector."""

    def __init__(
        self,
        model: str | None = None,
        *,
        head: str | None = None,
        column: str | None = None,
        id: str = "id",
        **which: Any,
    ) -> None:
        """head: as in `Model.find_head`; the file of a head lies on every node. which: as in `Embed`."""
        found = Which(model=model, **which).open()
        self.answers = _Answers(found, head=found.find_head(head))
        self.columns = Columns(column, id)


class _Worker:
    """Embeds or classifies pieces and writes their parts; one per Ray actor."""

    def __init__(self, which: Which, plan: Plan, out: str) -> None:
        model, self.plan, self.out = which.open(), plan, out
        self.answers = _Answers(model, plan.kind.space, None if plan.head is None else model.find_head(plan.head))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The number and piece (JSON) of a part -> how many photos, how many bad ones, and why the piece failed."""
        number = int(row["number"])
        said = {"number": number, "photos": 0, "bad": 0, "failed": ""}
        try:
            piece = msgspec.json.decode(row["piece"], type=Piece)
            table = self.answers.table(read_photos(piece, self.plan.columns))
            write_table(table, self.out, part_name(number))
            said |= {"photos": len(table), "bad": len(table) - table["error"].null_count}
        except LeapZooError as error:
            said["failed"] = str(error)
        return said


@dataclass
class Embedded:
    """What a run did: photos answered or refused (`bad`) now, parts written now and before (`kept`) of `pieces`.

    failed: pieces that could not be read or written, by the name of the part, and why; the next run tries them again.
    """

    plan: Plan
    photos: int = 0
    bad: int = 0
    parts: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def embed_photos(
    inputs: Sequence[str],
    out: str,
    which: Which | None = None,
    *,
    space: Space = "student",
    columns: Columns | None = None,
    rows: int = ROWS,
    address: str | None = None,
    workers: int | None = None,
    progress: bool = False,
    head: str | None = None,
) -> Embedded:
    """Embed photos, Parquet and tar files into Parquet parts in `out`, on Ray. A part that is there stays.

    inputs, out: paths that every node sees, or fsspec URLs. What is embedded is listed when a folder is begun: photos
    that come later want another folder. which: the model; its `threads` are the cores of each worker.
    address: of a Ray cluster (`auto`: the one of this machine); None: a Ray of our own here, which ends with the call.
    workers: default: as many as the cluster has cores for. 0: no Ray, in this process.
    head: write the classes of this head, not vectors; "": of the default head.
    Raises LeapZooError.
    """
    whole_number(rows, "rows", 1)
    check_place(out, "the output")
    if workers != 0:
        _import_ray()  # before a folder is begun
    which, columns = which or Which(), columns or Columns()
    model = which.open()
    if head is not None:
        model.find_head(head or None)  # an unknown one is refused before a folder is begun
        head = head or model.card.default_head
    which = msgspec.structs.replace(which, model=which.model or model.card.id, revision=model.card.revision)
    wanted = Plan(
        kind=Kind.of(model, space),
        precision=model.artifact.precision,
        inputs=[name_of(one) for one in inputs],
        columns=columns,
        rows=rows,
        head=head,
    )
    plan = load_plan(out)
    if plan is None:
        plan = msgspec.structs.replace(wanted, pieces=find_pieces(inputs, rows))
        save_plan(plan, out)
    plan.check_same(wanted, out)
    there = finished(out)
    todo = [
        {"number": number, "piece": msgspec.json.encode(piece).decode()}
        for number, piece in enumerate(plan.pieces)
        if part_name(number) not in there
    ]
    report = Embedded(plan, kept=len(plan.pieces) - len(todo))
    lean = msgspec.structs.replace(plan, pieces=[])
    with Progress(len(plan.pieces), shown=progress, unit="parts") as bar:
        bar.step(report.kept)

        def note(row: dict[str, Any]) -> None:
            bar.step()
            if row["failed"]:
                report.failed[part_name(row["number"])] = row["failed"]
                return
            report.parts += 1
            report.photos += row["photos"]
            report.bad += row["bad"]

        if workers == 0:
            worker = _Worker(which, lean, out)
            for one in todo:
                note(worker(one))
        elif todo:
            model.close()
            with redirect_stdout(sys.stderr):  # where Ray says what it tries again; stdout is for the answer
                _on_ray(todo, (which, lean, out), which.threads or 1, address, workers, note)
    return report


def _on_ray(
    todo: list[dict[str, Any]],
    job: tuple[Which, Plan, str],
    cores: int,
    address: str | None,
    workers: int | None,
    note: Callable[[dict[str, Any]], None],
) -> None:
    """Each worker takes one piece after the other. Ray starts a killed one again and gives it the piece again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    ray = _import_ray()
    ours = not ray.is_initialized()
    if ours:
        local: dict[str, Any] = {} if address else {"num_cpus": workers and workers * cores, "include_dashboard": False}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, ValueError) as error:
            raise InvalidArgument(f"no Ray at {short(address)} ({short(error)}): start it with ray start") from error
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        pieces = ray.data.from_items(todo, override_num_blocks=len(todo))
        answers = pieces.map(
            _Worker,
            fn_constructor_args=job,
            num_cpus=cores,
            compute=ray.data.ActorPoolStrategy(size=min(count, len(todo))),
        )
        for row in answers.iter_rows():
            note(row)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, LeapZooError):
            raise cause from error
        raise InvalidArgument(f"Ray gave up ({short(error, 300)}): run the command again to continue") from error
    finally:
        if ours:
            ray.shutdown()


def _import_ray() -> Any:
    import_extra("ray.data", "ray")
    return import_extra("ray", "ray")
