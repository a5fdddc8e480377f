"""Dropped photos -> what is kept of them, with a word on each that cannot be used and on those beyond the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leap_zoo import LeapZooError
from serve.demo.backend import Backend, explain
from serve.demo.uploads import name_of, read_upload
from serve.problems import Refused

_TOLD = 3  # bad photos that are named; the others are counted


@dataclass(frozen=True)
class Looked:
    """A photo that our decoder can read: its name, path and thumbnail."""

    name: str
    path: str
    thumbnail: str


async def gather(backend: Backend, paths: Sequence[str], room: int) -> tuple[list[Looked], list[str]]:
    """At most `room` good photos, and sentences about the rest. Raises Refused when the server is busy."""
    notes = []
    if len(paths) > room:
        notes.append(f"There is room for {room} more, so {len(paths) - room} of the {len(paths)} photos were left out.")
    good: list[Looked] = []
    bad: list[str] = []
    for path in paths[:room]:
        try:
            good.append(Looked(name_of(path), path, await backend.look(read_upload(path))))
        except (LeapZooError, Refused) as error:
            if isinstance(error, Refused) and error.status == 503:
                raise
            bad.append(f"{name_of(path)}: {explain(error)}")
    notes += bad[:_TOLD]
    if len(bad) > _TOLD:
        notes.append(f"{len(bad) - _TOLD} more photos cannot be used.")
    return good, notes
