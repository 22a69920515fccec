"""Facts by a model behind an endpoint: a real server that is shown each image, and answers well or badly."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage_jax.config import ConfigError, FactsConfig
from sage_jax.data.images import decode_rgb
from sage_jax.data.records import Record
from sage_jax.data.written_facts import FactBook
from sage_jax.endpoint.asking import Asker, RefusedReply
from sage_jax.endpoint.client import Endpoint
from sage_jax.endpoint.replies import ReplyStore
from sage_jax.evaluation.fact_endpoint import EndpointFactWriter
from tests.support.endpoint_server import EndpointServer, chat, failing, served
from tests.support.inspection_records import make_chat
from tests.support.tiny_export import record

RECORDS = [record(number, num_facts=1) for number in range(4)]


def writer(server: EndpointServer, folder: Path) -> EndpointFactWriter:
    own = make_chat()

    def sentences(text: str) -> tuple[str, ...]:
        if not (found := own.facts_in(text)):
            raise RefusedReply("the reply has no sentence")
        return found

    endpoint = Endpoint(server.url, backoff_seconds=0.01, retries=1)
    asker = Asker(endpoint, ReplyStore(folder / "replies.jsonl"), sentences, correction="Again.", asks=1)
    return EndpointFactWriter(asker, own, FactsConfig(model="gpt-4o", reply_tokens=50, seed=-1, concurrency=2))


def pixels_of(body: dict[str, Any]) -> np.ndarray:
    (message,) = body["messages"]
    shown = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert len(shown) == 1, "the image alone, without its reference"
    return decode_rgb(base64.b64decode(shown[0].split(",", 1)[1]), name="sent")


def test_each_image_is_shown_once_and_its_sentences_are_kept(tmp_path: Path) -> None:
    seen: list[int] = []

    def respond(body: dict[str, Any], number: int) -> Any:
        seen.append(int(pixels_of(body).sum()))
        return chat(f"1. It is **part {seen[-1]}**.\n2. It may crack.")

    path = tmp_path / "facts.jsonl"
    with served(respond) as server:
        writer(server, tmp_path).write(RECORDS, FactBook(path), rows=0)
        assert len(server.bodies) == 4 and server.bodies[0]["max_tokens"] == 50
        assert server.bodies[0]["temperature"] == 0.0 and "seed" not in server.bodies[0]
        writer(server, tmp_path).write(RECORDS, FactBook(path), rows=0)
        assert len(server.bodies) == 4
    expected = [int(decode_rgb(each.test_image, name="x").sum()) for each in RECORDS]
    assert sorted(seen) == sorted(expected)
    for each, total in zip(RECORDS, expected, strict=True):
        facts = FactBook(path).of(each.test_image)
        told = re.match(r"It is part ([\d ]+)", facts[0] if facts else "")
        assert told and str(total).startswith(told[1].replace(" ", "")), "cut, where it is too long, but its own"


def test_what_failed_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    bad = decode_rgb(RECORDS[2].test_image, name="x")

    def respond(body: dict[str, Any], number: int) -> Any:
        return failing(500, "busy") if np.array_equal(pixels_of(body), bad) else chat("It is whole.")

    path = tmp_path / "facts.jsonl"
    with (
        served(respond) as server,
        pytest.raises(ConfigError, match=f"1 of 4 images got no facts: {RECORDS[2].test_path}"),
    ):
        writer(server, tmp_path).write(RECORDS, FactBook(path), rows=0)
    book = FactBook(path)
    assert [book.of(each.test_image) is None for each in RECORDS] == [False, False, True, False]
    with served(lambda body, number: chat("It is cut.")) as server:
        writer(server, tmp_path).write(RECORDS, book, rows=0)
        assert len(server.bodies) == 1
    assert book.of(RECORDS[2].test_image) == ("It is cut.",)


def test_images_of_other_formats_are_sent_as_png(tmp_path: Path) -> None:
    path = tmp_path / "part.bmp"
    Image.fromarray(decode_rgb(RECORDS[0].test_image, name="x")).save(path)
    bitmap: Record = dataclasses.replace(RECORDS[0], test_image=path.read_bytes())
    with served(lambda body, number: chat("It is whole.")) as server:
        writer(server, tmp_path).write([bitmap], FactBook(tmp_path / "facts.jsonl"), rows=0)
        assert np.array_equal(pixels_of(server.bodies[0]), decode_rgb(RECORDS[0].test_image, name="x"))
