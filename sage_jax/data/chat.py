"""The chat template: where image, comparison embeddings, question and answer stand in the decoder's input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from sage_jax.axes import Bool, Int
from sage_jax.config import TextConfig
from sage_jax.data import tokenizer as tokens

FactsAs = Literal["fusion", "text"]


class ChatError(ValueError):
    """A text or token sequence that the chat template cannot hold; the message names the way out."""


class Chat:
    """Token ids of the parts of a conversation about one image.

        <|im_start|>system\\n{system}<|im_end|>\\n                                  only with text.system
        <|im_start|>user\\n<img><IMG_CONTEXT>...</img>\\n<COMPARISON>...\\n         prefix
        Is there a defect? {assist prompt}<|im_end|>\\n<|im_start|>assistant\\n     question, several to a prefix
        Yes. The cap has a scratch.<|im_end|>                                     answer, several to a question

    Text of questions, answers and facts is plain text: a special token's name inside it stays a string of letters.

    Attributes:
      text: The shapes and prompts.
      vocab_size: Number of token ids.
      pad_id: Id of padding.
      end_id: Id that closes a turn.
      image_id: Placeholder of an image token.
      comparison_id: Placeholder of a comparison embedding.
      verdict_ids: Ids of the words that open a positive ("Yes", "True") and a negative ("No", "False") answer.
    """

    def __init__(self, text: TextConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Checks that the tokenizer has every token of the template.

        Raises:
          ChatError: A special token is missing, or a verdict word is not a single token.
        """
        backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        missing = [name for name in tokens.SPECIAL_TOKENS[1:] if backend.token_to_id(name) is None]
        if missing:
            raise ChatError(f"the tokenizer has no token {', '.join(missing)}: add them as special tokens")
        if tokenizer.pad_token_id is None:
            raise ChatError("the tokenizer has no padding token: set its pad_token")
        self.text = text
        self.vocab_size: int = len(tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
        self.end_id = self._special(backend, tokens.TURN_END)
        self.image_id = self._special(backend, tokens.IMAGE_TOKEN)
        self.comparison_id = self._special(backend, tokens.COMPARISON_TOKEN)
        self._backend = backend
        self._backend.encode_special_tokens = True
        yes, no = (tuple(self._verdict(word) for word in words) for words in (("Yes", "True"), ("No", "False")))
        self.verdict_ids: tuple[tuple[int, ...], tuple[int, ...]] = (yes, no)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backend": self._backend.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backend = tokenizers.Tokenizer.from_str(state["_backend"])
        self._backend.encode_special_tokens = True  # not part of a tokenizer's own form

    def prefix_ids(self, num_image_tokens: int, *, facts: Sequence[str], facts_as: FactsAs) -> Int[np.ndarray, " S"]:
        """Token ids up to the question: system message, image, comparison placeholders or facts.

        Args:
          num_image_tokens: Image tokens of all tiles.
          facts: Fact sentences; those after the first `max_facts` are left out.
          facts_as: `fusion` gives `max_facts` comparison placeholders, however many facts there are; `text` the
            sentences themselves.

        Returns:
          int32.
        """
        system = self.text.system.strip()
        ids = [*self._turn("system", system), self.end_id, *self._encode("\n")] if system else []
        ids += [*self._turn("user", ""), self._special(self._backend, tokens.IMAGE_START)]
        ids += [self.image_id] * num_image_tokens + [self._special(self._backend, tokens.IMAGE_END)]
        if facts_as == "text":
            sentences = " ".join(fact.strip() for fact in facts[: self.text.max_facts])
            return _int32(ids + self._encode(f"\n{sentences}\n" if sentences else "\n"))
        ids += [*self._encode("\n"), *[self.comparison_id] * self.text.max_facts]
        at_prefix = self.text.assist_position == "prefix" and self.text.assist_prompt.strip()
        return _int32(ids + self._encode(f"\n{at_prefix}\n" if at_prefix else "\n"))

    def question_ids(self, question: str, *, facts_as: FactsAs = "fusion") -> Int[np.ndarray, " S"]:
        """Token ids of a question, up to where its answer begins; the assist prompt goes with `fusion` alone."""
        asked = question.strip()
        if facts_as == "fusion" and self.text.assist_position == "question":
            asked = f"{asked} {self.text.assist_prompt.strip()}".strip()
        return _int32([*self._encode(asked), self.end_id, *self._encode("\n"), *self._turn("assistant", "")])

    def answer_ids(self, answer: str) -> Int[np.ndarray, " L"]:
        """Token ids of an answer, closing token included."""
        return _int32([*self._encode(answer.strip()), self.end_id])

    def fact_ids(self, facts: Sequence[str]) -> tuple[Int[np.ndarray, "F J"], Bool[np.ndarray, "F J"]]:
        """Token ids of the fact sentences, 0 where masked, and the mask of real tokens.

        Facts after the first `max_facts` are left out.

        Raises:
          ChatError: A fact is longer than `max_fact_tokens`.
        """
        ids = np.zeros((self.text.max_facts, self.text.max_fact_tokens), np.int32)
        mask = np.zeros(ids.shape, np.bool_)
        for row, fact in enumerate(facts[: self.text.max_facts]):
            encoded = self._encode(fact.strip())
            if len(encoded) > self.text.max_fact_tokens:
                raise ChatError(
                    f"fact {fact!r} has {len(encoded)} tokens: raise text.max_fact_tokens"
                    f" (now {self.text.max_fact_tokens}) or shorten it"
                )
            ids[row, : len(encoded)] = encoded
            mask[row, : len(encoded)] = True
        return ids, mask

    def tokenizer_digest(self) -> str:
        """SHA-256 of the tokenizer: with the template's fields, what decides every token id."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of generated ids, up to the token that closes the turn."""
        kept = [int(i) for i in ids]
        if self.end_id in kept:
            kept = kept[: kept.index(self.end_id)]
        return self._backend.decode(kept, skip_special_tokens=True).strip()

    def _turn(self, role: str, content: str) -> list[int]:
        return [self._special(self._backend, tokens.TURN_START), *self._encode(f"{role}\n{content}")]

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids if text else []

    def _verdict(self, word: str) -> int:
        ids = self._encode(word)
        if len(ids) != 1:
            raise ChatError(f"the tokenizer cuts the verdict word {word!r} into {len(ids)} tokens: add it as a token")
        return ids[0]

    @staticmethod
    def _special(backend: tokenizers.Tokenizer, name: str) -> int:
        found = backend.token_to_id(name)
        if found is None:
            raise ChatError(f"the tokenizer has no token {name}")
        return found


def check_placeholders(
    token_ids: Int[np.ndarray, " S"], chat: Chat, num_image_tokens: int, num_comparison: int, *, record_id: str
) -> None:
    """Checks that a sequence has one placeholder for each embedding that will stand in its place.

    Raises:
      ChatError: The counts differ; the message names the record and both counts.
    """
    wanted = (("image", chat.image_id, num_image_tokens), ("comparison", chat.comparison_id, num_comparison))
    for kind, token_id, number in wanted:
        found = int(np.count_nonzero(token_ids == token_id))
        if found != number:
            raise ChatError(f"record {record_id}: {found} {kind} placeholders for {number} {kind} embeddings")


def chat_template(text: TextConfig) -> str:
    """The template as Jinja, for `tokenizer.apply_chat_template`.

    It renders Hugging Face messages: an optional system message, and user content of an image part and a text part.
    Variables beside the messages: `num_image_tokens`, and `facts` (a list of sentences) for facts as plain text in
    place of comparison placeholders.
    """
    assist = text.assist_prompt.strip()
    at_question = assist if text.assist_position == "question" else ""
    at_prefix = f"\n{assist}" if assist and text.assist_position == "prefix" else ""
    return "".join(
        line.strip()
        for line in f"""
        {{%- if messages[0].role != 'system' and {_literal(text.system.strip())} -%}}
        {{{{ '<|im_start|>system\\n' + {_literal(text.system.strip())} + '<|im_end|>\\n' }}}}
        {{%- endif -%}}
        {{%- for message in messages -%}}
        {{{{ '<|im_start|>' + message.role + '\\n' }}}}
        {{%- if message.content is string -%}}
        {{{{ message.content | trim }}}}
        {{%- else -%}}
        {{%- for part in message.content -%}}
        {{%- if part.type == 'image' -%}}
        {{{{ '<img>' + '<IMG_CONTEXT>' * num_image_tokens + '</img>\\n' }}}}
        {{%- if facts is defined -%}}
        {{%- if facts -%}}{{{{ facts[:{text.max_facts}] | map('trim') | join(' ') + '\\n' }}}}{{%- endif -%}}
        {{%- else -%}}
        {{{{ '<COMPARISON>' * {text.max_facts} + {_literal(at_prefix)} + '\\n' }}}}
        {{%- endif -%}}
        {{%- else -%}}
        {{{{ part.text | trim }}}}
        {{%- if message.role == 'user' and facts is not defined and {_literal(at_question)} -%}}
        {{{{ ' ' + {_literal(at_question)} }}}}
        {{%- endif -%}}
        {{%- endif -%}}
        {{%- endfor -%}}
        {{%- endif -%}}
        {{{{ '<|im_end|>' }}}}
        {{%- if not loop.last or message.role != 'assistant' -%}}{{{{ '\\n' }}}}{{%- endif -%}}
        {{%- endfor -%}}
        {{%- if add_generation_prompt -%}}{{{{ '<|im_start|>assistant\\n' }}}}{{%- endif -%}}
        """.splitlines()
    )


def _int32(ids: list[int]) -> np.ndarray:
    return np.asarray(ids, np.int32)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
