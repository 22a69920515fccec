"""The page for review at `/review`: its files, its content as JSON, and what people say."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import jinja2
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.adpl.wording import PLACES
from sage_jax.data.images import ImageFault
from sage_jax.data.records import Box
from sage_jax.review.content import ORDERS, Content, Order
from sage_jax.review.pictures import Picture, PictureMaker
from sage_jax.review.sessions import COOKIE, PATH, Sessions
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.incoming import media_type, parsed
from sage_jax.serving.wire import Strict

POLICY: Final = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing from elsewhere, and no script or style inside the page."""
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_WRONG_KEY_SECONDS: Final = 0.5
_MOST: Final = 200

Body = TypeVar("Body", bound=BaseModel)


@dataclasses.dataclass(frozen=True)
class Review:
    """What the page is about.

    Attributes:
      store: Inspections and corrections.
      sessions: Who may see them.
      title: The model, for the head of the page.
      kinds: Kinds of defects that the vocabulary lists.
      versions: Gives the versions of the run, as JSON, and which one answers.
    """

    store: CorrectionStore
    sessions: Sessions
    title: str
    kinds: Sequence[str] = ()
    versions: Callable[[], dict[str, Any]] = lambda: {"versions": []}


class BoxBody(Strict):
    """A box, px of the image; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


class CorrectBody(Strict):
    """What a person says of an inspection."""

    who: str = Field(max_length=200)
    right: bool
    verdict: Literal["good", "defective"] | None = None
    kind: str = ""
    box: BoxBody | None = None
    cell: str = ""
    sentence: str = ""


class UndoBody(Strict):
    """Who takes back what was said last."""

    who: str = Field(max_length=200)


class SessionBody(Strict):
    """The key of the service."""

    key: str = Field(max_length=1000)


def review_router(review: Review) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix=PATH, include_in_schema=False)
    pictures = PictureMaker(review.store)
    content = Content(review.store, pictures)
    _add_page(router, review)
    _add_session(router, review.sessions)
    _add_reading(router, review, content, pictures)
    _add_writing(router, review.store, content)
    return router


def _add_page(router: APIRouter, review: Review) -> None:
    page = page_of(review)
    files = static_files()

    @router.get("")
    def index() -> Response:
        return Response(page, media_type="text/html", headers={**_HEADERS, "Cache-Control": "no-cache"})

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise RequestFault(404, f"{name[:80]!r}: there is no such file")
        media = _TYPES[f".{name.rpartition('.')[2]}"]
        return Response(files[name], media_type=media, headers={**_HEADERS, "Cache-Control": "no-cache"})


def _add_session(router: APIRouter, sessions: Sessions) -> None:
    @router.post("/session")
    async def sign_in(request: HttpRequest) -> Response:
        body = await _body(request, SessionBody)
        cookie = sessions.opened_with(body.key) if sessions.needed else ""
        if cookie is None:
            await asyncio.sleep(_WRONG_KEY_SECONDS)
            raise RequestFault(401, "that is not the key")
        answer = _json({"signed_in": True})
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, sessions.seconds, path=PATH, httponly=True, samesite="strict", secure=secure)
        return answer

    @router.delete("/session")
    def sign_out(request: HttpRequest) -> Response:
        _check_origin(request)
        answer = _json({"signed_in": False})
        answer.delete_cookie(COOKIE, path=PATH)
        return answer


def _add_reading(router: APIRouter, review: Review, content: Content, pictures: PictureMaker) -> None:
    @router.get("/api/about")
    def about() -> Response:
        return _json({"kinds": list(review.kinds), "cells": list(PLACES), "asks_key": review.sessions.needed})

    @router.get("/api/queue")
    def queue(order: Order = "risk", category: str = "", limit: int = 30, offset: int = 0) -> Response:
        found = _told(content.queue, order, category=category, limit=_most(limit), offset=max(0, offset))
        return _json(found)

    @router.get("/api/inspections/{number}")
    def inspection(number: int) -> Response:
        return _json(_told(content.whole, number))

    @router.get("/api/history")
    def history(limit: int = 50, offset: int = 0) -> Response:
        return _json(_told(content.history, limit=_most(limit), offset=max(0, offset)))

    @router.get("/api/thresholds")
    def thresholds() -> Response:
        return _json(_told(content.thresholds))

    @router.get("/api/versions")
    def versions() -> Response:
        return _json(_told(review.versions))

    @router.get("/images/{digest}")
    def image(digest: str, px: int = 0) -> Response:
        return _picture(_told(pictures.image, digest, px))

    @router.get("/maps/{number}")
    def map_of(number: int) -> Response:
        entry = _told(review.store.inspection, number)
        found = _told(pictures.map, entry.image, entry.references, entry.model)
        if found is None:
            raise RequestFault(404, f"inspection {number} has no map")
        return _picture(found)


def _add_writing(router: APIRouter, store: CorrectionStore, content: Content) -> None:
    @router.post("/api/inspections/{number}/correct")
    async def correct(number: int, request: HttpRequest) -> Response:
        body = await _body(request, CorrectBody)
        box = None if body.box is None else Box(**body.box.model_dump())

        def keep() -> dict[str, Any]:
            if box is not None:
                about = content.whole(number)
                if box.right > about["width"] or box.bottom > about["height"]:
                    raise CorrectionFault(
                        f"box {box}: the image is {about['width']} x {about['height']} px: draw it inside"
                    )
            given = {"right": body.right, "verdict": body.verdict, "kind": body.kind}
            store.correct(number, body.who, **given, box=box, cell=body.cell, sentence=body.sentence)
            return content.whole(number)

        return _json(await run_in_threadpool(_told, keep))

    @router.post("/api/inspections/{number}/undo")
    async def undo(number: int, request: HttpRequest) -> Response:
        body = await _body(request, UndoBody)

        def take_back() -> dict[str, Any]:
            store.undo(number, body.who)
            return content.whole(number)

        return _json(await run_in_threadpool(_told, take_back))


def page_of(review: Review) -> str:
    """The page, without any content."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = importlib.resources.files("sage_jax").joinpath("review", "review.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(title=review.title, orders=ORDERS, cells=PLACES)


@functools.cache
def static_files() -> dict[str, bytes]:
    """Styles and scripts of the page, by name."""
    folder = importlib.resources.files("sage_jax").joinpath("review", "static")
    return {each.name: each.read_bytes() for each in folder.iterdir() if f".{each.name.rpartition('.')[2]}" in _TYPES}


async def _body(request: HttpRequest, kind: type[Body]) -> Body:
    """A JSON body that the page itself has sent.

    Raises:
      RequestFault: 400, 415 or 422, it is none; 403, another site has sent it.
    """
    _check_origin(request)
    if media_type(request) != "application/json":
        raise RequestFault(415, "send application/json")
    return parsed(await request.body(), kind)


def _check_origin(request: HttpRequest) -> None:
    """Checks that a request that changes something comes from the page: browsers say so, and programs say nothing."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise RequestFault(403, "another site has sent this: open the page for review itself")


def _told(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """The result of some work, with faults as the service tells them."""
    try:
        return work(*given, **named)
    except (CorrectionFault, ImageFault) as fault:
        missing = "there is none of this number" in str(fault) or "No such file" in str(fault)
        raise RequestFault(404 if missing else 422, str(fault)) from None


def _json(content: Any) -> JSONResponse:
    return JSONResponse(content, headers={**_HEADERS, "Cache-Control": "no-store"})


def _picture(found: Picture) -> Response:
    headers = {**_HEADERS, "Cache-Control": "private, max-age=86400"}
    return Response(found.content, media_type=found.media_type, headers=headers)


def _most(limit: int) -> int:
    return min(max(1, limit), _MOST)
