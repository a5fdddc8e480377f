"""The sample photos that ship with the demo; samples/ATTRIBUTION.md lists each one's author, page and license."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).with_name("samples")
ATTRIBUTION = FOLDER / "ATTRIBUTION.md"
SAMPLES = {path.stem.replace("-", " "): path for path in sorted(FOLDER.glob("*.jpg"))}
"""The file of each sample by its name, e.g. `taxi 1`."""


def sample_gallery(label: str, elem_id: str, columns: int) -> gr.Gallery:
    """All samples, to click on, in the order of SAMPLES."""
    return gallery(label, elem_id, columns, [(str(path), name) for name, path in SAMPLES.items()])


def gallery(label: str, elem_id: str, columns: int, value: list[tuple[object, str]] | None = None) -> gr.Gallery:
    """Photos with captions, to click on."""
    return gr.Gallery(
        value,
        label=label,
        columns=columns,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id=elem_id,
        elem_classes="leap-gallery",
    )
