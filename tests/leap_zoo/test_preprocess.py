"""Photos -> tensors: hostile files, orientation, colour modes, geometry."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from leap_zoo.card import Preprocessing
from leap_zoo.errors import (
    ImageError,
    ImageTooLarge,
    InvalidArgument,
    NotAnImage,
    UndecodableImage,
    UnreadableFile,
)
from leap_zoo.preprocess import Limits, image_bytes, open_image, readable_formats, to_tensor

SPEC = Preprocessing(size=32, short_side=36)
SMALL = Limits(pixels=25_000_000, bytes=20 * 2**20)  # a service's
CASES = Path(__file__).parents[2].parent / "shared" / "cases"
shared_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not on this machine")


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants(width: int = 60, height: int = 40) -> Image.Image:
    """Red, green / blue, white, by quadrant: every orientation looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def huge_png(width: int, height: int) -> bytes:
    """A valid PNG of `width` x `height` black pixels, in a few kB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# --- formats and colour modes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_open_image__every_format(kind: str) -> None:
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    assert kind in readable_formats()
    image = open_image(encode(quadrants(), kind))
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert np.abs(np.asarray(image, int)[5, 5] - (255, 0, 0)).max() < 30


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_open_image__exif_orientation_is_applied(orientation: int, kind: str) -> None:
    # The stored pixels are the upright photo seen through the inverse of the orientation.
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = quadrants()
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    opened = open_image(encode(stored, kind, exif=exif, **options))
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened, int) - np.asarray(upright, int)).mean() < 8
    assert np.array_equal(np.asarray(open_image(opened)), np.asarray(opened)), "applied twice"


def test_open_image__pil_image_with_orientation_is_transposed_once_and_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lazy = Image.open(io.BytesIO(encode(quadrants(), "PNG", exif=exif)))
    assert open_image(lazy).size == (40, 60)
    assert lazy.size == (60, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_open_image__broken_exif_does_not_break_the_photo() -> None:
    data = encode(quadrants(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert open_image(data).size == (60, 40)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_open_image__16_bit_grey_is_rescaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(8, axis=0)
    opened = np.asarray(open_image(encode(Image.fromarray(ramp), kind)), int)
    assert np.abs(opened[0, :, 0] - np.arange(256)).max() <= 1
    assert np.array_equal(opened[..., 0], opened[..., 2])


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 100, 255], np.uint16, [0, 100, 255]),  # bytes in a wider type
        ([0, 100, 256], np.uint16, [0, 6, 16]),
        ([0, 2048, 4095], np.uint16, [0, 128, 255]),  # 12 bits
        ([0, 2048, 4096], np.uint16, [0, 8, 16]),
        ([0, 32768, 65535], np.int32, [0, 128, 255]),
        ([0, 32768, 200_000, -5], np.int32, [0, 128, 255, 0]),  # above white is white
        ([0, 0.5, 1, np.nan, -3, np.inf], np.float32, [0, 128, 255, 0, 0, 255]),
        ([0, 0.5, 1, 1.9], np.float32, [0, 128, 255, 255]),  # highlights above white
        ([0, 100, 255, 500], np.float32, [0, 100, 255, 255]),
        ([0, 32768, 65535, 1e6], np.float32, [0, 128, 255, 255]),
    ],
)
def test_open_image__white_of_deep_grey_is_one_of_a_few_values(
    values: list[float], dtype: type, expected: list[int]
) -> None:
    grey = Image.fromarray(np.array([values], dtype))
    for image in (grey, encode(grey, "TIFF")):
        assert np.asarray(open_image(image))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_open_image__a_darker_copy_of_deep_grey_is_darker(dtype: type) -> None:
    grey = np.linspace(0, 60_000, 256).astype(dtype)[None, :].repeat(4, axis=0)
    light, dark = (np.asarray(open_image(Image.fromarray(image)), int) for image in (grey, (grey * 0.7).astype(dtype)))
    assert np.abs(dark - 0.7 * light).max() <= 1


@shared_cases
def test_open_image__case_of_12_bits_in_16_looks_like_the_photo() -> None:
    found = np.asarray(open_image(CASES / "grey12in16.png").convert("L"), int)
    photo = np.asarray(open_image(CASES / "small.jpg").convert("L"), int)
    assert np.abs(found - photo).mean() < 8  # a JPEG's noise
    assert abs(found.mean() - photo.mean()) < 1


def test_open_image__alpha_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    grey_alpha = Image.new("LA", (8, 8), (0, 0))
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 0] * 256)
    key = Image.new("RGB", (8, 8), (10, 20, 30))
    assert open_image(encode(clear, "PNG")).getpixel((4, 4)) == (255, 255, 255)
    assert open_image(encode(clear, "WEBP", lossless=True)).getpixel((4, 4)) == (255, 255, 255)
    assert abs(open_image(encode(half, "PNG")).getpixel((4, 4))[0] - 127) <= 1
    assert open_image(encode(grey_alpha, "PNG")).getpixel((4, 4)) == (255, 255, 255)
    assert open_image(encode(palette, "PNG", transparency=3)).getpixel((4, 4)) == (255, 255, 255)
    assert open_image(encode(palette, "GIF", transparency=3)).getpixel((4, 4)) == (255, 255, 255)
    assert open_image(encode(key, "PNG", transparency=(10, 20, 30))).getpixel((4, 4)) == (255, 255, 255)
    assert open_image(encode(key, "PNG", transparency=(1, 2, 3))).getpixel((4, 4)) == (10, 20, 30)
    assert open_image(palette.convert("PA")).mode == "RGB"


def test_open_image__cmyk_palette_one_bit_and_grey() -> None:
    cmyk = open_image(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)).getpixel((4, 4))
    assert np.abs(np.subtract(cmyk, (255, 0, 0))).max() < 10
    assert open_image(encode(quadrants().quantize(8), "PNG")).getpixel((5, 5)) == (255, 0, 0)
    assert open_image(encode(Image.new("1", (8, 8), 1), "PNG")).getpixel((4, 4)) == (255, 255, 255)
    assert open_image(encode(Image.new("L", (8, 8), 77), "PNG")).getpixel((4, 4)) == (77, 77, 77)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_open_image__first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(np.subtract(open_image(data).getpixel((8, 8)), (255, 0, 0))).max() < 10


def test_open_image__multi_picture_jpeg_as_phones_write_it() -> None:
    data = encode(quadrants(), "MPO", save_all=True, append_images=[quadrants()])
    with Image.open(io.BytesIO(data)) as check:
        assert check.format == "MPO"
    assert open_image(data).size == (60, 40)


# --- what is refused, and how


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"%PDF-1.7 not a photo",
        b"<svg xmlns='x'/>",
        b"BM is how this sentence begins, but no bitmap",
        b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        encode(Image.new("RGB", (4, 4)), "PPM"),
        encode(Image.new("RGB", (4, 4)), "ICO"),
    ],
)
def test_open_image__not_a_photo_is_415(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="JPEG"):
        open_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("part", [0.04, 0.5, 0.9])
def test_open_image__truncated_is_400(kind: str, part: float, sample_photos: list[Path]) -> None:
    if kind not in readable_formats():
        pytest.skip(f"this Pillow has no {kind}")
    data = encode(Image.open(sample_photos[0]).resize((128, 128)), kind)
    with pytest.raises(UndecodableImage, match="truncated or damaged"):
        open_image(data[: max(20, int(len(data) * part))])


def test_open_image__too_many_pixels_is_refused_before_decoding() -> None:
    data = huge_png(12_000, 12_000)
    assert len(data) < 100_000
    tracemalloc.start()
    with pytest.raises(ImageTooLarge, match="144 megapixels"):
        open_image(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_open_image__lazy_pil_bomb_is_refused() -> None:
    with Image.open(io.BytesIO(huge_png(6_000, 6_000))) as lazy, pytest.raises(ImageTooLarge):
        open_image(lazy, limits=SMALL)
    with Image.open(io.BytesIO(huge_png(12_000, 12_000))) as lazy, pytest.raises(ImageTooLarge):
        open_image(lazy)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_open_image__sizes_at_which_pillow_warns_or_raises(side: int) -> None:
    with pytest.raises(ImageTooLarge):
        open_image(huge_png(side, side), limits=SMALL)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(8_160, 6_144), (12_000, 9_000)])
def test_open_image__photos_of_large_phones_are_ordinary(size: tuple[int, int]) -> None:
    data = encode(Image.new("L", size, 200), "JPEG")
    before = Image.MAX_IMAGE_PIXELS
    assert open_image(data).size == (size[0] // 8, size[1] // 8)
    assert before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageTooLarge, match="limit: 50"):
        open_image(data, limits=SMALL)


@shared_cases
def test_open_image__case_of_50_megapixels() -> None:
    assert to_tensor(CASES / "pixel8pro_8160x6144.jpg", SPEC).shape == (32, 32, 3)
    with pytest.raises(ImageTooLarge, match=r"50 megapixels \(limit: 50"):
        to_tensor(CASES / "pixel8pro_8160x6144.jpg", SPEC, SMALL)


def test_open_image__pixel_limit_is_twice_as_wide_for_jpeg() -> None:
    flat = Image.new("L", (6_000, 5_000), 200)
    assert min(open_image(encode(flat, "JPEG"), limits=SMALL).size) >= 512
    with pytest.raises(ImageTooLarge, match="limit: 25"):
        open_image(encode(flat, "PNG"), limits=SMALL)


def test_open_image__too_many_bytes_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.jpg"
    with big.open("wb") as file:
        file.truncate(SMALL.bytes + 1)
    for source in (big, bytes(SMALL.bytes + 1), io.BytesIO(bytes(SMALL.bytes + 1)), memoryview(bytes(40 << 20))):
        with pytest.raises(ImageTooLarge, match="20 MiB"):
            open_image(source, limits=SMALL)
    with big.open("wb") as file:
        file.truncate(Limits().bytes + 1)
    with pytest.raises(ImageTooLarge, match="256 MiB"):
        open_image(big)
    data = encode(quadrants(), "PNG")
    for source in (data, io.BytesIO(data)):
        assert open_image(source, limits=Limits(bytes=len(data))).size == (60, 40)
    with pytest.raises(ImageTooLarge):
        open_image(data, limits=Limits(bytes=len(data) - 1))


def test_open_image__memoryviews_are_measured_in_bytes() -> None:
    words = memoryview(bytes(4000)).cast("I")
    with pytest.raises(ImageTooLarge):
        open_image(words, limits=Limits(bytes=3999))


class Slow(io.RawIOBase):
    """A file that gives a few bytes at a time, as a socket does, and never ends when it repeats."""

    def __init__(self, data: bytes, repeats: bool = False) -> None:
        self._data, self._at, self._repeats = data, 0, repeats

    def read(self, size: int = -1) -> bytes:
        if self._repeats:
            return b"\xff" * 1000
        self._at += 7
        return self._data[self._at - 7 : self._at]


def test_open_image__files(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encode(quadrants(), "PNG"))
    with (tmp_path / "photo.png").open("rb") as file:
        assert open_image(file).size == (60, 40)
        assert not file.closed
    assert open_image(Slow(encode(quadrants(), "PNG"))).size == (60, 40)
    with pytest.raises(ImageTooLarge):
        open_image(Slow(b"", repeats=True), limits=SMALL)
    with pytest.raises(UnreadableFile, match="closed file"):
        open_image(file)
    with (tmp_path / "photo.png").open(encoding="latin-1") as text, pytest.raises(InvalidArgument, match="binary mode"):
        open_image(text)
    with pytest.raises(NotAnImage):
        open_image(io.BytesIO())


def test_path__a_number_is_not_a_path_and_its_file_stays_open(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for read in (open_image, image_bytes):
        with pytest.raises(InvalidArgument, match="int"):
            read(descriptor)  # type: ignore[arg-type]
    os.close(descriptor)  # raises when it was closed


# --- JPEGs that have lost their end


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(64, 64), (160, 120), (1700, 1300)])
def test_jpeg__without_its_last_bytes_is_read(progressive: bool, mode: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(photo, "JPEG", quality=85, progressive=progressive, exif=exif)
    whole = np.asarray(open_image(data), int)
    for lost in (1, 2):
        assert np.array_equal(np.asarray(open_image(data[:-lost])), whole), lost
    assert (np.asarray(open_image(data[:-3]), int) != whole).any(axis=2).mean() < 0.07


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (128, 128), (600, 400)])
def test_jpeg__without_more_than_its_end_is_refused(
    progressive: bool, size: tuple[int, int], sample_photos: list[Path]
) -> None:
    photo = Image.open(sample_photos[0]).resize(size)
    data = encode(photo, "JPEG", quality=85, progressive=progressive)
    start = data.index(b"\xff\xda") + 20
    for part in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(UndecodableImage, match="truncated"):
            open_image(data[: start + int(part * (len(data) - start))])


@shared_cases
@pytest.mark.parametrize("name", ["minus1.jpg", "minus2_noEOI.jpg"])
def test_jpeg__cases_without_their_end(name: str) -> None:
    assert np.array_equal(np.asarray(open_image(CASES / name)), np.asarray(open_image(CASES / "small.jpg")))


def test_open_image__paths_that_are_not_photos(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jpg", tmp_path, "a\0b", Path(os.devnull)):
        with pytest.raises(UnreadableFile):
            open_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
@pytest.mark.timeout(10)
def test_open_image__fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(UnreadableFile, match="not a regular file"):
        open_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 3), np.int64),
        np.array(["a.jpg", "b.jpg"]),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_open_image__other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InvalidArgument, match="uint8"):
        open_image(array)


@pytest.mark.parametrize("source", [None, 5, 2.5, object(), ["a.jpg"], {"a.jpg": 1}])
def test_open_image__other_types_are_refused(source: object) -> None:
    with pytest.raises(InvalidArgument, match=type(source).__name__):
        open_image(source)  # type: ignore[arg-type]


def test_open_image__arrays_of_every_shape() -> None:
    rgb = np.asarray(quadrants())
    grey = rgb[..., 0]
    clear = np.dstack([rgb, np.full(grey.shape, 0, np.uint8)])
    solid = np.dstack([rgb, np.full(grey.shape, 255, np.uint8)])
    assert np.array_equal(np.asarray(open_image(solid)), rgb)
    assert (np.asarray(open_image(clear)) == 255).all()
    assert np.array_equal(np.asarray(open_image(grey[..., None])), np.asarray(open_image(grey)))
    assert np.array_equal(np.asarray(open_image(rgb[::-1, ::-1])), rgb[::-1, ::-1])


def test_open_image__what_numpy_takes_for_an_array() -> None:
    class Frame:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return np.asarray(quadrants())

    class OnAnAccelerator:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise TypeError("copy the tensor to host memory first")

    assert np.array_equal(np.asarray(open_image(Frame())), np.asarray(quadrants()))
    with pytest.raises(InvalidArgument, match="host memory"):
        open_image(OnAnAccelerator())


def test_open_image__torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.from_numpy(np.array(quadrants()))
    assert np.array_equal(np.asarray(open_image(tensor)), np.asarray(quadrants()))
    with pytest.raises(InvalidArgument, match="channels last"):
        open_image(tensor.permute(2, 0, 1))
    with pytest.raises(InvalidArgument, match=r"float32.*0\.\.255"):
        open_image(tensor.float() / 255)


CORPUS = [
    encode(quadrants(24, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    encode(quadrants(24, 16), "PNG"),
    encode(quadrants(24, 16).quantize(8), "GIF"),
    encode(quadrants(24, 16), "BMP"),
    encode(quadrants(24, 16), "TIFF"),
    encode(quadrants(24, 16), "TIFF", compression="tiff_lzw"),
    encode(quadrants(24, 16), "WEBP"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(
    which=st.sampled_from(range(len(CORPUS))),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.floats(0.2, 1.0),
)
def test_open_image__damaged_bytes_give_a_photo_or_an_image_error(
    which: int, edits: list[tuple[int, int]], keep: float
) -> None:
    data = bytearray(CORPUS[which])
    for position, value in edits:
        data[position % len(data)] = value
    try:
        image = open_image(bytes(data[: int(len(data) * keep)]))
    except ImageError:
        return
    assert image.mode == "RGB"


# --- geometry


def test_to_tensor__is_resize_then_centre_crop() -> None:
    # 72 x 108 halves to 36 x 54 exactly; the crop starts at whole pixels (2, 11).
    pixels = np.random.default_rng(0).integers(0, 256, (72, 108, 3), dtype=np.uint8)
    reference = Image.fromarray(pixels).resize((54, 36), Image.Resampling.BICUBIC).crop((11, 2, 43, 34))
    difference = np.abs(to_tensor(pixels, SPEC).astype(int) - np.asarray(reference, int))
    assert difference.max() <= 1


def test_to_tensor__filter_is_the_cards() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (72, 108, 3), dtype=np.uint8)
    spec = Preprocessing(size=32, short_side=36, filter="bilinear")
    reference = Image.fromarray(pixels).resize((54, 36), Image.Resampling.BILINEAR).crop((11, 2, 43, 34))
    assert np.abs(to_tensor(pixels, spec).astype(int) - np.asarray(reference, int)).max() <= 1
    assert not np.array_equal(to_tensor(pixels, spec), to_tensor(pixels, SPEC))


@settings(deadline=None, max_examples=40)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    grey=st.integers(0, 255),
    size=st.integers(1, 64),
    more=st.integers(0, 20),
)
def test_to_tensor__any_size_gives_the_cards_square(width: int, height: int, grey: int, size: int, more: int) -> None:
    image = Image.new("RGB", (width, height), (grey, grey, grey))
    tensor = to_tensor(image, Preprocessing(size=size, short_side=size + more))
    assert (tensor.shape, tensor.dtype) == ((size, size, 3), np.uint8)
    assert (tensor == grey).all()


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1)])
def test_to_tensor__elongated_costs_no_more_than_a_square(size: tuple[int, int]) -> None:
    data = encode(Image.new("RGB", size, (9, 9, 9)), "PNG")
    tracemalloc.start()
    tensor = to_tensor(data, Preprocessing(size=224, short_side=256))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert (tensor == 9).all()


def test_to_tensor__draft_never_falls_below_the_short_side(tmp_path: Path) -> None:
    # Stripes two pixels wide survive decoding at full size, and vanish to grey when decoded at 1/2.
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    data = encode(Image.fromarray(stripes), "JPEG", quality=95)
    assert open_image(data).size == (600, 600)
    assert open_image(data, draft_side=601).size == (1200, 1200)
    assert to_tensor(data, Preprocessing(size=1200, short_side=1200)).std() > 100


def test_to_tensor__draft_stays_close_to_the_full_decode(sample_photos: list[Path]) -> None:
    photo = Image.open(sample_photos[0]).resize((2048, 2048), Image.Resampling.BICUBIC)
    data = encode(photo, "JPEG", quality=92)
    assert open_image(data).size == (512, 512)
    full = to_tensor(np.asarray(Image.open(io.BytesIO(data))), Preprocessing(size=224, short_side=256))
    drafted = to_tensor(data, Preprocessing(size=224, short_side=256))
    assert np.abs(full.astype(int) - drafted.astype(int)).mean() < 1


def test_to_tensor__every_kind_of_source_agrees(tmp_path: Path) -> None:
    image = quadrants()
    path = tmp_path / "photo.png"
    image.save(path)
    data = path.read_bytes()
    reference = to_tensor(image, SPEC)
    for source in (path, str(path), data, bytearray(data), memoryview(data), np.asarray(image), Image.open(path)):
        assert np.array_equal(to_tensor(source, SPEC), reference)
    grey = np.full((20, 30), 7, np.uint8)
    assert (to_tensor(grey, SPEC) == 7).all()


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"RIFF\0\0\0\0WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_open_image__broken_header_names_no_python_object(start: bytes) -> None:
    with pytest.raises(UndecodableImage) as caught:
        open_image(start + b"a" * 40)
    assert "object at" not in str(caught.value)


def test_progressive__a_few_scans_are_usual_and_hundreds_are_refused() -> None:
    """Each scan is a few bytes that cost a walk over all pixels: a small file could hold a thread for minutes."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", progressive=True)
    photo = buffer.getvalue()
    assert 1 < photo.count(b"\xff\xda") < 20
    assert to_tensor(photo, SPEC).shape == (32, 32, 3)
    scan = photo[photo.rindex(b"\xff\xda") : -2]
    with pytest.raises(UndecodableImage, match="more than 500 scans"):
        to_tensor(photo[:-2] + 500 * scan + photo[-2:], SPEC)


def parts(kind: str, count: int) -> bytes:
    """A small photo with that many empty parts before its pixels."""
    data = encode(quadrants(), kind)
    if kind == "PNG":
        empty, place = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt")), data.index(b"IDAT") - 4
    elif kind == "JPEG":
        empty, place = b"\xff\xfe\0\2", 2
    else:
        empty, place = b"\x21\xfe\0", 13 + 3 * 2 ** ((data[10] & 7) + 1)  # behind header and palette
    return data[:place] + empty * count + data[place:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_open_image__parts_are_bounded(kind: str) -> None:
    assert open_image(parts(kind, 10)).size == (60, 40)
    with pytest.raises(UndecodableImage):
        open_image(parts(kind, 300_000))


@pytest.mark.parametrize("empty", [b"", io.BytesIO(), bytearray()])
def test_open_image__no_bytes(empty: bytes) -> None:
    with pytest.raises(NotAnImage, match=r"empty.*seek\(0\)"):
        open_image(empty)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_open_image__pil_image_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(UndecodableImage, match="no pixels"):
        open_image(Image.new("RGB", size))


def test_open_image__premultiplied_grey() -> None:
    assert open_image(Image.new("LA", (3, 3), (80, 255)).convert("La")).getpixel((1, 1)) == (80, 80, 80)


class Odd:
    """A file whose `read` is not like that of others."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, _: int = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    "error", [TypeError("takes 1 argument"), EOFError("ends early"), RuntimeError("broken\narchive")]
)
def test_open_image__file_that_cannot_be_read(error: Exception) -> None:
    with pytest.raises(UnreadableFile, match="or give its bytes"):
        open_image(Odd(error))


def test_open_image__text_mode_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encode(quadrants(), "PNG"))
    with (tmp_path / "photo.png").open(encoding="utf-8") as file, pytest.raises(InvalidArgument, match="binary mode"):
        open_image(file)  # type: ignore[arg-type]


class NoPath:
    def __fspath__(self) -> str:
        return 3  # type: ignore[return-value]


def test_image_bytes__object_whose_path_is_invalid() -> None:
    with pytest.raises(InvalidArgument, match="does not give a path"):
        image_bytes(NoPath())
