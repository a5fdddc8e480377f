"""Files from visitors, what the page keeps of them, and the sample photos.

Files are stored in a private folder, and only files that Gradio stored there are read. The state of a visitor is in
memory and bounded while the page is open; visitors never see each other's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
from gradio.data_classes import ImageData, ListFiles
from gradio.utils import get_upload_folder
from PIL import Image

from leap_zoo import CustomHead, InvalidArgument, LeapZooError
from leap_zoo.card import Preprocessing
from leap_zoo.preprocess import to_tensor
from serve.engine import Engine
from serve.problems import Refused, refusal_of
from serve.settings import PHOTO

logger = logging.getLogger("leap_zoo.serve")

UserError = (LeapZooError, Refused)  # errors that a visitor can cause and fix; the message says how
INTERNAL_ERROR = "Internal error: see the log of the server."
MAX_PHOTOS = 48  # in the visitor's gallery, and as many in the visitor's classes
MAX_VISITORS = 500  # with state in memory; the longest idle one is dropped first
KEEP_SECONDS = 3600  # how long an upload stays on disk: the page shows it, and may classify it with another head
PHOTO_TYPES = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"]
# samples/ATTRIBUTION.md lists each sample's author, page and license.
_SAMPLES = Path(__file__).with_name("samples")
ATTRIBUTION = _SAMPLES / "ATTRIBUTION.md"
# The file of each sample by its name, e.g. `taxi 1`.
SAMPLES = {path.stem.replace("-", " "): path for path in sorted(_SAMPLES.glob("*.jpg"))}
_THUMBNAIL = Preprocessing(size=256, short_side=256)
_TOLD = 3  # bad photos that are listed; the others are counted

_cleanup = contextlib.ExitStack()  # of the private folder


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo, which is at `path` until it is deleted.

    label: its class, among the visitor's classes. vector: its embedding, a unit vector (D,), in a gallery.
    """

    name: str
    path: str
    thumbnail: Image.Image | str
    label: str = ""
    vector: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


class Visitor:
    """One open page: the visitor's gallery, the photos of the visitor's classes, and the head fitted to them.

    Not a dataclass: Gradio would copy its fields into the page's configuration.
    """

    def __init__(self) -> None:
        self.gallery: list[Photo] = []
        self.members: list[Photo] = []
        self.head: CustomHead | None = None


def use_private_folder() -> None:
    """Give Gradio a private folder of this process, unless GRADIO_TEMP_DIR names one.

    Gradio's default, /tmp/gradio, belongs to the first user of the machine who started a Gradio page.
    """
    if not os.environ.get("GRADIO_TEMP_DIR"):
        folder = tempfile.TemporaryDirectory(prefix="leap-zoo-ui-", ignore_cleanup_errors=True)
        os.environ["GRADIO_TEMP_DIR"] = _cleanup.enter_context(folder)
        _cleanup.callback(os.environ.pop, "GRADIO_TEMP_DIR", None)


def remove_private_folder() -> None:
    """Delete what visitors have uploaded. uvicorn ends a stopped process by a signal, so no finalizer would do it."""
    _cleanup.close()


def photo_input(label: str, elem_id: str) -> gr.Image:
    """An image input that passes on the path of the uploaded file unchanged.

    Gradio's own preprocessing opens the file with Pillow, whatever its size and format.
    """
    photo = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label=label,
        height=300,
        buttons=[],
        elem_id=elem_id,
    )

    def as_uploaded(payload: ImageData | None) -> str | None:
        return uploaded(payload.path) if payload else None

    _replace(photo, "preprocess", as_uploaded)
    return photo


def photos_input(label: str, elem_id: str) -> gr.File:
    """A drop zone for several photos, which passes on the paths of the uploaded files."""
    zone = gr.File(file_count="multiple", file_types=PHOTO_TYPES, label=label, height=140, elem_id=elem_id)

    def as_uploaded(payload: ListFiles | None) -> list[str]:
        return [path for file in payload or () if (path := uploaded(file.path)) is not None]

    _replace(zone, "preprocess", as_uploaded)
    return zone


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


def take_uploads_only(component: gr.components.Component) -> None:
    """Keep `component` from copying local files or downloading URLs that a client names as a value.

    Gradio copies every value that looks like a file into its cache, and checks where it comes from only in an
    application that was launched, not in one that was mounted.
    """
    to_cache = component.async_move_resource_to_block_cache

    async def guarded(path: str | Path | None) -> str | None:
        return await to_cache(uploaded(path))

    _replace(component, "async_move_resource_to_block_cache", guarded)


def uploaded(path: str | Path | None) -> str | None:
    """`path`, if it is an upload that Gradio stored, or a sample. Raises gr.Error for any other file."""
    if path is None:
        return None
    if any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in (Path(get_upload_folder()), _SAMPLES)):
        return str(path)
    raise gr.Error("Only uploaded photos can be read.", print_exception=False)


def read_upload(path: str) -> bytes:
    """The bytes of an upload, for the library's decoder. Raises InvalidArgument if it was deleted in the meantime."""
    try:
        with open(path, "rb") as file:
            return file.read(PHOTO.bytes + 1)  # one byte over the limit, so that the decoder refuses it
    except FileNotFoundError as error:
        raise InvalidArgument("the photo was deleted in the meantime: drop it again") from error


def name_of(path: str) -> str:
    """The visitor's name for the file, to show to that visitor only."""
    return Path(path).stem[:60]


async def gather(engine: Engine, paths: Sequence[str], room: int) -> list[Photo]:
    """At most `room` good photos; the visitor is warned about the rest. Raises Refused (503) if the server is busy."""
    if len(paths) > room:
        warn(f"There is room for {room} more photos: {len(paths) - room} of the {len(paths)} were left out.")
    good: list[Photo] = []
    bad: list[str] = []
    for path in paths[:room]:
        try:
            pixels = await engine.run(partial(to_tensor, read_upload(path), _THUMBNAIL, PHOTO))
            good.append(Photo(name_of(path), path, Image.fromarray(pixels)))
        except UserError as error:
            if getattr(error, "status", None) == 503:
                raise
            bad.append(f"{name_of(path)}: {explain(error)}")
    for text in bad[:_TOLD]:
        warn(text)
    if len(bad) > _TOLD:
        warn(f"{len(bad) - _TOLD} more photos cannot be used.")
    return good


def explain(error: Exception) -> str:
    """The message for the visitor, without local paths; an unexpected error is logged."""
    if isinstance(error, UserError):
        return refusal_of(error).detail
    logger.error("internal error in the page", exc_info=error)
    return INTERNAL_ERROR


def warn(text: str) -> None:
    """Show a notice that stays until the visitor closes it."""
    gr.Warning(escape(text, quote=False), duration=None)


def _replace(component: gr.components.Component, method: str, function: Callable[..., Any]) -> None:
    # On the instance: a subclass of a component makes Gradio write a stub file beside this module.
    setattr(component, method, function)
