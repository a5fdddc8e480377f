"""Photos on their way to a service: each becomes the bytes of a file, and many become several requests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from leap_zoo.errors import ImageError, ImageTooLarge, InvalidArgument
from leap_zoo.model import Many
from leap_zoo.preprocess import MAX_BYTES, ImageSource, open_image, read_photo

MAX_PHOTOS = 32  # in one request: what a service takes by default
MAX_REQUEST_BYTES = 32 * 1024 * 1024


def are_many(images: ImageSource | Many) -> bool:
    """Whether they are many images, as `Model` counts them: a list, a tuple, or a uint8 array (N, H, W, 3)."""
    return isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)


def photo_bytes(image: ImageSource) -> bytes:
    """The bytes of a photo's file: as they are, or a PNG of a PIL image or array. Raises as `open_image` does."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        if len(image) > MAX_BYTES:
            raise ImageTooLarge(f"more than {MAX_BYTES / 2**20:.0f} MiB: send a smaller photo")
        return bytes(image)
    if isinstance(image, str) or hasattr(image, "__fspath__"):
        return read_photo(image)
    buffer = io.BytesIO()
    open_image(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def requests_of(images: Many) -> Iterator[tuple[int, list[bytes]]]:
    """The number of the first photo and the photos of each request: at most 32, and about 32 MiB.

    Raises as `photo_bytes` does, and says which photo it is.
    """
    first, held = 0, 0
    photos: list[bytes] = []
    for number, image in enumerate(images):
        try:
            photo = photo_bytes(image)
        except (ImageError, InvalidArgument) as error:
            raise type(error)(which(number, len(images), error)) from error
        if photos and (len(photos) == MAX_PHOTOS or held + len(photo) > MAX_REQUEST_BYTES):
            yield first, photos
            first, held, photos = number, 0, []
        photos.append(photo)
        held += len(photo)
    if photos:
        yield first, photos


def body_of(photos: list[bytes], name: str = "image") -> dict[str, Any]:
    """httpx's arguments for photos: one as the body itself, several as a form."""
    if len(photos) == 1:
        return {"content": photos[0], "headers": {"content-type": "application/octet-stream"}}
    return {"files": [(name, ("photo", photo, "application/octet-stream")) for photo in photos]}


def which(number: int, count: int, error: object) -> str:
    """A message about one photo of many, as `Model` words it."""
    return f"image {number} of {count} (from 0): {error}"
