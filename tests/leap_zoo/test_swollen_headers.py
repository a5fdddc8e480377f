"""A small file whose header unpacks to much: it may take neither the memory nor the time that it asks for."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from leap_zoo.decode import MAX_PACKED, Opened
from leap_zoo.errors import ImageError, UndecodableImage
from leap_zoo.preprocess import LIMITS, open_image

MEBIBYTE = zlib.compress(bytes(2**20 - 1), 9)  # the most that Pillow unpacks of one text
REGION = 30_000  # bytes, which every tag has as its value


def saved(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), "red").save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    photo = saved("PNG")
    return photo[:33] + b"".join(chunks) + photo[33:]


def texts(count: int) -> bytes:
    return png(*(chunk(b"zTXt", b"name %d\0\0" % number + MEBIBYTE) for number in range(count)))


def tags(count: int = 2500) -> bytes:
    """A TIFF's header, and tags whose values are all the same bytes."""
    size = {256: 64, 257: 32, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 32, 279: 2048}
    entries = [struct.pack("<HHII", name, 4, 1, value) for name, value in size.items()]
    entries += [struct.pack("<HHII", name, 7, REGION, 8) for name in range(1000, 1000 + count)]
    start = b"II*\0" + struct.pack("<I", 8 + REGION) + bytes(REGION)
    return start + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def jpeg() -> bytes:
    photo, exif = saved("JPEG"), b"Exif\0\0" + tags()
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + photo[2:]


def hexadecimal() -> bytes:
    """EXIF as ImageMagick puts it into a PNG."""
    exif = f"\nexif\n    {len(tags())}\n{tags().hex()}\n"
    return png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(exif.encode())))


SWOLLEN = {
    "texts": texts(60),
    "tags of a TIFF": tags(),
    "EXIF of a JPEG": jpeg(),
    "EXIF of a PNG": png(chunk(b"eXIf", tags())),
    "EXIF in a text": hexadecimal(),
    "EXIF of a WebP": saved("WEBP", exif=b"Exif\0\0" + tags()),
}


@pytest.mark.parametrize("photo", SWOLLEN.values(), ids=SWOLLEN)
def test_header__takes_little_memory_whatever_it_asks_for(photo: bytes) -> None:
    open_image(saved("PNG"))  # imports
    assert len(photo) < 2**17
    tracemalloc.start()
    try:
        with contextlib.suppress(ImageError):
            open_image(photo)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * 2**20


def test_header__with_many_profiles_is_refused_before_one_is_unpacked() -> None:
    with pytest.raises(UndecodableImage, match="texts that may be compressed"):
        open_image(png(*(chunk(b"iCCP", b"name\0\0" + MEBIBYTE) for _ in range(60))))


def test_header__that_unpacks_texts_is_not_kept_until_the_photo_is_decoded() -> None:
    photo = texts(MAX_PACKED)
    tracemalloc.start()
    try:
        opened = [Opened(photo, LIMITS) for _ in range(3)]
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 2**20
    assert opened[0].upright(64).size == (64, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_tags__of_honest_photos_are_read(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description " * 2000  # a value that is most of the EXIF
    assert open_image(saved(kind, exif=exif)).size == (32, 64)
