"""The chat template: where image, comparison embeddings, question and answer stand in the decoder's input."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import tokenizers
from transformers import PreTrainedTokenizerFast

from sage_jax.axes import Bool, Int
from sage_jax.config import TextConfig
from sage_jax.data.trees import tokenizer as tokens
from sage_jax.data.trees.claims import Span, claim_spans, overlapping
from sage_jax.data.trees.conversations import OWN, Conversation
from sage_jax.data.trees.languages import FACTS_QUESTIONS, chinese_verdict_ids, sentences
from sage_jax.errors import UserError
from sage_jax.verdict import Language

FactsAs = Literal["fusion", "text"]

NO_SYSTEM: Final = "none"
"""`text.system` that leaves a published system message out."""

_REMEMBERED: Final = 1024
"""Texts whose token ids are kept."""


class ChatError(UserError):
    """A text or token sequence that the chat template cannot hold; the message names the way out."""


class Chat:
    """Token ids of the parts of a conversation about one image.

        <|im_start|>system\\n{system}<|im_end|>\\n                                  only with a system message
        <|im_start|>user\\n<img><IMG_CONTEXT>...</img>\\n<COMPARISON>...\\n         prefix
        Is there a defect? {assist prompt}<|im_end|>\\n<|im_start|>assistant\\n     question, several to a prefix
        Yes. The cap has a scratch.<|im_end|>                                     answer, several to a question
        \\n<|im_start|>user\\nWhere? {assist prompt}<|im_end|>\\n<|im_start|>...      follow-up, after an answer

    Where the reference stands in the prompt too, both images are named: `Image-1: <img>...</img>\\nImage-2: <img>...`,
    the test image first. Published conversations have their own system message and what stands between turns.

    Text of questions, answers and facts is plain text: a special token's name inside it stays a string of letters.

    Attributes:
      text: The shapes and prompts.
      vocab_size: Number of token ids.
      pad_id: Id of padding.
      end_id: Id that closes a turn.
      stop_ids: Ids at which an answer ends; `end_id` is the first.
      image_id: Placeholder of an image token.
      comparison_id: Placeholder of a comparison embedding.
      language: What questions and answers are written in.
      verdict_ids: Ids that open a positive ("Yes", "True") and a negative ("No", "False") answer; under `zh`, those of
        Chinese words alone (languages.py).
      opening_ids: What the tokenizer itself puts before a text.
    """

    def __init__(
        self,
        text: TextConfig,
        tokenizer: PreTrainedTokenizerFast,
        conversation: Conversation = OWN,
        stop_ids: Sequence[int] = (),
        language: Language = "en",
    ) -> None:
        """Checks that the tokenizer has every token of the template.

        Args:
          text: The shapes and prompts.
          tokenizer: Has the special tokens of the template.
          conversation: How turns are written down.
          stop_ids: Further ids at which an answer ends.
          language: What questions and answers are written in.

        Raises:
          ChatError: A special token is missing, or the tokenizer does not tell the verdict words apart.
        """
        backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        missing = [name for name in tokens.TEMPLATE_TOKENS if backend.token_to_id(name) is None]
        if missing:
            raise ChatError(f"the tokenizer has no token {', '.join(missing)}: add them as special tokens")
        pad_id = tokenizer.pad_token_id
        if not isinstance(pad_id, int):
            raise ChatError("the tokenizer has no padding token: set its pad_token")
        self.text, self.conversation = text, conversation
        self.language: Language = language
        self.vocab_size: int = max(backend.get_vocab().values()) + 1
        self.pad_id = pad_id
        self.end_id = self._special(backend, tokens.TURN_END)
        stops = [backend.token_to_id(name) for name in conversation.stop_tokens]
        closing = (self.end_id, *(found for found in stops if found is not None), *stop_ids)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(closing))
        self.image_id = self._special(backend, tokens.IMAGE_TOKEN)
        self.comparison_id = self._special(backend, tokens.COMPARISON_TOKEN)
        # InternLM2 and Llama begin with <s>, Qwen with nothing.
        alone, opened = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
        self.opening_ids: list[int] = opened[: opened.index(alone[0])] if alone else []
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._remember()
        if language == "zh":
            yes, no = self._chinese_verdicts()
        else:
            yes, no = (self._verdicts(words) for words in (("Yes", "True"), ("No", "False")))
        if both := set(yes) & set(no):
            raise ChatError(f"the tokenizer opens positive and negative answers with the same tokens, {sorted(both)}")
        self.verdict_ids: tuple[tuple[int, ...], tuple[int, ...]] = (yes, no)

    def _remember(self) -> None:
        """Keeps the last encodings: template, questions and facts are the same for image after image."""
        self._encoded = functools.lru_cache(_REMEMBERED)(self._encoded_anew)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_encoded"}
        return {**state, "_backend": self._backend.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backend = tokenizers.Tokenizer.from_str(state["_backend"])
        self._backend.encode_special_tokens = True  # not part of a tokenizer's own form
        self._remember()

    @property
    def system(self) -> str:
        """The system message; "" = none."""
        return _system_message(self.text, self.conversation)

    def special_id(self, name: str) -> int:
        """Id of a special token of the template."""
        return self._special(self._backend, name)

    def prefix_ids(
        self, num_image_tokens: int, *, facts: Sequence[str], facts_as: FactsAs, num_reference_tokens: int = 0
    ) -> Int[np.ndarray, " S"]:
        """Token ids up to the question: system message, images, comparison placeholders or facts.

        Args:
          num_image_tokens: Image tokens of all tiles.
          facts: Fact sentences; those after the first `max_facts` are left out.
          facts_as: `fusion` gives `max_facts` comparison placeholders, however many facts there are; `text` the
            sentences themselves.
          num_reference_tokens: Image tokens of the reference, where it stands in the prompt too.

        Returns:
          int32.
        """
        system = self.system
        between = self._encode(self.conversation.between)
        ids = [*self.opening_ids, *([*self._turn("system", system), self.end_id, *between] if system else [])]
        if num_reference_tokens:
            ids += [*self._turn("user", "Image-1: "), *self._image(num_image_tokens)]
            ids += [*self._encode("\nImage-2: "), *self._image(num_reference_tokens)]
        else:
            ids += [*self._turn("user", ""), *self._image(num_image_tokens)]
        if facts_as == "text":
            sentences = " ".join(fact.strip() for fact in facts[: self.text.max_facts])
            return _int32(ids + self._encode(f"\n{sentences}\n" if sentences else "\n"))
        ids += [*self._encode("\n"), *[self.comparison_id] * self.text.max_facts]
        at_prefix = self.text.assist_position == "prefix" and self.text.assist_prompt.strip()
        return _int32(ids + self._encode(f"\n{at_prefix}\n" if at_prefix else "\n"))

    def question_ids(self, question: str, *, facts_as: FactsAs = "fusion") -> Int[np.ndarray, " S"]:
        """Token ids of a question, up to where its answer begins; the assist prompt goes with `fusion` alone.

        Published conversations keep the blanks around it. A new line at its beginning has tokens of its own, since the
        prefix ends with one: the released code may have a token for both.
        """
        return _int32(self._asked(question, facts_as, after="\n"))

    def follow_up_ids(self, question: str, *, facts_as: FactsAs = "fusion") -> Int[np.ndarray, " S"]:
        """Token ids of a question after an answer: from the token that closes the answer to where the next begins."""
        opened = [self.end_id, *self._encode(self.conversation.between), *self._turn("user", "")]
        return _int32(opened + self._asked(question, facts_as, after="user\n"))

    def answer_ids(self, answer: str) -> Int[np.ndarray, " L"]:
        """Token ids of an answer, closing token included."""
        return _int32([*self._encode(answer.strip(), after="assistant\n"), self.end_id])

    def answer_claims(self, answer: str, names: re.Pattern[str] | None) -> Bool[np.ndarray, " L"]:
        """True at the tokens of `answer_ids` that carry the verdict or a name (data/trees/claims.py)."""
        text = answer.strip()
        _, offsets = self._encoded(text, after="assistant\n")
        return np.append(overlapping(offsets, claim_spans(text, names, self.language)), False)

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

    def name_ids(self, names: Sequence[str], *, length: int) -> Int[np.ndarray, "_ J"]:
        """Token ids of names as they stand inside a sentence; -1 behind a name's last, cut at `length`."""
        ids = np.full((len(names), length), -1, np.int32)
        for row, name in enumerate(names):
            encoded = self._encode(f" {' '.join(name.split())}", after="a")[:length]
            ids[row, : len(encoded)] = encoded
        return ids

    def facts_question(self, prompt: str = "") -> str:
        """What the model is asked for the facts of an image, by a prompt or our own in the run's language."""
        return (prompt or FACTS_QUESTIONS[self.language]).format(number=self.text.max_facts)

    def written_facts(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """The fact sentences of an answer to `facts_question`, see `facts_in`."""
        return self.facts_in(self.decode(ids))

    def facts_in(self, text: str) -> tuple[str, ...]:
        """The fact sentences of a text: the first `max_facts`, bullets, numbers and markdown's stars taken off.

        A last sentence without an end is left out behind others; one of more than `max_fact_tokens` is cut.
        """
        text = re.sub(r"(?m)^\s*(?:[-*•]|\d+[.)])\s+", "", text).replace("**", "")
        kept = []
        for sentence in dict.fromkeys(sentences(text, self.language)):
            encoded = self._encode(sentence)
            while len(encoded) > self.text.max_fact_tokens:  # cut, it may be spelt with more tokens
                sentence = self._backend.decode(encoded[: self.text.max_fact_tokens]).strip()[: len(sentence) - 1]
                if self.language == "zh":
                    sentence = sentence.rstrip("\ufffd")  # a piece of a character
                encoded = self._encode(sentence)
            kept += [sentence] if sentence else []
        return tuple(kept[: self.text.max_facts])

    def tokenizer_digest(self) -> str:
        """SHA-256 of tokenizer and conversation: with the template's fields, what decides every token id."""
        published = "" if self.conversation == OWN else repr(self.conversation)
        return hashlib.sha256((self._backend.to_str() + published).encode()).hexdigest()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of generated ids, up to the token that closes the turn."""
        kept = list(itertools.takewhile(lambda token: token not in self.stop_ids, map(int, ids)))
        return self._backend.decode(kept, skip_special_tokens=True).strip()

    def _turn(self, role: str, content: str) -> list[int]:
        return [self._special(self._backend, tokens.TURN_START), *self._encode(f"{role}\n{content}")]

    def _image(self, num_tokens: int) -> list[int]:
        start, end = (self._special(self._backend, name) for name in (tokens.IMAGE_START, tokens.IMAGE_END))
        return [start, *[self.image_id] * num_tokens, end]

    def _asked(self, question: str, facts_as: FactsAs, after: str) -> list[int]:
        asked = question if self.conversation.as_given else question.strip()
        assist = self.text.assist_prompt.strip()
        if assist and facts_as == "fusion" and self.text.assist_position == "question":
            asked = f"{asked} {assist}" if asked else assist
        between = self._encode(self.conversation.between)
        return [*self._encode(asked, after=after), self.end_id, *between, *self._turn("assistant", "")]

    def _encode(self, text: str, after: str = "") -> list[int]:
        """Ids of a text that goes on from another: SentencePiece opens a text that stands alone with a space."""
        return list(self._encoded(text, after)[0])

    def _encoded_anew(self, text: str, after: str) -> tuple[Sequence[int], Sequence[Span]]:
        """The ids, and the range of the text's characters that each stands for."""
        if not text:
            return (), ()
        before = self._backend.encode(after, add_special_tokens=False).ids if after else []
        whole = self._backend.encode(after + text, add_special_tokens=False)
        if whole.ids[: len(before)] != before:
            alone = self._backend.encode(text, add_special_tokens=False)
            return tuple(alone.ids), tuple(alone.offsets)
        ranges = [(start - len(after), end - len(after)) for start, end in whole.offsets[len(before) :]]
        return tuple(whole.ids[len(before) :]), tuple(ranges)

    def _verdicts(self, words: Sequence[str]) -> tuple[int, ...]:
        """Ids that open an answer with one of the words: each word's first, and those of spellings that are one token.

        Another spelling counts only whole: cut into pieces, its first one opens other words as well.
        """
        found: list[int] = []
        for word in words:
            ids = self._encode(word, after="assistant\n")
            if not ids or (len(ids) > 1 and not self.conversation.any_spelling):
                raise ChatError(
                    f"the tokenizer cuts the verdict word {word!r} into {len(ids)} tokens: add it as a token"
                )
            found.append(ids[0])
            if self.conversation.any_spelling:
                cases = (word, word.lower(), word.upper())
                encoded = [self._encode(space + case, after="assistant\n") for case in cases for space in ("", " ")]
                found += [spelling[0] for spelling in encoded if len(spelling) == 1]
        return tuple(dict.fromkeys(found))

    def _chinese_verdicts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        yes, no, lost = chinese_verdict_ids(
            lambda word: self._encode(word, after="assistant\n"), lambda ids: self._backend.decode(list(ids))
        )
        if lost:
            raise ChatError(
                f"the tokenizer cannot tell the Chinese verdicts {', '.join(lost)} from other words by their first "
                "token: start from a model whose tokenizer was trained on Chinese, or set data.language to en"
            )
        return yes, no

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
    """The template of models trained here as Jinja, for `tokenizer.apply_chat_template`; of one image.

    It renders Hugging Face messages: an optional system message, and user content of an image part and a text part.
    Variables beside the messages: `num_image_tokens`, and `facts` (a list of sentences) for facts as plain text in
    place of comparison placeholders.
    """
    assist, system = text.assist_prompt.strip(), _system_message(text, OWN)
    at_question = assist if text.assist_position == "question" else ""
    at_prefix = f"\n{assist}" if assist and text.assist_position == "prefix" else ""
    return "".join(
        line.strip()
        for line in f"""
        {{%- if messages[0].role != 'system' and {_literal(system)} -%}}
        {{{{ '<|im_start|>system\\n' + {_literal(system)} + '<|im_end|>\\n' }}}}
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


def _system_message(text: TextConfig, conversation: Conversation) -> str:
    given = text.system.strip()
    return conversation.system if not given else "" if given == NO_SYSTEM else given


def _int32(ids: list[int]) -> np.ndarray:
    return np.asarray(ids, np.int32)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
