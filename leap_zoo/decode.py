"""Decode a photo into an upright RGB image. `leap_zoo.preprocess` imports this, and Pillow, with the first photo.

Hostile input is expected. A photo is checked by its signature, then its header, before any pixel is decoded; whatever
Pillow raises becomes one of our `ImageError`s. Color profiles are ignored, as in training.
"""

from __future__ import annotations

import io
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from leap_zoo.errors import (
    ImageError,
    ImageTooLarge,
    InvalidArgument,
    NotAnImage,
    UndecodableImage,
    first_line,
)

if TYPE_CHECKING:
    from leap_zoo.preprocess import Limits

MAX_SCANS = 500  # of a JPEG: each may take only 75 bytes, but costs a pass over all pixels; encoders write about ten
# Compressed texts and color profiles of a PNG. Each may take 1 KB and unpack to 1 MiB; few photos have three.
MAX_PACKED = 16
MAX_READS = 500_000  # reads by the decoder, a few per chunk; 256 MiB of PNG in chunks of 4 KiB take 200,000

_READABLE = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
_END = b"\xff\xd9"  # of a JPEG
_EMPTY = "the photo has no pixels: send another photo"
_LOST = 64  # pixels that may be missing from the last row of blocks of a JPEG; at most a quarter of the row
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


class _Counted(io.BytesIO):
    """A photo's bytes with a limit on reads: millions of empty chunks would keep the decoder busy for minutes."""

    left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise UndecodableImage("the photo is split into too many chunks: save it again with another program")
        return super().read(size)


class _Tags(io.BytesIO):
    """The bytes in which the tags of a TIFF or of EXIF lie. Pillow copies every value, and values may overlap: in 64 KB
    of EXIF, each of 5,000 could be all of it. Only a few may.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = 2 * len(data) + 2**16

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UndecodableImage("the values of the photo's metadata overlap: save it again with another program")
        return data


@lru_cache(maxsize=1)
def _bound_tags() -> None:
    """Let Pillow read tags as `_Tags` allows. It offers no way to do that for one photo: some of its decoders read EXIF
    from a buffer of their own when they open a file. Files of honest programs are read as before.
    """
    load = ImageFileDirectory_v2.load

    def bounded(self: ImageFileDirectory_v2, fp: IO[bytes]) -> None:
        if not isinstance(fp, io.BytesIO):
            return load(self, fp)
        tags = _Tags(fp.getvalue())  # shares the bytes
        tags.seek(fp.tell())
        try:
            load(self, tags)
        finally:
            fp.seek(tags.tell())

    ImageFileDirectory_v2.load = bounded  # type: ignore[method-assign]


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """The photo formats that this installation decodes, as Pillow names them."""
    # An older Pillow does not know AVIF, and would warn.
    optional = {name: name.lower() in features.modules and features.check(name.lower()) for name in ("WEBP", "AVIF")}
    optional["HEIF"] = find_spec("pillow_heif") is not None
    return tuple(name for name in _READABLE if optional.get(name, True))


class Opened:
    """A photo whose header is read and checked. `kind`: its format, as Pillow names it; `pixels`: as it announces."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        """data: the bytes of a file. Raises NotAnImage, UndecodableImage, ImageTooLarge."""
        self.kind, self._data, self._limits = _known_signature(data), data, limits
        photo = _header(data, self.kind, limits)
        self.pixels = photo.width * photo.height
        # Other formats unpack texts or make room for pixels: that must not wait in memory for its turn.
        self._file = photo if self.kind == "JPEG" else None

    def upright(self, draft_side: int) -> Image.Image:
        """Decode it: upright RGB; a JPEG perhaps smaller, but not below draft_side. Raises UndecodableImage."""
        is_jpeg = self.kind == "JPEG"
        if is_jpeg and self._data.count(b"\xff\xda") > MAX_SCANS:  # within a scan these two bytes are escaped
            raise UndecodableImage(f"the photo has more than {MAX_SCANS} scans: save it again")
        photo, self._file = self._file or _header(self._data, self.kind, self._limits), None  # it will hold the pixels
        try:
            if is_jpeg:
                photo.draft("RGB", (draft_side, draft_side))
            try:
                photo.load()
            except OSError as error:
                if not is_jpeg or "truncated" not in str(error):
                    raise
                photo = _without_end(self._data, self._limits, draft_side)
            return _upright_rgb(photo)
        except Exception as error:  # decoders raise anything, also what is no OSError
            raise _as_image_error(error) from error


def _header(data: bytes, kind: str, limits: Limits) -> ImageFile.ImageFile:
    """Open the photo and check its header; no pixel is decoded yet."""
    Image.preinit()
    if kind not in Image.OPEN:
        Image.init()
    _bound_tags()
    if kind == "TIFF":
        _silence_libtiff()
    if kind == "PNG" and sum(map(data.count, (b"zTXt", b"iTXt", b"iCCP"))) > MAX_PACKED:
        raise UndecodableImage(f"the photo has more than {MAX_PACKED} texts that may be compressed: save it again")
    try:
        # Not Image.open: it has its own process-wide limit, where it warns, and it raises at twice the limit.
        photo = Image.OPEN[kind][0](_Counted(data), "")
    except UndecodableImage:
        raise
    except Exception as error:
        raise UndecodableImage(
            "the photo is truncated or damaged (its header cannot be read): save it again"
        ) from error
    _check_pixels(photo, limits)
    return photo


def _without_end(data: bytes, limits: Limits, draft_side: int) -> ImageFile.ImageFile:
    """Load a JPEG whose last bytes are missing. Raises OSError if more than the last few blocks are missing.

    The decoder silently fills in what is missing. Two different endings give two different fills, so the first
    difference shows where the data ends. (A progressive JPEG that ends between two scans looks complete.)
    """
    start = data.removesuffix(b"\xff")
    noise = np.random.default_rng(0).integers(0, 255, 4096, dtype=np.uint8).tobytes()  # 255 would start a marker
    photo, other = (_header(start + end + _END, "JPEG", limits) for end in (b"", noise))
    for one in (photo, other):
        one.draft("RGB", (draft_side, draft_side))
    this, that = np.asarray(photo), np.asarray(other)  # decodes them
    jpeg: Any = photo
    scale = jpeg.decoderconfig[0] if jpeg.decoderconfig else 1
    block = 8 * (max(layer[2] for layer in jpeg.layer) if len(jpeg.layer) > 1 else 1) // scale
    rows, columns, *_ = np.nonzero(this != that)
    if len(rows):
        top = (photo.height - 1) // block * block - 2  # 2: colors are interpolated across the border of a block
        if rows[0] < top or columns.min() < photo.width - min(_LOST // scale, photo.width // 4) - 2:
            raise OSError("image file is truncated")
    return photo


def _known_signature(data: bytes) -> str:
    """The format, which this installation decodes. Raises NotAnImage."""
    if not data:
        raise NotAnImage(
            "the photo is empty (0 bytes): save it again; if an open file was already read or written, call seek(0)"
        )
    kind = _signature(data)
    if kind == "HEIF":
        _register_heif()
    if kind is None or kind not in readable_formats():
        raise NotAnImage(f"not a photo in a supported format: send one of {', '.join(readable_formats())}")
    return kind


def _signature(data: bytes) -> str | None:
    """The format, from the first bytes. Choosing it here makes Pillow's other decoders unreachable."""
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
    """Let Pillow read HEIC, the format of many phones, with the extra `heic`. Raises NotAnImage."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise NotAnImage(f'HEIC needs pillow-heif ({error}): pip install "leap-zoo[heic]", or send a JPEG') from error
    register_heif_opener()


@lru_cache(maxsize=1)
def _silence_libtiff() -> None:
    """Stop Pillow's libtiff from printing on stderr, from C, what is wrong with a TIFF: our error says it.

    Its handlers belong to the whole process, but only to this copy of libtiff. Where it cannot be reached (a Pillow
    that was built in another way), it keeps printing.
    """
    with suppress(OSError, AttributeError, ImportError):
        import ctypes

        from PIL import _imaging

        library = ctypes.CDLL(_imaging.__file__)
        for set_handler in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def from_pil(image: Image.Image, limits: Limits) -> Image.Image:
    """A PIL image, perhaps not decoded yet -> upright RGB. Raises UndecodableImage, ImageTooLarge."""
    try:
        if isinstance(image, ImageFile.ImageFile):  # it may not be decoded yet
            _check_pixels(image, limits)
        elif 0 in image.size:
            raise UndecodableImage(_EMPTY)
        return _upright_rgb(image)
    except Exception as error:  # decoders raise anything, also what is no OSError
        raise _as_image_error(error) from error


def from_array(array: npt.NDArray[Any]) -> Image.Image:
    """uint8 (H, W, 3), (H, W, 4), (H, W) or (H, W, 1) -> RGB. Raises InvalidArgument."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        advice = "" if array.dtype == np.uint8 else "; scale it to 0..255 and convert it with astype(np.uint8)"
        if array.ndim == 3 and channels not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
            advice += "; put the channels last"
        raise InvalidArgument(
            f"an image array must be uint8 (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) gray, not {array.dtype} "
            f"{array.shape}{advice or '; convert it first'}"
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array if channels > 1 else array.reshape(array.shape[:2]))))


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    limit = limits.pixels * (2 if image.format in ("JPEG", "MPO") else 1)
    pixels = image.width * image.height
    if pixels > limit:
        raise ImageTooLarge(
            f"the photo has {pixels / 1e6:.0f} megapixels (limit: {limit / 1e6:.0f}): send a smaller photo"
        )
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
    rgb.info = {}  # otherwise the next reader would apply the orientation again
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata does not make the photo unusable
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
    """Gray (H, W) of more than 8 bits -> uint8. Pillow's own conversion clips at 255, which turns everything white.

    White is one of a few fixed values, never the photo's own maximum. Integers: the smallest of 255, 4095 (12 bits) and
    65535 that no value exceeds. Floats: the smallest of 1, 255 and 65535 such that no value exceeds its double, because
    highlights may lie above white. Values above white become white; values below 0 and NaN become black.
    """
    integers = grey.dtype.kind in "iu"
    values = np.nan_to_num(grey.astype(np.float32), nan=0.0, posinf=np.inf, neginf=0.0)
    peak = float(values.max(where=np.isfinite(values), initial=0.0))
    whites, headroom = ((255.0, 4095.0, 65535.0), 1) if integers else ((1.0, 255.0, 65535.0), 2)
    white = next((white for white in whites if peak <= headroom * white), whites[-1])
    scaled: npt.NDArray[np.uint8] = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
    return scaled


def _as_image_error(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)):
        return ImageTooLarge("too many pixels to decode: send a smaller photo")
    return UndecodableImage(f"the photo is truncated or damaged ({first_line(error)}): save it again")
