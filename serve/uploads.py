"""Photos that come with more than themselves: with ids and metadata for a gallery, or by class for a head."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from dataclasses import dataclass

import msgspec
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from leap_zoo.gallery import Value
from serve.photos import check_number, content_type, decode_json, is_raw, other_kind, photo_of_text
from serve.problems import Refused

HOW_ITEMS = (
    "Send the bytes of a photo with Content-Type image/jpeg, a multipart form with a file field `image` for each photo "
    "(and perhaps a field `id` and a field `metadata`, which is JSON, for each), or JSON "
    '{"images": ["base64", ...], "ids": [...], "metadata": [{...}, ...]}'
)
HOW_CLASSES = (
    "Send a multipart form with a file for each photo, whose field name is the class, or JSON "
    '{"classes": {"cat": ["base64", ...], "dog": [...]}}'
)
_MAX_TEXT = 64 * 1024  # bytes of a form's text field

Fields = dict[str, Value]
Label = str
_Form = list[tuple[str, bytes | str]]


@dataclass(frozen=True)
class Items:
    """Photos, and as many ids and metadata. Where the client gave no ids, the same photo has the same id."""

    photos: list[bytes]
    ids: list[str]
    metadata: list[Fields]


class _ItemsBody(msgspec.Struct, forbid_unknown_fields=True):
    images: list[str]
    ids: list[str] | None = None
    metadata: list[Fields] | None = None


class _ClassesBody(msgspec.Struct, forbid_unknown_fields=True):
    classes: dict[Label, list[str]]


async def read_items(request: Request, most: int) -> Items:
    """The photos in `request`, 1 to `most`, for a gallery. Raises Refused as `read_photos` does.

    422 for ids or metadata that are not as many as the photos. A photo that is there twice, without an id, counts once.
    """
    kind = content_type(request)
    if is_raw(kind):
        return _items([await request.body()], None, None)
    if kind == "multipart/form-data":
        return _items_of_form(await _form(request, most, HOW_ITEMS))
    if kind == "application/json":
        return await asyncio.to_thread(_items_of_json, await request.body(), most)
    raise other_kind(HOW_ITEMS)


async def read_classes(request: Request, most: int) -> dict[Label, list[bytes]]:
    """The photos in `request`, 2 to `most`, by class. Raises Refused as `read_photos` does, though not for bytes that
    are no photo.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        classes: dict[Label, list[bytes]] = {}
        for label, photo in await _form(request, most, HOW_CLASSES):
            if isinstance(photo, str):
                raise Refused(422, "unexpected_field", f"A text field of the form is not read. {HOW_CLASSES}.")
            classes.setdefault(label, []).append(photo)
    elif kind == "application/json":
        classes = await asyncio.to_thread(_classes_of_json, await request.body(), most)
    else:
        raise other_kind(HOW_CLASSES)
    if not any(classes.values()):
        raise Refused(400, "missing_photo", f"The request holds no photo. {HOW_CLASSES}.")
    if len(classes) < 2:
        raise Refused(422, "invalid_classes", f"A head tells at least two classes apart. {HOW_CLASSES}.")
    return classes


def _items(photos: list[bytes], ids: list[str] | None, metadata: list[Fields] | None) -> Items:
    if not photos or not all(photos):
        index = photos.index(b"") if len(photos) > 1 else None
        raise Refused(400, "missing_photo", f"The request holds no photo, or an empty one. {HOW_ITEMS}.", index=index)
    for what, given in (("ids", ids), ("metadata", metadata)):
        if given is not None and len(given) != len(photos):
            detail = f"There are {len(photos)} photos and {len(given)} {what}. Give as many, or none."
            raise Refused(422, "uneven_items", detail)
    fields = metadata if metadata is not None else [{} for _ in photos]
    if ids is not None:
        return Items(photos, ids, fields)
    by_id = {hashlib.sha256(photo).hexdigest()[:32]: (photo, one) for photo, one in zip(photos, fields, strict=True)}
    return Items([photo for photo, _ in by_id.values()], list(by_id), [one for _, one in by_id.values()])


def _items_of_form(form: _Form) -> Items:
    photos = [value for _, value in form if isinstance(value, bytes)]
    ids: list[str] = []
    metadata: list[Fields] = []
    for name, value in form:
        if isinstance(value, bytes):
            continue
        if name == "id":
            ids.append(value)
        elif name == "metadata":
            metadata.append(decode_json(value.encode(), Fields))
        else:
            detail = f"A text field of the form is neither `id` nor `metadata`. {HOW_ITEMS}."
            raise Refused(422, "unexpected_field", detail)
    return _items(photos, ids or None, metadata or None)


def _items_of_json(body: bytes, most: int) -> Items:
    sent = decode_json(body, _ItemsBody)
    check_number(len(sent.images), most)
    photos = [photo_of_text(text, index) for index, text in enumerate(sent.images)]
    return _items(photos, sent.ids, sent.metadata)


def _classes_of_json(body: bytes, most: int) -> dict[Label, list[bytes]]:
    sent = decode_json(body, _ClassesBody).classes
    check_number(sum(map(len, sent.values())), most)
    index = itertools.count()
    return {label: [photo_of_text(text, next(index)) for text in texts] for label, texts in sent.items()}


async def _form(request: Request, most: int, how: str) -> _Form:
    """The fields of a form in the order they were sent; files as bytes, their names unread."""
    try:
        async with request.form(max_files=most, max_fields=2 * most, max_part_size=_MAX_TEXT) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as error:  # Starlette's word for a form that it cannot parse
        if error.detail.startswith("Too many files"):
            check_number(most + 1, most)
        raise Refused(400, "broken_form", f"The form cannot be read ({error.detail.rstrip('.')}). {how}.") from error
