"""The service: whatever shares a batch, each answer is the one that an image gets alone; what stops, stops whole."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from sage_jax.config import ServeConfig
from sage_jax.data.records import Reference
from sage_jax.inspection.inspection_model import InspectionModel, ReadBatch
from sage_jax.inspection.result import Inspection
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.jobs import Finding
from sage_jax.serving.reference_images import ReferenceImages
from sage_jax.serving.service import Request, Service
from tests.support.served import Served, png

_OPTIONS = ServeConfig(rows=(1,))


def requests() -> list[Request]:
    """Every mixture of sizes, numbers of references and questions."""
    found = []
    for seed, number, asked in itertools.product(range(4), (0, 1, 2), ((), ("Where is it?",), ("What is it?",))):
        references = tuple(Reference(png(50 + seed + 4 * each), f"good {each}") for each in range(number))
        found.append(Request(png(seed), f"{seed}-{number}-{len(asked)}", references=references, questions=asked))
    return found


def assert_same(one: Inspection, other: Inspection) -> None:
    """Texts and verdicts to the letter, numbers to float tolerance."""
    assert (one.verdict, one.reason, one.answers) == (other.verdict, other.reason, other.answers)
    assert (one.image, one.num_references, len(one.boxes)) == (other.image, other.num_references, len(other.boxes))
    np.testing.assert_allclose(np.asarray(one.score), np.asarray(other.score), atol=1e-5)
    assert (one.anomaly_map is None) == (other.anomaly_map is None) == (one.num_references == 0)
    if one.anomaly_map is not None and other.anomaly_map is not None:
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=1e-5)


def test_answers_from_mixed_batches_are_those_of_images_alone(model: InspectionModel, served: Served) -> None:
    asked = requests()
    futures = [served.service.submit(request) for request in asked]
    found = [future.result(timeout=300) for future in futures]
    assert max(one.batch_images for one in found) > 1, "nothing was batched"
    for request, one in zip(asked, found, strict=True):
        image = served.service._read(request)
        (alone,) = model.findings([image], request.questions or (), rows=1)
        assert_same(one.inspection, alone)
        assert [question for question, _ in one.inspection.answers] == list(request.questions or ())
        assert one.num_tokens > 0 and one.prompt_tokens > 0
    assert len({one.inspection.reason for one in found}) > 4, "answers that never differ prove nothing"


def idle(model: InspectionModel, good: Path, options: ServeConfig = _OPTIONS) -> Service:
    """A service that takes requests and has no thread to answer them."""
    service = Service(model, options, ReferenceImages(str(good)))
    service.state = "ready"
    return service


def test_a_full_queue_is_429_and_what_waits_is_answered_before_a_stop(model: InspectionModel, good: Path) -> None:
    service = idle(model, good, ServeConfig(rows=(1,), queue_size=3))
    waiting = [service.submit(Request(png(seed), references=())) for seed in range(3)]
    with pytest.raises(RequestFault) as raised:
        service.submit(Request(png(3), references=()))
    assert raised.value.status == 429 and raised.value.retry_after >= 1
    service.stop()
    with pytest.raises(RequestFault) as raised:
        service.submit(Request(png(3), references=()))
    assert raised.value.status == 503 and "stopping" in str(raised.value)
    service.work(lambda: False)
    assert [future.result(timeout=1).inspection.verdict in ("good", "defective") for future in waiting] == [True] * 3


def test_a_stop_that_is_requested_ends_the_work_with_all_answered(model: InspectionModel, good: Path) -> None:
    service = idle(model, good)
    waiting = [service.submit(Request(png(seed))) for seed in range(5)]
    service.work(lambda: True)
    assert all(future.done() for future in waiting) and service.state == "stopping"


def test_a_cancelled_image_is_left_out(model: InspectionModel, good: Path) -> None:
    service = idle(model, good)
    kept, gone = service.submit(Request(png(0))), service.submit(Request(png(1)))
    assert gone.cancel()
    service.work(lambda: True)
    assert kept.result().batch_images == 1


def test_an_image_that_brings_its_batch_down_costs_itself(model: InspectionModel, good: Path) -> None:
    """That a tree is longer than the largest of `text.buckets` is found when the batch is made."""
    service = idle(model, good, ServeConfig(rows=(1,), max_question_letters=10_000))
    asked = [("Where?",), ("Where is it? " * 60,), ("Why?",)]
    futures: list[Future[Finding]] = [service.submit(Request(png(0), questions=each)) for each in asked]
    service.work(lambda: True)
    with pytest.raises(RequestFault, match="bucket") as raised:
        futures[1].result()
    assert raised.value.status == 422
    assert [futures[each].result().inspection.answers[0][0] for each in (0, 2)] == ["Where?", "Why?"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(b""), "empty file"),
        (Request(b"GIF89a"), "only the beginning"),
        (Request(png(0)[:80]), "image"),
        (Request(png(0), questions=(" ",)), "a question is empty"),
        (Request(png(0), questions=("a" * 501,)), "501 letters: give 500"),
        (Request(png(0), questions=("Why?",) * 9), "9 questions: give 8"),
        (Request(png(0), references=(Reference(png(1), "r"),) * 5), "5 references: give 4"),
        (Request(png(0), references=(Reference(b"x", "upload 1"),)), "upload 1"),
    ],
)
def test_what_cannot_be_used_is_422_before_it_waits(request_: Request, said: str, served: Served) -> None:
    with pytest.raises(RequestFault, match=said) as raised:
        served.service.submit(request_)
    assert raised.value.status == 422


def test_references_are_those_of_the_images_name_or_the_first(served: Served, good: Path) -> None:
    (good / "a.png").touch()
    named = served.service.inspect(Request(png(4), "b.png")).inspection
    other = served.service.inspect(Request(png(4), "none.png")).inspection
    assert (named.reference, other.reference) == ("b.png", "a.png")
    assert served.service.inspect(Request(png(4), "b.png", references=())).inspection.reference == ""


def test_a_further_image_of_a_warm_kind_compiles_nothing(served: Served, compilations: list[str]) -> None:
    served.service.inspect(Request(png(0)))
    compilations.clear()
    for seed in (4, 8, 12):
        served.service.inspect(Request(png(seed)))
    assert compilations == []


def test_two_batches_are_under_way_at_a_time_and_of_a_model_on_several_devices_one(
    model: InspectionModel, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responder, both = model.evaluator.responder, threading.Barrier(2)

    def answer(read: ReadBatch) -> Sequence[None]:
        both.wait(timeout=30)  # breaks, and with it the answer, unless two are here
        return [None] * len(read.batch.inputs)

    monkeypatch.setattr(model, "answer", answer)
    monkeypatch.setattr(type(responder), "num_devices", 1)
    service = idle(model, good, ServeConfig(rows=(1,), threads=2))
    each = service._rows[-1]
    waiting = [service.submit(Request(png(seed), references=())) for seed in range(2 * each)]
    service.work(lambda: True)
    assert {future.result().inspection.verdict for future in waiting} == {"unreadable"}
    monkeypatch.setattr(type(responder), "num_devices", 2)
    assert (service._threads, idle(model, good, ServeConfig(threads=2))._threads) == (2, 1)
