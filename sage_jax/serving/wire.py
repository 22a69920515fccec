"""What goes over the wire at `/v1/inspect`: requests and answers with their units. Errors have one form everywhere."""

from __future__ import annotations

import base64
import time
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sage_jax.data.images import encode_png
from sage_jax.inspection.overlay import overlay
from sage_jax.inspection.result import Inspection
from sage_jax.serving.jobs import Finding
from sage_jax.serving.service import Service

MapKind = Literal["none", "values", "overlay"]


class Strict(BaseModel):
    """A message in which an unknown field is an error, for a misspelt one would change nothing without a word."""

    model_config = ConfigDict(extra="forbid")


class InspectBody(Strict):
    """An image to inspect. In multipart/form-data names are the same, images are files, and lists are repeated."""

    image: str = Field(description="The encoded file (PNG, JPEG, BMP, TIFF, WebP, GIF, PPM) in base64, or a data URL.")
    name: str = Field(
        "image", max_length=255, description="Its file name: a reference of the same name is taken where there is one."
    )
    category: str = Field("", max_length=100, description="Kind of part, for question and facts; empty = part.")
    references: list[str] | None = Field(
        None,
        description="Names of references that the service has (`GET /v1/references`), each a file or a folder; left "
        "out = the one of the image's name, or the first; an empty list = none.",
    )
    reference_images: list[str] = Field(
        [], description="References brought along, as `image`; they come after the named ones."
    )
    questions: list[str] | None = Field(
        None, description="Asked after the question whether there is a defect; left out = those of the config."
    )
    map: MapKind = Field(
        "none",
        description="`values`: the anomaly map as a grey PNG of the image's size, 0 = like the reference, 255 = 1.0; "
        "`overlay`: the image with the map laid over it and its boxes framed.",
    )


class Answer(BaseModel):
    """A question and the model's answer."""

    question: str
    answer: str


class Box(BaseModel):
    """A peak of the anomaly map, px of the image; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    score: float = Field(description="Largest value of the map in it, 0 to 1.")


class UsedThreshold(BaseModel):
    """The score from which an image is called defective."""

    value: float = Field(description="0 to 1.")
    promise: str = Field(description="What may be promised of it, in a sentence; begins with `none` without one.")


class AnomalyMap(BaseModel):
    """The anomaly map as a picture."""

    kind: Literal["values", "overlay"]
    png: str = Field(description="Base64.")


class Milliseconds(BaseModel):
    """Times of a request, ms."""

    total: float = Field(description="From the head of the request to its answer.")
    queued: float = Field(description="In the queue.")
    model: float = Field(description="Of the batch that the image was part of.")


class ModelName(BaseModel):
    """The model that answered."""

    name: str
    stage: str = Field(description="Training stage.")
    revision: str = Field(
        description="Hash of all that decides an answer: weights, tokenizer, vocabulary, decoding, threshold."
    )


class InspectAnswer(BaseModel):
    """The finding on an image."""

    verdict: Literal["defective", "good", "unsure"] = Field(
        description="`unsure`: the image is unlike those that the threshold was calibrated on; `doubt` says why."
    )
    score: float = Field(description="Anomaly score P(yes) / (P(yes) + P(no)), 0 to 1.")
    probability: float | None = Field(
        description="Calibrated probability of a defect, 0 to 1; null without a calibration on defective images."
    )
    threshold: UsedThreshold
    reason: str = Field(description="The model's answer to the question whether there is a defect.")
    doubt: str = Field(description="Why the verdict is unsure; empty where it is not.")
    answers: list[Answer] = Field(description="To the further questions, in their order.")
    boxes: list[Box] = Field(description="The highest peak first; none without a reference.")
    map: AnomalyMap | None = Field(description="Where it was asked for and there is a reference.")
    name: str
    category: str
    width: int = Field(description="Of the image, px.")
    height: int = Field(description="Of the image, px.")
    references: int = Field(description="Good images that it was compared with.")
    reference: str = Field(description="Name of the first of them; empty without one.")
    facts: list[str] = Field(description="Sentences about the part that the model was given or wrote.")
    model: ModelName
    milliseconds: Milliseconds
    batch_images: int = Field(description="Images that the model worked on together.")


class Fault(BaseModel):
    """Why a request was not answered."""

    message: str
    type: str = Field(description="A word for the status.")
    code: int = Field(description="HTTP status.")


class FaultBody(BaseModel):
    """The body of every error."""

    error: Fault


def model_name(service: Service) -> ModelName:
    """The model of a service."""
    model, config = service.model, service.config
    name = service.options.model_name or (config.model.weights or config.run_dir).rstrip("/").rpartition("/")[2]
    return ModelName(name=name, stage=model.stage, revision=service.revision)


def inspect_answer(found: Finding, service: Service, map_kind: MapKind, start: float) -> InspectAnswer:
    """The answer of a finding.

    Args:
      start: When the request came, in monotonic seconds.
    """
    one = found.inspection
    assert one.score is not None and one.pixels is not None and one.verdict != "unreadable"
    threshold = service.model.thresholds[one.num_references > 0]
    shown = None if map_kind == "none" or one.anomaly_map is None else _picture(one, map_kind)
    height, width = one.pixels.shape[:2]
    return InspectAnswer(
        verdict=one.verdict,
        score=one.score,
        probability=threshold.probability(one.score),
        threshold=UsedThreshold(
            value=threshold.value, promise=threshold.promise_with(one.num_references, one.category)
        ),
        reason=one.reason,
        doubt=one.doubt,
        answers=[Answer(question=question, answer=answer) for question, answer in one.answers],
        boxes=[Box(left=b[0], top=b[1], right=b[2], bottom=b[3], score=b[4]) for b in one.boxes],
        map=shown,
        name=one.image,
        category=one.category,
        width=width,
        height=height,
        references=one.num_references,
        reference=one.reference,
        facts=list(one.facts),
        model=model_name(service),
        milliseconds=Milliseconds(
            total=round((time.monotonic() - start) * 1e3, 1),
            queued=round(found.queued_ms, 1),
            model=round(found.model_ms, 1),
        ),
        batch_images=found.batch_images,
    )


def _picture(one: Inspection, kind: Literal["values", "overlay"]) -> AnomalyMap:
    assert one.anomaly_map is not None and one.pixels is not None
    values = np.clip(one.anomaly_map, 0.0, 1.0)
    drawn = (values * 255.0).round().astype(np.uint8) if kind == "values" else overlay(one.pixels, values, one.boxes)
    return AnomalyMap(kind=kind, png=base64.b64encode(encode_png(drawn)).decode())
