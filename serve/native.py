"""The methods of the service over HTTP: BentoML's application, with photos read and refused as in the API.

BentoML by itself would fetch a URL that is sent instead of a photo, and would answer a broken photo with 500.
"""

from __future__ import annotations

import asyncio
import functools

from _bentoml_impl.serde import JSONSerde
from _bentoml_impl.server.app import ServiceAppFactory
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from leap_zoo.errors import nearest, short
from serve.app import answer_errors
from serve.photos import read_photo
from serve.problems import Refused, invalid_options, refusal_of


class NativeApp(ServiceAppFactory):
    """Builds the application of a service whose methods take a photo, `image`, and options.

    They come in a form, as BentoML's clients send it; or the photo is the body, and the options are in the query.
    """

    def __call__(self) -> Starlette:
        """The application."""
        app = super().__call__()
        answer_errors(app)
        return app

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Call the method `name`. Every failure is a Problem."""
        try:
            return await self._called(name, request)
        except Exception as error:
            return refusal_of(error).response()

    async def _called(self, name: str, request: Request) -> Response:
        method = self.service.apis[name]
        known = list(method.input_spec.model_fields)
        photo, options = await read_photo(request)
        given = dict(request.query_params) | options
        for unknown in given.keys() - set(known):
            raise Refused(422, "invalid_option", f"Unknown option {short(unknown)}{nearest(unknown, known)}.")
        try:
            # In a thread: BentoML's methods take a path, so the photo becomes a temporary file of this request.
            found = await asyncio.to_thread(method.input_spec.model_validate, given | {"image": photo})
        except ValidationError as error:
            raise invalid_options(error.errors(), known) from error
        call = getattr(self._service_instance, name).local
        answer = await call(**{option: getattr(found, option) for option in known})
        return await method.output_spec.to_http_response(answer, JSONSerde())

    async def schema_view(self, request: Request) -> Response:
        """The schema that BentoML's clients request first. Built once."""
        return JSONResponse(self._schema)

    @functools.cached_property
    def _schema(self) -> dict[str, object]:
        return self.service.schema()
