"""The tab Search: a query photo against a gallery, the visitor's own or the samples, in either embedding space."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from html import escape

import gradio as gr
import numpy as np
from gradio.events import EventData

from leap_zoo import LeapZooError
from serve.demo.backend import Backend, explain
from serve.demo.gathering import gather
from serve.demo.markup import TRIGGER_CLICK, clicked, empty, note, thumbnails
from serve.demo.samples import samples
from serve.demo.uploads import name_of, photo_input, photos_input, read_upload
from serve.demo.visitor import MAX_PHOTOS, Kept, Visitor
from serve.engine import Space
from serve.problems import Refused

NEAREST = 6
SPACES: list[tuple[str, Space]] = [("student space", "student"), ("teacher space", "teacher")]
GALLERIES = [("sample photos", "samples"), ("your photos", "own")]
NO_QUERY = empty("What looks like it?", "Click a photo of the gallery, or drop another. The nearest appear here.")
OWN_IS_EMPTY = note(f"Your gallery is empty. Drop up to {MAX_PHOTOS} photos; only you see them.")


class SampleGallery:
    """The samples with their embeddings, computed once for all visitors, at the first search."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = asyncio.Lock()
        self._kept: list[Kept] | None = None

    async def photos(self) -> list[Kept]:
        """In the order of `samples()`. Raises Refused."""
        async with self._lock:
            if self._kept is None:
                self._kept = [
                    await embedded(self._backend, sample.read(), sample.name, sample.thumbnail)
                    for sample in samples().values()
                ]
            return self._kept


async def embedded(backend: Backend, photo: bytes, name: str, thumbnail: str) -> Kept:
    """A photo as a gallery keeps it. Raises LeapZooError, Refused."""
    vectors = {space: await backend.embed(photo, space) for _, space in SPACES}
    return Kept(name, thumbnail, vectors)


def build(backend: Backend, visitor: gr.State) -> None:
    """Lay the tab out inside the present container."""
    shared = SampleGallery(backend)
    query = gr.State(None)  # Kept
    with gr.Row(equal_height=False, elem_classes=["leap-stage", "leap-search"]):
        with gr.Column(min_width=300):
            with gr.Row(elem_classes="leap-choices"):
                which = gr.Radio(GALLERIES, value="samples", label="Gallery", elem_id="leap-gallery-choice")
                space = gr.Radio(SPACES, value="student", label="Compare in", elem_id="leap-space")
            wall = gr.HTML(_wall_of_samples(None), js_on_load=TRIGGER_CLICK, elem_id="leap-wall")
            with gr.Column(visible=False, elem_id="leap-own") as own:
                drop = photos_input("Add photos", "leap-add")
                said = gr.HTML(OWN_IS_EMPTY)
                clear = gr.Button("Empty your gallery", size="sm", interactive=False, elem_id="leap-clear")
        with gr.Column(min_width=300):
            found = gr.HTML(NO_QUERY, elem_id="leap-found", elem_classes="leap-panel")
            photo = photo_input("Or search with a photo of your own", "leap-query", 220)

    def wall_of(which: str, visitor: Visitor, asked: Kept | None) -> str:
        return _wall_of_samples(asked) if which == "samples" else _wall_of_own(visitor, asked)

    async def search(which: str, space: Space, visitor: Visitor, asked: Kept | None) -> str:
        if asked is None:
            return NO_QUERY
        try:
            gallery = await shared.photos() if which == "samples" else visitor.gallery
        except (LeapZooError, Refused) as error:
            return empty("No search now", explain(error), alert=True)
        return nearest(asked, gallery, space)

    async def pick(event: EventData, which: str, space: Space, visitor: Visitor) -> tuple[Kept | None, str, str]:
        try:
            gallery = await shared.photos() if which == "samples" else visitor.gallery
        except (LeapZooError, Refused) as error:
            return None, gr.skip(), empty("No search now", explain(error), alert=True)
        key = clicked(event)
        asked = gallery[int(key)] if key.isdecimal() and int(key) < len(gallery) else None
        return asked, wall_of(which, visitor, asked), await search(which, space, visitor, asked)

    async def ask(path: str | None, which: str, space: Space, visitor: Visitor) -> tuple[Kept | None, str, str]:
        if path is None:
            return None, wall_of(which, visitor, None), NO_QUERY
        try:
            photo = read_upload(path)
            asked = await embedded(backend, photo, name_of(path), "")
        except (LeapZooError, Refused) as error:
            return None, gr.skip(), empty("This photo cannot be used", explain(error), alert=True)
        return asked, wall_of(which, visitor, asked), await search(which, space, visitor, asked)

    async def add(paths: list[str], visitor: Visitor, space: Space, asked: Kept | None) -> list[object]:
        if not paths:
            return [visitor, *[gr.skip()] * 5]
        try:
            good, notes = await gather(backend, paths, MAX_PHOTOS - len(visitor.gallery))
            visitor.gallery += [await embedded(backend, read_upload(one.path), one.name, one.thumbnail) for one in good]
        except (LeapZooError, Refused) as error:
            notes = [explain(error)]
        count = note(f"{len(visitor.gallery)} of at most {MAX_PHOTOS} photos. Click one to search with it.")
        words = "".join(note(text, alert=True) for text in notes) + count
        found = await search("own", space, visitor, asked)
        can_clear = gr.update(interactive=bool(visitor.gallery))
        return [visitor, _wall_of_own(visitor, asked), words, None, found, can_clear]

    async def empty_gallery(visitor: Visitor, space: Space, asked: Kept | None) -> list[object]:
        asked = None if asked in visitor.gallery else asked
        visitor.gallery.clear()
        found = await search("own", space, visitor, asked)
        return [visitor, asked, "", OWN_IS_EMPTY, found, gr.update(interactive=False)]

    private = {"api_visibility": "private", "show_progress": "hidden"}
    working = {
        "api_visibility": "private",
        "concurrency_limit": backend.threads,
        "show_progress": "minimal",
        "show_progress_on": found,
    }
    wall.click(pick, [which, space, visitor], [query, wall, found], **working)
    photo.change(ask, [photo, which, space, visitor], [query, wall, found], trigger_mode="always_last", **working)
    space.change(search, [which, space, visitor, query], found, trigger_mode="always_last", **working)
    which.change(wall_of, [which, visitor, query], wall, **private)
    which.change(lambda chosen: gr.update(visible=chosen == "own"), which, own, **private)
    which.change(search, [which, space, visitor, query], found, **working)
    drop.upload(
        add,
        [drop, visitor, space, query],
        [visitor, wall, said, drop, found, clear],
        concurrency_limit=backend.threads,
        api_visibility="private",
        show_progress_on=drop,
    )
    clear.click(empty_gallery, [visitor, space, query], [visitor, query, wall, said, found, clear], **private)


def nearest(asked: Kept, gallery: Sequence[Kept], space: Space) -> str:
    """The photos of a gallery that are nearest to `asked`, best first, itself left out, with their cosines."""
    others = [kept for kept in gallery if kept is not asked]
    if not others:
        return empty("Nothing to search in", "Add some photos to your gallery first.")
    scores = np.stack([kept.vectors[space] for kept in others]) @ asked.vectors[space]
    rows = "".join(
        f'<li><img src="{others[i].thumbnail}" alt=""><span class="leap-label">{escape(others[i].name)}</span>'
        f'<span class="leap-score">{scores[i]:.3f}</span>'
        f'<span class="leap-track" aria-hidden="true">'
        f'<span style="width:{max(0.0, scores[i]) * 100:.1f}%"></span></span></li>'
        for i in np.argsort(-scores, kind="stable")[:NEAREST]
    )
    return (
        f'<section role="status"><p class="leap-best">Nearest to {escape(asked.name)}</p>'
        f'<ol class="leap-nearest" aria-label="Nearest photos, best first">{rows}</ol>'
        f"{note(f'Cosine similarity in the {space} space, {len(asked.vectors[space])} numbers per photo.')}</section>"
    )


def _wall_of_samples(asked: Kept | None) -> str:
    pictures = [(str(i), sample.name, sample.thumbnail) for i, sample in enumerate(samples().values())]
    pressed = next((key for key, _, source in pictures if asked is not None and source == asked.thumbnail), "")
    return thumbnails("Gallery of sample photos", pictures, pressed)


def _wall_of_own(visitor: Visitor, asked: Kept | None) -> str:
    pictures = [(str(i), kept.name, kept.thumbnail) for i, kept in enumerate(visitor.gallery)]
    pressed = next((str(i) for i, kept in enumerate(visitor.gallery) if kept is asked), "")
    return thumbnails("Gallery of your photos", pictures, pressed) if pictures else ""
