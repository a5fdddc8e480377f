"""Photos on their way to a service: each becomes the bytes of a file, and many become several requests."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any
from urllib.parse import quote

from leap_zoo.errors import ImageError, ImageTooLarge, InvalidArgument, ServiceRefused, short
from leap_zoo.preprocess import BinaryFile, ImageSource, Limits, open_image, read_file, read_photo

LIMITS = Limits(bytes=20 * 1024 * 1024)  # of one photo: what a service takes by default
MAX_PHOTOS = 32  # in one request: what a service takes by default
MAX_REQUEST_BYTES = 32 * 1024 * 1024
MAX_IDS = 100  # in one request's query, and characters of it: proxies take about 8 KiB
MAX_QUERY = 4096


def photo_bytes(image: ImageSource) -> bytes:
    """The bytes of a photo's file: as they are, or a PNG of a PIL image or array. Raises as `open_image` does."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        if len(image) > LIMITS.bytes:
            raise ImageTooLarge(f"more than {LIMITS.bytes / 2**20:.0f} MiB: send a smaller photo")
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return read_photo(image, LIMITS)
    if isinstance(image, BinaryFile):
        return read_file(image, LIMITS)
    buffer = io.BytesIO()
    open_image(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def requests_of(images: Iterable[Any]) -> Iterator[tuple[int, list[bytes]]]:
    """The number of the first photo and the photos of each request: at most 32, and about 32 MiB.

    Raises as `photo_bytes` does, and says which photo it is.
    """
    first, held = 0, 0
    photos: list[bytes] = []
    for number, image in enumerate(images):
        try:
            photo = photo_bytes(image)
        except (ImageError, InvalidArgument) as error:
            raise type(error)(which(number, images, error)) from error
        if photos and (len(photos) == MAX_PHOTOS or held + len(photo) > MAX_REQUEST_BYTES):
            yield first, photos
            first, held, photos = number, 0, []
        photos.append(photo)
        held += len(photo)
    if photos:
        yield first, photos


def in_requests(images: Iterable[Any], send: Callable[[int, list[bytes]], None]) -> None:
    """`send(number of the first photo, photos)` for each request; in halves where the service takes fewer or smaller.

    Raises as `requests_of` and `send` do; an ImageError has the number of its photo among all of them.
    """

    def halves(first: int, photos: list[bytes]) -> None:
        try:
            send(first, photos)
        except ServiceRefused as refused:
            if refused.code not in ("too_many_photos", "body_too_large") or len(photos) == 1:
                raise
            middle = len(photos) // 2
            halves(first, photos[:middle])
            halves(first + middle, photos[middle:])
        except ImageError as error:
            index = 0 if len(photos) == 1 else getattr(error, "index", None)
            if index is None or not 0 <= index < len(photos):
                raise
            raise type(error)(which(first + index, images, error)) from error

    for first, photos in requests_of(images):
        halves(first, photos)


def by_class(classes: Mapping[str, list[Any] | tuple[Any, ...]]) -> dict[str, list[bytes]]:
    """The photos of each class. Raises as `photo_bytes` does, and says which photo it is."""
    if not isinstance(classes, Mapping) or not all(isinstance(images, (list, tuple)) for images in classes.values()):
        raise InvalidArgument('classes must be lists of images by label: {"cat": ["a.jpg"], "dog": ["b.jpg"]}')
    read: dict[str, list[bytes]] = {}
    for label, images in classes.items():
        read[label] = []
        for number, image in enumerate(images):
            try:
                read[label].append(photo_bytes(image))
            except (ImageError, InvalidArgument) as error:
                raise type(error)(f"class {short(label)}, {which(number, images, error)}") from error
    return read


def some_ids(ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids, as many at a time as fit the address of a request."""
    some: list[str] = []
    length = 0
    for one in ids:
        size = len(quote(one, "")) + len("&id=")
        if some and (len(some) == MAX_IDS or length + size > MAX_QUERY):
            yield some
            some, length = [], 0
        some.append(one)
        length += size
    if some:
        yield some


def body_of(photos: list[bytes]) -> dict[str, Any]:
    """httpx's arguments for photos: one as the body itself, several as a form."""
    if len(photos) == 1:
        return {"content": photos[0], "headers": {"content-type": "application/octet-stream"}}
    return {"files": [("image", ("photo", photo, "application/octet-stream")) for photo in photos]}


def which(number: int, images: Iterable[Any], error: object) -> str:
    """A message about one photo of many, as `Model` words it."""
    count = f" of {len(images)}" if isinstance(images, Sized) else ""
    return f"image {number}{count} (from 0): {error}"
