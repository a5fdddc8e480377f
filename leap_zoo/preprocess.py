"""A photo becomes the uint8 tensor that a graph takes. The only implementation: training's evaluation, calibration,
the service and the edge all call it, so an exported model cannot lose accuracy to "nearly the same" preprocessing.

Hostile input is expected. A photo is refused by its bytes, then by its signature, then by its header, before any pixel
is decoded; whatever Pillow raises becomes one of our `ImageError`s. Colour profiles are ignored, as training did.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, features

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
from leap_zoo.files import read_regular


@dataclass(frozen=True)
class Limits:
    """The largest photo that is read.

    pixels: of a photo; a JPEG may have twice as many, because it is decoded at a fraction of its size.
    bytes: of its file.
    """

    pixels: int = 125_000_000
    bytes: int = 256 * 2**20


LIMITS = Limits()
MAX_SCANS = 500  # of a JPEG: each of them, perhaps 75 bytes, costs a walk over all pixels; encoders write about ten

MAX_READS = 500_000  # of a file by its decoder, a few per part; 256 MiB of PNG in parts of 4 KiB take 200,000

# A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as neither side falls below this many pixels: four times faster on
# 12 MP, .27 grey levels of mean difference.
DRAFT_SIDE = 512


class _Counted(io.BytesIO):
    """The bytes of a photo. A file of millions of empty parts would keep the decoder busy for minutes."""

    left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise UndecodableImage("the photo has too many parts: save it again")
        return super().read(size)


@runtime_checkable
class BinaryFile(Protocol):
    """A file opened in binary mode, an answer of a server, an `io.BytesIO`."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        ...


@runtime_checkable
class ArrayLike(Protocol):
    """A NumPy array, a torch tensor, and what else NumPy takes for an array."""

    def __array__(self) -> npt.NDArray[Any]: ...


ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | BinaryFile | ArrayLike
"""One image: see `open_image`."""

_READABLE = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_END = b"\xff\xd9"  # of a JPEG
_EMPTY = "the photo has no pixels: send another one"
_LOST = 64  # pixels of a JPEG's last row of blocks that may be missing with its end; at most a quarter of the row
_CHUNK = 2**20
# Of an interlaced PNG: where each pass begins, and its steps to the right and down.
_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
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


def to_tensor(image: ImageSource, spec: Preprocessing, limits: Limits = LIMITS) -> npt.NDArray[np.uint8]:
    """One photo -> uint8 (size, size, 3), RGB in 0..255: short side to `spec.short_side`, centre crop.

    Resize and crop are one step: only the region that survives the crop is resampled (at the exact scale, with the
    filter's support reaching beyond its border), so a 1 x 20000 strip costs no more than a square.
    Raises as `open_image` does.
    """
    upright = open_image(image, limits=limits, draft_side=max(DRAFT_SIDE, spec.short_side))
    side = min(upright.size) * spec.size / spec.short_side  # of the crop, in the photo's pixels
    left, top = (upright.width - side) / 2, (upright.height - side) / 2
    box = (left, top, min(left + side, upright.width), min(top + side, upright.height))
    cropped = upright.resize((spec.size, spec.size), _FILTERS[spec.filter], box=box)
    return np.array(cropped, dtype=np.uint8)


def open_image(source: ImageSource, *, limits: Limits = LIMITS, draft_side: int = DRAFT_SIDE) -> Image.Image:
    """A photo as an upright RGB PIL image without metadata; opening the result again changes nothing.

    source: a path (str or PathLike), the bytes of a file, a file opened in binary mode (read from where it stands), a
    PIL image, or a uint8 array: (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey. An array is a NumPy array, a
    torch tensor, or anything with `__array__`.
    draft_side: JPEGs may be decoded smaller, with no side below this many pixels unless the photo's own is.

    EXIF orientation is applied, transparency laid over white, grey of more than 8 bits scaled (see `_grey_to_uint8`),
    CMYK, palette and 1-bit converted; of an animation the first frame counts. A JPEG that has lost its end is read when
    all that is missing is its end marker and the last few blocks. The caller's image is not changed.
    Raises NotAnImage, UndecodableImage, ImageTooLarge, UnreadableFile; InvalidArgument for other types and arrays.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, limits)
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, BinaryFile)):
        return _decode(image_bytes(source, limits), limits, draft_side)
    if isinstance(source, ArrayLike):
        return _from_array(_as_array(source))
    raise InvalidArgument(
        f"an image is a path, bytes, a file, a PIL image or a uint8 array, not {type(source).__name__}: convert it"
    )


def many_images(images: Any) -> Iterable[Any] | None:
    """The images one by one when `images` are many: a list, a generator or any other iterable, a uint8 array
    (N, H, W, C), or an array of paths. None when `images` is one image, or nothing that we know (see `open_image`).
    """
    if isinstance(images, (list, tuple)):
        return images
    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Mapping)
    if isinstance(images, (*one, BinaryFile)):
        return None
    if isinstance(images, ArrayLike):
        array = _as_array(images)
        return array if array.ndim == 4 or (array.ndim == 1 and array.dtype.kind in "OU") else None
    return images if isinstance(images, Iterable) else None


def which_image(number: int, images: Iterable[Any]) -> str:
    """One of many images, for messages: `image 3 of 8 (from 0)`."""
    return f"image {number}{f' of {len(images)}' if isinstance(images, Sized) else ''} (from 0)"


def read_photo(path: str | os.PathLike[str], limits: Limits = LIMITS) -> bytes:
    """The bytes of a regular file of at most `limits.bytes`. Raises UnreadableFile, ImageTooLarge, InvalidArgument."""
    try:
        data = read_regular(path, limits.bytes)
    except OSError as error:
        reason = "no such file" if getattr(error, "errno", None) == errno.ENOENT else _reason(error)
        raise UnreadableFile(f"cannot read {short(path)} ({reason}): check the path") from error
    return data if len(data) <= limits.bytes else _refuse_bytes(limits)


def image_bytes(image: ImageSource, limits: Limits = LIMITS) -> bytes:
    """The bytes of a photo's file: as they are, or a PNG of a PIL image or an array. Raises as `open_image` does."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image) if memoryview(image).nbytes <= limits.bytes else _refuse_bytes(limits)
    if isinstance(image, (str, os.PathLike)):
        return read_photo(image, limits)
    if isinstance(image, BinaryFile):
        return read_file(image, limits)
    buffer = io.BytesIO()
    open_image(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """The photo formats that this installation decodes, as Pillow names them."""
    # An older Pillow has never heard of AVIF, and would warn.
    optional = {name: name.lower() in features.modules and features.check(name.lower()) for name in ("WEBP", "AVIF")}
    optional["HEIF"] = find_spec("pillow_heif") is not None
    return tuple(name for name in _READABLE if optional.get(name, True))


def read_file(file: BinaryFile, limits: Limits = LIMITS) -> bytes:
    """The rest of an open file, at most `limits.bytes`. Raises UnreadableFile, ImageTooLarge, InvalidArgument."""
    data = bytearray()
    try:
        while len(data) <= limits.bytes and (chunk := file.read(_CHUNK)):
            if not isinstance(chunk, bytes):
                raise InvalidArgument(f"read() gave {type(chunk).__name__}, not bytes: open the file in binary mode")
            data += chunk
    except UnicodeDecodeError as error:
        raise InvalidArgument("read() decodes the bytes: open the file in binary mode") from error
    except InvalidArgument:
        raise
    except Exception as error:  # it is anybody's: closed, a broken archive, an answer that ends early
        raise UnreadableFile(f"cannot read the file ({_reason(error)}): open it again, or give its bytes") from error
    return bytes(data) if len(data) <= limits.bytes else _refuse_bytes(limits)


def _decode(data: bytes, limits: Limits, draft_side: int) -> Image.Image:
    if not data:
        raise NotAnImage("the photo is empty (0 bytes): save it again; a file that was read or written needs seek(0)")
    kind = _signature(data)
    if kind == "HEIF":
        _register_heif()
    if kind is None or kind not in readable_formats():
        raise NotAnImage(f"not a photo in a format that we read: send one of {', '.join(readable_formats())}")
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:  # within a scan these two bytes are escaped
        raise UndecodableImage(f"the photo has more than {MAX_SCANS} scans: save it again")
    try:
        photo = _header(data, kind, limits, draft_side)
        try:
            photo.load()
        except OSError as error:
            if kind != "JPEG" or "truncated" not in str(error):
                raise
            photo = _without_end(data, limits, draft_side)
        if kind == "PNG" and _lacks_rows(photo, data):
            raise OSError("its rows end early")
        return _upright_rgb(photo)
    except Exception as error:  # decoders raise anything, also what is no OSError
        raise _as_image_error(error) from error


def _header(data: bytes, kind: str, limits: Limits, draft_side: int) -> ImageFile.ImageFile:
    """The photo by its header, checked; no pixel is decoded yet."""
    Image.preinit()
    if kind not in Image.OPEN:
        Image.init()
    try:
        # Not Image.open: it has a limit of its own, for the whole process, at which it warns and twice which it raises.
        photo = Image.OPEN[kind][0](_Counted(data), "")
    except UndecodableImage:
        raise
    except Exception as error:
        raise UndecodableImage("the photo is truncated or broken (its header cannot be read): save it again") from error
    _check_pixels(photo, limits)
    if kind == "JPEG":
        photo.draft("RGB", (draft_side, draft_side))
    return photo


def _without_end(data: bytes, limits: Limits, draft_side: int) -> ImageFile.ImageFile:
    """A JPEG whose last bytes are missing, loaded. Raises OSError when more than the last few blocks are missing.

    The decoder makes up what is missing without a word. With two different ends it makes up two different things, so
    the first difference is where the photo ends. (A progressive one that ends between two scans looks whole.)
    """
    start = data.removesuffix(b"\xff")
    noise = np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8).tobytes()  # 255 would start a marker
    photo, other = (_header(start + end + _END, "JPEG", limits, draft_side) for end in (b"", noise))
    one, two = np.asarray(photo), np.asarray(other)  # decodes them
    jpeg: Any = photo
    scale = jpeg.decoderconfig[0] if jpeg.decoderconfig else 1
    block = 8 * (max(layer[2] for layer in jpeg.layer) if len(jpeg.layer) > 1 else 1) // scale
    rows, columns, *_ = np.nonzero(one != two)
    if len(rows):
        top = (photo.height - 1) // block * block - 2  # 2: colours are interpolated across the border of a block
        if rows[0] < top or columns.min() < photo.width - min(_LOST // scale, photo.width // 4) - 2:
            raise OSError("image file is truncated")
    return photo


def _lacks_rows(photo: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether the zlib stream of a loaded PNG ends before its last row. Pillow leaves such rows black.

    The stream is unpacked again where the last row is black or the rows are not in order.
    """
    last = photo.crop((0, photo.height - 1, photo.width, photo.height))
    if np.asarray(last).any() and not photo.info.get("interlace"):
        return False
    inflater, there, needed = zlib.decompressobj(), 0, 0
    position = 8
    while position + 12 <= len(data):
        size, name = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + size]
        position += 12 + size
        if name == b"IHDR":
            needed = _bytes_of_rows(body)
        try:
            while name == b"IDAT" and body and there < needed:
                there += len(inflater.decompress(body, _CHUNK))
                body = inflater.unconsumed_tail
        except zlib.error:  # a wrong checksum at the end, which Pillow lets pass
            return False
    return there + len(inflater.flush()) < needed


def _bytes_of_rows(header: bytes) -> int:
    """How many bytes a PNG's rows have once they are unpacked, by its IHDR."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    total = 0
    for left, top, right, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(left, width, right)), len(range(top, height, down))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


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


def _from_pil(image: Image.Image, limits: Limits) -> Image.Image:
    try:
        if isinstance(image, ImageFile.ImageFile):  # perhaps not decoded yet
            _check_pixels(image, limits)
        elif 0 in image.size:
            raise UndecodableImage(_EMPTY)
        return _upright_rgb(image)
    except Exception as error:  # decoders raise anything, also what is no OSError
        raise _as_image_error(error) from error


def _as_array(source: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as error:  # a tensor on an accelerator, one with a gradient
        raise InvalidArgument(f"cannot read this {type(source).__name__} as an array ({_reason(error)})") from error


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        advice = "" if array.dtype == np.uint8 else "; scale it to 0..255 and convert it with astype(np.uint8)"
        if array.ndim == 3 and channels not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
            advice += "; put the channels last"
        raise InvalidArgument(
            f"an image array is uint8 (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) grey, not {array.dtype} "
            f"{array.shape}{advice or '; convert it first'}"
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array if channels > 1 else array.reshape(array.shape[:2]))))


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    limit = limits.pixels * (2 if image.format in ("JPEG", "MPO") else 1)
    pixels = image.width * image.height
    if pixels > limit:
        raise ImageTooLarge(f"{pixels / 1e6:.0f} megapixels, at most {limit / 1e6:.0f} are read: send a smaller photo")
    if pixels == 0:
        raise UndecodableImage(_EMPTY)


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
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
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

    White is one of a few fixed values, never the photo's own maximum. Integers: the first of 255, 4095 (12 bits) and
    65535 that no value exceeds. Floats: the first of 1, 255 and 65535 of which no value exceeds the double, because
    highlights may lie above white. What lies above white is white, what lies below 0 is black, and so is NaN.
    """
    integers = grey.dtype.kind in "iu"
    values = np.nan_to_num(grey.astype(np.float32), nan=0.0, posinf=np.inf, neginf=0.0)
    peak = float(values.max(where=np.isfinite(values), initial=0.0))
    whites, headroom = ((255.0, 4095.0, 65535.0), 1) if integers else ((1.0, 255.0, 65535.0), 2)
    white = next((white for white in whites if peak <= headroom * white), whites[-1])
    scaled: npt.NDArray[np.uint8] = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
    return scaled


def _refuse_bytes(limits: Limits) -> bytes:
    raise ImageTooLarge(f"more than {limits.bytes / 2**20:.3g} MiB: send a smaller photo")


def _as_image_error(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)):
        return ImageTooLarge("too many pixels to decode: send a smaller photo")
    return UndecodableImage(f"the photo is truncated or broken ({_reason(error)}): save it again")


def _reason(error: Exception) -> str:
    """Why, in a few words; an OSError's text without the path, which the message names already."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0][:100]
