"""`POST /v1/inspect` and `GET /v1/references`: an image to its finding, and the names of the references."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sage_jax.serving.faults import RequestFault
from sage_jax.serving.incoming import inspect_form, media_type, parsed, service_request
from sage_jax.serving.jobs import Finding
from sage_jax.serving.service import Request, Service
from sage_jax.serving.wire import FaultBody, InspectAnswer, InspectBody, MapKind, inspect_answer

FAULTS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": FaultBody, "description": description}
    for status, description in {
        400: "No JSON, or no multipart body",
        401: "No key, or a wrong one",
        408: "The body took too long to arrive",
        413: "The body is too large",
        415: "Another content type",
        422: "An image cannot be read or has too many pixels, or a field is wrong",
        429: "The queue is full; Retry-After says when to come again",
        503: "The service is starting or stopping",
        504: "No answer in time",
    }.items()
}
"""Errors for the OpenAPI page."""


class ReferenceNames(BaseModel):
    """Names that `references` of a request may hold."""

    references: list[str] = Field(description="Paths below the folder of references, and of the folders in it.")


def inspect_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["inspect"])
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": InspectBody.model_json_schema()},
            "multipart/form-data": {"schema": InspectBody.model_json_schema()},
        },
    }

    @router.post("/v1/inspect", response_model=InspectAnswer, responses=FAULTS, openapi_extra={"requestBody": body})
    async def inspect(request: HttpRequest) -> Response:
        """Verdict, score, reason, answers, boxes and map of an image."""
        service.check_accepting()
        body, image, references = await _sent(request)
        found = await finding(request, service, lambda: service_request(body, service, image, references))
        answered = functools.partial(_answered, found, service, body.map, request.scope["sage_start"])
        # A change of threads costs more than an answer, but not more than a picture.
        answer = answered() if body.map == "none" else await run_in_threadpool(answered)
        return Response(answer, media_type="application/json")

    @router.get("/v1/references")
    async def references() -> ReferenceNames:
        """The names of the references that the service has."""
        return ReferenceNames(references=service.references.names)

    return router


async def _sent(request: HttpRequest) -> tuple[InspectBody, bytes | None, Sequence[bytes]]:
    """The body, and the image and references that came as files beside it."""
    kind = media_type(request)
    if kind == "multipart/form-data":
        return await inspect_form(request)
    if kind != "application/json":
        raise RequestFault(415, f"content type {kind[:60]!r}: send application/json or multipart/form-data")
    content = await request.body()
    return await run_in_threadpool(parsed, content, InspectBody), None, ()


def _answered(found: Finding, service: Service, map_kind: MapKind, start: float) -> str:
    return inspect_answer(found, service, map_kind, start).model_dump_json()


async def finding(request: HttpRequest, service: Service, ask: Callable[[], Request]) -> Finding:
    """The finding on an image; a client that goes away takes its image out of the queue.

    Args:
      ask: Makes what the service is asked, in the thread that reads the image.

    Raises:
      RequestFault: As `ask` and `Service.submit`; 499, the client has gone; 504, it takes too long.
    """

    def submitted() -> tuple[Request, Future[Finding]]:
        asked = ask()
        return asked, service.submit(asked)

    asked, future = await run_in_threadpool(submitted)
    gone = asyncio.ensure_future(_gone(request))
    answer = asyncio.ensure_future(_result(future))
    seconds = service.options.answer_seconds
    try:
        done, _ = await asyncio.wait({gone, answer}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer in done:
            found = answer.result()
            if service.keep is not None:
                await run_in_threadpool(service.keep, asked, found)
            return found
        if gone in done:
            raise RequestFault(499, "the client has gone")
        raise RequestFault(504, f"no answer within {seconds:g} s (serve.answer_seconds)", retry_after=5)
    finally:
        future.cancel()
        for task in (gone, answer):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _result(future: Future[Finding]) -> Finding:
    return await asyncio.wrap_future(future)


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
