"""Small pictures inside the page: a photo as a data: address, decoded by the one decoder there is."""

from __future__ import annotations

import base64
import io

from PIL import Image

from leap_zoo.card import Preprocessing
from leap_zoo.preprocess import to_tensor
from serve.settings import PHOTO

SIDE = 144  # pixels; shown at half of that, sharp on a phone's screen

_SQUARE = Preprocessing(size=SIDE, short_side=SIDE)


def thumbnail(photo: bytes) -> str:
    """The centre square of a photo as a JPEG in a data: address. Raises ImageError."""
    file = io.BytesIO()
    Image.fromarray(to_tensor(photo, _SQUARE, PHOTO)).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
