"""A photo becomes the uint8 tensor that a graph takes. The only implementation: training's evaluation, calibration,
the service and the edge all call it, so an exported model cannot lose accuracy to "nearly the same" preprocessing.

Hostile input is expected. A photo is refused by its bytes, then by its signature, then by its header, before any pixel
is decoded; whatever Pillow raises becomes one of our `ImageError`s. Colour profiles are ignored, as training did.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError, features

from leap_zoo.card import Preprocessing
from leap_zoo.errors import (
    ImageError,
    ImageTooLarge,
    InvalidArgument,
    NotAnImage,
    UndecodableImage,
    UnreadableFile,
    short,
)

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 25_000_000
MAX_PIXELS_JPEG = 50_000_000  # a JPEG is decoded at a fraction of its size, see DRAFT_SIDE
MAX_SCANS = 500  # of a JPEG: each of them, perhaps 75 bytes, costs a walk over all pixels; encoders write about ten

# A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as neither side falls below this many pixels: four times faster on
# 12 MP, .27 grey levels of mean difference.
DRAFT_SIDE = 512

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]

_READABLE = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def batch(images: Iterable[ImageSource], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Photos -> uint8 (N, size, size, 3), RGB in 0..255. Raises as `to_tensor` does, for the first bad one."""
    tensors = [to_tensor(image, spec) for image in images]
    return np.stack(tensors) if tensors else np.empty((0, spec.size, spec.size, 3), np.uint8)


def to_tensor(image: ImageSource, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """One photo -> uint8 (size, size, 3), RGB in 0..255: short side to `spec.short_side`, centre crop.

    Resize and crop are one step: only the region that survives the crop is resampled (at the exact scale, with the
    filter's support reaching beyond its border), so a 1 x 20000 strip costs no more than a square.
    Raises as `open_image` does.
    """
    upright = open_image(image, draft_side=max(DRAFT_SIDE, spec.short_side))
    side = min(upright.size) * spec.size / spec.short_side  # of the crop, in the photo's pixels
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    box = (left, top, min(left + side, upright.width), min(top + side, upright.height))
    cropped = upright.resize((spec.size, spec.size), _FILTERS[spec.filter], box=box)
    return np.array(cropped, dtype=np.uint8)


def open_image(source: ImageSource, *, max_bytes: int = MAX_BYTES, draft_side: int = DRAFT_SIDE) -> Image.Image:
    """A photo as an upright RGB PIL image without metadata; opening the result again changes nothing.

    source: a path (str or Path), the bytes of a file, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W) grey.
    max_bytes: larger files are refused, unread.
    draft_side: JPEGs may be decoded smaller, with no side below this many pixels unless the photo's own is.

    EXIF orientation is applied, transparency laid over white, 16-bit and float grey rescaled (not clipped), CMYK,
    palette and 1-bit converted; of an animation the first frame counts. The caller's image is not changed.
    Raises NotAnImage, UndecodableImage, ImageTooLarge, UnreadableFile; InvalidArgument for other types and arrays.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source) if len(source) <= max_bytes else _refuse_bytes(max_bytes), draft_side)
    if isinstance(source, (str, os.PathLike)):
        return _decode(read_photo(source, max_bytes), draft_side)
    raise InvalidArgument(
        f"an image is a path, bytes, a PIL image or a uint8 array, not {type(source).__name__}: convert it first"
    )


def read_photo(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most `max_bytes`. Raises UnreadableFile, ImageTooLarge."""
    # Without O_NONBLOCK, opening a FIFO waits for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFile(f"{short(path)} is no regular file: give the path of a photo")
            if status.st_size > max_bytes:
                _refuse_bytes(max_bytes)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)  # the file may have grown since
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = "no such file" if getattr(error, "errno", None) == errno.ENOENT else _reason(error)
        raise UnreadableFile(f"cannot read {short(path)} ({reason}): check the path") from error
    return data if len(data) <= max_bytes else _refuse_bytes(max_bytes)


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """The photo formats that this installation decodes, as Pillow names them."""
    # An older Pillow has never heard of AVIF, and would warn.
    optional = {name: name.lower() in features.modules and features.check(name.lower()) for name in ("WEBP", "AVIF")}
    optional["HEIF"] = find_spec("pillow_heif") is not None
    return tuple(name for name in _READABLE if optional.get(name, True))


def _decode(data: bytes, draft_side: int) -> Image.Image:
    kind = _signature(data)
    if kind == "HEIF":
        _register_heif()
    if kind not in readable_formats():
        raise NotAnImage(f"these bytes are no photo that we read: send one of {', '.join(readable_formats())}")
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:  # within a scan these two bytes are escaped
        raise UndecodableImage(f"the photo has more than {MAX_SCANS} scans: save it again")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as photo:
            _check_pixels(photo)
            if photo.format in ("JPEG", "MPO"):
                photo.draft("RGB", (draft_side, draft_side))
            return _upright_rgb(photo)
    except Exception as error:  # decoders raise anything, also what is no OSError
        raise _as_image_error(error) from error


def _signature(data: bytes) -> str | None:
    """The format by its first bytes. Naming it ourselves keeps every other decoder of Pillow out of reach."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if data[4:8] == b"ftyp" and (data[8:12] in (b"avif", b"avis") or b"avif" in data[16:64]):
        return "AVIF"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "HEIF"
    return None


@lru_cache(maxsize=1)
def _register_heif() -> None:
    """Teach Pillow to read HEIC, as phones write it, by the extra `heic`. Raises NotAnImage."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise NotAnImage(f'HEIC needs pillow-heif ({error}): pip install "leap-zoo[heic]", or send a JPEG') from error
    register_heif_opener()


def _from_pil(image: Image.Image) -> Image.Image:
    try:
        if isinstance(image, ImageFile.ImageFile):  # perhaps not decoded yet
            _check_pixels(image)
        return _upright_rgb(image)
    except Exception as error:  # decoders raise anything, also what is no OSError
        raise _as_image_error(error) from error


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    shape_fits = (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) and array.size > 0
    if array.dtype != np.uint8 or not shape_fits:
        raise InvalidArgument(
            f"an image array is uint8 (H, W, 3) RGB or (H, W) grey, not {array.dtype} {array.shape}: convert it first"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _check_pixels(image: Image.Image) -> None:
    limit = MAX_PIXELS_JPEG if image.format in ("JPEG", "MPO") else MAX_PIXELS
    pixels = image.width * image.height
    if pixels > limit:
        raise ImageTooLarge(f"{pixels / 1e6:.0f} megapixels, at most {limit / 1e6:.0f} are read: send a smaller photo")
    if pixels == 0:
        raise UndecodableImage("the photo has no pixels: send another one")


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    orientation = _orientation(image)
    if type(image) is Image.Image and image.mode == "RGB" and not image.info and orientation not in _UPRIGHT:
        return image
    rgb = _to_rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info = {}  # an orientation left behind would be applied again by the next reader
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata does not make a broken photo
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey_to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _grey_to_uint8(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey (H, W) of more than 8 bits -> uint8. Pillow's own conversion clips at 255: everything turns white.

    White is 65535 for integers (their own maximum when that is larger); for floats 1, 255, or their own maximum.
    """
    values = np.nan_to_num(grey.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(values.max())
    whites = (65535.0,) if grey.dtype.kind in "iu" else (1.0, 255.0)
    white = next((white for white in whites if peak <= white), peak)
    scaled: npt.NDArray[np.uint8] = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
    return scaled


def _refuse_bytes(max_bytes: int) -> bytes:
    raise ImageTooLarge(f"more than {max_bytes / 2**20:.0f} MiB: send a smaller photo")


def _as_image_error(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)):
        return ImageTooLarge("too many pixels to decode: send a smaller photo")
    if isinstance(error, UnidentifiedImageError):  # its text names a Python object, not the trouble
        return UndecodableImage("the photo is truncated or broken (its header cannot be read): save it again")
    return UndecodableImage(f"the photo is truncated or broken ({_reason(error)}): save it again")


def _reason(error: Exception) -> str:
    """Why, in a few words; an OSError's text without the path, which the message names already."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0][:100]
