"""The photo in a request: multipart form or raw body -> bytes, or a refusal that says how to send one.

Whether the bytes are a photo is for `leap_zoo.preprocess` to say; no name a client gives a file is ever used.
"""

from __future__ import annotations

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve.problems import Refused

HOW = "Send one photo: a multipart form with a file field `image`, or the bytes themselves with Content-Type image/jpeg"
_MAX_PARTS = 8  # more than one is refused anyway; a few are read so that the answer can say what was wrong


async def read_photo(request: Request) -> bytes:
    """The bytes of the one photo in `request`.

    A form may hold it under any one file field. Raises Refused: 400 when there is none, more than one, or the form is
    broken; 415 for any other kind of body; 422 for a form field that is no photo.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        photo = await _photo_of_form(request)
    elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
        photo = await request.body()
    else:
        raise Refused(415, "unsupported_content_type", f"A body of this Content-Type holds no photo. {HOW}.")
    if not photo:
        raise Refused(400, "missing_photo", f"The request holds no photo, or an empty one. {HOW}.")
    return photo


async def _photo_of_form(request: Request) -> bytes:
    try:
        async with request.form(max_files=_MAX_PARTS, max_fields=_MAX_PARTS) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            texts = [name for name, value in form.multi_items() if not isinstance(value, UploadFile)]
            if "image" in texts:
                raise Refused(422, "image_is_text", f"The field `image` is text, not a file. {HOW}.")
            if texts:
                detail = "A form field besides the photo is not read. Put options into the query, as in ?top=3."
                raise Refused(422, "unexpected_field", detail)
            if len(files) > 1 or len(form.multi_items()) > 1:
                raise Refused(400, "several_photos", f"The form holds several files. {HOW}.")
            return await files[0].read() if files else b""
    except HTTPException as error:  # Starlette's word for a form that it cannot parse
        raise Refused(400, "broken_form", f"The form cannot be read ({error.detail.rstrip('.')}). {HOW}.") from error
