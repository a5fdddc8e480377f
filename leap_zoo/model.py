"""The front door: `load` a student by name or path, then `classify` and `embed` photos."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from leap_zoo.card import Artifact, File, Format, Head, ModelCard, Precision
from leap_zoo.device import available_threads
from leap_zoo.doubt import energies
from leap_zoo.errors import ImageError, InvalidArgument, InvalidCard, UnknownHead, UnknownSpace, nearest, plain, short
from leap_zoo.heads import OUTPUTS, SUFFIX, CustomHead
from leap_zoo.model_file import ModelFile, names_a_file, names_a_path, read_model_file
from leap_zoo.preprocess import LIMITS, ImageSource, Limits, many_images, to_tensor
from leap_zoo.runtime import OnnxSession, OpenVinoSession, Provider, Session, open_session
from leap_zoo.settings import parse_threads, read_settings
from leap_zoo.store import ModelFolder, Zoo, ZooLocation, default_model, find, find_all

MAX_BATCH = 32  # activations of a larger batch only cost memory: throughput on a CPU is flat from about 8

OneFile = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image
Many = list[Any] | tuple[Any, ...] | npt.NDArray[np.uint8]
Images = ImageSource | Iterable[Any]
Space = Literal["student", "teacher"]

_LOG = logging.getLogger("leap_zoo")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class: its label, its softmax probability (0..1) and its index in the head's labels."""

    label: str
    score: float
    index: int


class Predictions(list[Prediction]):
    """The classes of one photo, best first: a list, and how far the photo is from what was learned.

    distance: from the classes, as of `leap_zoo.doubt`; None where the head does not know. unsure: whether that is
    too far for any of the classes; False where the head does not know.
    """

    def __init__(self, best: Iterable[Prediction] = (), *, unsure: bool = False, distance: float | None = None) -> None:
        super().__init__(best)
        self.unsure = unsure
        self.distance = distance


Batch = list[Predictions]
AnyHead = str | os.PathLike[str] | CustomHead | None


class Options(TypedDict, total=False):
    """How a model is run: see `load`."""

    exact: bool
    providers: Sequence[Provider] | None
    session_options: Any
    limits: Limits


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    zoo: ZooLocation | None = None,
    precision: Precision | None = None,
    format: Format | None = None,
    threads: int | None = None,
    exact: bool = True,
    providers: Sequence[Provider] | None = None,
    session_options: Any = None,
    limits: Limits = LIMITS,
) -> Model:
    """Load a model, after checking size and sha256 of its file.

    name: a model's id (`leap-zoo list`), the path of a model's folder (with its card.json), the path of a lone file (an
    .onnx, or an .xml with its .bin beside it), or `hf://OWNER/NAME`: pulled first, from a repository that is one model.
    Default: the smallest bundled student whose 1000 classes are right on 70 % of photos of the world.
    A lone file is checked against the card.json beside it, or the zoos that are known here; where none of them lists
    it, it is loaded, `Model.verified` is False, and a warning is logged.
    zoo: a zoo's folder; default: LEAP_ZOO_URL's, then what was pulled, then the bundled zoo.
    precision: default is int8 where the model has it (it is listed only when it passed the gate), else fp32.
    format: `onnx` (on ONNX Runtime) or `openvino` (on OpenVINO, an extra); default: onnx where the model has it.
    threads: 1..1024; default: LEAP_ZOO_THREADS, else what the affinity and the cgroup quota allow.
    exact: 32-bit float arithmetic; False lets OpenVINO use bfloat16 where the processor has it; an error for ONNX.
    providers: ONNX Runtime's execution providers, in order of preference, as it takes them: names, or tuples of a name
    and its options. Default: the CPU. One that does not start is an error, and not left out in silence.
    session_options: an `onnxruntime.SessionOptions` in place of ours, used as it is; `threads` cannot be given with it.
    limits: the largest photo that is read.
    Raises UnknownModel, InvalidArgument, InvalidCard, ArtifactCorrupt, ArtifactRefused, NotPulled, MissingExtra.
    """
    options: Options = {
        "exact": exact,
        "providers": providers,
        "session_options": session_options,
        "limits": limits,
    }
    if not isinstance(limits, Limits):
        raise InvalidArgument(f"limits is a leap_zoo.preprocess.Limits, not {type(limits).__name__}")
    if isinstance(name, str) and name.startswith("hf://"):
        from leap_zoo.pull import pull

        if zoo is not None:
            raise InvalidArgument(f"{short(name)} says where the model is: leave zoo out")
        name, zoo = pull(None, name, precision=precision, format=format).model, read_settings().home
    name = default_model() if name is None else name
    if isinstance(name, (str, os.PathLike)) and names_a_path(name) and names_a_file(name):
        if precision is not None or format is not None:
            raise InvalidArgument(f"{short(name)} is one file: leave out precision and format, or give its folder")
        return _load_file(read_model_file(Path(os.fsdecode(name))), zoo, threads, options)
    place, card = locate(name, zoo)
    artifact = choose_artifact(card, precision, format, lambda one: place.holds(card, one))
    if not place.holds(card, artifact) and not names_a_path(name):  # not pulled: another zoo may have the very file
        for other, its_card in find_all(str(name), zoo):
            for twin in its_card.artifacts:
                if twin.sha256 == artifact.sha256 and other.holds(its_card, twin):
                    return open_artifact(other, its_card, twin, threads, **options)
    return open_artifact(place, card, artifact, threads, **options)


def _load_file(file: ModelFile, zoo: ZooLocation | None, threads: int | None, options: Options) -> Model:
    known = file.known(zoo)
    artifact = file.artifact if known is None else known[1]
    session = _session(artifact, file.contents, threads, options)
    if known is None:
        card = file.card(session.metadata, session.outputs)
        _LOG.warning(
            "%s is not verified: no card that is known here lists its sha256. It says that it is %s, revision %s",
            short(file.path),
            card.id,
            card.revision,
        )
    else:
        card = known[0]
    again = partial(open_artifact, file.place, card, artifact, threads, **options)
    return Model(card, artifact, session, limits=options["limits"], verified=known is not None, again=again)


def locate(name: str | os.PathLike[str] | None, zoo: ZooLocation | None = None) -> tuple[Zoo, ModelCard]:
    """Where a model is, by its id or the path of its folder, and its card. Raises as `load` does."""
    name = default_model() if name is None else name
    if not isinstance(name, (str, os.PathLike)):
        raise InvalidArgument(f"a model is an id or a path, not {type(name).__name__}")
    if not names_a_path(name):
        return find(str(name), zoo)
    if names_a_file(name):
        raise InvalidArgument(
            f"{short(name)} is one file, and what it should answer is not in it: give its model's folder or id. "
            "leap-zoo show FILE says whether a card lists it"
        )
    place = ModelFolder(Path(os.fsdecode(name)).absolute())
    return place, place.card(place.entry())


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
    place: Zoo, card: ModelCard, artifact: Artifact, threads: int | None = None, **options: Unpack[Options]
) -> Model:
    """Check the files of one artifact and load it. Raises as `load` does."""
    session = _session(artifact, [place.read(card, file) for file in artifact.files], threads, options)
    again = partial(open_artifact, place, card, artifact, threads, **options)
    return Model(card, artifact, session, limits=options.get("limits", LIMITS), again=again)


def _session(
    artifact: Artifact, files: Sequence[bytes], threads: int | None, options: Options
) -> OnnxSession | OpenVinoSession:
    theirs = options.get("session_options")
    if theirs is None:
        count = parse_threads(threads) if threads is not None else read_settings().threads
    elif threads is None:
        count = getattr(theirs, "intra_op_num_threads", None)
    else:
        raise InvalidArgument(
            "threads and session_options exclude each other: set session_options.intra_op_num_threads"
        )
    return open_session(
        artifact,
        files,
        count or available_threads(),
        exact=options.get("exact", True),
        providers=options.get("providers"),
        session_options=theirs,
    )


def _load_again(again: Callable[[], Model], verified: bool) -> Model:
    model = again()
    model.verified = verified
    return model


class Model:
    """A loaded student. Methods may be called from several threads at once; a `with` block closes it at its end.

    Attributes: `card` (ModelCard), `artifact` (the Artifact that runs), `heads` (names, the default one first),
    `limits` (the largest photo that is read), `verified` (its files have the sha256 that a card lists; False for a lone
    file that no known card lists).

    One image is what `leap_zoo.preprocess.open_image` takes: a path, the bytes of a file, a file opened in binary mode,
    a PIL image, or a uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W) of NumPy, torch or anything with
    `__array__`. A list, a tuple, a generator or any other iterable, or a uint8 array (N, H, W, C), is many images.
    Photos are resized and cropped as the card says.

    Pickling and copying keep no weights: the copy reads the same files again, and checks them.
    """

    def __init__(
        self,
        card: ModelCard,
        artifact: Artifact,
        session: Session,
        *,
        limits: Limits = LIMITS,
        verified: bool = True,
        again: partial[Model] | None = None,
    ) -> None:
        self.card = card
        self.artifact = artifact
        self.limits = limits
        self.verified = verified
        self._session: Session | None = session
        self._again = again
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
        **options: Unpack[Options],
    ) -> Model:
        """A model from its files, whose bytes `read` gives and has checked. Raises ArtifactRefused, InvalidCard."""
        session = _session(artifact, [read(file) for file in artifact.files], threads, options)
        return cls(card, artifact, session, limits=options.get("limits", LIMITS))

    @property
    def session(self) -> Session:
        """What runs the graph. Raises InvalidArgument when the model is closed."""
        if self._session is None:
            raise InvalidArgument(f"this {self.card.id} is closed: load it again")
        return self._session

    @property
    def runtime(self) -> str:
        """The runtime and its version, and the execution providers where it is not the CPU alone."""
        return self.session.runtime

    @property
    def labels(self) -> list[str]:
        """The classes of the default head; a prediction's index points here. Others: `find_head(name).labels`."""
        return list(self.named_head().labels)

    def close(self) -> None:
        """Give back the memory, once the calls that are running have ended. Closing twice does nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[object, ...]]:
        again = self._again
        if again is None or self._session is None or again.keywords.get("session_options") is not None:
            raise InvalidArgument(f"this {self.card.id} cannot be copied or pickled: load it where it is needed")
        return _load_again, (again, self.verified)

    def __repr__(self) -> str:
        state = "closed" if self._session is None else self._session.runtime
        doubt = "" if self.verified else ", not verified"
        return plain(f"<Model {self.card.id} {self.card.revision} {self.artifact.file}, {state}{doubt}>")

    @overload
    def classify(self, images: OneFile, *, top: int = 5, head: AnyHead = None) -> Predictions: ...
    @overload
    def classify(self, images: list[Any] | tuple[Any, ...], *, top: int = 5, head: AnyHead = None) -> Batch: ...
    @overload
    def classify(self, images: Any, *, top: int = 5, head: AnyHead = None) -> Predictions | Batch: ...
    def classify(self, images: Images, *, top: int = 5, head: AnyHead = None) -> Predictions | Batch:
        """The `top` most probable classes, best first: a list for one image, a list of lists for many.

        `unsure` of a list says whether the photo is like none of the classes, where the head knows.
        top: at least 1; more than the head's classes means all of them. head: as `find_head` takes it.
        Raises UnknownHead, InvalidHead, InvalidArgument, and ImageError for a bad photo (among many, it says which).
        """
        try:
            count = 0 if isinstance(top, bool) else operator.index(top)
        except TypeError:
            count = 0
        if count < 1:
            raise InvalidArgument(f"top must be a whole number of at least 1, not {short(top)}")
        chosen = self.find_head(head)
        rows, many = self._compute(images, chosen.output)
        predictions = predict(chosen, rows, count)
        return predictions if many else predictions[0]

    def embed(self, images: Images, *, space: Space = "student") -> npt.NDArray[np.float32]:
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
        if not isinstance(head, (str, os.PathLike, CustomHead)):  # a number would be taken for a file descriptor
            raise InvalidArgument(f"a head is a name, the path of a file or a CustomHead, not {type(head).__name__}")
        custom = head if isinstance(head, CustomHead) else CustomHead.load(head)
        custom.check(self.card)
        return custom

    def named_head(self, name: str | None = None) -> Head:
        """One of the model's own heads (None: the card's default); never a file.

        Raises UnknownHead, also for None where the default head is dead on photos of the world.
        """
        if name is None and not self.card.answers:
            raise UnknownHead(
                f"{self.card.id} has no general head: {self.card.default_head} names {self.card.general or 0:.1%} of "
                f"photos of the world correctly, its teacher {self.card.teacher_general or 0:.1%}; use "
                f"{default_model()}, name a head ({', '.join(self.heads)}), or fit your own classes with leap-zoo fit"
            )
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

    def _compute(self, images: Images, output: str) -> tuple[npt.NDArray[np.float32], bool]:
        """One output for all images (N, D), and whether many were given. Holds at most MAX_BATCH photos at a time."""
        many = many_images(images)
        if many is None:
            tensor = to_tensor(images, self.card.preprocessing, self.limits)  # type: ignore[arg-type]
            return self.run(tensor[None], [output])[output], False
        parts = [self.run(batch, [output])[output] for batch in self._batches(many)]
        return np.concatenate([np.empty((0, self._widths[output]), np.float32), *parts]), True

    def _batches(self, images: Iterable[Any]) -> Iterator[npt.NDArray[np.uint8]]:
        count = f" of {len(images)}" if isinstance(images, Sized) else ""
        tensors: list[npt.NDArray[np.uint8]] = []
        for number, image in enumerate(images):
            try:
                tensors.append(to_tensor(image, self.card.preprocessing, self.limits))
            except (ImageError, InvalidArgument) as error:
                raise type(error)(f"image {number}{count} (from 0): {error}") from error
            if len(tensors) == MAX_BATCH:
                yield np.stack(tensors)
                tensors = []
        if tensors:
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
    if not isinstance(space, str) or space not in OUTPUTS:
        raise UnknownSpace(f"unknown space {short(space)}{nearest(str(space), OUTPUTS)}")
    return OUTPUTS[space]


def predict(head: Head | CustomHead, rows: npt.NDArray[np.float32], top: int) -> Batch:
    """The `top` classes for each row (N, D) of `head.output`, best first."""
    if isinstance(head, CustomHead):
        logits, limit = head.logits(rows), head.card.threshold
        distances = head.distances(rows)
    elif head.doubt is not None:
        logits, limit = rows / np.float32(head.doubt.temperature), head.doubt.threshold
        distances = energies(rows)
    else:
        logits, limit = rows, None
    found = [_best(scores, head.labels, top) for scores in softmax(logits)]
    if limit is None:
        return list(map(Predictions, found))
    each = zip(found, distances.tolist(), strict=True)
    return [Predictions(best, unsure=far > limit, distance=far) for best, far in each]


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of logits (N, classes), float32; each row sums to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    probabilities: npt.NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _best(scores: npt.NDArray[np.float32], labels: list[str], top: int) -> list[Prediction]:
    order = np.argsort(-scores, kind="stable")[:top]
    return [Prediction(labels[i], float(scores[i]), int(i)) for i in order]
