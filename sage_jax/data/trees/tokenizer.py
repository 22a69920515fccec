"""The tokenizer of from-scratch models: byte-level BPE trained on the corpus, kept in Hugging Face form."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol, cast

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sage_jax.config import ConfigError
from sage_jax.errors import UserError
from sage_jax.process.checksums import damaged, write_checksums
from sage_jax.process.files import temporary_folder
from sage_jax.verdict import CHINESE_NO, CHINESE_YES, Language

PAD: Final = "<pad>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
IMAGE_START: Final = "<img>"
IMAGE_END: Final = "</img>"
IMAGE_TOKEN: Final = "<IMG_CONTEXT>"
COMPARISON_TOKEN: Final = "<COMPARISON>"
TEMPLATE_TOKENS: Final = (TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE_TOKEN, COMPARISON_TOKEN)
SPECIAL_TOKENS: Final = (PAD, *TEMPLATE_TOKENS)
VERDICT_WORDS: Final = ("Yes", "No", "True", "False")
_WORDS: Final[dict[Language, tuple[str, ...]]] = {
    "en": VERDICT_WORDS,
    "zh": (*VERDICT_WORDS, *CHINESE_YES, *CHINESE_NO),
}

VERSION: Final = 1
"""Raised with every change that gives other tokens for the same corpus."""

_NUM_BYTES = 256


class TokenizerSteps(Protocol):
    """The steps of a tokenizer around its model, which can be set (tokenizers' type stubs show them read-only)."""

    normalizer: Any
    pre_tokenizer: Any
    decoder: Any
    post_processor: Any


def steps_of(tokenizer: tokenizers.Tokenizer) -> TokenizerSteps:
    """The tokenizer, as the steps that can be set."""
    return cast(TokenizerSteps, tokenizer)


def train_tokenizer(texts: Iterable[str], vocab_size: int, language: Language = "en") -> PreTrainedTokenizerFast:
    """Byte-level BPE of a corpus, with the chat's special tokens and one token for each verdict word.

    Any text can be encoded and comes back unchanged. The same texts in the same order give the same tokenizer. "Yes",
    "No", "True" and "False" are single tokens wherever they stand as whole words, whatever the corpus holds: an
    answer's first token is its verdict. Under `zh` so are the Chinese ones (sage_jax/verdict.py).

    Args:
      texts: The corpus.
      vocab_size: Most tokens, special ones included; a small corpus gives fewer.
      language: What the corpus is written in.

    Returns:
      A tokenizer with `<pad>` as id 0 and `<|im_end|>` as end of turn.

    Raises:
      ConfigError: `vocab_size` is too small for bytes and special tokens.
    """
    words = _WORDS[language]
    least = _NUM_BYTES + len(SPECIAL_TOKENS) + len(words)
    if vocab_size < least:
        raise ConfigError(
            f"text.vocab_size = {vocab_size}: bytes, special tokens and verdict words alone take {least}; give more"
        )
    bpe = tokenizers.Tokenizer(models.BPE())
    steps = steps_of(bpe)
    steps.pre_tokenizer, steps.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(words),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    # As added tokens, not as merges: a merge exists only if the corpus has the word often enough.
    bpe.add_tokens([tokenizers.AddedToken(word, single_word=True, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=TURN_END,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD, TURN_END)],
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the tokenizer in Hugging Face form; the folder appears whole or not at all, and one there is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_folder(folder)
    try:
        tokenizer.save_pretrained(str(partial))
        write_checksums(partial)
        os.rename(partial, folder)
    except OSError:
        # Another process was first: its tokenizer comes from the same corpus.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `save_tokenizer` wrote; nothing is fetched.

    Raises:
      UserError: A file of it is damaged.
    """
    bad = damaged(folder, listed=True)
    try:
        if not bad:
            return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises errors of many kinds
        raise _damaged(folder, f"it cannot be read: {error}") from error
    raise _damaged(folder / bad[0], "it is not as it was written")


def missing_tokenizer(folder: Path) -> UserError:
    """The error of a run that lacks the tokenizer with which its stages were trained."""
    return UserError(f"{folder}: there is no such folder, beside stages that were trained with its tokens. {_BACK}")


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: damaged: {why}. {_BACK}")


_BACK: Final = (
    "Bring it back from a copy; a run's tokenizer is also in the folder `tokenizer-...` of its data set below "
    "data.cache_dir"
)
