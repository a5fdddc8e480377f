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
    """A photo that our decoder can read: its name, path, bytes and thumbnail."""

    name: str
    path: str
    photo: bytes
    thumbnail: str


async def gather(backend: Backend, paths: Sequence[str], room: int) -> tuple[list[Looked], list[str]]:
    """At most `room` good photos, and sentences about the rest. Raises Refused when the server is busy."""
    notes = []
    if len(paths) > room:
        notes.append(f"There is room for {room} more, so {len(paths) - room} of the {len(paths)} photos were left out.")
    good: list[Looked] = []
    bad: list[str] = []
    for path in paths[:room]:  # one at a time: no more than one photo's bytes are held
        try:
            photo = read_upload(path)
            [seen] = await backend.look([photo])
        except Refused as error:
            if error.status == 503:
                raise
            bad.append(f"{name_of(path)}: {explain(error)}")
            continue
        if isinstance(seen, LeapZooError):
            bad.append(f"{name_of(path)}: {explain(seen)}")
        else:
            good.append(Looked(name_of(path), path, photo, seen))
    notes += bad[:_TOLD]
    if len(bad) > _TOLD:
        notes.append(f"{len(bad) - _TOLD} more photos cannot be used.")
    return good, notes
