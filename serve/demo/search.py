"""The tab Search: the photos of a gallery most similar to another photo, by cosine similarity of embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from serve.demo.uploads import (
    MAX_PHOTOS,
    SAMPLES,
    Photo,
    Visitor,
    gallery,
    gather,
    name_of,
    photo_input,
    photos_input,
    read_upload,
    sample_gallery,
)
from serve.engine import Engine

NEAREST = 6
NO_QUERY = "Click a photo of the gallery, or drop another one: the most similar photos appear here."
OWN_IS_EMPTY = "Your gallery is empty: add photos first. Only you can see them."

# The query photo, the results with their captions, and a note about them.
Found = tuple[Photo | None, list[tuple[object, str]], str]


def build(engine: Engine, visitor: gr.State) -> None:
    """Lay out the tab in the current container."""
    samples: list[Photo] = []  # embedded once for all visitors, at the first search
    turn = asyncio.Lock()
    query = gr.State(None)  # Photo
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            which = gr.Radio(
                [("sample photos", "samples"), ("your photos", "own")],
                value="samples",
                label="Gallery",
                elem_id="leap-which",
            )
            wall = sample_gallery("Click a photo to search with it", "leap-wall", 4)
            drop = photos_input("Add photos to your gallery", "leap-add")
            clear = gr.Button("Empty your gallery", size="sm", elem_id="leap-clear")
        with gr.Column(min_width=300):
            note = gr.Markdown(NO_QUERY, elem_id="leap-found-note")
            found = gallery("Most similar photos, best first", "leap-found", 3)
            photo = photo_input("Or search with your own photo", "leap-query")

    async def embedded(photo: Photo) -> Photo:
        (vector,) = (await engine.embed([read_upload(photo.path)])).embeddings
        return replace(photo, vector=vector)

    async def photos_of(which: str, visitor: Visitor) -> Sequence[Photo]:
        if which == "own":
            return visitor.gallery
        async with turn:
            for name, path in list(SAMPLES.items())[len(samples) :]:
                samples.append(await embedded(Photo(name, str(path), str(path))))
        return samples

    async def pick(event: gr.SelectData, which: str, visitor: Visitor) -> Found:
        photos = await photos_of(which, visitor)
        return nearest(photos[event.index] if event.index in range(len(photos)) else None, photos)

    async def ask(path: str | None, which: str, visitor: Visitor) -> Found:
        if path is None:
            return None, [], NO_QUERY
        return nearest(await embedded(Photo(name_of(path), path, "")), await photos_of(which, visitor))

    async def change(which: str, asked: Photo | None, visitor: Visitor) -> tuple[object, ...]:
        photos = await photos_of(which, visitor)
        captioned = [(photo.thumbnail, photo.name) for photo in photos]
        return gr.Gallery(captioned, selected_index=None), *nearest(asked, photos)

    async def add(paths: list[str], asked: Photo | None, visitor: Visitor) -> tuple[object, ...]:
        for photo in await gather(engine, paths, MAX_PHOTOS - len(visitor.gallery)):
            visitor.gallery.append(await embedded(photo))
        return visitor, "own", None, *await change("own", asked, visitor)

    async def empty(asked: Photo | None, which: str, visitor: Visitor) -> tuple[object, ...]:
        asked = None if asked in visitor.gallery else asked
        visitor.gallery.clear()
        return visitor, *await change(which, asked, visitor)

    private: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "minimal",
        "concurrency_limit": engine.threads,
    }
    results = [query, found, note]
    wall.select(pick, [which, visitor], results, **private)
    photo.change(ask, [photo, which, visitor], results, trigger_mode="always_last", **private)
    which.input(change, [which, query, visitor], [wall, *results], **private)
    drop.upload(add, [drop, query, visitor], [visitor, which, drop, wall, *results], **private)
    clear.click(empty, [query, which, visitor], [visitor, wall, *results], **private)


def nearest(asked: Photo | None, photos: Sequence[Photo]) -> Found:
    """The photos nearest to `asked`, except itself, with their cosines, best first."""
    others = [photo for photo in photos if photo is not asked]
    if asked is None or not others:
        return asked, [], NO_QUERY if photos else OWN_IS_EMPTY
    scores = np.stack([photo.vector for photo in others]) @ asked.vector
    best = np.argsort(-scores, kind="stable")[:NEAREST]
    captioned = [(others[i].thumbnail, f"{scores[i]:.2f} {others[i].name}") for i in best]
    return asked, captioned, "Each caption begins with the cosine similarity; 1 means the same photo."
