"""Requests and replies of the chat protocol."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import pytest
from PIL import Image

from sage_jax.endpoint.chat import BadReply, ChatRequest, Message, Reply, data_url, read_reply
from sage_jax.errors import UserError

REQUEST = ChatRequest("m", (Message("system", "Judge."), Message("user", "Is it so?")))


def encoded(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (2, 3), (200, 10, 10)).save(content, kind)
    return content.getvalue()


def test_what_is_not_set_is_not_sent() -> None:
    assert REQUEST.body() == {
        "model": "m",
        "messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Is it so?"}],
    }
    full = dataclasses.replace(REQUEST, temperature=0.0, seed=0, reply_tokens=7).body()
    assert (full["temperature"], full["seed"], full["max_tokens"]) == (0.0, 0, 7)


def test_the_key_tells_everything_that_decides_the_reply() -> None:
    others = [
        {"model": "n"},
        {"messages": REQUEST.messages[1:]},
        {"temperature": 0.0},
        {"temperature": 0.5},
        {"seed": 0},
        {"reply_tokens": 5},
        {"repetition": 1},
        {"messages": (Message("user", "Is it so?", (encoded("PNG"),)),)},
        {"messages": (Message("user", "Is it so?", (encoded("JPEG"),)),)},
    ]
    keys = {dataclasses.replace(REQUEST, **other).key() for other in others} | {REQUEST.key()}
    assert len(keys) == len(others) + 1
    assert ChatRequest("m", REQUEST.messages).key() == REQUEST.key() and len(REQUEST.key()) == 64


@pytest.mark.parametrize(("kind", "media"), [("PNG", "png"), ("JPEG", "jpeg"), ("GIF", "gif"), ("WEBP", "webp")])
def test_an_image_goes_as_a_data_url_that_gives_it_back(kind: str, media: str) -> None:
    image = encoded(kind)
    head, _, content = data_url(image).partition(",")
    assert head == f"data:image/{media};base64" and base64.b64decode(content) == image
    message = Message("user", "What is it?", (image, image)).as_json()
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    assert message["content"][0] == {"type": "image_url", "image_url": {"url": data_url(image)}}


def test_another_kind_of_image_is_refused() -> None:
    for content in (encoded("BMP"), b"", b"RIFF....WAVE"):
        with pytest.raises(UserError, match="give PNG, JPEG, GIF or WebP"):
            data_url(content)


def test_a_reply_is_its_text_its_tokens_and_whether_it_was_cut() -> None:
    choice = {"message": {"content": "Yes."}, "finish_reason": "stop"}
    assert read_reply(json.dumps({"choices": [choice], "usage": {"total_tokens": 9}}).encode()) == Reply("Yes.", 9)
    long = {"choices": [{**choice, "finish_reason": "length"}], "usage": None}
    assert read_reply(json.dumps(long).encode()) == Reply("Yes.", None, cut=True)
    assert read_reply(b'{"choices": [{"message": {"content": null}}], "usage": {"total_tokens": "3"}}') == Reply("")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>Welcome</html>", "no JSON: '<html>Welcome"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "no choices"),
        (b"{}", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": ["text"]}', "no choices"),
        (b'{"choices": [{"message": "text"}]}', "no choices"),
        (b'{"choices": [{"message": {"content": 3}}]}', "has no text"),
    ],
)
def test_a_body_of_another_form_is_told(body: bytes, said: str) -> None:
    with pytest.raises(BadReply, match=said):
        read_reply(body)
