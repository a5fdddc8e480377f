"""Turn a photo into the uint8 tensor that a graph takes. This is the only implementation: evaluation during training,
calibration, the service and the edge all call it, so no model loses accuracy to slightly different preprocessing.

`leap_zoo.decode`, and Pillow with it, is imported with the first photo.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Preprocessing
from leap_zoo.errors import ImageTooLarge, InvalidArgument, UnreadableFile, first_line, short, whole_number
from leap_zoo.files import read_regular

if TYPE_CHECKING:
    from PIL import Image

    from leap_zoo.decode import Opened


@dataclass(frozen=True)
class Limits:
    """The largest photo to accept.

    pixels: per photo; a JPEG may have twice as many, because it is decoded at a fraction of its size.
    bytes: size of its file.
    """

    pixels: int = 125_000_000
    bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        """Raises InvalidArgument."""
        for name in ("pixels", "bytes"):
            whole_number(getattr(self, name), f"the limit of {name}")


LIMITS = Limits()
_CHUNK = 2**20

# A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as neither side falls below this many pixels: four times faster on
# 12 MP, .27 gray levels of mean difference.
DRAFT_SIDE = 512


@runtime_checkable
class BinaryFile(Protocol):
    """A file opened in binary mode, a server's response, an `io.BytesIO`."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        ...


@runtime_checkable
class ArrayLike(Protocol):
    """A NumPy array, a torch tensor, or anything else that NumPy converts to an array."""

    def __array__(self) -> npt.NDArray[Any]: ...


if TYPE_CHECKING:
    ImageSource = (
        str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | BinaryFile | ArrayLike | Opened
    )
else:
    ImageSource = Any
"""One image: see `open_image`."""


def to_tensor(image: ImageSource, spec: Preprocessing, limits: Limits = LIMITS) -> npt.NDArray[np.uint8]:
    """One photo -> uint8 (size, size, 3), RGB in 0..255: short side to `spec.short_side`, center crop.

    Resize and crop are one step. Only the region inside the crop is resampled (at the exact scale, with the filter's
    support reaching beyond its border), so a 1 x 20000 strip costs no more than a square.
    Raises as `open_image` does.
    """
    from PIL import Image

    upright = open_image(image, limits=limits, draft_side=max(DRAFT_SIDE, spec.short_side))
    side = min(upright.size) * spec.size / spec.short_side  # of the crop, in the photo's pixels
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    box = (left, top, min(left + side, upright.width), min(top + side, upright.height))
    cropped = upright.resize((spec.size, spec.size), Image.Resampling[spec.filter.upper()], box=box)
    return np.array(cropped, dtype=np.uint8)


def open_image(source: ImageSource, *, limits: Limits = LIMITS, draft_side: int = DRAFT_SIDE) -> Image.Image:
    """A photo as an upright RGB PIL image without metadata; opening the result again changes nothing.

    source: a path (str or PathLike), the bytes of a file, a file opened in binary mode (read from its current
    position), a PIL image, or a uint8 array: (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) gray. An array is a
    NumPy array, a torch tensor, or anything with `__array__`.
    draft_side: a JPEG may be decoded at a reduced size, but not below this many pixels per side.

    EXIF orientation is applied, transparency is composited over white, gray above 8 bits is scaled to 8 bits, CMYK,
    palette and 1-bit images are converted, and an animation gives its first frame. A truncated JPEG is accepted if only
    its end marker and the last few blocks are missing. The caller's image is not modified.
    Raises NotAnImage, UndecodableImage, ImageTooLarge, UnreadableFile; InvalidArgument for other types and arrays.
    """
    from PIL import Image

    from leap_zoo.decode import Opened, from_array, from_pil

    if isinstance(source, Opened):
        return source.upright(draft_side)
    if isinstance(source, Image.Image):
        return from_pil(source, limits)
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, BinaryFile)):
        return Opened(image_bytes(source, limits), limits).upright(draft_side)
    if isinstance(source, ArrayLike):
        return from_array(_as_array(source))
    raise InvalidArgument(
        f"an image must be a path, bytes, a file, a PIL image or a uint8 array, not {type(source).__name__}: convert it"
    )


def many_images(images: Any) -> Iterable[Any] | None:
    """Iterate over `images` if they are an iterable, a uint8 array (N, H, W, C), or an array of paths.

    None if `images` is a single image or not recognized (see `open_image`).
    """
    if isinstance(images, (list, tuple)):
        return images
    from PIL import Image

    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping)
    if isinstance(images, (*one, BinaryFile)):
        return None
    if isinstance(images, ArrayLike):
        array = _as_array(images)
        return array if array.ndim == 4 or (array.ndim == 1 and array.dtype.kind in "OU") else None
    return images if isinstance(images, Iterable) else None


def readable_formats() -> tuple[str, ...]:
    """The photo formats that this installation decodes, as Pillow names them."""
    from leap_zoo import decode

    return decode.readable_formats()


def which_image(number: int, images: Iterable[Any]) -> str:
    """A name for one of many images in messages: `image 3 of 8 (from 0)`."""
    return f"image {number}{f' of {len(images)}' if isinstance(images, Sized) else ''} (from 0)"


def image_bytes(image: ImageSource, limits: Limits = LIMITS) -> bytes:
    """The bytes of a photo: its file unchanged, or a PIL image or array as PNG. Raises as `open_image` does."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        data = _read_path(image, limits)
    elif isinstance(image, BinaryFile):
        data = _read_file(image, limits)
    else:
        buffer = io.BytesIO()
        open_image(image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    if len(data) > limits.bytes:
        raise ImageTooLarge(f"the photo has more than {limits.bytes / 2**20:.3g} MiB: send a smaller photo")
    return data


def _read_path(path: str | os.PathLike[str], limits: Limits) -> bytes:
    try:
        return read_regular(path, limits.bytes)
    except OSError as error:
        reason = "no such file" if getattr(error, "errno", None) == errno.ENOENT else first_line(error)
        raise UnreadableFile(f"cannot read {short(path)} ({reason}): check the path") from error


def _read_file(file: BinaryFile, limits: Limits) -> bytes:
    data = bytearray()
    try:
        while len(data) <= limits.bytes and (chunk := file.read(_CHUNK)):
            if not isinstance(chunk, bytes):
                raise InvalidArgument(
                    f"read() returned {type(chunk).__name__}, not bytes: open the file in binary mode"
                )
            data += chunk
    except UnicodeDecodeError as error:
        raise InvalidArgument("the file is open in text mode: open it in binary mode") from error
    except InvalidArgument:
        raise
    except Exception as error:  # any object: a closed file, a damaged archive, a response that ends early
        raise UnreadableFile(f"cannot read the file ({first_line(error)}): open it again, or give its bytes") from error
    return bytes(data)


def _as_array(source: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as error:  # a tensor on an accelerator, or one with a gradient
        raise InvalidArgument(
            f"cannot convert this {type(source).__name__} to an array ({first_line(error)})"
        ) from error
