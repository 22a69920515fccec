"""The trained tokenizer: reversible, deterministic, verdict words whole."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sage_jax.data.trees.tokenizer import SPECIAL_TOKENS, VERDICT_WORDS, load_tokenizer, save_tokenizer, train_tokenizer
from sage_jax.errors import UserError
from tests.campaign.mutate import damage

CORPUS = [f"The {thing} has a {flaw} at the {place}." for thing in ("cap", "bottle") for flaw in ("dent", "scratch")
          for place in ("left", "upper right")]  # fmt: skip


@functools.cache
def train_once() -> PreTrainedTokenizerFast:
    return train_tokenizer(CORPUS, 320)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_once()


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_unchanged(text: str) -> None:
    trained = train_once()
    ids = trained.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert trained.decode(ids) == text


@pytest.mark.parametrize("word", VERDICT_WORDS)
@pytest.mark.parametrize("rest", ["", ".", ". The cap has a dent.", ", because", "\n", " dent"])
@pytest.mark.parametrize("seen", [0, 50])
def test_answer_opens_with_one_verdict_token(word: str, rest: str, seen: int) -> None:
    trained = train_tokenizer([*CORPUS, *[f"{word}. {word}, {word}s"] * seen], 300)
    ids = trained.encode(word + rest, add_special_tokens=False)
    assert trained.decode(ids[:1]) == word
    after_newline = trained.encode(f"assistant\n{word}{rest}", add_special_tokens=False)
    assert after_newline[-len(ids) :] == ids


def test_verdict_words_inside_longer_words_stay_text(tokenizer: PreTrainedTokenizerFast) -> None:
    verdicts = {tokenizer.get_vocab()[word] for word in VERDICT_WORDS}
    assert len(verdicts) == 4
    for text in ("Nothing", "Yesterday", "Truest", "casFalse", "Norm"):
        assert not verdicts & set(tokenizer.encode(text, add_special_tokens=False))


def test_same_corpus_gives_the_same_tokenizer_and_another_corpus_another() -> None:
    trained = [train_tokenizer(texts, 320).backend_tokenizer.to_str() for texts in (CORPUS, CORPUS, CORPUS[:1])]
    assert trained[0] == trained[1] != trained[2]


def test_special_tokens_are_single_and_padding_is_0(tokenizer: PreTrainedTokenizerFast) -> None:
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer) <= 320


def test_merges_shorten_the_corpus(tokenizer: PreTrainedTokenizerFast) -> None:
    smallest = train_tokenizer(CORPUS, 267)
    assert len(smallest) == 267
    text = CORPUS[-1]
    assert len(tokenizer.encode(text)) < len(smallest.encode(text)) == len(text)


def test_saved_tokenizer_loads_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tokenizer"
    save_tokenizer(tokenizer, folder)
    loaded = load_tokenizer(folder)
    text = "Yes. <|im_end|>é The cap\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.pad_token_id, loaded.eos_token_id, len(loaded)) == (0, tokenizer.eos_token_id, len(tokenizer))
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]


def test_a_second_save_keeps_the_first_and_a_failed_one_leaves_nothing(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tokenizer(tokenizer, tmp_path / "kept")
    save_tokenizer(train_tokenizer(CORPUS[:1], 280), tmp_path / "kept")
    assert len(load_tokenizer(tmp_path / "kept")) == len(tokenizer)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(OSError, match="no space"):
        save_tokenizer(tokenizer, tmp_path / "failed")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"text\.vocab_size = 266.*267"):
        train_tokenizer(CORPUS, 266)


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped", "deleted"])
def test_a_damaged_tokenizer_is_told(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, how: str) -> None:
    folder, rng = tmp_path / "tokenizer", random.Random(how)
    save_tokenizer(tokenizer, folder)
    for path in sorted(folder.iterdir()):
        before = path.read_bytes()
        content = damage(before, how, rng)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{re.escape(str(folder))}.*: damaged.*Bring it back from a copy"):
            load_tokenizer(folder)
        path.write_bytes(before)
