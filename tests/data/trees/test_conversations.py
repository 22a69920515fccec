"""Released conversations, as the tokens of a chat and as they are written out."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.conversations import CONVERSATIONS, OWN, TRANSFORMERS, Conversation
from sage_jax.data.trees.tokenizer import COMPARISON_TOKEN, train_tokenizer
from tests.support.tiny_export import TRAINED_HERE
from tests.support.tiny_tokenizers import CORPUS, qwen_tokenizer, released_form

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


BLANKS = ("  Is it good?", "Is it good?\n", "Is it\n\n good? \n\n", "\tIs it good?  ")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("assist", ["", "Above is the feature."])
def test_blanks_around_a_question_are_kept_as_released(name: str, assist: str) -> None:
    """OpenGVLab's chat puts the question behind `<image>\\n` as it is given, and transformers' template too."""
    talk = NAMED[name]
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(COMPARISON_TOKEN, special_tokens=True)
    chat = Chat(dataclasses.replace(TRAINED_HERE.text, assist_prompt=assist), tokenizer, talk)
    for question in BLANKS:
        ids = [*chat.prefix_ids(0, facts=[], facts_as="text"), *chat.question_ids(question, facts_as="text")]
        asked = f"<img></img>\n{question}"
        released = released_form(talk.system, talk.between, [(asked, None)])
        assert ids == tokenizer.encode(released)
        fused = str(tokenizer.decode(chat.question_ids(question)))
        assert fused.startswith(f"{question} {assist}<|im_end|>" if assist else f"{question}<|im_end|>")
        later = str(tokenizer.decode(chat.follow_up_ids(question, facts_as="text")))
        assert f"user\n{question}<|im_end|>" in later
    after_line = chat.question_ids("\nIs it good?", facts_as="text")
    assert str(tokenizer.decode(after_line)).startswith("\nIs it good?<|im_end|>")


def test_questions_of_models_trained_here_have_no_blanks_around_them() -> None:
    chat = Chat(TRAINED_HERE.text, train_tokenizer([*CORPUS] * 3, 400))
    for question in BLANKS:
        assert chat.question_ids(question).tolist() == chat.question_ids(question.strip()).tolist()
        assert chat.follow_up_ids(question).tolist() == chat.follow_up_ids(question.strip()).tolist()
    for given in ("  Yes. ", "\nYes."):  # answers and facts, in every conversation
        assert chat.answer_ids(given).tolist() == chat.answer_ids("Yes.").tolist()
        assert chat.fact_ids([given])[0].tolist() == chat.fact_ids(["Yes."])[0].tolist()


def test_hashes_of_results_do_not_change_with_blanks_that_no_question_had() -> None:
    assert repr(CONVERSATIONS["internvl2_5"]).endswith("between='\\n', stop_tokens=(), any_spelling=True)")
    assert OWN != Conversation(any_spelling=False)


def test_older_templates_join_turns_and_newer_ones_break_lines() -> None:
    assert {name: talk.between for name, talk in CONVERSATIONS.items()} == {
        "internlm2-chat": "",
        "Hermes-2": "",
        "internvl2_5": "\n",
    }
    assert CONVERSATIONS["Hermes-2"].stop_tokens == ("<|endoftext|>",)
    assert all(talk.system for talk in CONVERSATIONS.values()) and not OWN.system
    assert Conversation().any_spelling and not OWN.any_spelling
