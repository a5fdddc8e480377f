"""The sample photos that ship with the demo, by name; samples/ATTRIBUTION.md names authors and licences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from serve.demo.pictures import thumbnail

FOLDER = Path(__file__).with_name("samples")


@dataclass(frozen=True)
class Sample:
    """A photo: `name` as people read it, `group` of what it shows, the file, and its thumbnail as a data: address."""

    name: str
    group: str
    path: Path
    thumbnail: str

    def read(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()


@cache
def samples() -> dict[str, Sample]:
    """Every sample by the name of its file, without suffix, e.g. `taxi-1`."""
    found = {}
    for path in sorted(FOLDER.glob("*.jpg")):
        group, _, number = path.stem.rpartition("-")
        name = group.replace("-", " ")
        found[path.stem] = Sample(f"{name} {number}", name, path, thumbnail(path.read_bytes()))
    return found


def of_group(group: str) -> list[Sample]:
    """The samples that show the same, e.g. `taxi`."""
    return [sample for sample in samples().values() if sample.group == group]
