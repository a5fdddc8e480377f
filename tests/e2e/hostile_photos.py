"""Bytes that claim to be photos: odd ones that must be read, and hostile or broken ones that must be refused.

`PHOTOS` maps a name to the function that makes the bytes and the status that they deserve. All are made by code.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, features

Make = Callable[[], bytes]

PHOTOS: dict[str, tuple[Make, int]] = {}

PNG = b"\x89PNG\r\n\x1a\n"
HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
HAS_AVIF = "avif" in features.modules and features.check("avif")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def picture() -> Image.Image:
    """RGB, 96 x 72: colours and noise, so that no format shrinks it to nothing."""
    pixels = np.random.default_rng(5).integers(0, 90, (72, 96, 3), dtype=np.uint8)
    pixels[..., 0] += np.linspace(0, 160, 96, dtype=np.uint8)[None]
    return Image.fromarray(pixels)


def plain(kind: str, **options: object) -> bytes:
    """The picture as an ordinary file."""
    return saved(picture(), kind, **options)


def chunk(kind: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    """A PNG chunk."""
    check = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG of that header, with more chunks before its (compressed) data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def png_with(*chunks: bytes) -> bytes:
    """The picture as a PNG, with more chunks after its header."""
    ordinary = plain("PNG")
    return ordinary[:33] + b"".join(chunks) + ordinary[33:]


def jpeg_sized(width: int, height: int, **options: object) -> bytes:
    """A small JPEG whose header claims another size."""
    data = bytearray(plain("JPEG", **options))
    at = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_with(*segments: bytes) -> bytes:
    """The picture as a JPEG, with more segments after its start."""
    ordinary = plain("JPEG")
    return ordinary[:2] + b"".join(segments) + ordinary[2:]


def segment(marker: int, data: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def exif(*entries: bytes, following: int = 0) -> bytes:
    """An EXIF segment whose one directory has these entries and points to `following`."""
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + directory)


def tag(number: int, kind: int, count: int, value: int) -> bytes:
    """An entry of a TIFF or EXIF directory."""
    return struct.pack("<HHII", number, kind, count, value)


def tiff(width: int, height: int, *, strip: int = 200, size: int = 3, following: int = 0, extra: int = 0) -> bytes:
    """A TIFF of that header: one strip at an offset, `extra` unknown entries, and a link to a next directory."""
    entries = [
        tag(256, 4, 1, width),
        tag(257, 4, 1, height),
        tag(258, 3, 1, 8),
        tag(259, 3, 1, 1),
        tag(262, 3, 1, 1),
        tag(273, 4, 1, strip),
        tag(277, 3, 1, 1),
        tag(278, 4, 1, height),
        tag(279, 4, 1, size),
    ] + [tag(40000 + i, 4, 1, i) for i in range(extra)]
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return body.ljust(strip, b"\0") + bytes(size) if strip < 1 << 20 else body


def zipped() -> bytes:
    """A ZIP file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../photo.jpg", bytes(1 << 20))
    return buffer.getvalue()


def scans(count: int) -> bytes:
    """A progressive JPEG of 49 megapixels with `count` tiny scans, each of which a decoder walks over all of it."""
    data = jpeg_sized(7000, 7000, progressive=True, quality=30)
    start = data.index(b"\xff\xda")
    end = next(i for i in range(start + 2, len(data)) if data[i] == 0xFF and data[i + 1] not in (0, *range(0xD0, 0xD8)))
    return data[:end] + data[start:end] * (count - 1) + b"\xff\xd9"


def _frames(kind: str, count: int) -> bytes:
    images = [Image.new("RGB", (8, 8), (i % 256, 0, 0)) for i in range(count)]
    return saved(images[0], kind, save_all=True, append_images=images[1:])


def _many_frames() -> bytes:
    control = b"\x21\xf9\x04\x04" + struct.pack("<H", 2) + b"\0\0"
    canvas, frame = _gif(1, 1)
    return canvas + (control + frame) * 10_000 + b";"


def _grey16(kind: str) -> bytes:
    return saved(Image.fromarray((np.arange(64 * 64, dtype=np.uint32) * 16).astype(np.uint16).reshape(64, 64)), kind)


def _rgb16() -> bytes:
    rows = np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(">u2")
    return png(40, 40, depth=16, data=b"".join(b"\0" + row.tobytes() for row in rows))


def _palette() -> bytes:
    image = picture().quantize(16)
    return saved(image, "PNG", transparency=3)


def _rotated() -> bytes:
    metadata = Image.Exif()
    metadata[0x0112] = 6
    return plain("JPEG", exif=metadata)


def _lossy_bomb() -> bytes:
    """144 megapixels of one colour in a few kilobytes; decoded as RGB they would be 430 MB."""
    return png(12_000, 12_000, depth=1, colour=0, data=bytes(1501) * 12_000)


def _webp_sized(width: int, height: int) -> bytes:
    body = struct.pack("<I", 0)[:4] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _bmp_sized(width: int, height: int, *, bits: int = 24, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def _gif(width: int, height: int) -> tuple[bytes, bytes]:
    """The start of a GIF of two colours, and a frame of one pixel's data."""
    canvas = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return canvas, b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"


READ: dict[str, Make] = {
    "1x1 JPEG": lambda: saved(Image.new("RGB", (1, 1)), "JPEG"),
    "1x1 PNG": lambda: saved(Image.new("RGBA", (1, 1)), "PNG"),
    "1x1 GIF": lambda: saved(Image.new("P", (1, 1)), "GIF"),
    "strip 1x20000": lambda: saved(Image.new("L", (1, 20_000), 9), "PNG"),
    "strip 20000x1": lambda: saved(Image.new("L", (20_000, 1), 9), "JPEG"),
    "CMYK JPEG": lambda: saved(picture().convert("CMYK"), "JPEG"),
    "CMYK TIFF": lambda: saved(picture().convert("CMYK"), "TIFF"),
    "Lab TIFF": lambda: saved(Image.new("LAB", (20, 20)), "TIFF"),
    "float TIFF": lambda: saved(Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)), "TIFF"),
    "NaN TIFF": lambda: saved(Image.fromarray(np.full((20, 20), np.nan, np.float32)), "TIFF"),
    "16-bit grey PNG": lambda: _grey16("PNG"),
    "16-bit grey TIFF": lambda: _grey16("TIFF"),
    "16-bit RGB PNG": _rgb16,
    "palette PNG with transparency": _palette,
    "1-bit PNG": lambda: saved(picture().convert("1"), "PNG"),
    "grey PNG with alpha": lambda: saved(picture().convert("LA"), "PNG"),
    "grey JPEG": lambda: saved(picture().convert("L"), "JPEG"),
    "progressive JPEG": lambda: plain("JPEG", progressive=True),
    "JPEG with rotation": _rotated,
    "JPEG with a strange rotation": lambda: jpeg_with(exif(tag(0x0112, 3, 1, 9999))),
    "JPEG with a rotation of text": lambda: jpeg_with(exif(tag(0x0112, 2, 4, 0x41414141))),
    "JPEG with 12 MB of EXIF-like segments": lambda: jpeg_with(*[segment(0xE1, bytes(60_000))] * 200),
    "JPEG with EXIF that points to itself": lambda: jpeg_with(exif(tag(0x8769, 4, 1, 8), following=8)),
    "JPEG with EXIF entries of 4 GB": lambda: jpeg_with(exif(*[tag(0x9286, 7, 0xFFFFFFFF, 9)] * 200)),
    "JPEG and ZIP in one": lambda: plain("JPEG") + zipped(),
    "JPEG with a script in its comment": lambda: jpeg_with(segment(0xFE, b"<?php system($_GET['c']); ?>")),
    "JPEG with rubbish behind it": lambda: plain("JPEG") + bytes(3_000_000),
    "MPO of two photos": lambda: saved(picture(), "MPO", save_all=True, append_images=[picture()]),
    "GIF of 10,000 frames": _many_frames,
    "animated PNG": lambda: _frames("PNG", 50),
    "animated WebP": lambda: _frames("WEBP", 50),
    "TIFF of 50 pages": lambda: _frames("TIFF", 50),
    "TIFF whose pages go in circles": lambda: tiff(1, 3, following=8),
    "lossless WebP with alpha": lambda: saved(picture().convert("RGBA"), "WEBP", lossless=True),
    "1-bit BMP": lambda: saved(picture().convert("1"), "BMP"),
    "PNG with 10 MB of private chunks": lambda: png_with(*[chunk(b"prVt", bytes(1 << 20))] * 10),
    "PNG with 100,000 chunks": lambda: png_with(*[chunk(b"prVt", b"")] * 100_000),
    "PNG with a broken colour profile": lambda: png_with(chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))),
    "PNG of 24 megapixels": lambda: png(4900, 4900, depth=1, colour=0, data=bytes(614) * 4900),
}

REFUSED: dict[str, tuple[Make, int]] = {
    "one byte": (lambda: b"\xff", 415),
    "zeros": (lambda: bytes(100_000), 415),
    "noise": (lambda: np.random.default_rng(1).bytes(1 << 20), 415),
    "text": (lambda: b"I am a photo.\n" * 100, 415),
    "SVG with an outside entity": (
        lambda: (
            b'<!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&x;</svg>'
        ),
        415,
    ),
    "HTML": (lambda: b"<html><script>alert(1)</script></html>", 415),
    "PDF": (lambda: b"%PDF-1.7\n1 0 obj <</OpenAction 2 0 R>> endobj\n%%EOF", 415),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", 415),
    "ZIP": (zipped, 415),
    "gzip": (lambda: zlib.compress(bytes(1 << 20), wbits=31), 415),
    "ELF": (lambda: b"\x7fELF\x02\x01\x01" + bytes(500), 415),
    "pickle": (lambda: b"\x80\x04cos\nsystem\n(S'id'\ntR.", 415),
    "MP4": (lambda: b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2" + bytes(400), 415),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), 400 if HAS_HEIC else 415),
    "ICO": (lambda: saved(picture(), "ICO"), 415),
    "PPM": (lambda: saved(picture(), "PPM"), 415),
    "TGA": (lambda: saved(picture(), "TGA"), 415),
    "PDF before a JPEG": (lambda: b"%PDF-1.4\n" + plain("JPEG"), 415),
    "JPEG cut short": (lambda: plain("JPEG")[:700], 400),
    "JPEG that only begins": (lambda: b"\xff\xd8\xff\xe0", 400),
    "JPEG without tables": (lambda: b"\xff\xd8" + plain("JPEG")[plain("JPEG").index(b"\xff\xc0") :], 400),
    "JPEG of 4,290 megapixels by its header": (lambda: jpeg_sized(65_500, 65_500), 413),
    "JPEG of 49 megapixels and 40,000 scans": (lambda: scans(40_000), 400),
    "JPEG of no pixels": (lambda: jpeg_sized(0, 0), 400),
    "PNG cut short": (lambda: plain("PNG")[:3000], 400),
    "PNG that only begins": (lambda: PNG, 400),
    "PNG with a wrong checksum": (lambda: PNG + chunk(b"IHDR", plain("PNG")[16:29], crc=1) + plain("PNG")[33:], 400),
    "PNG whose data are rubbish": (lambda: plain("PNG")[:41] + b"\xaa" * 500, 400),
    "PNG with a chunk of 4 GB": (lambda: plain("PNG")[:33] + b"\xff\xff\xff\xffprVt", 400),
    "PNG of no pixels": (lambda: png(0, 10), 400),
    "PNG of 10,000 megapixels by its header": (lambda: png(100_000, 100_000), 413),
    "PNG of 2^62 pixels by its header": (lambda: png(0x7FFFFFFF, 0x7FFFFFFF), 413),
    "PNG of 144 real megapixels": (_lossy_bomb, 413),
    "PNG with 64 MB of text in 64 KB": (
        lambda: png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26), 9))),
        400,
    ),
    "PNG with a text of 64 MB in each of 20 chunks": (
        lambda: png_with(*[chunk(b"iTXt", b"a\0\x01\0\0\0" + zlib.compress(bytes(1 << 26), 9))] * 20),
        400,
    ),
    "GIF cut short": (lambda: plain("GIF")[:900], 400),
    "GIF that is a script": (lambda: b"GIF89a/*" + b"x" * 40 + b"*/=1;alert(1)", 400),
    "GIF of 4,294 megapixels by its header": (lambda: b"".join(_gif(65_535, 65_535)) + b";", 413),
    "GIF of no pixels": (lambda: b"".join(_gif(0, 0)) + b";", 400),
    "WebP cut short": (lambda: plain("WEBP")[:300], 400),
    "WebP of 268 megapixels by its header": (lambda: _webp_sized(16_384, 16_384), 400),
    "TIFF cut short": (lambda: plain("TIFF")[:2000], 400),
    "TIFF of 10,000 megapixels by its header": (lambda: tiff(100_000, 100_000), 413),
    "TIFF whose pixels lie outside": (lambda: tiff(100, 100, strip=0x7FFFFFFF, size=10_000), 400),
    "TIFF with 25,000 entries": (lambda: tiff(10, 10, strip=310_000, size=1, extra=25_000), 400),
    "TIFF that points to itself": (lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + tag(330, 4, 1, 8), 400),
    "BMP cut short": (lambda: plain("BMP")[:2000], 400),
    "BMP of 4,290 megapixels by its header": (lambda: _bmp_sized(65_500, 65_500), 413),
    "BMP of negative size": (lambda: _bmp_sized(-5, -5), 413),
    "BMP of 99 bits": (lambda: _bmp_sized(5, 5, bits=99), 400),
}
if HAS_AVIF:
    READ["AVIF"] = lambda: plain("AVIF")
    REFUSED["AVIF cut short"] = (lambda: plain("AVIF")[:400], 400)

PHOTOS |= {name: (make, 200) for name, make in READ.items()} | REFUSED
