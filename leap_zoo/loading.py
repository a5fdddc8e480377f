"""The entry point: `load` finds a model by name, path or URL, chooses one of its files, checks it and opens it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import msgspec

from leap_zoo.card import Artifact, Format, ModelCard, Precision
from leap_zoo.errors import InvalidArgument, LeapZooError, nearest, short
from leap_zoo.model import Model, Options
from leap_zoo.model_file import card_of, names_a_file, names_a_path, read_model_file
from leap_zoo.preprocess import LIMITS, Limits
from leap_zoo.runtime import Provider, open_session
from leap_zoo.settings import read_settings
from leap_zoo.store import ModelFolder, Zoo, ZooLocation, check_digest, default_model, find, find_all, models


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
    """Load a model after checking the size and sha256 of its file.

    name: a model's id (`leap-zoo list`), the path of a model's folder (with its card.json), the path of a lone file (an
    .onnx, or an .xml with its .bin beside it), or `hf://OWNER/NAME`, a repository with one model, which is pulled
    first.
    Default: the smallest bundled student with at least 70 % top-1 over 1000 classes on general photos.
    A lone file is checked against the card.json beside it and against the known zoos. If none lists it, it is loaded
    with a logged warning, and `Model.verified` is False.
    zoo: a zoo's folder; default: LEAP_ZOO_URL's folder, then the pulled models, then the bundled zoo.
    precision: default: int8 if the model has it (only an int8 file that passed the export checks is listed), else fp32.
    format: `onnx` (on ONNX Runtime), `openvino` or `executorch` (extras); default: onnx if the model has it.
    threads: 1..1024; default: LEAP_ZOO_THREADS, else the number allowed by CPU affinity and cgroup quota.
    exact: use 32-bit float arithmetic; False lets OpenVINO use bfloat16 if the processor has it, and is an error for
    ONNX.
    providers: ONNX Runtime's execution providers in order of preference: names, or tuples of a name and its options.
    Default: the CPU. A provider that does not start is an error; it is never dropped silently.
    session_options: an `onnxruntime.SessionOptions`, used unchanged; it excludes `threads`.
    limits: the largest photo to accept.
    Raises UnknownModel, InvalidArgument, InvalidCard, ArtifactCorrupt, ArtifactRefused, NotPulled, MissingExtra.
    """
    options = Options(exact=exact, providers=providers, session_options=session_options)
    if not isinstance(limits, Limits):
        raise InvalidArgument(f"limits must be a leap_zoo.preprocess.Limits, not {type(limits).__name__}")
    if isinstance(name, str) and name.startswith("hf://"):
        from leap_zoo.pull import pull

        if zoo is not None:
            raise InvalidArgument(f"{short(name)} already says where the model is: leave zoo out")
        name, zoo = pull(None, name, precision=precision, format=format).model, read_settings().home
    name = default_model() if name is None else name
    if isinstance(name, (str, os.PathLike)) and names_a_path(name) and names_a_file(name):
        if precision is not None or format is not None:
            raise InvalidArgument(f"{short(name)} is one file: leave out precision and format, or give its folder")
        return _load_file(Path(os.fsdecode(name)), zoo, threads, limits, options)
    place, card = locate(name, zoo)
    artifact = choose_artifact(card, precision, format, lambda one: place.holds(card, one))
    if not place.holds(card, artifact) and not names_a_path(name):  # not pulled: another zoo may have the same file
        for other, its_card in find_all(str(name), zoo):
            for twin in its_card.artifacts:
                if twin.sha256 == artifact.sha256 and other.holds(its_card, twin):
                    return open_artifact(other, its_card, twin, threads, limits=limits, **options)
    return open_artifact(place, card, artifact, threads, limits=limits, **options)


def _load_file(path: Path, zoo: ZooLocation | None, threads: int | None, limits: Limits, options: Options) -> Model:
    artifact, contents, card = identify(path, zoo)
    verified = card is not None
    session = open_session(artifact, contents, threads, **options)
    if card is None:
        card = card_of(artifact, session.metadata, session.outputs)
        import logging

        logging.getLogger("leap_zoo").warning(
            "%s is not verified: no known card lists its sha256. It claims to be %s, revision %s",
            short(path),
            card.id,
            card.revision,
        )
    read = partial(ModelFolder(path.absolute().parent).read, card)
    again = partial(Model.open, card, artifact, read, threads, limits=limits, verified=verified, **options)
    return Model(card, artifact, session, limits=limits, verified=verified, again=again)


def identify(path: Path, zoo: ZooLocation | None = None) -> tuple[Artifact, list[bytes], ModelCard | None]:
    """A lone file: its artifact under its own name, its contents, and the card that lists its bytes, if one is known.

    Raises InvalidArgument; ArtifactCorrupt if the card.json beside the file lists different bytes under its name.
    """
    found, contents = read_model_file(path)
    place = ModelFolder(path.absolute().parent)
    cards = []
    if os.path.isfile(place.folder / "card.json"):
        cards = [place.card(place.entry())]
        ours = {file.file: file.sha256 for file in found.files}
        fix = "download it again, or move it away from the card.json, which lists different bytes under its name"
        for listed in cards[0].files:
            check_digest(f"{listed.file} of {cards[0].id}", ours.get(listed.file, listed.sha256), listed.sha256, fix)
    with contextlib.suppress(LeapZooError):  # a damaged zoo says nothing about this file, nor does a damaged card
        cards += models(zoo, [])
    digests = [file.sha256 for file in found.files]
    for card in cards:
        for artifact in card.artifacts:
            if [file.sha256 for file in artifact.files] == digests:
                return msgspec.structs.replace(artifact, file=found.file, weights=found.weights), contents, card
    return found, contents, None


def locate(name: str | os.PathLike[str] | None, zoo: ZooLocation | None = None) -> tuple[Zoo, ModelCard]:
    """Find a model by its id or the path of its folder; returns its zoo and its card. Raises as `load` does."""
    name = default_model() if name is None else name
    if not isinstance(name, (str, os.PathLike)):
        raise InvalidArgument(f"a model must be an id or a path, not {type(name).__name__}")
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
    """Choose the artifact of that kind; by default one that is `held`, ONNX before OpenVINO, int8 before fp32.

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
        raise InvalidArgument(f"{card.id} has no {short(wanted)} file{nearest(wanted, known)}")
    preference = ("int8", "fp32", "fp16")
    return min(found, key=lambda one: (not held(one), one.format != "onnx", preference.index(one.precision)))


def open_artifact(
    place: Zoo,
    card: ModelCard,
    artifact: Artifact,
    threads: int | None = None,
    *,
    limits: Limits = LIMITS,
    **options: Unpack[Options],
) -> Model:
    """Check the files of one artifact and load it. Raises as `load` does."""
    return Model.open(card, artifact, partial(place.read, card), threads, limits=limits, **options)
