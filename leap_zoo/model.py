"""A loaded student: `classify` and `embed` photos. `leap_zoo.loading` finds it, `leap_zoo.runtime` runs it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact, File, Head, ModelCard
from leap_zoo.doubt import energies
from leap_zoo.errors import (
    ImageError,
    InvalidArgument,
    InvalidCard,
    UnknownHead,
    UnknownSpace,
    nearest,
    plain,
    short,
    whole_number,
)
from leap_zoo.heads import OUTPUTS, SUFFIX, CustomHead
from leap_zoo.preprocess import LIMITS, ImageSource, Limits, many_images, to_tensor, which_image
from leap_zoo.runtime import Provider, Session, open_session
from leap_zoo.store import default_model

if TYPE_CHECKING:
    from PIL import Image

    OneFile = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image

MAX_BATCH = 32  # larger batches only cost memory: throughput on a CPU is flat from about 8
MOST_DECODERS = 4  # each may decode a photo of 50 megapixels

Images = ImageSource | Iterable[Any]
Space = Literal["student", "teacher"]
Row = npt.NDArray[np.float32]
Tensor = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class: its label, its softmax probability (0..1) and its index in the head's labels."""

    label: str
    score: float
    index: int


class Predictions(list[Prediction]):
    """The classes of one photo, best first: a list, with the photo's distance from the training photos.

    distance: as in `leap_zoo.doubt`; None if the head has no threshold. unsure: whether the photo is too far from all
    classes; False if the head has no threshold.
    """

    def __init__(self, best: Iterable[Prediction] = (), *, unsure: bool = False, distance: float | None = None) -> None:
        super().__init__(best)
        self.unsure = unsure
        self.distance = distance


Batch = list[Predictions]
AnyHead = str | os.PathLike[str] | CustomHead | None


class Options(TypedDict, total=False):
    """Options for running a model: see `load`."""

    exact: bool
    providers: Sequence[Provider] | None
    session_options: Any


class Model:
    """A loaded student. Thread-safe, and a context manager that closes the model at the end of its block.

    Attributes: `card` (ModelCard), `artifact` (the Artifact that runs), `heads` (names, the default one first),
    `limits` (the largest photo to accept), `verified` (whether the files match the sha256 in a card; False for a lone
    file that no known card lists).

    One image is what `leap_zoo.preprocess.open_image` takes: a path, the bytes of a file, a file opened in binary mode,
    a PIL image, or a uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W) of NumPy, torch or anything with
    `__array__`. A list, a tuple, a generator or any other iterable, or a uint8 array (N, H, W, C), is many images.
    Photos are resized and cropped as the card says.

    Pickles and copies contain no weights: a copy reads the same files again and checks them.
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
        *,
        limits: Limits = LIMITS,
        verified: bool = True,
        **options: Unpack[Options],
    ) -> Model:
        """Open a model from its files, whose bytes `read` returns after checking them.

        Raises ArtifactRefused, InvalidCard.
        """
        again = partial(cls.open, card, artifact, read, threads, limits=limits, verified=verified, **options)
        session = open_session(artifact, [read(file) for file in artifact.files], threads, **options)
        return cls(card, artifact, session, limits=limits, verified=verified, again=again)

    @property
    def session(self) -> Session:
        """The session that runs the graph. Raises InvalidArgument if the model is closed."""
        if self._session is None:
            raise InvalidArgument(f"the model {self.card.id} is closed: load it again")
        return self._session

    @property
    def runtime(self) -> str:
        """The runtime and its version, and the execution providers unless it is only the CPU."""
        return self.session.runtime

    @property
    def labels(self) -> list[str]:
        """The classes of the default head; a prediction's index refers to this list.

        Others: `find_head(name).labels`.
        """
        return list(self.named_head().labels)

    def close(self) -> None:
        """Free the memory once running calls have ended. Closing twice has no effect."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[object, ...]]:
        again = self._again
        if again is None or self._session is None or again.keywords.get("session_options") is not None:
            raise InvalidArgument(f"this {self.card.id} cannot be copied or pickled: load it again where it is needed")
        return again, ()

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

        A list's `unsure` says whether the photo is unlike all the classes, if the head has a threshold.
        top: at least 1; a number above the number of classes means all of them. head: as in `find_head`.
        Raises UnknownHead, InvalidHead, InvalidArgument, and ImageError for a bad photo (naming it if there are many).
        """
        count = whole_number(top, "top")
        chosen = self.find_head(head)
        rows, many = self._compute(images, chosen.output)
        predictions = predict(chosen, rows, count)
        return predictions if many else predictions[0]

    def embed(self, images: Images, *, space: Space = "student") -> npt.NDArray[np.float32]:
        """L2-normalized embeddings, float32: (D,) for one image, (N, D) for many.

        space: `student` (D_s), or `teacher` (D_t): the student's projection into the teacher's feature space, for
        searching an index that was built with the teacher. Raises UnknownSpace, ImageError.
        """
        embeddings, many = self._compute(images, output_of(space))
        return embeddings if many else embeddings[0]

    def find_head(self, head: AnyHead = None) -> Head | CustomHead:
        """Find one of the model's heads by name (None: the card's default), or take a custom head or its file.

        A string is a name unless it ends in `.head`; a Path is always a file.
        Raises UnknownHead, and InvalidHead for a damaged file or a head that was fitted for another model.
        """
        if head is None or (isinstance(head, str) and (head in self.heads or not head.endswith(SUFFIX))):
            return self.named_head(head)
        if not isinstance(head, (str, os.PathLike, CustomHead)):  # a number would be taken as a file descriptor
            raise InvalidArgument(
                f"a head must be a name, the path of a file or a CustomHead, not {type(head).__name__}"
            )
        custom = head if isinstance(head, CustomHead) else CustomHead.load(head)
        custom.check(self.card)
        return custom

    def named_head(self, name: str | None = None) -> Head:
        """Find one of the model's own heads (None: the card's default); never a file.

        Raises UnknownHead, also for None if the default head is too inaccurate on general photos.
        """
        if name is None and not self.card.answers:
            teacher = self.card.teacher_general
            raise UnknownHead(
                f"{self.card.id} has no general head: of photos of the world its teacher's 1000 classes are right on "
                f"{self.card.general or 0:.1%}{'' if teacher is None else f', the teacher on {teacher:.1%}'}; use "
                f"{default_model()}, name a head ({', '.join(self.heads)}), or fit your own classes with leap-zoo fit"
            )
        head = self.card.head(name)
        if head is None:
            raise UnknownHead(f"{self.card.id} has no head {short(name)}{nearest(str(name), self.heads)}")
        return head

    def run(self, batch: npt.NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Run the graph on preprocessed photos: uint8 (B, size, size, 3) -> {output: float32 (B, D)}.

        Batches above 32 are split. Only the named outputs are returned; the runtime still computes the others, each of
        which costs one matrix product. Raises InvalidArgument, ArtifactRefused.
        """
        size = self.card.preprocessing.size
        if not isinstance(batch, np.ndarray) or batch.dtype != np.uint8 or batch.shape[1:] != (size, size, 3):
            got = f"{batch.dtype} {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
            raise InvalidArgument(f"the batch must be uint8 (B, {size}, {size}, 3), not {got}: use leap_zoo.preprocess")
        names = [outputs] if isinstance(outputs, str) or not isinstance(outputs, Iterable) else list(outputs)
        for name in names or [""]:
            if name not in self._widths:
                raise InvalidArgument(f"unknown output {short(name)}{nearest(str(name), self._widths)}")
        parts = [self.session.run(batch[i : i + MAX_BATCH], names) for i in range(0, len(batch), MAX_BATCH)]
        return {
            name: np.concatenate([np.empty((0, self._widths[name]), np.float32), *(part[i] for part in parts)])
            for i, name in enumerate(names)
        }

    def _compute(self, images: Images, output: str) -> tuple[npt.NDArray[np.float32], bool]:
        """One output for all images (N, D), and whether `images` was a collection."""
        many = many_images(images)
        if many is None:
            tensor = to_tensor(images, self.card.preprocessing, self.limits)  # type: ignore[arg-type]
            return self.run(tensor[None], [output])[output], False
        rows: list[Row] = []
        for number, row in enumerate(self.answers(many, output)):
            if isinstance(row, ImageError):
                raise type(row)(f"{which_image(number, many)}: {row}") from row
            rows.append(row)
        return np.stack(rows) if rows else np.empty((0, self._widths[output]), np.float32), True

    def answers(self, photos: Iterable[Any], output: str) -> Iterator[Row | ImageError]:
        """Yield, for each photo in order, its row (D,) of an output of the graph, or the error that it caused.

        An ImageError in place of a photo is passed on.

        At most two batches are read ahead. Paths and bytes are decoded while the graph runs, on as many threads as it
        has (at most 4). Other images are decoded as soon as the iterator yields them, because it may close a file or
        reuse an array before it yields the next one.
        Raises ArtifactRefused, and InvalidArgument for anything that cannot be a photo (a number, a list).
        """

        def decode(number: int, photo: Any) -> Tensor | ImageError:
            if isinstance(photo, ImageError):
                return photo
            try:
                return to_tensor(photo, self.card.preprocessing, self.limits)
            except ImageError as error:
                return error
            except InvalidArgument as error:
                raise InvalidArgument(f"{which_image(number, photos)}: {error}") from error

        from concurrent.futures import Future, ThreadPoolExecutor

        waiting = enumerate(photos)
        pool = ThreadPoolExecutor(min(MOST_DECODERS, self.session.threads), "decode")
        try:
            ahead: deque[Future[Tensor | ImageError] | Tensor | ImageError] = deque()
            while True:
                for number, photo in islice(waiting, 2 * MAX_BATCH - len(ahead)):
                    stays = isinstance(photo, (str, os.PathLike, bytes))
                    ahead.append(pool.submit(decode, number, photo) if stays else decode(number, photo))
                if not ahead:
                    return
                drawn = [ahead.popleft() for _ in range(min(MAX_BATCH, len(ahead)))]
                batch = [one.result() if isinstance(one, Future) else one for one in drawn]
                tensors = [tensor for tensor in batch if not isinstance(tensor, ImageError)]
                rows = iter(self.run(np.stack(tensors), [output])[output] if tensors else ())
                for tensor in batch:
                    yield tensor if isinstance(tensor, ImageError) else next(rows)
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_signature(self) -> None:
        """Check at loading, not at the first photo, that the file is the graph that the card describes."""
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
    """The graph output with the embeddings of a space. Raises UnknownSpace."""
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
    found = [
        [Prediction(head.labels[i], float(scores[i]), int(i)) for i in np.argsort(-scores, kind="stable")[:top]]
        for scores in softmax(logits)
    ]
    if limit is None:
        return list(map(Predictions, found))
    each = zip(found, distances.tolist(), strict=True)
    return [Predictions(best, unsure=far > limit, distance=far) for best, far in each]


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of logits (N, classes), float32; each row sums to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
    probabilities: npt.NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
