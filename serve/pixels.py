"""How many pixels a photo's header announces: an estimate of the cost of decoding, before it is decoded."""

from __future__ import annotations

import struct

from leap_zoo.preprocess import Limits

_BOXES = 64 * 1024  # bytes: where AVIF and HEIC say how large their images are
_MAX_SEGMENTS = 1000  # of a JPEG before its size; cameras write about ten


def megapixels(photo: bytes, limits: Limits) -> float:
    """The cost of decoding a photo, in megapixels as its header announces them; 0 for bytes that are not a photo.

    A JPEG counts a quarter, because it is decoded at a fraction of its size. A header that is not understood here
    counts as the largest photo that `limits` allow. The decoder finds out whether the header is right.
    """
    if photo[:2] == b"\xff\xd8":
        sides = _jpeg_sides(photo)
        return (limits.pixels * 2 if sides is None else sides[0] * sides[1]) / 4e6
    sides = (0, 0)
    if photo[:8] == b"\x89PNG\r\n\x1a\n":
        if photo[12:16] != b"IHDR":  # as it must be; decoders take it wherever it is
            return limits.pixels / 1e6
        sides = struct.unpack_from(">II", photo.ljust(24, b"\0"), 16)
    elif photo[:4] == b"GIF8":
        sides = struct.unpack_from("<HH", photo.ljust(10, b"\0"), 6)
    elif photo[:2] == b"BM":
        width, height = struct.unpack_from("<ii", photo.ljust(26, b"\0"), 18)
        sides = abs(width), abs(height)
    elif photo[:4] == b"RIFF" and photo[8:12] == b"WEBP":
        sides = _webp_sides(photo.ljust(30, b"\0"))
    elif photo[4:8] == b"ftyp":  # AVIF, HEIC
        sides = _boxed_sides(photo) or (limits.pixels, 1)
    elif photo[:4] in (b"II*\0", b"MM\0*"):
        sides = _tiff_sides(photo) or (limits.pixels, 1)
    elif photo[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF, the format for more than 4 GiB
        sides = (limits.pixels, 1)
    return min(sides[0] * sides[1], limits.pixels) / 1e6


def _jpeg_sides(photo: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG; None if they are not in its first segments."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if at + 9 > len(photo) or photo[at] != 0xFF:
            return None
        kind = photo[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", photo, at + 5)
            return width, height
        at += 2 + int.from_bytes(photo[at + 2 : at + 4], "big")
    return None


def _tiff_sides(photo: bytes) -> tuple[int, int] | None:
    """Width and height in a TIFF's first directory; None if they are not in its first entries."""
    order = "<" if photo[:1] == b"I" else ">"
    found: dict[int, int] = {}
    try:
        (at,) = struct.unpack_from(order + "I", photo, 4)
        (entries,) = struct.unpack_from(order + "H", photo, at)
        for number in range(min(entries, _MAX_SEGMENTS)):
            tag, kind = struct.unpack_from(order + "HH", photo, at + 2 + 12 * number)
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), photo, at + 10 + 12 * number)
    except struct.error:
        return None
    return (found[256], found[257]) if {256, 257} <= found.keys() else None


def _boxed_sides(photo: bytes) -> tuple[int, int] | None:
    """Width and height of the largest image (whole, tile, thumbnail) in an AVIF's or HEIC's first boxes, or None."""
    sides = (struct.unpack(">II", box[4:12]) for box in photo[:_BOXES].split(b"ispe")[1:] if len(box) >= 12)
    return max(sides, key=lambda one: one[0] * one[1], default=None)


def _webp_sides(photo: bytes) -> tuple[int, int]:
    kind = photo[12:16]
    if kind == b"VP8X":
        return int.from_bytes(photo[24:27], "little") + 1, int.from_bytes(photo[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(photo[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", photo, 26)
    return width & 0x3FFF, height & 0x3FFF
