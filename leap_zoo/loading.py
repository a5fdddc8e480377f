"""The front door: `load` finds a model by name, path or address, chooses a file of it, checks it, and opens it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from leap_zoo.card import Artifact, Format, ModelCard, Precision
from leap_zoo.errors import InvalidArgument, nearest, short
from leap_zoo.model import Model, Options, open_graph
from leap_zoo.model_file import ModelFile, names_a_file, names_a_path, read_model_file
from leap_zoo.preprocess import LIMITS, Limits
from leap_zoo.runtime import Provider
from leap_zoo.settings import read_settings
from leap_zoo.store import ModelFolder, Zoo, ZooLocation, default_model, find, find_all

_LOG = logging.getLogger("leap_zoo")


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
    if known is not None:
        return open_artifact(file.place, *known, threads, **options)
    session = open_graph(file.artifact, file.contents, threads, options)
    card = file.card(session.metadata, session.outputs)
    _LOG.warning(
        "%s is not verified: no card that is known here lists its sha256. It says that it is %s, revision %s",
        short(file.path),
        card.id,
        card.revision,
    )
    read = partial(file.place.read, card)
    again = partial(Model.open, card, file.artifact, read, threads, verified=False, **options)
    return Model(card, file.artifact, session, limits=options["limits"], verified=False, again=again)


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
    return Model.open(card, artifact, partial(place.read, card), threads, **options)
