"""What goes over the wire at `/v1/chat/completions` and `/v1/models`: the part of OpenAI's protocol that is served."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from sage_jax.serving.wire import InspectAnswer, Strict


class ImageUrl(Strict):
    """An image."""

    url: str = Field(description="A data URL, `data:image/png;base64,...`; an address is refused, never opened.")
    detail: Literal["auto", "low", "high"] = Field("auto", description="Taken, and of no effect.")


class ImagePart(Strict):
    """An image among the parts of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(Strict):
    """A text among the parts of a message."""

    type: Literal["text"]
    text: str


class UserMessage(Strict):
    """The one message: an image, good ones to compare it with behind it, and a question."""

    role: Literal["user"] = Field(description="A system message or earlier turns are refused: no answer reads them.")
    content: str | list[ImagePart | TextPart]


class SageFields(Strict):
    """Fields of this service; `extra_body={"sage": {...}}` in OpenAI's client."""

    category: str = Field("", max_length=100, description="Kind of part, for question and facts.")
    references: list[str] | None = Field(None, description="Names, as in /v1/inspect.")
    name: str = Field("image", max_length=255, description="File name of the image, as in /v1/inspect.")


class StreamOptions(Strict):
    """What a stream has beside the text."""

    include_usage: bool = False


class ChatBody(Strict):
    """A question about an image. Fields of OpenAI's that would change the answer here are errors."""

    model: str = Field(description="A name of `/v1/models`.")
    messages: list[UserMessage] = Field(min_length=1, max_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Literal[0] | None = Field(None, description="The answer is the likeliest; only 0 is taken.")
    n: Literal[1] | None = None
    seed: int | None = Field(None, description="Taken, and of no effect: nothing is drawn.")
    user: str | None = Field(None, description="Taken, and not kept.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer; never above evaluate.max_new_tokens.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same.")
    sage: SageFields = Field(default_factory=SageFields.model_construct)


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]


class ChatAnswer(BaseModel):
    """An answer in OpenAI's form; `sage` is the whole finding."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[Choice]
    usage: Usage
    sage: InspectAnswer


class Delta(BaseModel):
    """What a piece of a stream adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """The one choice of a piece."""

    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """A piece of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model in OpenAI's form."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970: when the service began.")
    owned_by: str = "sage_jax"
    stage: str
    revision: str


class ModelList(BaseModel):
    """The models of the service: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
