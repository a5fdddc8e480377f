"""A photo is admitted by its header: one that turns out to be larger than that is refused before it is decoded."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib

import pytest
from PIL import Image

from leap_zoo.errors import ImageTooLarge
from leap_zoo.preprocess import Limits, readable_formats
from serve.engine import Engine
from serve.pixels import megapixels
from serve.problems import BadPhoto

SIDES = (1500, 1400)


def saved(kind: str) -> bytes:
    """A photo of two megapixels."""
    file = io.BytesIO()
    Image.new("P" if kind == "GIF" else "L", SIDES).save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def small_header_first() -> bytes:
    photo = saved("PNG")
    return photo[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + photo[8:]


def small_screen() -> bytes:
    photo = bytearray(saved("GIF"))
    photo[6:10] = struct.pack("<HH", 1, 1)
    return bytes(photo)


@pytest.mark.parametrize("photo", [small_header_first(), small_screen()], ids=["two headers", "frame beyond screen"])
def test_photo__larger_than_its_header_is_refused(engine: Engine, photo: bytes) -> None:
    with pytest.raises(BadPhoto) as caught:
        asyncio.run(engine.classify([photo]))
    assert isinstance(caught.value.error, ImageTooLarge)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "BMP", "WEBP", "TIFF", "AVIF"])
def test_photo__with_a_true_header_counts_as_it_says_and_is_read(engine: Engine, kind: str) -> None:
    if kind not in readable_formats():
        pytest.skip(f"this Pillow does not read {kind}")
    file = io.BytesIO()
    Image.new("RGB", (1501, 1399)).save(file, kind)  # odd sides: nothing is lost to rounding
    share = 0.25 if kind == "JPEG" else 1
    assert megapixels(file.getvalue(), engine.limits) == pytest.approx(share * 1.501 * 1.399)
    assert asyncio.run(engine.classify([file.getvalue()])).predictions


def test_tiff__of_the_large_kind_is_read(engine: Engine) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1000, 900)).save(file, "TIFF", big_tiff=True)
    assert file.getvalue()[:4] == b"II+\0"
    assert asyncio.run(engine.classify([file.getvalue()])).predictions


@pytest.mark.parametrize("start", [b"II*\0", b"MM\0*", b"\0\0\0\x1cftypavif", b"\0\0\0\x1cftypheicispe"])
@pytest.mark.parametrize("rest", [b"", b"\xff" * 7, b"\0" * 300])
def test_header__that_ends_early_is_read_without_failing(start: bytes, rest: bytes) -> None:
    assert 0 <= megapixels(start + rest, Limits(pixels=25_000_000)) <= 25


def test_png__whose_header_is_not_first_counts_as_the_largest() -> None:
    photo = saved("PNG")
    late = photo[:8] + chunk(b"tEXt", struct.pack(">II", 1, 1) + b"\0x") + photo[8:]
    assert megapixels(late, Limits(pixels=25_000_000)) == 25
