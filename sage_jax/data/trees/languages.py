"""What a run says in its own language: assist prompt, question for facts, sentences of facts, tokens of verdicts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Final

from sage_jax.config import TextConfig
from sage_jax.verdict import CHINESE_NO, CHINESE_YES, Language

ASSIST_PROMPTS: Final[dict[Language, str]] = {
    "en": TextConfig.assist_prompt,
    "zh": "以上是与异常事实相关的特征。",
}
"""By language: `text.assist_prompt` where the config does not give another."""

FACTS_QUESTIONS: Final[dict[Language, str]] = {
    "en": (
        "Write {number} short sentences about this object: what it is, which anomalies this kind of object tends to "
        "show, and what they would do."
    ),
    "zh": "请用{number}个简短的句子描述这个物体：它是什么，这类物体容易出现哪些异常，这些异常会造成什么后果。",
}
"""By language: how the model is asked for the facts of an image (SFE, step 1)."""

_ENDS: Final[dict[Language, str]] = {"en": ".!?", "zh": ".!?。！？"}
_BETWEEN: Final[dict[Language, str]] = {"en": r"(?<=[.!?])\s+|\n+", "zh": r"(?<=[.!?])\s+|(?<=[。！？])|\n+"}
_MUST_TELL: Final = (("是",), ("否", "不"))
"""Words of a positive and of a negative answer without whose tokens a score would say nothing."""


def in_language(text: TextConfig, language: Language) -> TextConfig:
    """The text config with the assist prompt of a language, unless it gives a prompt of its own, or none."""
    if text.assist_prompt not in ASSIST_PROMPTS.values():
        return text
    return dataclasses.replace(text, assist_prompt=ASSIST_PROMPTS[language])


def sentences(text: str, language: Language) -> list[str]:
    """The sentences of a text; a last one without an end is left out behind others."""
    found = [part.strip() for part in re.split(_BETWEEN[language], text) if part.strip()]
    if len(found) > 1 and found[-1][-1] not in _ENDS[language]:
        found.pop()
    return found


def chinese_verdict_ids(
    encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Ids that open a positive and a negative Chinese answer.

    A word gives its first token, if that is whole characters of it and opens no word of the other side: byte-level
    tokenizers cut rare characters, and the first byte of one opens many others.

    Args:
      encode: Ids of a word where an answer begins.
      decode: Text of ids.

    Returns:
      Ids of both sides, each once, in the order of `CHINESE_YES` and `CHINESE_NO`; and the words that they would have
      to tell apart and do not, none where the tokenizer does.
    """
    sides: list[dict[str, int]] = []
    for words in (CHINESE_YES, CHINESE_NO):
        firsts = {word: list(encode(word))[:1] for word in words}
        opened = {word: (decode(first).strip(), first) for word, first in firsts.items()}
        sides.append({word: first[0] for word, (said, first) in opened.items() if said and word.startswith(said)})
    shared = set(sides[0].values()) & set(sides[1].values())
    yes, no = ({word: first for word, first in side.items() if first not in shared} for side in sides)
    lost = [word for side, words in zip((yes, no), _MUST_TELL, strict=True) for word in words if word not in side]
    return tuple(dict.fromkeys(yes.values())), tuple(dict.fromkeys(no.values())), tuple(lost)
