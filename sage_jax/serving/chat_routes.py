"""`POST /v1/chat/completions` and `GET /v1/models`: a question about an image in OpenAI's form.

The first image is inspected, those behind it are good ones to compare it with. The question whether there is a defect
is asked beside the user's, so that the answer comes with verdict and score (`sage`); images alone ask only it.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Final

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from sage_jax.data.adpl.wording import INSPECTION_QUESTIONS
from sage_jax.serving.chat_wire import (
    AssistantMessage,
    ChatAnswer,
    ChatBody,
    ChatChunk,
    Choice,
    ChunkChoice,
    Delta,
    ImagePart,
    ModelCard,
    ModelList,
    TextPart,
    Usage,
)
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.incoming import decoded, gathered, media_type, parsed, safe_name
from sage_jax.serving.inspect_routes import FAULTS, finding
from sage_jax.serving.jobs import Finding
from sage_jax.serving.service import Request, Service
from sage_jax.serving.wire import inspect_answer, model_name

_SSE: Final = "text/event-stream"


def chat_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["chat"])
    began = int(time.time())
    schema = {"required": True, "content": {"application/json": {"schema": ChatBody.model_json_schema()}}}

    @router.post(
        "/v1/chat/completions", response_model=ChatAnswer, responses=FAULTS, openapi_extra={"requestBody": schema}
    )
    async def chat(request: HttpRequest) -> Response:
        """The answer to a question about an image; with `stream`, in pieces as server-sent events."""
        service.check_accepting()
        if (kind := media_type(request)) != "application/json":
            raise RequestFault(415, f"content type {kind[:60]!r}: send application/json")
        content = await request.body()
        body, asked = await run_in_threadpool(_asked, content, service)
        found = await finding(request, service, lambda: asked)
        answer = await run_in_threadpool(_answer, body, asked, found, service, request.scope["sage_start"])
        if not body.stream:
            return Response(answer.model_dump_json(), media_type="application/json")
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(_events(answer, with_usage=with_usage), media_type=_SSE)

    @router.get("/v1/models")
    async def models() -> ModelList:
        """The model of the service."""
        about = model_name(service)
        return ModelList(data=[ModelCard(id=about.name, created=began, stage=about.stage, revision=about.revision)])

    return router


def _asked(content: bytes, service: Service) -> tuple[ChatBody, Request]:
    """The body, and what the service is asked.

    Raises:
      RequestFault: 404, there is no such model; 422, there is no image, or it is an address.
    """
    body = parsed(content, ChatBody)
    name = model_name(service).name
    if body.model != name:
        raise RequestFault(404, f"model: there is no {body.model[:60]!r}; there is {name!r}")
    given = body.messages[0].content
    parts = [TextPart(type="text", text=given)] if isinstance(given, str) else given
    images = [decoded(part.image_url.url, "image_url") for part in parts if isinstance(part, ImagePart)]
    if not images:
        raise RequestFault(
            422, "messages: no image: send one as {'type': 'image_url', 'image_url': {'url': 'data:...'}}"
        )
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart)).strip()
    own = text in ("", *INSPECTION_QUESTIONS.values())
    return body, Request(
        image=images[0],
        name=safe_name(body.sage.name),
        category=body.sage.category,
        references=gathered(body.sage.references, images[1:], service),
        questions=() if own else (text,),
    )


def _answer(body: ChatBody, asked: Request, found: Finding, service: Service, start: float) -> ChatAnswer:
    one, chat = found.inspection, service.model.evaluator.chat
    text = one.answers[0][1] if asked.questions else one.reason
    longest = service.config.evaluate.max_new_tokens
    wanted = min(body.max_tokens or longest, body.max_completion_tokens or longest, longest)
    cut = found.lengths[-1] > wanted
    return ChatAnswer(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        choices=[
            Choice(
                message=AssistantMessage(content=chat.decode(chat.answer_ids(text)[:wanted]) if cut else text),
                finish_reason="length" if cut or found.lengths[-1] == longest else "stop",
            )
        ],
        usage=Usage(
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.num_tokens,
            total_tokens=found.prompt_tokens + found.num_tokens,
        ),
        sage=inspect_answer(found, service, "none", start),
    )


async def _events(answer: ChatAnswer, *, with_usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events; it was whole before the first, so that errors had their status."""
    for chunk in _chunks(answer, with_usage=with_usage):
        yield f"data: {chunk.model_dump_json(exclude_none=True)}\n\n"
    yield "data: [DONE]\n\n"


def _chunks(answer: ChatAnswer, *, with_usage: bool) -> Iterator[ChatChunk]:
    def chunk(*choices: ChunkChoice, usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(id=answer.id, created=answer.created, model=answer.model, choices=[*choices], usage=usage)

    (choice,) = answer.choices
    yield chunk(ChunkChoice(delta=Delta(role="assistant", content="")))
    for piece in re.findall(r"\s*\S+|\s+$", choice.message.content):
        yield chunk(ChunkChoice(delta=Delta(content=piece)))
    yield chunk(ChunkChoice(delta=Delta(), finish_reason=choice.finish_reason))
    if with_usage:
        yield chunk(usage=answer.usage)
