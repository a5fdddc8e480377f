"""The photos in a request: raw body, multipart form or JSON -> bytes, or a refusal that says how to send them.

Whether the bytes are a photo is for `leap_zoo.preprocess` to say. No name a client gives a file is ever used, and no
address it gives is ever fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import struct
from typing import TypeVar

import msgspec
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from leap_zoo.preprocess import Limits
from serve.problems import Refused

HOW_ONE = (
    "Send one photo: a multipart form with a file field `image`, or the bytes themselves with Content-Type image/jpeg"
)
HOW_MANY = (
    "Send the bytes of a photo with Content-Type image/jpeg, a multipart form with a file field `image` for each "
    'photo, or JSON {"images": ["base64", ...]}'
)
_BOXES = 64 * 1024  # bytes: where AVIF and HEIC say how large their images are
_MAX_SEGMENTS = 1000  # of a JPEG before its size; cameras write about ten
_MAX_FIELDS = 8  # one is refused already
_STANDARD = str.maketrans("-_", "+/")
_MAX_VALUES = 200_000  # of a JSON body; photos are few and long
_LARGE = 64 * 1024  # bytes of JSON or base64 that would hold up the event loop for more than a millisecond


T = TypeVar("T")


class _Images(msgspec.Struct, forbid_unknown_fields=True):
    images: list[str]


async def read_photo(request: Request) -> bytes:
    """The bytes of the one photo in `request`: raw, or of a form's only file.

    Raises Refused: 400 when there is none, more than one, or the form is broken; 415 for any other kind of body; 422
    for a form field that is no photo.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        photos = await _of_form(request, 8, HOW_ONE)  # a few are read so that the answer can say what was wrong
        if len(photos) > 1:
            raise Refused(400, "several_photos", f"The form holds several files. {HOW_ONE}.")
    elif is_raw(kind):
        photos = [await request.body()]
    else:
        raise other_kind(HOW_ONE)
    return _none_missing(photos, HOW_ONE)[0]


async def read_photos(request: Request, most: int) -> list[bytes]:
    """The bytes of the photos in `request`, 1 to `most`, in the order they were sent. Raises Refused.

    400 for no photo, and for a form, JSON or base64 that is broken; 413 for more than `most`; 415 for any other kind of
    body; 422 for what is no photo. `index` says which one it is about.
    """
    kind = content_type(request)
    if is_raw(kind):
        photos = [await request.body()]
    elif kind == "multipart/form-data":
        photos = await _of_form(request, most, HOW_MANY)
    elif kind == "application/json":
        photos = await _of_json(await request.body(), most)
    else:
        raise other_kind(HOW_MANY)
    return _none_missing(photos, HOW_MANY)


async def photos_of_texts(texts: list[str], most: int) -> list[bytes]:
    """The photos in `texts`, each in base64 or a data URI with base64. Raises Refused as `read_photos` does."""
    check_number(len(texts), most)
    if sum(map(len, texts)) > _LARGE:
        return await asyncio.to_thread(_decoded, texts)
    return _decoded(texts)


def photo_of_text(text: str, index: int) -> bytes:
    """The photo in base64, or in a `data:` URI with base64. Raises Refused, about the photo `index`.

    Standard or URL-safe (RFC 4648), with or without line breaks (MIME, PEM) and padding.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            detail = "This data URI cannot be read. Write data:image/jpeg;base64, and then the photo in base64."
            raise Refused(400, "broken_data_uri", detail, index=index)
    elif "://" in text[:32]:
        detail = "An address is never fetched. Send the photo itself, as data:image/jpeg;base64, and its base64."
        raise Refused(422, "address_not_fetched", detail, index=index)
    text = "".join(line.strip() for line in text.splitlines()).translate(_STANDARD)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        detail = "This is not base64. Send the photo in base64, standard or URL-safe."
        raise Refused(400, "broken_base64", detail, index=index) from error


def megapixels(photo: bytes, limits: Limits) -> float:
    """What decoding a photo costs, in millions of pixels as its header announces them; 0 for bytes that are no photo.

    A JPEG counts a quarter: it is decoded at a fraction of its size. A header that is not read here counts as the
    largest photo that `limits` allow. Whether the header is right is for the decoder to find.
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
    elif photo[:4] in (b"II+\0", b"MM\0+"):  # a TIFF of more than 4 GiB, by its name
        sides = (limits.pixels, 1)
    return min(sides[0] * sides[1], limits.pixels) / 1e6


def _jpeg_sides(photo: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG; None where they are not in its first segments."""
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
    """Width and height in a TIFF's first directory; None where they are not in its first entries."""
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


def check_number(photos: int, most: int) -> None:
    """Raises Refused for more photos than one request may hold."""
    if photos > most:
        detail = f"More than {most} photos in one request are not read. Send them in several requests."
        raise Refused(413, "too_many_photos", detail)


async def read_json(body: bytes, kind: type[T]) -> T:
    """A JSON body as a `kind`; a large one is read beside the event loop. Raises Refused as `decode_json` does."""
    return await asyncio.to_thread(decode_json, body, kind) if len(body) > _LARGE else decode_json(body, kind)


def decode_json(body: bytes, kind: type[T]) -> T:
    """A JSON body as a `kind`. Raises Refused: 400 for invalid JSON, 413 for too many values, 422 for another shape."""
    if len(body) > _LARGE and body.count(b",") > _MAX_VALUES:  # the decoder would keep the interpreter for seconds
        raise Refused(413, "body_too_large", f"The JSON has more than {_MAX_VALUES} values. Send fewer in one request.")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Refused(422, "invalid_body", f"The JSON has an unexpected shape: {error}.") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(400, "broken_json", "The body is not valid JSON. Check how it was written.") from error


def content_type(request: Request) -> str:
    """The media type of the body, without parameters; "" where the client says none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_raw(kind: str) -> bool:
    """Whether a body of this media type is a photo itself."""
    return kind.startswith("image/") or kind in ("", "application/octet-stream")


def other_kind(how: str) -> Refused:
    """The refusal of a body of any other media type."""
    return Refused(415, "unsupported_content_type", f"A body of this Content-Type holds no photo. {how}.")


def _none_missing(photos: list[bytes], how: str) -> list[bytes]:
    if not photos or not all(photos):
        index = photos.index(b"") if len(photos) > 1 else None
        raise Refused(400, "missing_photo", f"The request holds no photo, or an empty one. {how}.", index=index)
    return photos


async def _of_form(request: Request, most: int, how: str) -> list[bytes]:
    try:
        async with request.form(max_files=most, max_fields=_MAX_FIELDS) as form:
            fields = form.multi_items()
            texts = [name for name, value in fields if not isinstance(value, UploadFile)]
            if "image" in texts:
                raise Refused(422, "image_is_text", f"The field `image` is text, not a file. {how}.")
            if texts:
                detail = "A form field besides the photo is not read. Put options into the query, as in ?top=3."
                raise Refused(422, "unexpected_field", detail)
            return [await value.read() for _, value in fields if isinstance(value, UploadFile)]
    except HTTPException as error:  # Starlette's word for a form that it cannot parse
        if error.detail.startswith("Too many files"):
            check_number(most + 1, most)
        raise Refused(400, "broken_form", f"The form cannot be read ({error.detail.rstrip('.')}). {how}.") from error


async def _of_json(body: bytes, most: int) -> list[bytes]:
    return await photos_of_texts((await read_json(body, _Images)).images, most)


def _decoded(texts: list[str]) -> list[bytes]:
    photos = [photo_of_text(text, index) for index, text in enumerate(texts)]
    return _none_missing(photos, HOW_MANY)
