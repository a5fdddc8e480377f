"""How answers are printed, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leap_zoo.model import Model


def about(model: Model) -> dict[str, Any]:
    """Which model answered, for --json."""
    return {"model": model.card.id, "revision": model.card.revision, "precision": model.artifact.precision}


def print_json(value: Any) -> int:
    """One JSON document on stdout; returns exit code 0."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value)).decode())
    return 0


def size(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
