"""load, classify, embed and run, through the tiny model."""

import copy
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
import pytest
from msgspec.structs import replace
from PIL import Image, ImageSequence

import leap_zoo
from leap_zoo import Model, Prediction
from leap_zoo.card import File
from leap_zoo.cli import main
from leap_zoo.errors import (
    ArtifactCorrupt,
    ImageTooLarge,
    InvalidArgument,
    NotAnImage,
    UnknownHead,
    UnknownModel,
    UnknownSpace,
)
from leap_zoo.preprocess import Limits, to_tensor
from leap_zoo.runtime import EXACT_INT8, open_session
from leap_zoo.verify import verify

TINY = "leap-tiny-test"


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(tiny_zoo: Path, request: pytest.FixtureRequest) -> Model:
    return leap_zoo.load(TINY, zoo=tiny_zoo, precision=request.param, threads=1)


def test_load__takes_int8_unless_told(tiny_zoo: Path) -> None:
    assert leap_zoo.load(TINY, zoo=tiny_zoo).artifact.precision == "int8"
    model = leap_zoo.load(TINY, zoo=str(tiny_zoo), precision="fp32")
    assert model.artifact.file == "model.onnx"
    assert model.card.id == TINY
    assert model.heads == ("colours", "brightness")


def test_load__absent_precision_names_the_others(tiny_zoo: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'fp16'.*onnx fp32, onnx int8"):
        leap_zoo.load(TINY, zoo=tiny_zoo, precision="fp16")


@pytest.mark.parametrize("threads", [0, -1, 5000, True, np.True_, 2.5, np.float64(2), "many", "2", [2]])
def test_load__bad_threads_are_refused(tiny_zoo: Path, threads: int) -> None:
    with pytest.raises(InvalidArgument, match="threads"):
        leap_zoo.load(TINY, zoo=tiny_zoo, threads=threads)


def test_load__exact_is_openvinos(tiny_zoo: Path) -> None:
    with pytest.raises(InvalidArgument, match="has an effect on OpenVINO only"):
        leap_zoo.load(TINY, zoo=tiny_zoo, exact=False)


def test_load__threads_argument_beats_environment(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_ZOO_THREADS", "3")
    assert leap_zoo.load(TINY, zoo=tiny_zoo).session.threads == 3
    for threads in (1, np.int64(1), np.uint8(1)):
        assert leap_zoo.load(TINY, zoo=tiny_zoo, threads=threads).session.threads == 1


def test_classify__names_the_colour(model: Model, colour_photos: dict[str, Path]) -> None:
    for name, path in colour_photos.items():
        predictions = model.classify(path)
        assert predictions[0].label == name
        scores = [p.score for p in predictions]
        assert scores == sorted(scores, reverse=True)
        assert sum(p.score for p in predictions) == pytest.approx(1, abs=1e-5)
        assert all(model.card.heads[0].labels[p.index] == p.label for p in predictions)


def test_classify__one_gives_a_list_and_many_a_list_of_lists(model: Model, colour_photos: dict[str, Path]) -> None:
    path = colour_photos["blue"]
    one = model.classify(path, top=1)
    assert isinstance(one[0], Prediction)
    for source in (str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))):
        assert model.classify(source, top=1) == one
    for many in ([path], (path,), np.asarray(Image.open(path))[None]):
        assert model.classify(many, top=1) == [one]
    assert model.classify([]) == []


def test_classify__top(model: Model, colour_photos: dict[str, Path]) -> None:
    assert len(model.classify(colour_photos["red"], top=2)) == 2
    assert len(model.classify(colour_photos["red"], top=99)) == 3
    assert len(model.classify(colour_photos["red"], top=np.int64(2))) == 2
    for top in (0, -1, True, 1.5, "3", None):
        with pytest.raises(InvalidArgument, match="top"):
            model.classify(colour_photos["red"], top=top)  # type: ignore[arg-type]


def test_classify__another_head(model: Model) -> None:
    white, black = np.full((2, 40, 40, 3), [[[[255]]], [[[0]]]], np.uint8)
    assert model.classify(white, head="brightness")[0].label == "bright"
    assert model.classify(black, head="brightness")[0].label == "dark"
    with pytest.raises(UnknownHead, match="did you mean 'brightness'"):
        model.classify(white, head="brightnes")


def test_model__labels_are_those_of_the_default_head(model: Model) -> None:
    assert model.labels == ["red", "green", "blue"]
    model.labels.clear()
    assert model.labels == ["red", "green", "blue"]


@pytest.mark.parametrize("head", [5, 2.5, b"colours", ["colours"]])
def test_find_head__other_types_are_refused(model: Model, head: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="head"):
        model.find_head(head)  # type: ignore[arg-type]


def test_find_head__a_number_is_not_taken_for_a_file_descriptor(model: Model, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InvalidArgument):
        model.classify(np.zeros((40, 40, 3), np.uint8), head=descriptor)  # type: ignore[arg-type]
    os.close(descriptor)  # raises when it was closed


def test_embed__iterables_of_every_kind(model: Model, colour_photos: dict[str, Path]) -> None:
    paths = list(colour_photos.values())
    expected = model.embed(paths)
    torch = pytest.importorskip("torch", reason="torch is not installed")
    arrays = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    for many in (
        tuple(paths),
        (path for path in paths),
        map(str, paths),
        iter(paths),
        dict.fromkeys(paths).keys(),
        np.array([str(path) for path in paths]),
        np.array(paths, object),
        (path.open("rb") for path in paths),
        arrays,
        torch.from_numpy(arrays),
        list(torch.from_numpy(arrays)),
        np.concatenate([arrays, np.full((*arrays.shape[:3], 1), 255, np.uint8)], axis=3),
    ):
        assert np.array_equal(model.embed(many), expected)
    assert model.embed(iter(())).shape == (0, expected.shape[1])
    one = expected[0]
    for image in (paths[0].open("rb"), torch.from_numpy(arrays[0]), io.BytesIO(paths[0].read_bytes())):
        found = model.embed(image)
        assert found.shape == one.shape
        assert np.abs(found - one).max() < 1e-5
    grey = np.full((2, 40, 50, 1), 99, np.uint8)
    assert np.array_equal(model.embed(grey), model.embed([grey[0, :, :, 0], grey[1]]))


def test_embed__an_iterator_may_use_its_photos_again(model: Model, tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 2
    for number, colour in enumerate(colours):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{number}.png")

    def files() -> Iterator[BinaryIO]:
        for number in range(6):
            with (tmp_path / f"{number}.png").open("rb") as file:
                yield file  # which is closed afterwards

    def arrays() -> Iterator[np.ndarray]:
        buffer = np.empty((40, 40, 3), np.uint8)
        for colour in colours:
            buffer[:] = colour
            yield buffer

    Image.new("RGB", (40, 40), colours[0]).save(
        tmp_path / "all.gif", save_all=True, append_images=[Image.new("RGB", (40, 40), one) for one in colours[1:]]
    )
    expected = model.embed([str(tmp_path / f"{number}.png") for number in range(6)])
    assert np.array_equal(model.embed(files()), expected)
    assert np.array_equal(model.embed(arrays()), expected)
    with Image.open(tmp_path / "all.gif") as frames:
        assert np.allclose(model.embed(ImageSequence.Iterator(frames)), expected, atol=0.05)


def test_embed__a_generator_is_drawn_two_batches_ahead_at_most(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, at = [], []
    run = model.session.run
    monkeypatch.setattr(model.session, "run", lambda image, outputs: at.append(len(drawn)) or run(image, outputs))

    def photos() -> Iterator[np.ndarray]:
        for number in range(70):
            drawn.append(number)
            yield np.full((40, 40, 3), number, np.uint8)

    assert model.embed(photos()).shape == (70, 8)
    assert at == [64, 70, 70]


@pytest.mark.parametrize("images", [None, 5, {"a.jpg": "b.jpg"}, np.zeros((2, 2, 4, 4, 3), np.uint8), [[b""]]])
def test_classify__refuses_what_is_not_an_image(model: Model, images: object) -> None:
    with pytest.raises(InvalidArgument):
        model.classify(images)


def test_classify__bad_photo_of_a_generator_says_which(model: Model, colour_photos: dict[str, Path]) -> None:
    with pytest.raises(NotAnImage, match=r"image 1 \(from 0\)"):
        model.classify(photo for photo in (colour_photos["red"], b"no photo"))


def test_load__limits_are_the_models(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    small = leap_zoo.load(TINY, zoo=tiny_zoo, limits=Limits(pixels=1000))
    with pytest.raises(ImageTooLarge):
        small.classify(colour_photos["red"])
    assert leap_zoo.load(TINY, zoo=tiny_zoo).classify(colour_photos["red"], top=1)[0].label == "red"


# --- its life


def test_close__ends_a_model(tiny_zoo: Path) -> None:
    grey = np.full((40, 40, 3), 99, np.uint8)
    with leap_zoo.load(TINY, zoo=tiny_zoo) as model:
        model.classify(grey)
    for use in (model.classify, model.embed, copy.copy, pickle.dumps):
        with pytest.raises(InvalidArgument, match=r"closed|load it"):
            use(grey if use in (model.classify, model.embed) else model)  # type: ignore[operator]
    assert "closed" in repr(model)
    model.close()


def test_close__lets_running_calls_end(tiny_zoo: Path) -> None:
    model = leap_zoo.load(TINY, zoo=tiny_zoo)
    session = model.session
    model.close()
    assert len(session.run(np.zeros((1, 32, 32, 3), np.uint8), ["embedding"])) == 1


def test_copy__reads_the_same_file_again(zoo_copy: Path, colour_photos: dict[str, Path]) -> None:
    model = leap_zoo.load(TINY, zoo=zoo_copy, precision="fp32", threads=2, limits=Limits(pixels=10**6))
    expected = model.embed(colour_photos["red"])
    data = pickle.dumps(model)
    assert len(data) < 20_000
    for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(data)):
        assert twin.session is not model.session
        assert (twin.artifact, twin.session.threads, twin.limits) == (model.artifact, 2, model.limits)
        assert np.array_equal(twin.embed(colour_photos["red"]), expected)
    path = zoo_copy / TINY / "model.onnx"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    with pytest.raises(ArtifactCorrupt):
        pickle.loads(data)


def test_copy__of_a_lone_file(zoo_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.onnx").write_bytes((zoo_copy / TINY / "model.onnx").read_bytes())
    model = leap_zoo.load("alone.onnx", zoo=zoo_copy)
    monkeypatch.chdir("/")
    assert copy.deepcopy(model).verified


def test_copy__without_a_file_says_what_to_do(model: Model) -> None:
    made = Model(model.card, model.artifact, model.session)
    with pytest.raises(InvalidArgument, match="load it again where it is needed"):
        pickle.dumps(made)


# --- ONNX Runtime's providers


def test_providers__of_the_cpu_change_nothing(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    plain = leap_zoo.load(TINY, zoo=tiny_zoo)
    model = leap_zoo.load(TINY, zoo=tiny_zoo, providers=[("CPUExecutionProvider", {})])
    assert model.runtime == plain.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert np.array_equal(model.embed(colour_photos["red"]), plain.embed(colour_photos["red"]))


@pytest.mark.parametrize("providers", ["CPUExecutionProvider", [], [5], [("CPUExecutionProvider",)], [("CPU", "x")]])
def test_providers__of_another_shape_are_refused(tiny_zoo: Path, providers: object) -> None:
    with pytest.raises(InvalidArgument, match="provider"):
        leap_zoo.load(TINY, zoo=tiny_zoo, providers=providers)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["classify PHOTO", "verify", "bench --seconds .01"])
def test_providers__of_the_commands(
    command: str, tiny_zoo: Path, colour_photos: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.replace("PHOTO", str(colour_photos["red"])).split()
    which = ["--zoo", str(tiny_zoo), *(["--model", TINY] if words[0] == "classify" else [])]
    words[1:1] = [] if words[0] == "classify" else [TINY]
    assert main([*words, *which, "--provider", "CPUExecutionProvider"]) == 0
    assert main([*words, *which, "--provider", "CUDAExecutionProvider"]) == 2
    assert "has no 'CUDAExecutionProvider'" in capsys.readouterr().err


def test_providers__that_are_not_installed_are_refused(tiny_zoo: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"no 'CUDAExecutionProvider', only .*CPUExecutionProvider"):
        leap_zoo.load(TINY, zoo=tiny_zoo, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(InvalidArgument, match="CUDAExecutionProvider"):
        verify(TINY, tiny_zoo, providers=["CUDAExecutionProvider"])


class StandIn:
    """ONNX Runtime with a CUDA provider, which starts or does not."""

    def __init__(self, starts: bool) -> None:
        self.starts = starts
        self.given: list[object] = []

    def session(self, data: bytes, options: object, providers: list[object], **rest: object) -> object:
        self.given = providers
        inner = self.real(data, options, providers=["CPUExecutionProvider"], **rest)
        names = ["CUDAExecutionProvider", "CPUExecutionProvider"] if self.starts else ["CPUExecutionProvider"]
        inner.get_providers = lambda: names
        return inner

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.real = onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.session)
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )


def test_providers__are_passed_on_and_recorded(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, colour_photos: dict[str, Path]
) -> None:
    ort = StandIn(starts=True)
    ort.install(monkeypatch)
    wanted = [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
    model = leap_zoo.load(TINY, zoo=tiny_zoo, providers=wanted)
    assert ort.given == [wanted[0], ("CPUExecutionProvider", {})]
    expected = f"onnxruntime {onnxruntime.__version__} (CUDAExecutionProvider, CPUExecutionProvider)"
    assert model.runtime == model.session.runtime == expected
    assert expected in repr(model)
    assert model.classify(colour_photos["red"])[0].label == "red"
    report = verify(TINY, tiny_zoo, providers=wanted)
    assert report.ok
    assert {one.runtime for one in report.artifacts} == {expected}
    assert copy.deepcopy(model).runtime == expected


def test_providers__that_do_not_start_are_an_error(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(starts=False).install(monkeypatch)
    with pytest.raises(InvalidArgument, match=r"cannot start CUDAExecutionProvider.*run on CPUExecutionProvider"):
        leap_zoo.load(TINY, zoo=tiny_zoo, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_session_options__are_used_as_they_are(tiny_zoo: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = leap_zoo.load(TINY, zoo=tiny_zoo, session_options=options)
    assert model.session.threads == 3
    assert (tmp_path / "optimised.onnx").is_file()
    with pytest.raises(InvalidArgument, match="load it"):
        pickle.dumps(model)
    with pytest.raises(InvalidArgument, match="threads"):
        leap_zoo.load(TINY, zoo=tiny_zoo, session_options=options, threads=2)


@pytest.mark.parametrize("saturates", [True, False])
def test_exact_int8__is_asked_for_only_where_default_kernels_cut_off(
    saturates: bool, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With VNNI, the exact kernels give the same answers, and are slower."""
    name, value = EXACT_INT8
    given = []

    def session(data: bytes, options: onnxruntime.SessionOptions, **rest: Any) -> onnxruntime.InferenceSession:
        try:
            given.append(options.get_session_config_entry(name))
        except RuntimeError:  # it is not set
            given.append(None)
        return plain(data, options, **rest)

    plain = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr("leap_zoo.runtime.int8_saturates", lambda: saturates)
    leap_zoo.load(TINY, zoo=tiny_zoo)
    assert given == [value if saturates else None]


def test_openvino__takes_no_options_of_onnx_runtime(tiny_zoo: Path) -> None:
    artifact = next(a for a in leap_zoo.load(TINY, zoo=tiny_zoo).card.artifacts)
    ir = replace(artifact, format="openvino", opset=None, weights=File(file="m.bin", bytes=1, sha256="0" * 64))
    with pytest.raises(InvalidArgument, match="for ONNX Runtime only"):
        open_session(ir, [b"", b""], 1, providers=["CPUExecutionProvider"])


# --- nothing is reported


@pytest.mark.parametrize("file", ["model_int8.onnx", "model_int8.xml"])
def test_load__looks_nothing_up_and_writes_nothing(
    file: str, tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path
) -> None:
    path = tiny_zoo / TINY / file
    if path.suffix == ".xml":
        pytest.importorskip("openvino", reason="openvino is not installed")
        path = Path(__file__).parents[2] / "zoo" / "leap-nano" / file
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    code = (
        "import sys, time, leap_zoo\n"
        "model = leap_zoo.load(sys.argv[1])\n"
        "model.classify(sys.argv[2], head=model.heads[0]); model.embed(sys.argv[2]); time.sleep(1)"
    )
    (tmp_path / "home").mkdir()
    environ = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environ |= {"HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    del environ["LEAP_ZOO_HOME"]
    trace = tmp_path / "trace"
    watched = [strace, "-f", "-o", str(trace), "-e", "trace=openat,socket,mkdir,unlink"]
    done = subprocess.run(
        [*watched, sys.executable, "-c", code, str(path), str(colour_photos["red"])],
        env=environ | {"PYTHONPATH": str(Path(leap_zoo.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    assert any(file in line for line in lines)
    assert [line for line in lines if "AF_INET" in line] == []
    written = [line for line in lines if re.search(r"O_WRONLY|O_RDWR|O_CREAT|mkdir\(|unlink\(", line)]
    assert [line for line in written if "/dev/" not in line and "/proc/" not in line] == []
    assert list((tmp_path / "home").iterdir()) == []


def test_classify__bad_photo_among_many_says_which(model: Model, colour_photos: dict[str, Path]) -> None:
    good = colour_photos["red"]
    with pytest.raises(NotAnImage, match="image 2 of 3"):
        model.classify([good, good, b"no photo"])


def test_embed__is_unit_length_in_both_spaces(model: Model, sample_photos: list[Path]) -> None:
    for space, length in (("student", 8), ("teacher", 12)):
        one = model.embed(sample_photos[0], space=space)
        many = model.embed(sample_photos, space=space)
        assert (one.shape, one.dtype) == ((length,), np.float32)
        assert (many.shape, many.dtype) == ((2, length), np.float32)
        assert np.abs(np.linalg.norm(many, axis=1) - 1).max() < 1e-5
        assert np.abs(many[0] - one).max() < 1e-5
        assert np.abs(many[0] - many[1]).max() > 0.01
        assert model.embed([], space=space).shape == (0, length)
    with pytest.raises(UnknownSpace, match="did you mean 'teacher'"):
        model.embed(sample_photos[0], space="techer")  # type: ignore[arg-type]


def test_run__more_than_a_batch_equals_one_by_one(model: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    together = model.run(images, ["embedding", "logits_brightness"])
    assert list(together) == ["embedding", "logits_brightness"]
    for name, values in together.items():
        alone = np.concatenate([model.run(image[None], [name])[name] for image in images])
        assert np.abs(values - alone).max() < 1e-5
    assert model.run(images[:0], ["teacher_embedding"])["teacher_embedding"].shape == (0, 12)


def test_run__large_batches_reach_the_runtime_in_parts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    run = model.session.run
    monkeypatch.setattr(model.session, "run", lambda image, outputs: sizes.append(len(image)) or run(image, outputs))
    model.run(np.zeros((70, 32, 32, 3), np.uint8), ["embedding"])
    assert sizes == [32, 32, 6]


@pytest.mark.parametrize(
    ("images", "outputs"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), ["embedding"]),
        (np.zeros((1, 33, 32, 3), np.uint8), ["embedding"]),
        (np.zeros((32, 32, 3), np.uint8), ["embedding"]),
        ([[1]], ["embedding"]),
        (np.zeros((1, 32, 32, 3), np.uint8), ["embeding"]),
        (np.zeros((1, 32, 32, 3), np.uint8), []),
    ],
)
def test_run__bad_arguments_are_refused(model: Model, images: np.ndarray, outputs: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        model.run(images, outputs)


def test_model__agrees_with_preprocess_and_run(model: Model, sample_photos: list[Path]) -> None:
    tensors = np.stack([to_tensor(photo, model.card.preprocessing) for photo in sample_photos])
    assert np.array_equal(model.embed(sample_photos), model.run(tensors, ["embedding"])["embedding"])


def test_model__is_thread_safe(model: Model, colour_photos: dict[str, Path]) -> None:
    names = list(colour_photos) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: model.classify(colour_photos[name], top=1)[0].label, names))
    assert found == names


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"zoo": 5}, "str or a Path"),
        ({"zoo": b"/zoo"}, "str or a Path"),
        ({"limits": None}, "Limits"),
        ({"limits": 5}, "Limits"),
        ({"providers": 5}, "must be a list"),
        ({"session_options": 5}, "SessionOptions, not int"),
    ],
)
def test_load__options_of_a_wrong_type(tiny_zoo: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        leap_zoo.load(TINY, **{"zoo": tiny_zoo, **options})


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "x/" * 3000 + "model.onnx", "a/\0", "/" + "x" * 300 + ".xml"])
def test_load__path_that_cannot_be(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"check the path|card\.json"):
        leap_zoo.load(path)
    with pytest.raises(InvalidArgument, match="not a zoo"):
        leap_zoo.load(TINY, zoo="/" + "x" * 5000)


@pytest.mark.parametrize("url", ["http://example.org/zoo/leap-nano", "file:///zoo/leap-nano", "s3://a/b"])
def test_load__address_says_pull(url: str) -> None:
    with pytest.raises(UnknownModel, match="a URL: run leap-zoo pull"):
        leap_zoo.load(url)
