"""What is generated from a model's card, and its place in the index of its zoo."""

from __future__ import annotations

from pathlib import Path

from export import figure, readme
from leap_zoo import publish as publishing
from leap_zoo.card import ModelCard


def list_model(card: ModelCard, zoo: Path) -> None:
    """README, figure, card.json and index; the files that the card lists are in the zoo. Raises ArtifactCorrupt."""
    home = zoo / card.id
    (home / "README.md").write_text(readme.render(card))
    picture = figure.draw(card)
    if picture is not None:
        (home / figure.FILE).write_bytes(picture)
    publishing.publish(zoo, card)
