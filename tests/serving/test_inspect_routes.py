"""`/v1/inspect` over real sockets: the Python API's answers, a status for each fault, and nobody harmed by another."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from sage_jax.data.images import decode_rgb
from sage_jax.serving.service import Request
from tests.support.served import Served, base64_of, error_of, png

Start = Callable[..., contextlib.AbstractContextManager[Served]]


def huge_png(width: int, height: int) -> bytes:
    """A small file that says it is huge; nothing of it is ever decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def finding_of(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from call to call."""
    return {name: value for name, value in answer.items() if name not in ("milliseconds", "batch_images")}


def test_json_and_multipart_give_the_finding_of_the_service(served: Served) -> None:
    image, name, asked = png(5), "b.png", ["Where is it?", "Why?"]
    alone = served.service.inspect(Request(image, name, "cap", questions=tuple(asked))).inspection
    as_json = served.inspect(image, name=name, category="cap", questions=asked).json()
    fields = {"category": "cap", "questions": asked}
    form = httpx2.post(f"{served.address}/v1/inspect", files={"image": (name, image)}, data=fields, timeout=120).json()
    assert finding_of(as_json) == finding_of(form)
    assert (as_json["verdict"], as_json["reason"], as_json["reference"]) == (alone.verdict, alone.reason, "b.png")
    assert [(each["question"], each["answer"]) for each in as_json["answers"]] == list(alone.answers)
    assert as_json["score"] == pytest.approx(alone.score, abs=1e-6)
    assert [tuple(box.values())[:4] for box in as_json["boxes"]] == [box[:4] for box in alone.boxes]
    assert as_json["threshold"]["value"] == 0.5 and as_json["threshold"]["promise"].startswith("none: nobody chose")
    assert as_json["probability"] is None and as_json["category"] == "cap"
    assert as_json["model"] == {"name": "line3", "stage": "sfe", "revision": served.service.revision}
    assert 0.0 <= as_json["milliseconds"]["model"] <= as_json["milliseconds"]["total"]


def test_references_come_by_name_by_folder_and_along(served: Served, good: Any) -> None:
    image = png(2)
    named = served.inspect(image, references=["caps"]).json()
    assert (named["references"], named["reference"]) == (2, "caps/1.png")
    brought = [base64_of((good / "caps" / name).read_bytes()) for name in ("1.png", "2.png")]
    along = served.inspect(image, references=[], reference_images=brought).json()
    assert along["references"] == 2 and along["score"] == pytest.approx(named["score"], abs=1e-6)
    files = [("image", ("x.png", image)), *(("reference_images", base64.b64decode(each)) for each in brought)]
    form = httpx2.post(f"{served.address}/v1/inspect", files=files, timeout=120).json()
    assert form["score"] == pytest.approx(named["score"], abs=1e-6) and form["reference"] == "upload 1"
    alone = served.inspect(image, references=[], map="values").json()
    assert (alone["references"], alone["map"], alone["boxes"]) == (0, None, [])
    assert served.get("/v1/references").json() == {"references": ["a.png", "b.png", "caps", "caps/1.png", "caps/2.png"]}


def test_the_map_is_the_anomaly_map_in_grey(served: Served) -> None:
    image = png(1)
    answer = served.inspect(image, map="values").json()
    values = served.service.inspect(Request(image)).inspection.anomaly_map
    with Image.open(io.BytesIO(base64.b64decode(answer["map"]["png"]))) as shown:
        assert shown.mode == "L" and shown.size == (answer["width"], answer["height"]) == (60, 22)
        np.testing.assert_allclose(np.asarray(shown) / 255.0, np.clip(np.asarray(values), 0, 1), atol=0.5 / 255 + 1e-5)
    over = base64.b64decode(served.inspect(image, map="overlay").json()["map"]["png"])
    assert decode_rgb(over, name="").shape[2] == 3


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"image": "http://127.0.0.1:1/x.png"}, 422, "an address (http:) is not opened"),
        ({"image": "file:///etc/passwd"}, 422, "an address (file:) is not opened"),
        ({"image": "no base64!"}, 422, "image: no base64"),
        ({"image": base64_of(b"garbage")}, 422, "is no image"),
        ({"image": base64_of(huge_png(10_000, 10_000))}, 422, "10000 x 10000 px, more than 20,000"),
        ({"reference_images": [base64_of(huge_png(10_000, 10_000))]}, 422, "upload 1: has 10000 x 10000 px"),
        ({"references": ["c.png"]}, 422, "none of the name 'c.png'; did you mean"),
        ({"references": ["../a.png"]}, 422, "none of the name"),
        ({"map": "png"}, 422, "map: "),
        ({"qestions": []}, 422, "qestions: Extra inputs"),
        ({"questions": "Why?"}, 422, "questions: "),
    ],
)
def test_each_fault_has_its_status_and_its_message(fields: Any, status: int, said: str, served: Served) -> None:
    body = {"image": base64_of(png(0)), **fields}
    response = httpx2.post(f"{served.address}/v1/inspect", json=body, timeout=120)
    assert response.status_code == status and said in error_of(response)


def test_bodies_that_are_none_have_their_status(served: Served) -> None:
    def post(content: bytes, kind: str) -> httpx2.Response:
        return httpx2.post(f"{served.address}/v1/inspect", content=content, headers={"Content-Type": kind}, timeout=60)

    assert error_of(post(b"{", "application/json")) == "the body is no JSON"
    assert post(b"{", "application/json").status_code == 400
    assert post(b"[" * 100_000, "application/json").status_code == 400
    assert post(b"[1]", "application/json").status_code == 422
    assert post(b"x", "text/plain").status_code == 415
    assert post(b"\x00\xff" * 500, "multipart/form-data; boundary=x").status_code in (400, 422)
    assert post(b"--x\r\nContent-Dispo", "multipart/form-data; boundary=x").status_code in (400, 422)
    assert post(b"", "multipart/form-data").status_code == 400
    twice = [("image", ("a.png", png(0))), ("image", ("b.png", png(1)))]
    response = httpx2.post(f"{served.address}/v1/inspect", files=twice, timeout=60)
    assert response.status_code == 422 and "2 files: send one" in error_of(response)
    assert served.inspect(png(0)).status_code == 200


def test_a_large_body_is_413_whether_its_length_is_told_or_not(start: Start) -> None:
    with start(max_body_mb=0.1) as served:
        told = httpx2.post(f"{served.address}/v1/inspect", content=b"x" * 200_000, timeout=60)
        assert told.status_code == 413 and "larger than 100000 bytes" in error_of(told)
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
            head = "POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    connection.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            assert connection.recv(64).startswith(b"HTTP/1.1 413")
        assert served.inspect(png(0)).status_code == 200


def test_a_client_that_sends_slowly_is_408_and_others_are_answered_meanwhile(start: Start) -> None:
    with start(body_seconds=1.0) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
            head = "POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
            connection.sendall(f'{head}\r\n{{"image": '.encode())
            assert served.inspect(png(0)).status_code == 200
            assert connection.recv(64).startswith(b"HTTP/1.1 408")


def test_a_client_that_goes_away_leaves_the_queue_and_the_others_their_answers(start: Start) -> None:
    with start(working=False, queue_size=8) as served:
        expected = served.service._read(Request(png(0)))
        body = httpx2.Request("POST", served.address, json={"image": base64_of(png(1))}).read()
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
        head = "POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(served.inspect, png(0))
            _until(lambda: len(served.service._queue) == 2)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a kill
            connection.close()
            _until(lambda: sum(job.finding.cancelled() for job in served.service._queue._waiting) == 1)
            worker = threading.Thread(target=served.service.work, args=(lambda: False,))
            worker.start()
            answer = other.result(timeout=120).json()
        served.service.stop()
        worker.join()
        (alone,) = served.service.model.findings([expected], (), rows=1)
        assert (answer["verdict"], answer["reason"], answer["batch_images"]) == (alone.verdict, alone.reason, 1)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_a_full_queue_is_429_with_a_time_to_come_again_and_too_long_a_wait_504(start: Start) -> None:
    with start(working=False, queue_size=2, answer_seconds=2.0) as served:
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(served.inspect, png(seed)) for seed in range(2)]
            _until(lambda: len(served.service._queue) == 2)
            refused = served.inspect(png(3))
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            assert [each.result().status_code for each in waiting] == [504, 504]


def test_while_it_stops_new_requests_are_503_and_those_that_wait_are_answered(start: Start) -> None:
    with start(working=False) as served:
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(served.inspect, png(seed)) for seed in range(3)]
            _until(lambda: len(served.service._queue) == 3)
            served.service.stop()
            refused = served.inspect(png(3))
            assert refused.status_code == 503 and "stopping" in error_of(refused)
            assert served.get("/ready").status_code == 503 and served.get("/health").status_code == 200
            served.service.work(lambda: False)
            assert [each.result().status_code for each in waiting] == [200] * 3


def test_many_clients_at_once_get_the_answers_of_one(served: Served) -> None:
    alone = {seed: finding_of(served.inspect(png(seed)).json()) for seed in range(8)}
    with ThreadPoolExecutor(16) as pool:
        together = [*pool.map(lambda number: (number % 8, served.inspect(png(number % 8))), range(48))]
    for seed, response in together:
        found = finding_of(response.json())
        assert found.pop("score") == pytest.approx(alone[seed]["score"], abs=1e-5)
        boxes = [[*box.values()] for box in found.pop("boxes")]
        np.testing.assert_allclose(boxes, [[*box.values()] for box in alone[seed]["boxes"]], atol=1e-5)
        assert found == {name: value for name, value in alone[seed].items() if name not in ("score", "boxes")}
    assert max(response.json()["batch_images"] for _, response in together) > 1
