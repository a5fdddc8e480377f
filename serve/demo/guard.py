"""Requests to Gradio's own routes that no page of ours sends: they are told so, and not answered with a failure."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")

_FAILED = 500


class Guard:
    """Answers 422 where the page `app` fails over a request.

    What visitors do runs in the queue, whose stream reports its failures. So an exception that gets here is over the
    request itself: a function, a component or an event that is not there, for which Gradio raises LookupError and such.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = failed = False

        async def without_failures(message: Message) -> None:
            nonlocal begun, failed
            if message["type"] == "http.response.start":
                failed = message["status"] == _FAILED
                begun = not failed
            if not failed:
                await send(message)

        try:
            await self.app(scope, receive, without_failures)
        except Exception as error:
            if begun:
                raise
            failed = True
            logger.warning("the page was asked what it cannot answer: %s", type(error).__name__)
        if failed:
            detail = "The page has nothing of this kind. It is made for browsers; programs use /v1, see /docs."
            await Refused(422, "invalid_body", detail).response()(scope, receive, send)
