"""OpenAI's own client against the service, and what of its protocol is refused."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from sage_jax.endpoint.chat import data_url
from sage_jax.serving.service import Request
from tests.support.served import Served, error_of, png

QUESTION = "Where is it?"


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0, timeout=120)


def message(*images: bytes, text: str = QUESTION) -> list[Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [{"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}]


def test_the_client_gets_the_answer_of_the_service_whole_and_in_pieces(client: openai.OpenAI, served: Served) -> None:
    one = served.service.inspect(Request(png(1), references=(), questions=(QUESTION,)))
    extra = {"sage": {"references": []}}
    whole = client.chat.completions.create(model="line3", messages=message(png(1)), extra_body=extra)
    answer = one.inspection.answers[0][1]
    assert whole.choices[0].message.content == answer and answer
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (one.prompt_tokens, one.num_tokens)
    assert whole.model_dump()["sage"]["verdict"] == one.inspection.verdict
    stream = client.chat.completions.create(
        model="line3",
        messages=message(png(1)),
        extra_body=extra,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces = [*stream]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == answer
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage and len(pieces) > 3


def test_further_images_are_references_and_images_alone_ask_for_the_verdict(
    client: openai.OpenAI, served: Served
) -> None:
    found = client.chat.completions.create(model="line3", messages=message(png(1), png(5), text=""))
    assert found.model_dump()["sage"]["references"] == 1
    assert found.choices[0].message.content == found.model_dump()["sage"]["reason"]
    named = client.chat.completions.create(
        model="line3", messages=message(png(1)), extra_body={"sage": {"references": ["caps"], "category": "cap"}}
    )
    assert named.model_dump()["sage"]["reference"] == "caps/1.png"


def test_a_short_limit_cuts_the_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="line3", messages=message(png(1))).choices[0]
    short = client.chat.completions.create(model="line3", messages=message(png(1)), max_tokens=2).choices[0]
    assert short.finish_reason == "length" and len(short.message.content or "") < len(whole.message.content or "")


def test_models_are_listed(client: openai.OpenAI, served: Served) -> None:
    (found,) = client.models.list().data
    assert found.id == "line3" and found.model_dump()["revision"] == served.service.revision


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"model": "gpt"}, 404, "there is 'line3'"),
        ({"messages": [{"role": "user", "content": "Is it good?"}]}, 422, "no image"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}],
                    }
                ]
            },
            422,
            "an address (http:) is not opened",
        ),
        ({"messages": [{"role": "system", "content": "Be brief."}, *message(png(0))]}, 422, "messages"),
        ({"temperature": 0.7}, 422, "temperature"),
        ({"n": 2}, 422, "n: "),
        ({"tools": []}, 422, "tools: Extra inputs"),
    ],
)
def test_what_is_not_served_is_an_error_and_not_passed_over(
    fields: dict[str, Any], status: int, said: str, served: Served
) -> None:
    body = {"model": "line3", "messages": message(png(0)), **fields}
    response = httpx2.post(f"{served.address}/v1/chat/completions", json=body, timeout=120)
    assert response.status_code == status and said in error_of(response)


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="no base64"):
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}]
        client.chat.completions.create(model="line3", messages=[{"role": "user", "content": parts}])
