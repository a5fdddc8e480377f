"""verify: hash -> load -> golden outputs -> report; and the golden file's format."""

import contextlib
import hashlib
import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.golden import golden_bytes
from export.zoo import publish
from leap_zoo.card import Golden
from leap_zoo.documents import read_card
from leap_zoo.errors import ArtifactCorrupt, UnknownModel
from leap_zoo.verify import read_golden, tolerance, verify

TINY = "leap-tiny-test"


def republish(zoo: Path, golden: bytes) -> None:
    """Publish the tiny model with another golden file."""
    (zoo / TINY / "golden.npz").write_bytes(golden)
    card = read_card(zoo / TINY / "card.json")
    digest = hashlib.sha256(golden).hexdigest()
    publish(
        zoo,
        msgspec.structs.replace(card, golden=msgspec.structs.replace(card.golden, bytes=len(golden), sha256=digest)),
    )


def altered(zoo: Path, name: str, change: float) -> bytes:
    """The golden file with one array shifted."""
    arrays = read_golden((zoo / TINY / "golden.npz").read_bytes())
    buffer = io.BytesIO()
    np.savez(buffer, **(arrays | {name: (arrays[name] + change).astype(arrays[name].dtype)}))
    return buffer.getvalue()


def test_verify__passes_on_every_artifact(tiny_zoo: Path) -> None:
    report = verify(TINY, tiny_zoo)
    assert report.ok
    assert [(a.precision, a.ok, a.error) for a in report.artifacts] == [("fp32", True, None), ("int8", True, None)]
    for artifact in report.artifacts:
        assert {output.output for output in artifact.outputs} == {
            "embedding", "teacher_embedding", "logits_colours", "logits_brightness"
        }  # fmt: skip
        assert all(output.difference <= output.tolerance for output in artifact.outputs)


def test_verify__flipped_byte_fails_that_artifact_only(zoo_copy: Path) -> None:
    path = zoo_copy / TINY / "model_int8.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = verify(TINY, zoo_copy)
    assert not report.ok
    assert [artifact.ok for artifact in report.artifacts] == [True, False]
    assert hashlib.sha256(data).hexdigest() in (report.artifacts[1].error or "")


@pytest.mark.parametrize(("name", "change"), [("model.onnx/embedding", 0.01), ("model.onnx/teacher_embedding", np.nan)])
def test_verify__other_outputs_fail(zoo_copy: Path, name: str, change: float) -> None:
    republish(zoo_copy, altered(zoo_copy, name, change))
    report = verify(TINY, zoo_copy)
    assert [artifact.ok for artifact in report.artifacts] == [False, True]
    assert "answers differently on this device: " + name.split("/")[1] in (report.artifacts[0].error or "")


def test_verify__compares_scores_not_logits(zoo_copy: Path) -> None:
    republish(
        zoo_copy, altered(zoo_copy, "model.onnx/logits_colours", 3.0)
    )  # the same shift of all logits: same scores
    assert verify(TINY, zoo_copy).ok


def test_verify__golden_without_an_artifact_fails(zoo_copy: Path) -> None:
    arrays = read_golden((zoo_copy / TINY / "golden.npz").read_bytes())
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in arrays.items() if not name.startswith("model_int8.onnx/")})
    republish(zoo_copy, buffer.getvalue())
    assert [artifact.ok for artifact in verify(TINY, zoo_copy).artifacts] == [True, False]


@pytest.mark.parametrize("photos", [0, 1, None])
def test_verify__golden_without_photos_or_with_other_shapes_fails(zoo_copy: Path, photos: int | None) -> None:
    arrays = read_golden((zoo_copy / TINY / "golden.npz").read_bytes())
    if photos == 0:
        arrays = {name: values[:0] for name, values in arrays.items()}
    else:
        arrays["image"] = np.uint8(0) if photos is None else arrays["image"][:, :1]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    republish(zoo_copy, buffer.getvalue())
    reports = verify(TINY, zoo_copy).artifacts
    assert all("the golden file has photos of shape" in (report.error or "") for report in reports)
    assert not any(report.ok for report in reports)


def test_verify__unknown_model(tiny_zoo: Path) -> None:
    with pytest.raises(UnknownModel):
        verify("leap-none", tiny_zoo)


def test_golden__round_trips_with_the_same_bytes() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    values = np.array([[1.5, -2.0], [0.0, 3.0]], np.float32)
    content = golden_bytes({"image": images, "model.onnx/embedding": values})
    arrays = read_golden(content)
    assert np.array_equal(arrays["image"], images)
    assert np.array_equal(arrays["model.onnx/embedding"], values)
    assert content == golden_bytes({"image": images, "model.onnx/embedding": values})


def test_read_golden__never_unpickles() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ArtifactCorrupt):
        read_golden(buffer.getvalue())


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_read_golden__of_a_changed_byte_raises_its_own_error(position: int, change: int) -> None:
    golden = bytearray(golden_bytes({"image": np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)}))
    golden[position % len(golden)] ^= change
    with contextlib.suppress(ArtifactCorrupt):
        read_golden(bytes(golden))


def test_read_golden__of_text_or_another_file_is_refused() -> None:
    for name, content in (("image.npy", np.array(["photo"])), ("image.txt", None)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive, archive.open(name, "w") as member:
            if content is not None:
                np.save(member, content)
        with pytest.raises(ArtifactCorrupt, match="image"):
            read_golden(buffer.getvalue())


def test_read_golden__bomb_and_rubbish_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", bytes(100 * 1024 * 1024))
    assert len(buffer.getvalue()) < 200_000
    for data in (buffer.getvalue(), b"", b"PK\x03\x04 rubbish", buffer.getvalue()[:500]):
        with pytest.raises(ArtifactCorrupt):
            read_golden(data)


def test_read_golden__header_that_claims_too_much_is_refused() -> None:
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, {"descr": "<f4", "fortran_order": False, "shape": (1 << 44,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image.npy", npy.getvalue())
    with pytest.raises(ArtifactCorrupt):
        read_golden(buffer.getvalue())


def test_tolerance__is_the_strictest_that_applies() -> None:
    golden = Golden(
        file="g.npz",
        bytes=1,
        sha256="0" * 64,
        tolerance={"fp32": {"default": 0.001}, "int8": {"default": 0.15, "vnni": 0.05, "dotprod": 0.04}},
    )
    assert tolerance(golden, "fp32", ("avx2", "vnni")) == 0.001
    assert tolerance(golden, "int8", ("avx2",)) == 0.15
    assert tolerance(golden, "int8", ("avx2", "vnni")) == 0.05
    assert tolerance(golden, "int8", ("dotprod", "neon")) == 0.04
