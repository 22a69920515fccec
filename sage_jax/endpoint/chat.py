"""Chat with an OpenAI-compatible endpoint as data: messages with images, a request, its reply."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from typing import Any, Final, Literal

from sage_jax.errors import UserError

_MEDIA_TYPES: Final = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


class BadReply(ValueError):
    """The body of a reply that is none of the chat protocol; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A turn of a chat.

    Attributes:
      role: Who speaks.
      text: What is said.
      images: Encoded images (PNG, JPEG, GIF or WebP), shown before the text.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[bytes, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The message in the chat protocol; images go as data URLs.

        Raises:
          UserError: An image is of another kind.
        """
        if not self.images:
            return {"role": self.role, "content": self.text}
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(image)}} for image in self.images
        ]
        return {"role": self.role, "content": [*parts, {"type": "text", "text": self.text}]}


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """What a model is asked, and all that decides its reply.

    Attributes:
      model: Name of the model at the endpoint.
      messages: The chat so far.
      temperature: Sampling temperature; None = not sent, the endpoint's own.
      seed: Seed of the sampling; None = not sent.
      reply_tokens: Longest reply, sent as `max_tokens`; 0 = not sent.
      repetition: Tells requests apart that are otherwise the same.
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    seed: int | None = None
    reply_tokens: int = 0
    repetition: int = 0

    def body(self) -> dict[str, Any]:
        """Body of the POST."""
        optional = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.reply_tokens or None}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"model": self.model, "messages": [message.as_json() for message in self.messages], **given}

    def key(self) -> str:
        """SHA-256 of all that decides the reply; the endpoint's address is no part of it."""
        content = {"body": self.body(), "repetition": self.repetition}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
      text: The text; "" where there is none.
      total_tokens: Tokens of prompt and reply as the endpoint counts them; None where it tells none.
      cut: Whether it ends at the longest length of a reply.
    """

    text: str
    total_tokens: int | None = None
    cut: bool = False


def data_url(image: bytes) -> str:
    """An encoded image as a data URL (RFC 2397).

    Raises:
      UserError: It begins as no PNG, JPEG, GIF or WebP does.
    """
    kinds = [kind for start, kind in _MEDIA_TYPES if image.startswith(start)]
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kinds.append("image/webp")
    if not kinds:
        raise UserError(f"an image for an endpoint begins with {image[:8]!r}: give PNG, JPEG, GIF or WebP")
    return f"data:{kinds[0]};base64,{base64.b64encode(image).decode()}"


def read_reply(body: bytes) -> Reply:
    """The reply in the body of a response.

    Raises:
      BadReply: The body is no JSON, or not of the chat protocol.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReply(f"the body of the reply is no JSON: {_shown(body)}") from None
    try:
        choice, usage = content["choices"][0], content.get("usage") or {}
        text, total = choice["message"].get("content") or "", usage.get("total_tokens")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BadReply(f"the body of the reply has no choices with a message: {_shown(body)}") from None
    if not isinstance(text, str):
        raise BadReply(f"the message of the reply has no text: {_shown(body)}")
    counted = isinstance(total, int) and not isinstance(total, bool) and total >= 0
    return Reply(text, total if counted else None, choice.get("finish_reason") == "length")


def _shown(body: bytes) -> str:
    return repr(" ".join(body[:200].decode(errors="replace").split()))
