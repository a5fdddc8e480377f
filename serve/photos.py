"""The photos in a request: raw body, multipart form or JSON -> bytes, or a refusal that says how to send them.

`leap_zoo.preprocess` checks whether the bytes are a photo. File names from clients are never used, and URLs from
clients are never fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from leap_zoo.gallery import Value
from serve.problems import Refused

HOW_ONE = (
    "Send one photo: a multipart form with a file field `image`, or the bytes themselves with Content-Type image/jpeg"
)
HOW_MANY = (
    "Send the bytes of a photo with Content-Type image/jpeg, a multipart form with a file field `image` for each "
    'photo, or JSON {"images": ["base64", ...]}'
)
HOW_ITEMS = (
    "Send the bytes of a photo with Content-Type image/jpeg, a multipart form with a file field `image` for each photo "
    "(and optionally a field `id` and a field `metadata`, which is JSON, for each), or JSON "
    '{"images": ["base64", ...], "ids": [...], "metadata": [{...}, ...]}'
)
HOW_CLASSES = (
    "Send a multipart form with a file for each photo, whose field name is the class, or JSON "
    '{"classes": {"cat": ["base64", ...], "dog": [...]}}'
)
# A PNG of one reddish pixel, in base64.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mO4o6EBAAMQAS0Qc/Z2AAAAAElFTkSuQmCC"
_MAX_TEXT = 64 * 1024  # bytes of a form's text field
_STANDARD = str.maketrans("-_", "+/")
_MAX_VALUES = 200_000  # values in a JSON body; photos are few and long
_LARGE = 64 * 1024  # bytes of JSON or base64 that would block the event loop for more than a millisecond

T = TypeVar("T")
Fields = dict[str, Value]
Label = str
Texts = Annotated[
    list[Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})]],
    Meta(extra_json_schema={"minItems": 1, "examples": [[PIXEL]]}),
]
Form = list[tuple[str, bytes | str]]


@dataclass(frozen=True)
class Items:
    """Photos, with an id and metadata for each. Without ids from the client, equal photos get equal ids."""

    photos: list[bytes]
    ids: list[str]
    metadata: list[Fields]


class ImagesBody(msgspec.Struct, forbid_unknown_fields=True):
    """Photos in JSON."""

    images: Texts


class ItemsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Photos for a gallery, in JSON."""

    images: Texts
    ids: list[str] | None = None
    metadata: list[Fields] | None = None


class ClassesBody(msgspec.Struct, forbid_unknown_fields=True):
    """Photos by class, in JSON."""

    classes: dict[Label, Texts]


async def read_photo(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The one photo in `request`, raw or the only file of a form, and the form's other fields, which are options.

    Options are JSON, as BentoML's clients write them, or text. Raises Refused: 400 for no photo, for more than one, and
    for an invalid form; 415 for any other kind of body; 422 for text instead of the photo.
    """
    form = await _sent(request, 8, HOW_ONE, texts=None)  # a few are read, so that the answer can say what is wrong
    photos = _files(form)
    options = {name: _option(value) for name, value in form if isinstance(value, str)}
    if len(photos) > 1:
        raise Refused("several_photos", f"The form holds several files. {HOW_ONE}.")
    return none_missing(photos, HOW_ONE)[0], options


async def read_photos(request: Request, most: int) -> list[bytes]:
    """The bytes of the photos in `request`, 1 to `most`, in the order they were sent. Raises Refused.

    400 for no photo, and for an invalid form, JSON or base64; 413 for more than `most`; 415 for any other kind of body;
    422 for something that is not a photo. `index` says which photo has the problem.
    """
    sent = await _sent(request, most, HOW_MANY, ImagesBody)
    if isinstance(sent, ImagesBody):
        return none_missing(await photos_of_texts(sent.images, most))
    return none_missing(_files(sent))


async def read_items(request: Request, most: int) -> Items:
    """The photos in `request`, 1 to `most`, for a gallery. Raises Refused as `read_photos` does.

    422 if the number of ids or metadata differs from that of the photos. A photo sent twice without an id counts once.
    """
    sent = await _sent(request, most, HOW_ITEMS, ItemsBody, texts=("id", "metadata"))
    if isinstance(sent, ItemsBody):
        return _items(await photos_of_texts(sent.images, most), sent.ids, sent.metadata)
    texts = [(name, value) for name, value in sent if isinstance(value, str)]
    ids = [value for name, value in texts if name == "id"]
    metadata = [_decode_json(value.encode(), Fields) for name, value in texts if name == "metadata"]
    return _items(_files(sent), ids or None, metadata or None)


async def read_classes(request: Request, most: int) -> dict[Label, list[bytes]]:
    """The photos in `request`, 2 to `most`, by class. Raises Refused as `read_photos` does, but not for bytes that are
    not a photo.
    """
    sent = await _sent(request, most, HOW_CLASSES, ClassesBody, raw=False)
    classes: dict[Label, list[bytes]] = {}
    if isinstance(sent, ClassesBody):
        photos = iter(await photos_of_texts([text for texts in sent.classes.values() for text in texts], most))
        classes = {label: list(itertools.islice(photos, len(texts))) for label, texts in sent.classes.items()}
    else:
        for label, photo in sent:
            if isinstance(photo, bytes):
                classes.setdefault(label, []).append(photo)
    if not any(classes.values()):
        raise Refused("missing_photo", f"The request holds no photo. {HOW_CLASSES}.")
    if len(classes) < 2:
        raise Refused("invalid_classes", f"A head needs at least two classes. {HOW_CLASSES}.")
    return classes


async def photos_of_texts(texts: list[str], most: int) -> list[bytes]:
    """The photos in `texts`, at most `most`, each as base64 or as a data URI with base64. Raises Refused."""
    _check_number(len(texts), most)

    def decoded() -> list[bytes]:
        return [photo_of_text(text, index) for index, text in enumerate(texts)]

    return await asyncio.to_thread(decoded) if sum(map(len, texts)) > _LARGE else decoded()


def photo_of_text(text: str, index: int) -> bytes:
    """The photo from base64 or from a `data:` URI with base64. Raises Refused, with `index` as the photo's number.

    Standard or URL-safe (RFC 4648), with or without line breaks (MIME, PEM) and padding.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            detail = "This data URI cannot be read. Write data:image/jpeg;base64, and then the photo in base64."
            raise Refused("broken_data_uri", detail, index=index)
    elif "://" in text[:32]:
        detail = "An address is never fetched. Send the photo itself, as data:image/jpeg;base64, and its base64."
        raise Refused("address_not_fetched", detail, index=index)
    text = "".join(line.strip() for line in text.splitlines()).translate(_STANDARD)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        detail = "This is not base64. Send the photo in base64, standard or URL-safe."
        raise Refused("broken_base64", detail, index=index) from error


async def read_json(body: bytes, kind: type[T]) -> T:
    """A JSON body as a `kind`; a large one is parsed in a thread.

    Raises Refused: 400 for invalid JSON, 413 for too many values, 422 for an unexpected structure.
    """
    return await asyncio.to_thread(_decode_json, body, kind) if len(body) > _LARGE else _decode_json(body, kind)


async def _sent(
    request: Request,
    most: int,
    how: str,
    body: type[T] | None = None,
    *,
    raw: bool = True,
    texts: Sequence[str] | None = (),
) -> Form | T:
    """The body: the fields of a form (a raw photo counts as one field), or JSON. Raises Refused for any other body.

    texts: the fields of the form that may be text; None: any but `image`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if raw and (kind.startswith("image/") or kind in ("", "application/octet-stream")):
        return [("image", await request.body())]
    if kind == "application/json" and body is not None:
        return await read_json(await request.body(), body)
    if kind != "multipart/form-data":
        raise Refused("unsupported_content_type", f"A body with this Content-Type does not contain a photo. {how}.")
    form = await _form(request, most, how)
    given = {name for name, value in form if isinstance(value, str)}
    if "image" in given:
        raise Refused("image_is_text", f"The field `image` is text, not a file. {how}.")
    if texts is not None and not given <= set(texts):
        detail = f"The form has an unexpected text field. Put options into the query, as in ?top=3. {how}."
        raise Refused("unexpected_field", detail)
    return form


async def _form(request: Request, most: int, how: str) -> Form:
    """The fields of a form in the order they were sent; files as bytes, without their names."""
    try:
        async with request.form(max_files=most, max_fields=max(8, 2 * most), max_part_size=_MAX_TEXT) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as error:  # Starlette raises it for a form that it cannot parse
        if error.detail.startswith("Too many files"):
            _check_number(most + 1, most)
        raise Refused("broken_form", f"The form cannot be read ({error.detail.rstrip('.')}). {how}.") from error


def _files(form: Form) -> list[bytes]:
    return [value for _, value in form if isinstance(value, bytes)]


def _items(photos: list[bytes], ids: list[str] | None, metadata: list[Fields] | None) -> Items:
    none_missing(photos, HOW_ITEMS)
    check_even("photos", photos, ids=ids, metadata=metadata)
    fields = metadata if metadata is not None else [{} for _ in photos]
    if ids is not None:
        return Items(photos, ids, fields)
    by_id = {hashlib.sha256(photo).hexdigest()[:32]: (photo, one) for photo, one in zip(photos, fields, strict=True)}
    return Items([photo for photo, _ in by_id.values()], list(by_id), [one for _, one in by_id.values()])


def _decode_json(body: bytes, kind: type[T]) -> T:
    if len(body) > _LARGE and body.count(b",") > _MAX_VALUES:  # the decoder would hold the GIL for seconds
        raise Refused("body_too_large", f"The JSON has more than {_MAX_VALUES} values. Send fewer in one request.")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Refused("invalid_body", f"The JSON has an unexpected structure: {error}.") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused("broken_json", "The body is not valid JSON. Check how it was written.") from error


def _option(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_even(what: str, items: Sequence[object], **others: Sequence[object] | None) -> None:
    """Raises Refused (422) unless each of `others` is None or has as many elements as there are items."""
    for name, given in others.items():
        if given is not None and len(given) != len(items):
            raise Refused("uneven_items", f"There are {len(items)} {what} and {len(given)} {name}: send as many.")


def none_missing(photos: list[bytes], how: str = HOW_MANY) -> list[bytes]:
    """The photos. Raises Refused (400) if there is none or one is empty."""
    if not photos or not all(photos):
        index = photos.index(b"") if len(photos) > 1 else None
        raise Refused("missing_photo", f"The request holds no photo, or an empty one. {how}.", index=index)
    return photos


def _check_number(photos: int, most: int) -> None:
    if photos > most:
        detail = f"More than {most} photos in one request are not accepted. Send them in several requests."
        raise Refused("too_many_photos", detail)
