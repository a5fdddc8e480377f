"""The front door: `load` a student by name, then `classify` and `embed` photos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from leap_zoo.card import Artifact, File, Format, Head, ModelCard, Precision
from leap_zoo.device import available_threads
from leap_zoo.errors import ImageError, InvalidArgument, InvalidCard, UnknownHead, UnknownSpace, nearest, short
from leap_zoo.heads import OUTPUTS, SUFFIX, CustomHead
from leap_zoo.preprocess import ImageSource, to_tensor
from leap_zoo.runtimes import Session, open_session
from leap_zoo.settings import DEFAULT_MODEL, parse_threads, read_settings
from leap_zoo.store import Zoo, ZooLocation, find_all

MAX_BATCH = 32  # activations of a larger batch only cost memory: throughput on a CPU is flat from about 8

OneFile = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image
Many = list[Any] | tuple[Any, ...] | npt.NDArray[np.uint8]
Space = Literal["student", "teacher"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class: its label, its softmax probability (0..1) and its index in the head's labels."""

    label: str
    score: float
    index: int


class Predictions(list[Prediction]):
    """The classes of one photo, best first: a list, and how far the photo is from what was learned.

    distance: to the nearest class, as of `leap_zoo.doubt`; None where the head does not know. unsure: whether that is
    too far for any of the classes; False where the head does not know.
    """

    def __init__(self, best: Iterable[Prediction] = (), *, unsure: bool = False, distance: float | None = None) -> None:
        super().__init__(best)
        self.unsure = unsure
        self.distance = distance


Batch = list[Predictions]
AnyHead = str | os.PathLike[str] | CustomHead | None


def load(
    name: str = DEFAULT_MODEL,
    *,
    zoo: ZooLocation | None = None,
    precision: Precision | None = None,
    format: Format | None = None,
    threads: int | None = None,
    exact: bool = True,
) -> Model:
    """Load a model, after checking size and sha256 of its file.

    name: a model's id (`leap-zoo list`), or `hf://OWNER/NAME`: pulled first, from a repository that is one model.
    zoo: a zoo's folder; default: LEAP_ZOO_URL's, then what was pulled, then the bundled zoo.
    precision: default is int8 where the model has it (it is listed only when it passed the gate), else fp32.
    format: `onnx` (on ONNX Runtime) or `openvino` (on OpenVINO, an extra); default: onnx where the model has it.
    threads: 1..1024; default: LEAP_ZOO_THREADS, else what the affinity and the cgroup quota allow.
    exact: 32-bit float arithmetic; False lets OpenVINO use bfloat16 where the processor has it.
    Raises UnknownModel, InvalidArgument, InvalidCard, ArtifactCorrupt, ArtifactRefused, NotPulled, MissingExtra.
    """
    if isinstance(name, str) and name.startswith("hf://"):
        from leap_zoo.pull import pull

        if zoo is not None:
            raise InvalidArgument(f"{short(name)} says where the model is: leave zoo out")
        name, zoo = pull(None, name, precision=precision, format=format).model, read_settings().home
    place, card, artifact = _find_artifact(name, zoo, precision, format)
    return open_artifact(place, card, artifact, threads, exact=exact)


def _find_artifact(
    name: str, zoo: ZooLocation | None, precision: str | None, format: str | None
) -> tuple[Zoo, ModelCard, Artifact]:
    """In the first zoo that lists the model; or, when that file was not pulled, in another that has the very file."""
    places = find_all(name, zoo)
    place, card = next(places)
    artifact = choose_artifact(card, precision, format, lambda one: place.holds(card, one))
    if place.holds(card, artifact):
        return place, card, artifact
    for other, its_card in places:
        same = (one for one in its_card.artifacts if one.sha256 == artifact.sha256 and other.holds(its_card, one))
        for twin in same:
            return other, its_card, twin
    return place, card, artifact


def choose_artifact(
    card: ModelCard,
    precision: str | None = None,
    format: str | None = None,
    held: Callable[[Artifact], bool] = lambda _: True,
) -> Artifact:
    """The artifact of that kind; None: what is `held` first, ONNX before OpenVINO, int8 before fp32.

    Raises InvalidArgument.
    """
    found = [
        artifact
        for artifact in card.artifacts
        if precision in (None, artifact.precision) and format in (None, artifact.format)
    ]
    if not found:
        wanted = " ".join(str(part) for part in (format, precision) if part is not None)
        known = [f"{artifact.format} {artifact.precision}" for artifact in card.artifacts]
        raise InvalidArgument(f"{card.id} has no file of {short(wanted)}{nearest(wanted, known)}")
    preference = ("int8", "fp32", "fp16")
    return min(found, key=lambda one: (not held(one), one.format != "onnx", preference.index(one.precision)))


def open_artifact(
    place: Zoo, card: ModelCard, artifact: Artifact, threads: int | None = None, *, exact: bool = True
) -> Model:
    """Check the files of one artifact and load it. Raises as `load` does."""
    return Model.open(card, artifact, lambda file: place.read(card, file), threads, exact=exact)


class Model:
    """A loaded student. Methods may be called from several threads at once.

    Attributes: `card` (ModelCard), `artifact` (the Artifact that runs), `heads` (names, the default one first).

    An image is a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) RGB or (H, W) grey. A list, a
    tuple, or a uint8 array (N, H, W, 3) is many images. Photos are resized and cropped as the card says.
    """

    def __init__(self, card: ModelCard, artifact: Artifact, session: Session) -> None:
        self.card = card
        self.artifact = artifact
        self.session = session
        rest = (head.name for head in card.heads if head.name != card.default_head)
        self.heads: tuple[str, ...] = (card.default_head, *rest)
        self._widths = {
            "embedding": card.embedding_dims.student,
            "teacher_embedding": card.embedding_dims.teacher,
            **{head.output: len(head.labels) for head in card.heads},
        }
        self._check_signature()

    @classmethod
    def open(
        cls,
        card: ModelCard,
        artifact: Artifact,
        read: Callable[[File], bytes],
        threads: int | None = None,
        *,
        exact: bool = True,
    ) -> Model:
        """A model from its files, whose bytes `read` gives and has checked. Raises ArtifactRefused, InvalidCard."""
        count = parse_threads(threads) if threads is not None else read_settings().threads or available_threads()
        return cls(card, artifact, open_session(artifact, [read(file) for file in artifact.files], count, exact=exact))

    def __repr__(self) -> str:
        return f"<Model {self.card.id} {self.card.revision} {self.artifact.file}, {self.session.runtime}>"

    @overload
    def classify(self, images: OneFile, *, top: int = 5, head: AnyHead = None) -> Predictions: ...
    @overload
    def classify(self, images: list[Any] | tuple[Any, ...], *, top: int = 5, head: AnyHead = None) -> Batch: ...
    @overload
    def classify(self, images: Any, *, top: int = 5, head: AnyHead = None) -> Predictions | Batch: ...
    def classify(self, images: ImageSource | Many, *, top: int = 5, head: AnyHead = None) -> Predictions | Batch:
        """The `top` most probable classes, best first: a list for one image, a list of lists for many.

        With a head of your own, `unsure` of a list says whether the photo is like none of its classes.
        top: at least 1; more than the head's classes means all of them. head: as `find_head` takes it.
        Raises UnknownHead, InvalidHead, InvalidArgument, and ImageError for a bad photo (among many, it says which).
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InvalidArgument(f"top must be a whole number of at least 1, not {short(top)}")
        chosen = self.find_head(head)
        rows, many = self._compute(images, chosen.output)
        predictions = predict(chosen, rows, top)
        return predictions if many else predictions[0]

    def embed(self, images: ImageSource | Many, *, space: Space = "student") -> npt.NDArray[np.float32]:
        """L2-normalised embeddings, float32: (D,) for one image, (N, D) for many.

        space: `student` (D_s), or `teacher`: the student's projection into the teacher's own feature space (D_t), which
        can query an index built with the teacher. Raises UnknownSpace, ImageError.
        """
        embeddings, many = self._compute(images, output_of(space))
        return embeddings if many else embeddings[0]

    def find_head(self, head: AnyHead = None) -> Head | CustomHead:
        """One of the model's heads by name (None: the card's default), or a head of your own: itself, or its file.

        A text is a name, unless it ends in `.head`; a Path is always a file.
        Raises UnknownHead, and InvalidHead for a broken file or a head that was fitted for another model.
        """
        if head is None or (isinstance(head, str) and (head in self.heads or not head.endswith(SUFFIX))):
            return self.named_head(head)
        custom = head if isinstance(head, CustomHead) else CustomHead.load(head)
        custom.check(self.card)
        return custom

    def named_head(self, name: str | None = None) -> Head:
        """One of the model's own heads (None: the card's default); never a file. Raises UnknownHead."""
        head = self.card.head(name)
        if head is None:
            raise UnknownHead(f"{self.card.id} has no head {short(name)}{nearest(str(name), self.heads)}")
        return head

    def run(self, batch: npt.NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph on preprocessed photos: uint8 (B, size, size, 3) -> {output: float32 (B, D)}.

        Batches larger than 32 are split. Only the named outputs are returned; the runtime still computes the others,
        which are a matrix product each. Raises InvalidArgument, ArtifactRefused.
        """
        size = self.card.preprocessing.size
        if not isinstance(batch, np.ndarray) or batch.dtype != np.uint8 or batch.shape[1:] != (size, size, 3):
            got = f"{batch.dtype} {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
            raise InvalidArgument(f"the batch must be uint8 (B, {size}, {size}, 3), not {got}: use leap_zoo.preprocess")
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        for name in names or [""]:
            if name not in self._widths:
                raise InvalidArgument(f"unknown output {short(name)}{nearest(str(name), self._widths)}")
        parts = [self.session.run(batch[i : i + MAX_BATCH], names) for i in range(0, len(batch), MAX_BATCH)]
        return {
            name: np.concatenate([np.empty((0, self._widths[name]), np.float32), *(part[i] for part in parts)])
            for i, name in enumerate(names)
        }

    def _compute(self, images: ImageSource | Many, output: str) -> tuple[npt.NDArray[np.float32], bool]:
        """One output for all images (N, D), and whether many were given. Holds at most MAX_BATCH photos at a time."""
        if not (isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)):
            return self.run(to_tensor(images, self.card.preprocessing)[None], [output])[output], False
        parts = [self.run(batch, [output])[output] for batch in self._batches(images)]
        return np.concatenate([np.empty((0, self._widths[output]), np.float32), *parts]), True

    def _batches(self, images: Many) -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, len(images), MAX_BATCH):
            tensors = []
            for number, image in enumerate(images[start : start + MAX_BATCH], start):
                try:
                    tensors.append(to_tensor(image, self.card.preprocessing))
                except (ImageError, InvalidArgument) as error:
                    raise type(error)(f"image {number} of {len(images)} (from 0): {error}") from error
            yield np.stack(tensors)

    def _check_signature(self) -> None:
        """The file must be the graph that the card describes; the first photo would be a late moment to find out."""
        size = self.card.preprocessing.size
        expected: dict[str, tuple[str, tuple[int, ...]]] = {"image": ("uint8", (size, size, 3))}
        expected |= {name: ("float32", (width,)) for name, width in self._widths.items()}
        actual = self.session.inputs | self.session.outputs
        for name, (dtype, shape) in expected.items():
            found_dtype, found_shape = actual.get(name, ("nothing", ()))
            fits = len(found_shape) == len(shape) + 1 and all(
                axis in (None, size) for axis, size in zip(found_shape[1:], shape, strict=True)
            )
            if found_dtype != dtype or not fits:
                raise InvalidCard(
                    f"{self.artifact.file} of {self.card.id} gives {found_dtype} {found_shape} for {name!r}, its card "
                    f"says {dtype} (batch, {', '.join(map(str, shape))}): export it again"
                )


def output_of(space: str) -> str:
    """The graph's output that holds the embeddings of a space. Raises UnknownSpace."""
    if space not in OUTPUTS:
        raise UnknownSpace(f"unknown space {short(space)}{nearest(str(space), OUTPUTS)}")
    return OUTPUTS[space]


def predict(head: Head | CustomHead, rows: npt.NDArray[np.float32], top: int) -> Batch:
    """The `top` classes for each row (N, D) of `head.output`, best first."""
    if not isinstance(head, CustomHead):
        return [Predictions(_best(scores, head.labels, top)) for scores in softmax(rows)]
    found = [_best(scores, head.labels, top) for scores in softmax(head.logits(rows))]
    limit = head.card.threshold
    if limit is None:
        return list(map(Predictions, found))
    distances = head.distances(rows).tolist()
    return [Predictions(best, unsure=far > limit, distance=far) for best, far in zip(found, distances, strict=True)]


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of logits (N, classes), float32; each row sums to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    probabilities: npt.NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _best(scores: npt.NDArray[np.float32], labels: list[str], top: int) -> list[Prediction]:
    order = np.argsort(-scores, kind="stable")[:top]
    return [Prediction(labels[i], float(scores[i]), int(i)) for i in order]
