"""The models that are in memory: the default one always, others when a request first names them, up to a bound."""

from __future__ import annotations

import threading

import numpy as np

from leap_zoo import Model, ModelCard
from leap_zoo.errors import MissingExtra, NotPulled, UnknownModel, nearest, short
from leap_zoo.model import choose_artifact, open_artifact
from leap_zoo.store import ZooLocation, find, models
from serve.problems import Refused

HELD = 3

_Key = tuple[str, str]  # model's id, precision


class Models:
    """At most `most` loaded models, `default` among them. Methods may be called from several threads at once.

    The model that was not asked for the longest makes room; the default one never does. Models are loaded one at a
    time, so that clients who name many cannot take all cores, and those who name the same one wait for one load.

    zoo: where models are looked for; default: where `leap_zoo.load` looks. threads: of each model's session.
    """

    def __init__(self, default: Model, *, most: int = HELD, zoo: ZooLocation | None = None, threads: int = 1) -> None:
        self.default = default
        self._most = most
        self._zoo = zoo
        self._threads = threads
        self._others: dict[_Key, Model] = {}  # the one used last is the last
        self._preferred = {default.card.id: default.artifact.precision}  # what a request gets that names none
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def held(self, name: str | None = None, precision: str | None = None) -> Model | None:
        """The model if it is in memory. Takes no time."""
        name = name or self.default.card.id
        key: _Key = (name, precision or self._preferred.get(name) or "")
        if key == (self.default.card.id, self.default.artifact.precision):
            return self.default
        with self._lock:
            model = self._others.pop(key, None)
            if model is not None:
                self._others[key] = model
        return model

    def get(self, name: str | None = None, precision: str | None = None) -> Model:
        """The model, which is loaded and run once if it is not in memory: not for the event loop.

        name: a model's id, None: the default model. precision: None: int8 where the model has it, else fp32.
        Raises UnknownModel, InvalidArgument for a precision that it has not; Refused for what cannot be loaded here;
        ArtifactCorrupt, ArtifactRefused, InvalidCard.
        """
        model = self.held(name, precision)
        if model is not None:
            return model
        with self._loading:
            return self.held(name, precision) or self._load(name or self.default.card.id, precision)

    def all(self) -> list[Model]:
        """The models in memory, the default one first."""
        with self._lock:
            return [self.default, *reversed(self._others.values())]

    def cards(self) -> list[ModelCard]:
        """The cards of all models that may be asked for, the default one's first. Reads the disk."""
        default = self.default.card
        return [default, *(card for card in models(self._zoo) if card.id != default.id)]

    def _load(self, name: str, precision: str | None) -> Model:
        try:
            place, card = find(name, self._zoo)
        except UnknownModel:  # its text has advice for who keeps the server
            known = [card.id for card in self.cards()]
            raise UnknownModel(f"unknown model {short(name)}{nearest(name, known)}") from None
        artifact = choose_artifact(card, precision, held=lambda one: place.holds(card, one))
        if precision is None:
            self._preferred[name] = artifact.precision
            model = self.held(name, artifact.precision)
            if model is not None:
                return model
        self._make_room()
        try:
            model = open_artifact(place, card, artifact, self._threads)
        except (NotPulled, MissingExtra) as error:
            detail = f"The {artifact.precision} file of {name} cannot be run here. GET /v1/models lists what can."
            raise Refused(422, "model_not_here", detail) from error
        warm_up(model)
        with self._lock:
            self._others[name, artifact.precision] = model
        return model

    def _make_room(self) -> None:
        if self._most < 2:
            detail = f"This server holds one model, {self.default.card.id} {self.default.artifact.precision}."
            raise Refused(422, "model_not_here", f"{detail} Ask for that, or for none.")
        with self._lock:
            while len(self._others) > self._most - 2:
                del self._others[next(iter(self._others))]


def warm_up(model: Model) -> None:
    """Run every output once: the first run of a graph takes many times as long as the second."""
    grey = np.full((256, 256, 3), 127, np.uint8)
    for head in model.heads:
        model.classify(grey, head=head)
    for space in ("student", "teacher"):
        model.embed(grey, space=space)
