"""Rows of every trainer that is read, in its exact public layout, of one image and of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

QUESTION = "Is there a defect?"
BETTER, WORSE = "A red square sits in the middle.", "The part is fine."
Row = dict[str, Any]


def placeholders(images: Sequence[str], *, labelled: bool = False) -> str:
    """What stands before the question: one placeholder a line, as InternVL labels several."""
    if labelled and len(images) > 1:
        return "".join(f"Image-{number}: <image>\n" for number in range(1, len(images) + 1))
    return "<image>\n" * len(images)


def _parts(text: str) -> list[Row]:
    return [{"type": "text", "text": text}]


def trl(images: Sequence[str]) -> Row:
    prompt = [{"role": "user", "content": [*({"type": "image"} for _ in images), *_parts(QUESTION)]}]
    chosen, rejected = ([{"role": "assistant", "content": _parts(text)}] for text in (BETTER, WORSE))
    return {"images": list(images), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def trl_strings(images: Sequence[str]) -> Row:
    """Conversational with plain strings: TRL itself puts the images in front."""
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (BETTER, WORSE))
    prompt = [{"role": "user", "content": QUESTION}]
    return {"images": list(images), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def trl_implicit(images: Sequence[str]) -> Row:
    """Without a prompt of its own: both answers begin with it."""
    row = trl_strings(images)
    prompt = row.pop("prompt")
    return row | {key: [*prompt, *row[key]] for key in ("chosen", "rejected")}


def llamafactory(images: Sequence[str]) -> Row:
    asked = [{"from": "human", "value": placeholders(images) + QUESTION}]
    chosen, rejected = ({"from": "gpt", "value": text} for text in (BETTER, WORSE))
    return {"conversations": asked, "chosen": chosen, "rejected": rejected, "images": list(images)}


def llamafactory_roles(images: Sequence[str]) -> Row:
    asked = [{"role": "user", "content": placeholders(images) + QUESTION}]
    chosen, rejected = ({"role": "assistant", "content": text} for text in (BETTER, WORSE))
    return {"messages": asked, "chosen": chosen, "rejected": rejected, "images": list(images)}


def sharegpt(images: Sequence[str]) -> Row:
    turns = [{"from": "human", "value": placeholders(images) + QUESTION}, {"from": "gpt", "value": BETTER}]
    return {"conversations": turns, "images": list(images)}


def alpaca_preference(images: Sequence[str]) -> Row:
    """LLaMA-Factory's other format: the question is the instruction, a new line and the input, here all instruction."""
    asked = placeholders(images) + QUESTION
    return {"instruction": asked, "input": "", "chosen": BETTER, "rejected": WORSE, "images": list(images)}


def alpaca(images: Sequence[str]) -> Row:
    """Without placeholders, as LLaMA-Factory's own example has it."""
    return {"instruction": QUESTION, "input": "", "output": BETTER, "images": list(images)}


def swift(images: Sequence[str]) -> Row:
    asked = placeholders(images).replace("\n", "") + QUESTION
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": BETTER}]
    return {"messages": messages, "rejected_response": WORSE, "images": list(images)}


def swift_messages(images: Sequence[str]) -> Row:
    """The rejected answer behind the conversation once more."""
    row = swift(images)
    answer = {"role": "assistant", "content": row.pop("rejected_response")}
    return row | {"rejected_messages": [*row["messages"][:-1], answer]}


def trl_completion(images: Sequence[str]) -> Row:
    """Prompt and completion, as TRL's SFTTrainer takes them."""
    row = trl(images)
    del row["rejected"]
    return row | {"completion": row.pop("chosen")}


def swift_chat(images: Sequence[str]) -> Row:
    row = swift(images)
    del row["rejected_response"]
    return row


def llava(images: Sequence[str]) -> Row:
    shown = images[0] if len(images) == 1 else list(images)
    return {"id": "000", "image": shown, "conversations": sharegpt(images)["conversations"]}


def internvl_chat(images: Sequence[str]) -> Row:
    asked = {"from": "human", "value": placeholders(images, labelled=True) + QUESTION}
    row = {"id": 0, "conversations": [asked, {"from": "gpt", "value": BETTER}]}
    if len(images) == 1:
        return {**row, "image": images[0], "width": 8, "height": 8}
    return {**row, "image": list(images), "width_list": [8] * len(images), "height_list": [8] * len(images)}


def internvl_preference(images: Sequence[str]) -> Row:
    shown = images[0] if len(images) == 1 else list(images)
    asked = placeholders(images, labelled=True) if len(images) > 1 else ""
    return {"id": 0, "image": shown, "question": asked + QUESTION, "chosen": BETTER, "rejected": WORSE}


def sage_sfe(images: Sequence[str]) -> Row:
    return {**internvl_chat(images), "description": "A part has four corners.\nA square must not be red."}


PREFERENCES: dict[str, Callable[[Sequence[str]], Row]] = {
    "trl": trl,
    "trl_strings": trl_strings,
    "trl_implicit": trl_implicit,
    "llamafactory": llamafactory,
    "llamafactory_roles": llamafactory_roles,
    "alpaca_preference": alpaca_preference,
    "swift": swift,
    "swift_messages": swift_messages,
    "internvl_preference": internvl_preference,
}
CHATS: dict[str, Callable[[Sequence[str]], Row]] = {
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "trl_completion": trl_completion,
    "swift_chat": swift_chat,
    "llava": llava,
    "internvl_chat": internvl_chat,
    "sage_sfe": sage_sfe,
}
