"""Rows of other trainers in one form: images, and questions with their answers, best first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from sage_jax.data.sources.items import BadItem, json_kind, text_of

Role = Literal["user", "assistant", "system"]

_ROLES: Final[dict[str, Role]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_TURN_KEYS: Final = ("conversations", "messages", "prompt")
_ANSWER_KEYS: Final = ("chosen", "rejected", "rejected_response", "rejected_messages", "completion")
_ALPACA_KEYS: Final = ("instruction", "output")
MARKS: Final = (*_TURN_KEYS, *_ANSWER_KEYS, *_ALPACA_KEYS)
"""Keys of which every row has one."""

_READ_KEYS: Final = (
    *(*MARKS, "question", "input", "history"),
    *("image", "images", "description", "system", "id", "question_id"),
)
# Whatever they hold beside nothing changes what an answer means: without them the row says something else.
_REFUSED_KEYS: Final = {
    "kto_tag": "marks single answers as good or bad (KTO), without a pair",
    "label": "marks single answers as good or bad (KTO), without a pair",
    "rejected_images": "shows the rejected answer other images",
    "videos": "shows videos",
    "video": "shows a video",
    "audios": "plays sounds",
    "audio": "plays a sound",
    "tools": "offers tools",
    "objects": "fills boxes into placeholders of the text",
}
_PLACEHOLDER: Final = "<image>"
_AT_EDGE: Final = re.compile(
    r"^(?:[ \t]*(?:Image-\d+:[ \t]*)?<image>)+[ \t]*|[ \t]*(?:(?:Image-\d+:[ \t]*)?<image>[ \t]*)+$"
)


@dataclasses.dataclass(frozen=True)
class RowKind:
    """A format of rows.

    Attributes:
      name: What such rows are, as one says "holds ...".
      fits: Whether a row is of this format.
      own_placeholders: Whether its trainer puts the placeholders in front itself where a prompt has none.
    """

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    own_placeholders: bool = False


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: set(keys) <= set(row)


def _has_pair_of_turns(row: Mapping[str, Any]) -> bool:
    return {"chosen", "rejected"} <= set(row) and all(isinstance(row[key], list) for key in ("chosen", "rejected"))


KINDS: Final = (
    RowKind("preference rows of LLaMA-Factory (conversations, chosen, rejected)", _has("conversations", "chosen")),
    RowKind("preference rows of LLaMA-Factory (messages, chosen, rejected)", _has("messages", "chosen")),
    RowKind("preference rows of TRL (prompt, chosen, rejected)", _has("prompt", "chosen", "rejected"), True),
    RowKind("preference rows of InternVL (question, chosen, rejected)", _has("question", "chosen", "rejected"), True),
    RowKind("preference rows of TRL (chosen, rejected)", _has_pair_of_turns, True),
    RowKind("preference rows of ms-swift (messages, rejected_response)", _has("messages", "rejected_response")),
    RowKind("preference rows of ms-swift (messages, rejected_messages)", _has("messages", "rejected_messages")),
    RowKind(
        "preference rows of LLaMA-Factory in alpaca format (instruction, chosen, rejected)",
        _has("instruction", "chosen", "rejected"),
        True,
    ),
    RowKind("chat rows of TRL (prompt, completion), not preference rows", _has("prompt", "completion"), True),
    RowKind("rows of SAGE's released SFE data (conversations, description)", _has("conversations", "description")),
    RowKind("chat rows of LLaVA or InternVL (conversations), not preference rows", _has("conversations")),
    RowKind("chat rows (messages), not preference rows", _has("messages")),
    RowKind(
        "chat rows of LLaMA-Factory in alpaca format (instruction, output), not preference rows",
        _has("instruction", "output"),
        True,
    ),
)
"""Formats of rows; the first that fits counts."""


def kind_of(fields: Mapping[str, Any]) -> RowKind | None:
    """The format of a row; None where it has none of those known."""
    return next((kind for kind in KINDS if kind.fits(fields)), None)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question of a row and its answers, best first: two of a preference, one of a chat."""

    question: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row in the form that all formats have in common.

    Attributes:
      images: As named, in the row's order.
      asked: One for each turn of the user.
      facts: Sentences about the test image; None where the row does not say.
      system: System message; "" without one.
      unread: Keys that nothing reads.
      question_id: What rows of one question have in common, beside images and text; "" where rows do not say. No
        trainer's format has it: rows that are written here do, so that two questions of one text stay two.
    """

    images: tuple[str, ...]
    asked: tuple[Asked, ...]
    facts: tuple[str, ...] | None
    system: str
    unread: tuple[str, ...]
    question_id: str = ""


@dataclasses.dataclass(frozen=True)
class _Message:
    role: Role
    text: str
    num_images: int


def parse_row(fields: dict[str, Any]) -> Row:
    """The row of an object of one of the formats `KINDS`; a field of null counts as absent.

    An image's placeholder may stand on a line with a label (`Image-1: <image>`), or before or behind a line's text.

    Raises:
      BadItem: The object is no such row, or a faulty one: other numbers of placeholders and images, an unknown role,
        turns out of order, an empty text, or a field that changes what the answers mean.
    """
    fields = {key: value for key, value in fields.items() if value is not None}
    kind = kind_of(fields)
    if kind is None:
        keys = ", ".join(map(repr, list(fields)[:4]))[:80]
        raise BadItem(f"is a row of no known trainer, with keys {keys}", f"give one of {', '.join(MARKS)}")
    for key, why in _REFUSED_KEYS.items():
        if key in fields and fields[key] not in ([], "", {}):
            raise BadItem(f"{key} {why}, which is not read", "write a row with chosen and rejected, or leave it out")
    messages, pair = _messages(fields)
    images = images_of(fields)
    _check_placeholders(messages, len(images), kind)
    turns = [message for message in messages if message.role != "system"]
    asked = _asked(turns, pair)
    facts = None
    if "description" in fields:
        given = fields["description"]
        told_facts = "" if given == "" else text_of(fields, "description")
        facts = tuple(line.strip() for line in told_facts.splitlines() if line.strip())
    told = [text_of(fields, "system")] if fields.get("system") else []
    told += [message.text for message in messages if message.role == "system"]
    unread = tuple(key for key in fields if key not in _READ_KEYS and key not in _REFUSED_KEYS)
    question_id = str(fields.get("question_id") or "")
    return Row(images, asked, facts, "\n".join(told), unread, question_id)


def images_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The images that a row names, under `image` or `images`, one or a list.

    Raises:
      BadItem: It names none, or not by a path.
    """
    found: list[str] = []
    for key in ("image", "images"):
        given = fields.get(key)
        for each in given if isinstance(given, list) else [] if given is None else [given]:
            name = each.get("path") if isinstance(each, dict) else each
            if not isinstance(name, str) or not name.strip():
                raise BadItem(f"{key} holds {json_kind(each)}, no path", "save images as files and give paths")
            found.append(text_of({key: name}, key))
    if not found:
        raise BadItem("has no image", "name one under image or images, or leave the row out")
    return tuple(found)


def _messages(fields: dict[str, Any]) -> tuple[list[_Message], tuple[str, ...]]:
    """The prompt's or conversation's messages; and chosen and rejected answer, none in a row of chat alone."""
    rejected_key = "rejected_response" if "rejected_response" in fields else "rejected"
    turns = next((fields[key] for key in _TURN_KEYS if key in fields), None)
    if fields.get("rejected_messages"):  # ms-swift: the whole conversation once more
        return _split_pair(_turns(turns), _turns(fields["rejected_messages"]), "messages and rejected_messages")
    if "completion" in fields:
        answer = _Message("assistant", _answer(fields, "completion"), 0)
        return [*_turns(turns), answer], ()
    if "question" in fields and turns is None:
        turns = text_of(fields, "question")
    if "instruction" in fields and turns is None:
        asked = _alpaca_turns(fields)
        if "chosen" not in fields:
            return [*asked, _Message("assistant", _answer(fields, "output"), 0)], ()
        return asked, (_answer(fields, "chosen"), _answer(fields, "rejected"))
    if rejected_key not in fields and "chosen" not in fields:
        return _turns(turns), ()
    if "chosen" not in fields:  # ms-swift: the conversation ends with the chosen answer
        messages = _turns(turns)
        if not messages or messages[-1].role != "assistant":
            raise BadItem("messages end without the chosen answer", "end them with a message of the assistant")
        return messages[:-1], (messages[-1].text, _answer(fields, rejected_key))
    if turns is None:  # TRL: the prompt is what both begin with
        return _split_pair(_turns(fields["chosen"]), _turns(fields["rejected"]), "chosen and rejected")
    return _turns(turns), (_answer(fields, "chosen"), _answer(fields, rejected_key))


def _alpaca_turns(fields: dict[str, Any]) -> list[_Message]:
    """The turns of `history`, pairs of question and answer, and the question: `instruction`, a new line, `input`."""
    if isinstance(fields.get("output"), list) and "chosen" not in fields:
        raise BadItem("output is a list of answers", "name the better one chosen and the worse one rejected")
    turns: list[_Message] = []
    history = fields.get("history") or []
    for number, pair in enumerate(history if isinstance(history, list) else [history], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadItem(f"history: entry {number} is {json_kind(pair)}", "make it a list of a question and an answer")
        turns.append(_message("user", pair[0], f"history: question {number}"))
        turns.append(_message("assistant", pair[1], f"history: answer {number}"))
    told = [text_of(fields, key) for key in ("instruction", "input") if fields.get(key)]
    return [*turns, _message("user", "\n".join(told), "instruction with input")]


def _split_pair(
    chosen: Sequence[_Message], rejected: Sequence[_Message], names: str
) -> tuple[list[_Message], tuple[str, ...]]:
    """What two conversations begin with, and the answers that they end with.

    Raises:
      BadItem: They begin with different turns, or do not end with an answer.
    """
    ends = [messages[-1].role for messages in (chosen, rejected)]
    if chosen[:-1] != rejected[:-1] or ends != ["assistant", "assistant"]:
        raise BadItem(f"{names} begin with different turns", "let them differ in the last one alone, the answer")
    return [*chosen[:-1]], (chosen[-1].text, rejected[-1].text)


def _turns(given: Any) -> list[_Message]:
    """Messages of a conversation; a text alone is one of the user."""
    if isinstance(given, str):
        return [_message("user", given, "the question")]
    if not isinstance(given, list) or not given:
        raise BadItem(f"its turns are {json_kind(given)}", "make them a list")
    found = []
    for number, turn in enumerate(given, start=1):
        where = f"turn {number}"
        if not isinstance(turn, dict):
            raise BadItem(f"{where} is {json_kind(turn)}", "make it an object with role and content")
        named = turn.get("from", turn.get("role"))
        if not isinstance(named, str) or named not in _ROLES:
            raise BadItem(f"{where} is of {named!r}", f"use one of {', '.join(_ROLES)}")
        found.append(_message(_ROLES[named], turn.get("value", turn.get("content")), where))
    return found


def _answer(fields: dict[str, Any], key: str) -> str:
    """An answer given as a text, as a message, or as a list of one message."""
    given = fields.get(key)
    if isinstance(given, list) and len(given) != 1:
        raise BadItem(f"{key} has {len(given)} messages", "give one, the answer")
    given = given[0] if isinstance(given, list) else given
    if isinstance(given, dict):
        given = given.get("value", given.get("content"))
    message = _message("assistant", given, key)
    if message.num_images:
        raise BadItem(f"{key} holds an image", "leave images to the prompt")
    return message.text


def _message(role: Role, content: Any, where: str) -> _Message:
    """A message of a text, or of a list of parts."""
    if not isinstance(content, list):
        text, inside = _without_placeholders(text_of({"content": content}, "content", f"{where}: "), where)
        return _message_of(role, text, inside, where)
    texts, num_images = [], 0
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image":
            num_images += 1
        elif kind == "text":
            text, inside = _without_placeholders(text_of(part, "text", f"{where}: "), where)
            texts.append(text)
            num_images += inside
        else:
            raise BadItem(f"{where}: a part of type {kind!r}", 'give parts of type "image" and "text"')
    return _message_of(role, "\n".join(texts), num_images, where)


def _message_of(role: Role, text: str, num_images: int, where: str) -> _Message:
    if not text.strip():
        raise BadItem(f"{where} has no text", "write it")
    return _Message(role, text.strip(), num_images)


def _without_placeholders(text: str, where: str) -> tuple[str, int]:
    """A text without the placeholders at the edges of its lines, and their number."""
    lines = []
    for line in text.split("\n"):
        kept = _AT_EDGE.sub("", line)
        if _PLACEHOLDER in kept:
            raise BadItem(
                f"{where}: {_PLACEHOLDER} stands inside a sentence, {line.strip()[:60]!r}",
                "write it before the question: images are shown there",
            )
        if kept.strip() or not line.count(_PLACEHOLDER):
            lines.append(kept)
    return "\n".join(lines), text.count(_PLACEHOLDER)


def _check_placeholders(messages: Sequence[_Message], num_images: int, kind: RowKind) -> None:
    found = sum(message.num_images for message in messages)
    if found != num_images and not (found == 0 and kind.own_placeholders):
        noun = "image" if num_images == 1 else "images"
        raise BadItem(
            f"has {found} {_PLACEHOLDER} placeholders for {num_images} {noun}", f"write {_PLACEHOLDER} once for each"
        )
    first = next((number for number, message in enumerate(messages) if message.role == "user"), 0)
    if any(message.num_images for number, message in enumerate(messages) if number != first):
        raise BadItem("an image comes after the first turn", "make its question a row of its own")


def _asked(turns: Sequence[_Message], pair: tuple[str, ...]) -> tuple[Asked, ...]:
    """Questions with their answers, of turns that alternate."""
    last = [Asked(turns[-1].text, pair)] if turns and pair else []
    before = turns[:-1] if pair else turns
    roles = [turn.role for turn in (*before, *(turns[-1:] if pair else ()))]
    if not turns or roles != (["user", "assistant"] * len(roles))[: len(roles)] or len(before) % 2:
        wanted = "questions and answers in turn, from a question to " + ("the last question" if pair else "an answer")
        raise BadItem(f"its turns are {', '.join(roles) or 'none'}", f"give {wanted}")
    asked = [Asked(one.text, (two.text,)) for one, two in zip(before[::2], before[1::2], strict=True)]
    if pair and same_answer(pair[0]) == same_answer(pair[1]):
        raise BadItem("chosen and rejected are the same answer", "give two, or leave the row out")
    return (*asked, *last)


def same_answer(text: str) -> str:
    """What two spellings of one answer have in common: letters but for their case, words but for their distance."""
    return " ".join(text.split()).lower()
