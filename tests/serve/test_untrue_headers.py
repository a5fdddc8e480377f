"""A photo is admitted by its header, which the decoder itself reads, before any pixel is decoded."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib

import pytest
from PIL import Image

from leap_zoo.decode import Opened
from leap_zoo.preprocess import readable_formats
from serve.engine import Engine

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
def test_photo__counts_as_what_the_decoder_reads(engine: Engine, photo: bytes) -> None:
    """Work is admitted by the header that the decoder itself goes by, whatever else the file says."""
    assert Opened(photo, engine.limits).pixels == SIDES[0] * SIDES[1]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "BMP", "WEBP", "TIFF", "AVIF"])
def test_photo__with_a_true_header_counts_as_it_says_and_is_read(engine: Engine, kind: str) -> None:
    if kind not in readable_formats():
        pytest.skip(f"this Pillow does not read {kind}")
    file = io.BytesIO()
    Image.new("RGB", (1501, 1399)).save(file, kind)  # odd sides: nothing is lost to rounding
    opened = Opened(file.getvalue(), engine.limits)
    assert (opened.kind, opened.pixels) == (kind, 1501 * 1399)
    assert asyncio.run(engine.classify([file.getvalue()])).predictions


def test_tiff__of_the_large_kind_is_read(engine: Engine) -> None:
    file = io.BytesIO()
    Image.new("RGB", (1000, 900)).save(file, "TIFF", big_tiff=True)
    assert file.getvalue()[:4] == b"II+\0"
    assert asyncio.run(engine.classify([file.getvalue()])).predictions
