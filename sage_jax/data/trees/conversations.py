"""How published models write a conversation down: system message, what stands between turns, stop tokens."""

from __future__ import annotations

import dataclasses
from typing import Final

_FIRST_SYSTEM: Final = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_SECOND_SYSTEM: Final = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation of turns `<|im_start|>{role}\\n{message}<|im_end|>{between}`, roles system, user and assistant.

    Attributes:
      system: System message as released; "" = no such turn.
      between: What stands between a turn's closing token and the next turn.
      stop_tokens: Tokens that close an answer beside `<|im_end|>`, where the tokenizer has them.
      any_spelling: Whether an answer may open with another spelling of its verdict than "Yes", "No", "True", "False".
        A tokenizer that was trained here has one token for each of these; one of a language model has several.
      as_given: Whether blanks around a question are part of it, as in OpenGVLab's `chat` and transformers' templates;
        else they are taken off. Data sets are read without them, so that no training has any.
    """

    system: str = ""
    between: str = "\n"
    stop_tokens: tuple[str, ...] = ()
    any_spelling: bool = True
    # Not in the repr, of which hashes of results are made: those are of questions without blanks and stay as they are.
    as_given: bool = dataclasses.field(default=True, repr=False)


OWN: Final = Conversation(any_spelling=False, as_given=False)
"""Of models trained here from scratch."""

TRANSFORMERS: Final = Conversation()
"""Of transformers' InternVL where the tokenizer has no template: that of its converted checkpoints."""

CONVERSATIONS: Final[dict[str, Conversation]] = {
    "internlm2-chat": Conversation(_FIRST_SYSTEM, between=""),
    "Hermes-2": Conversation(_FIRST_SYSTEM, between="", stop_tokens=("<|endoftext|>",)),
    "internvl2_5": Conversation(_SECOND_SYSTEM),
}
"""By `template` of config.json, from OpenGVLab's conversation.py: InternVL2 with InternLM2, with Yi or Qwen2, and from
InternVL 2.5 on, 3.5 included, all sizes."""
