"""/v1/heads: classes of your own, from labeled photos, for /v1/classify?head=NAME. The photos are not kept."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from leap_zoo.errors import InvalidArgument
from leap_zoo.fitting import ClassReport, Confusion, Fit, fit
from leap_zoo.heads import SUFFIX, encode_head
from leap_zoo.model import Space
from serve.api.predict import ModelOptions
from serve.api.schemas import CLASSES_FORM, body
from serve.engine import Engine
from serve.photos import HOW_CLASSES, ClassesBody, read_classes
from serve.problems import Refused, sentence
from serve.stores import NAME, Named, Stores

MAX_CONFUSIONS = 50

HeadName = Annotated[str, Path(json_schema_extra=NAME, examples=["pets"], description="The head's name")]


class Validation(BaseModel):
    """Cross-validated accuracy (0..1) in `folds` rounds, on photos held out of each fit; 95 % Wilson interval."""

    accuracy: float
    interval: tuple[float, float]
    n: int
    folds: int
    confidence: float | None = Field(None, description="Mean score of the predicted classes; close to the accuracy")
    unsure: float | None = Field(None, description="Share of these photos that were flagged as unsure")


class HeadInfo(BaseModel):
    """A head: its classes, the model it was fitted for, and its accuracy."""

    name: str
    labels: list[str]
    photos: list[int] = Field(description="How many photos each class has")
    kind: str
    how: str
    model: str
    revision: str
    space: Space
    bytes: int
    validation: Validation | None = Field(description="null if no class has two photos")
    threshold: float | None = Field(None, description="A photo at a larger distance is flagged as unsure")


class HeadList(BaseModel):
    """The answer of GET /v1/heads, sorted by name."""

    heads: list[HeadInfo]


class Created(HeadInfo):
    """The answer to labeled photos: a head, and notes from fitting it."""

    classes: list[ClassReport]
    confusions: list[Confusion] = Field(description=f"Most frequent first, at most {MAX_CONFUSIONS}")
    skipped: dict[str, str] = Field(description="Photos that could not be read, and why")
    notes: list[str]
    milliseconds: float = Field(description="Time of fitting, including embedding")


class FitOptions(ModelOptions):
    """The query of POST /v1/heads/{name}."""

    space: Space = Field("student", description="The embeddings that the head reads")
    seed: int = Field(0, ge=0, lt=2**31, description="The same photos and seed give the same head")
    replace: bool = Field(False, description="Replace a head of the same name")


def router(engine: Engine, stores: Stores) -> APIRouter:
    """The routes for the heads in `stores`, which are fitted to models of `engine`."""
    router = APIRouter(prefix="/v1/heads", tags=["heads"])
    heads, readers, writer = stores.heads, stores.readers, stores.writer

    @router.get("")
    async def list_heads() -> HeadList:
        """List the heads that clients have created."""
        return HeadList(heads=[_info(one) for one in await readers.run(heads.list)])

    @router.get("/{name}")
    async def show_head(name: HeadName) -> HeadInfo:
        """Describe a head."""
        return _info(await readers.run(lambda: heads.get(name)))

    @router.post("/{name}", status_code=201, openapi_extra=body(HOW_CLASSES, ClassesBody, CLASSES_FORM, raw=False))
    async def create_head(request: Request, name: HeadName, options: Annotated[FitOptions, Query()]) -> Created:
        """Fit a head to labeled photos: a few of each class, or more.

        A file that is not a photo is skipped and listed in `skipped`, unless its class has no other. One head is fitted
        at a time; meanwhile, other requests are refused with 503. A head is stored whole or not at all: after
        `timed_out` it may exist; GET shows whether it does.
        """
        await readers.run(lambda: heads.check_room(name, replace=options.replace))
        model = engine.models.get(options.model)
        if name in model.heads:
            detail = f"The model {model.card.id} has a head {name} of its own: choose another name."
            raise Refused("head_of_the_model", detail)
        classes = await read_classes(request, heads.limits.fit_photos)

        def work() -> tuple[Fit, float]:
            start = time.perf_counter()
            try:
                found = fit(model, classes, space=options.space, seed=options.seed)
            except InvalidArgument as error:  # the options have been checked
                raise Refused("invalid_classes", sentence(str(error))) from error
            return found, round((time.perf_counter() - start) * 1000, 3)

        found, milliseconds = await engine.slow.run(work)
        named = await writer.run(lambda: heads.create(name, found.head, replace=options.replace))
        return Created(
            **_info(named).model_dump(),
            classes=found.classes,
            confusions=found.confusions[:MAX_CONFUSIONS],
            skipped=found.bad,
            notes=found.notes,
            milliseconds=milliseconds,
        )

    file: dict[int | str, Any] = {
        200: {"description": "For leap_zoo.heads.CustomHead.load", "content": {"application/octet-stream": {}}}
    }

    @router.get("/{name}/file", response_class=Response, responses=file)
    async def download_head(name: HeadName) -> Response:
        """Download the head's file, to use it on any device without this server."""
        data = await readers.run(lambda: encode_head(heads.get(name).head))
        disposition = {"content-disposition": f'attachment; filename="{name}{SUFFIX}"'}
        return Response(data, media_type="application/octet-stream", headers=disposition)

    @router.delete("/{name}", status_code=204)
    async def delete_head(name: HeadName) -> None:
        """Delete a head."""
        await writer.run(lambda: heads.delete(name))

    return router


def _info(one: Named) -> HeadInfo:
    return HeadInfo(name=one.name, bytes=one.bytes, **msgspec.to_builtins(one.head.card))
