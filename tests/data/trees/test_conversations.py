"""Released conversations, as the tokens of a chat and as they are written out."""

from __future__ import annotations

import pytest

from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.conversations import CONVERSATIONS, OWN, TRANSFORMERS, Conversation
from sage_jax.data.trees.tokenizer import COMPARISON_TOKEN
from tests.support.tiny_export import TRAINED_HERE
from tests.support.tiny_tokenizers import qwen_tokenizer, released_form

NAMED = {"transformers": TRANSFORMERS, **CONVERSATIONS}


@pytest.mark.parametrize("name", NAMED)
def test_a_prompt_is_written_as_released(name: str) -> None:
    talk = NAMED[name]
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(COMPARISON_TOKEN, special_tokens=True)
    chat = Chat(TRAINED_HERE.text, tokenizer, talk)
    ids = [*chat.prefix_ids(0, facts=[], facts_as="text"), *chat.question_ids("Is it good?", facts_as="text")]
    said = str(tokenizer.decode(ids))
    written = released_form(talk.system, talk.between, [("Is it good?", None)])
    assert said.replace("<img></img>\n", "").replace("<img></img>", "") == written


def test_older_templates_join_turns_and_newer_ones_break_lines() -> None:
    assert {name: talk.between for name, talk in CONVERSATIONS.items()} == {
        "internlm2-chat": "",
        "Hermes-2": "",
        "internvl2_5": "\n",
    }
    assert CONVERSATIONS["Hermes-2"].stop_tokens == ("<|endoftext|>",)
    assert all(talk.system for talk in CONVERSATIONS.values()) and not OWN.system
    assert Conversation().any_spelling and not OWN.any_spelling
