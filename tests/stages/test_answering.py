"""The decoding that a config asks for."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.config import Config, ConfigError, DecodingConfig, EvaluateConfig
from sage_jax.data.adpl.preferences import PLACES
from sage_jax.data.trees.chat import Chat, chat_template
from sage_jax.data.trees.tokenizer import train_tokenizer
from sage_jax.stages.answering import make_decoding
from tests.support.inspection_records import TEXT


def chat_of(corpus: list[str]) -> Chat:
    """A chat whose tokenizer was trained on a corpus of hardly more than its own words."""
    roles = [f"{role}\nYes. No. True. False." for role in ("system", "user", "assistant")]
    tokenizer = train_tokenizer([*roles, *corpus * 20], 512)
    tokenizer.chat_template = chat_template(TEXT)
    return Chat(TEXT, tokenizer)


def config_of(map_places: float = 0.0) -> Config:
    return dataclasses.replace(Config(), evaluate=EvaluateConfig(decoding=DecodingConfig(map_places=map_places)))


def test_the_words_of_places_are_found_where_the_map_has_a_weight() -> None:
    chat = chat_of([f"There is a scratch at the {place}." for place in PLACES])
    found = make_decoding(config_of(map_places=0.5), chat, None)
    assert found.map_places == 0.5 and [len(ids) for ids in found.place_ids] == [2, 1, 2, 1, 1, 1, 2, 1, 2]
    assert [chat.decode(list(ids)).strip() for ids in found.place_ids] == list(PLACES)
    assert make_decoding(config_of(), chat, None).place_ids == ()


def test_a_tokenizer_that_cuts_these_words_cannot_leave_them_to_the_map() -> None:
    chat = chat_of(["There is a scratch somewhere."])
    with pytest.raises(ConfigError, match=r"map_places: the tokenizer writes 'upper left' in \d+ tokens"):
        make_decoding(config_of(map_places=1.0), chat, None)
    assert make_decoding(config_of(), chat, None).map_places == 0.0
