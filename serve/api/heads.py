"""/v1/heads: classes of your own, from labelled photos, for /v1/classify?head=NAME. The photos are not kept."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from leap_zoo.errors import InvalidArgument
from leap_zoo.fitting import Fit, fit
from leap_zoo.heads import SUFFIX, encode_head
from leap_zoo.model import Space
from serve.api.answers import json_response
from serve.api.bodies import CLASS_PHOTOS
from serve.api.described import (
    CHANGE_PROBLEMS,
    JSON_PROBLEMS,
    MODEL_PROBLEMS,
    READ_PROBLEMS,
    file_answer,
    problems,
)
from serve.api.names import HeadName
from serve.api.predict import ModelOptions
from serve.engine import Engine
from serve.photos import read_classes
from serve.problems import Refused, sentence
from serve.shelves import checked_name
from serve.stores import Named, Stores

MAX_CONFUSIONS = 50

_STORED = ("invalid_name", "unknown_head", "head_damaged", "store_unavailable")
_READ = (*READ_PROBLEMS, *_STORED)
_CREATE = (
    *(problem for problem in JSON_PROBLEMS if problem not in ("not_an_image", "undecodable_image")),
    "broken_form",
    "unexpected_field",
    "unsupported_content_type",
    "invalid_classes",
    "invalid_name",
    "head_exists",
    "head_of_the_model",
    "too_many_heads",
    "head_too_large",
    "store_unavailable",
)
_EXAMPLE: dict[str, Any] = {
    "name": "pets",
    "labels": ["cat", "dog"],
    "photos": [12, 15],
    "kind": "discriminant",
    "how": "linear discriminant analysis, shrinkage 0.6",
    "model": "leap-tiny",
    "revision": "7bc54546bcc9",
    "space": "student",
    "bytes": 2600,
    "validation": {
        "accuracy": 0.96,
        "interval": [0.81, 0.99],
        "n": 27,
        "folds": 10,
        "confidence": 0.93,
        "unsure": 0.04,
    },
    "threshold": 0.62,
}


class Validation(BaseModel):
    """Accuracy (0..1) on photos that the head had not learned from, in `folds` rounds; 95 % Wilson interval."""

    accuracy: float
    interval: tuple[float, float]
    n: int
    folds: int
    confidence: float | None = Field(None, description="Mean score of the classes that were said: near the accuracy")
    unsure: float | None = Field(None, description="Share of these photos that was taken for none of the classes")


class HeadInfo(BaseModel):
    """A head: its classes, for which model it was fitted, and how good it is."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})
    name: str
    labels: list[str]
    photos: list[int] = Field(description="How many of each class")
    kind: str
    how: str
    model: str
    revision: str
    space: Space
    bytes: int
    validation: Validation | None = Field(description="null where no class has two photos")
    threshold: float | None = Field(None, description="The distance beyond which a photo is of none of the classes")


class HeadList(BaseModel):
    """The answer of GET /v1/heads, by name."""

    model_config = ConfigDict(json_schema_extra={"example": {"heads": [_EXAMPLE]}})
    heads: list[HeadInfo]


class ClassInfo(BaseModel):
    """A class: its photos, and of those that were put aside once, how many were recognised."""

    label: str
    photos: int
    tested: int
    right: int


class ConfusionInfo(BaseModel):
    """So many photos of class `label` were taken for `taken_for`."""

    label: str
    taken_for: str
    count: int


class Created(HeadInfo):
    """The answer to labelled photos: a head, and what came up while it was fitted."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                **_EXAMPLE,
                "classes": [{"label": "cat", "photos": 12, "tested": 12, "right": 11}],
                "confusions": [{"label": "cat", "taken_for": "dog", "count": 1}],
                "skipped": {"dog, photo 3 (from 0)": "not a photo"},
                "notes": [],
                "milliseconds": 310.5,
            }
        }
    )
    classes: list[ClassInfo]
    confusions: list[ConfusionInfo] = Field(description=f"Most frequent first, at most {MAX_CONFUSIONS}")
    skipped: dict[str, str] = Field(description="Photos that could not be read, and why")
    notes: list[str]
    milliseconds: float = Field(description="Of fitting, embedding included")


class FitOptions(ModelOptions):
    """The query of POST /v1/heads/{name}."""

    space: Space = Field("student", description="Which embeddings the head takes")
    seed: int = Field(0, ge=0, lt=2**31, description="The same photos and seed give the same head")
    replace: bool = Field(False, description="Take the place of a head of the same name")


def router(engine: Engine, stores: Stores) -> APIRouter:
    """The routes over the heads of `stores`, which models of `engine` are fitted for."""
    router = APIRouter(prefix="/v1/heads", tags=["heads"])
    heads, threads = stores.heads, stores.threads

    @router.get("", response_model=HeadList, responses=problems(*READ_PROBLEMS, "store_unavailable"))
    async def list_heads() -> Response:
        """Which heads clients have made."""
        return json_response({"heads": [_info(one) for one in await threads.run(heads.list)]})

    @router.get("/{name}", response_model=HeadInfo, responses=problems(*_READ))
    async def show_head(name: HeadName) -> Response:
        """What a head is."""
        return json_response(_info(await threads.run(lambda: heads.show(name))))

    @router.post(
        "/{name}",
        status_code=201,
        response_model=Created,
        responses=problems(*_CREATE, *MODEL_PROBLEMS),
        openapi_extra=CLASS_PHOTOS,
    )
    async def create_head(request: Request, name: HeadName, options: Annotated[FitOptions, Query()]) -> Response:
        """Fit a head to labelled photos, a few of each class or more.

        Bytes that are no photo are skipped and named in `skipped`, unless a class has nothing else. One head is fitted
        at a time; meanwhile this is refused with 503. A head is kept whole or not at all: after `timed_out` it may be
        there, and then GET shows it.
        """
        checked_name(name)
        await threads.run(lambda: heads.check_room(name, replace=options.replace))
        model = engine.models.get(options.model, options.precision)
        if name in model.heads:
            detail = f"The model {model.card.id} has a head {name} of its own: choose another name."
            raise Refused(409, "head_of_the_model", detail)
        classes = await read_classes(request, heads.limits.fit_photos)

        def work() -> tuple[Fit, float]:
            start = time.perf_counter()
            try:
                found = fit(model, classes, space=options.space, seed=options.seed)
            except InvalidArgument as error:  # the options have been checked
                raise Refused(422, "invalid_classes", sentence(str(error))) from error
            return found, round((time.perf_counter() - start) * 1000, 3)

        found, milliseconds = await engine.run_slowly(work)
        named = await threads.write(lambda: heads.create(name, found.head, replace=options.replace))
        answer = json_response(_info(named) | _report(found) | {"milliseconds": milliseconds})
        answer.status_code = 201
        return answer

    head_file = file_answer("application/octet-stream", "For leap_zoo.heads.CustomHead.load, on any device")

    @router.get("/{name}/file", response_class=Response, responses=head_file | problems(*_READ))
    async def download_head(name: HeadName) -> Response:
        """The head's file, to be used without this server."""
        data = await threads.run(lambda: encode_head(heads.get(name)))
        disposition = {"content-disposition": f'attachment; filename="{name}{SUFFIX}"'}
        return Response(data, media_type="application/octet-stream", headers=disposition)

    @router.delete("/{name}", status_code=204, responses=problems(*CHANGE_PROBLEMS, *_STORED))
    async def delete_head(name: HeadName) -> Response:
        """Take a head away."""
        await threads.write(lambda: heads.delete(name))
        return Response(status_code=204)

    return router


def _info(one: Named) -> dict[str, Any]:
    card = one.card
    shown = ("labels", "photos", "kind", "how", "model", "revision", "space", "threshold")
    validation = None if card.validation is None else msgspec.to_builtins(card.validation)
    about = {field: getattr(card, field) for field in shown}
    return {"name": one.name, **about, "bytes": one.bytes, "validation": validation}


def _report(found: Fit) -> dict[str, Any]:
    return {
        "classes": found.classes,
        "confusions": found.confusions[:MAX_CONFUSIONS],
        "skipped": found.bad,
        "notes": found.notes,
    }
