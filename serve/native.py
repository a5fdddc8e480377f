"""The methods of the service over HTTP: BentoML's application, in which photos are read and refused as the API does it.

BentoML of its own would fetch an address that is sent in place of a photo, and answer a broken one with 500.
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
    """Makes the application of a service whose methods take a photo, `image`, and options.

    As BentoML's clients send them, in a form; or the photo alone as the body, and options in the query.
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
            # Beside the event loop: the photo becomes a file of this request, as methods of BentoML have it.
            found = await asyncio.to_thread(method.input_spec.model_validate, given | {"image": photo})
        except ValidationError as error:
            raise invalid_options(error.errors(), known) from error
        call = getattr(self._service_instance, name).local
        answer = await call(**{option: getattr(found, option) for option in known})
        return await method.output_spec.to_http_response(answer, JSONSerde())

    async def schema_view(self, request: Request) -> Response:
        """What BentoML's clients ask for first. Made once."""
        return JSONResponse(self._schema)

    @functools.cached_property
    def _schema(self) -> dict[str, object]:
        return self.service.schema()
