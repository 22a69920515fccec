"""The chat template: layout, verdict tokens, and equality with the Jinja rendering."""

from __future__ import annotations

import pickle
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sage_jax.config import TextConfig
from sage_jax.data.trees.chat import Chat, ChatError, chat_template, check_placeholders
from sage_jax.data.trees.tokenizer import SPECIAL_TOKENS, VERDICT_WORDS, train_tokenizer

FACTS = ("Caps are made of plastic.", " A dent lets air in. ", "Left out.")
QUESTION = " Is there a defect in this cap?\n"
ANSWER = "No. The cap is fine."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([*FACTS, QUESTION, ANSWER, "Above is the feature"] * 3, 400)


def config(**changes: Any) -> TextConfig:
    return TextConfig(**{"max_facts": 2, "max_fact_tokens": 40, **changes})


def shown(tokenizer: PreTrainedTokenizerFast, ids: Any) -> str:
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize("assist_position", ["question", "prefix"])
@pytest.mark.parametrize("assist_prompt", ['Above is the "feature" \\ of the facts.', ""])
@pytest.mark.parametrize("system", ["", 'You inspect parts.\nBe brief: "don\'t" guess. 🔎'])
@pytest.mark.parametrize("facts", [None, FACTS, ()])
def test_rendered_template_tokenises_to_our_ids(
    tokenizer: PreTrainedTokenizerFast, assist_position: str, assist_prompt: str, system: str, facts: Any
) -> None:
    text = config(assist_position=assist_position, assist_prompt=assist_prompt, system=system)
    chat = Chat(text, tokenizer)
    facts_as = "fusion" if facts is None else "text"
    prompt = [
        *chat.prefix_ids(5, facts=facts or FACTS[:0], facts_as=facts_as),
        *chat.question_ids(QUESTION, facts_as=facts_as),
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    ]
    options: dict[str, Any] = {"num_image_tokens": 5, "tokenize": False, "chat_template": chat_template(text)}
    if facts is not None:
        options["facts"] = list(facts)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    assert tokenizer.encode(str(rendered), add_special_tokens=False) == prompt
    messages.append({"role": "assistant", "content": [{"type": "text", "text": ANSWER}]})
    rendered = tokenizer.apply_chat_template(messages, **options)
    assert tokenizer.encode(str(rendered), add_special_tokens=False) == [*prompt, *chat.answer_ids(ANSWER)]


def test_prompt_reads_as_laid_out(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(config(assist_prompt="Above.", system="Hi."), tokenizer)
    ids = [*chat.prefix_ids(3, facts=FACTS, facts_as="fusion"), *chat.question_ids(QUESTION), *chat.answer_ids(ANSWER)]
    assert shown(tokenizer, ids) == (
        "<|im_start|>system\nHi.<|im_end|>\n<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>\n"
        "<COMPARISON><COMPARISON>\nIs there a defect in this cap? Above.<|im_end|>\n<|im_start|>assistant\n"
        "No. The cap is fine.<|im_end|>"
    )
    plain = [*chat.prefix_ids(1, facts=FACTS, facts_as="text"), *chat.question_ids(QUESTION, facts_as="text")]
    assert shown(tokenizer, plain).split("</img>\n")[1] == (
        "Caps are made of plastic. A dent lets air in.\nIs there a defect in this cap?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    at_prefix = Chat(config(assist_prompt="Above.", assist_position="prefix"), tokenizer)
    assert shown(tokenizer, at_prefix.prefix_ids(0, facts=(), facts_as="fusion")).endswith("<COMPARISON>\nAbove.\n")
    assert "Above" not in shown(tokenizer, at_prefix.question_ids(QUESTION))


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_special_tokens_in_user_text_stay_letters(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    chat = pickle.loads(pickle.dumps(Chat(config(max_fact_tokens=99), tokenizer)))
    special = {tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
    trick = f"a{name}b"
    assert not special & set(chat.answer_ids(trick)[:-1].tolist())
    fact_ids, fact_mask = chat.fact_ids([trick])
    assert not special & set(fact_ids[fact_mask].tolist())
    assert chat.question_ids(trick).tolist().count(chat.end_id) == 1
    prefix = chat.prefix_ids(4, facts=[trick], facts_as="text")
    assert np.count_nonzero(prefix == chat.image_id) == 4 and chat.comparison_id not in prefix
    assert chat.decode(chat.answer_ids(trick)) == trick


def test_verdict_ids_open_the_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(config(), tokenizer)
    yes, no = chat.verdict_ids
    assert [chat.answer_ids(f"{word}. Fine.")[0] for word in ("Yes", "True", "No", "False")] == [*yes, *no]
    assert len({*yes, *no}) == 4


def test_fact_ids_are_masked_and_bounded(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(config(max_facts=3), tokenizer)
    ids, mask = chat.fact_ids(FACTS[:2])
    assert ids.shape == mask.shape == (3, 40) and ids.dtype == np.int32
    assert [shown(tokenizer, row[keep]) for row, keep in zip(ids, mask, strict=True)] == [
        FACTS[0],
        FACTS[1].strip(),
        "",
    ]
    assert not ids[~mask].any()
    few, _ = Chat(config(max_facts=1), tokenizer).fact_ids(FACTS)
    np.testing.assert_array_equal(few, ids[:1])
    with pytest.raises(ChatError, match=r"raise text\.max_fact_tokens \(now 40\)"):
        chat.fact_ids(["zqxj " * 30])


def test_texts_that_come_again_are_encoded_once(tokenizer: PreTrainedTokenizerFast) -> None:
    chat, facts = Chat(config(), tokenizer), ["A cap is round."]

    def ids(chat: Chat) -> list[list[int]]:
        prefix = chat.prefix_ids(4, facts=facts, facts_as="text")
        return [prefix.tolist(), chat.question_ids("Where?").tolist(), chat.fact_ids(facts)[0].tolist()]

    first = ids(chat)
    chat._encode("user\n").append(0)  # nobody's list is another's
    chat._backend = MagicMock(token_to_id=chat._backend.token_to_id)
    assert ids(chat) == first
    assert ids(pickle.loads(pickle.dumps(Chat(config(), tokenizer)))) == first


def test_decoding_stops_where_the_turn_closes(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(config(), tokenizer)
    ids = [*chat.answer_ids(ANSWER), *chat.answer_ids("More.")]
    assert chat.decode(ids) == ANSWER
    assert chat.decode(np.array([chat.pad_id, *chat.answer_ids("Café.")[:-1], chat.pad_id])) == "Café."
    assert chat.decode([]) == ""


def test_placeholders_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(config(), tokenizer)
    ids = chat.prefix_ids(5, facts=FACTS, facts_as="fusion")
    check_placeholders(ids, chat, 5, 2, record_id="r7")
    with pytest.raises(ChatError, match="record r7: 5 image placeholders for 4 image embeddings"):
        check_placeholders(ids, chat, 4, 2, record_id="r7")
    with pytest.raises(ChatError, match="record r7: 2 comparison placeholders for 3 comparison embeddings"):
        check_placeholders(ids, chat, 5, 3, record_id="r7")


def test_unfit_tokenizers_are_refused() -> None:
    bare = Tokenizer(models.BPE())
    bare.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL_TOKENS if name != "<COMPARISON>"])
    with pytest.raises(ChatError, match="no token <COMPARISON>"):
        Chat(config(), PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>"))
    bare.add_special_tokens([AddedToken("<COMPARISON>", special=True)])
    with pytest.raises(ChatError, match="no padding token"):
        Chat(config(), PreTrainedTokenizerFast(tokenizer_object=bare))
    with pytest.raises(ChatError, match="verdict word 'Yes' into 0 tokens"):
        Chat(config(), PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>"))
    bare.add_tokens([AddedToken(word, single_word=True) for word in VERDICT_WORDS])
    assert Chat(config(), PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>")).vocab_size == 11


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A cap is round. It may crack.", ("A cap is round.", "It may crack.")),
        ("1. A cap is round.\n2. It may crack.\n3. Then it leaks.", ("A cap is round.", "It may crack.")),
        ("- A cap is round\n- A cap is round\n- It may crack", ("A cap is round",)),
        ("A cap is round. It may cra", ("A cap is round.",)),
        ("A cap", ("A cap",)),
        ("", ()),
    ],
)
def test_facts_that_the_model_writes_are_whole_sentences(
    tokenizer: PreTrainedTokenizerFast, said: str, expected: tuple[str, ...]
) -> None:
    chat = Chat(config(), tokenizer)
    assert chat.written_facts(chat.answer_ids(said)) == expected


def test_written_facts_always_fit_the_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Chat(config(max_fact_tokens=5), tokenizer)
    (cut,) = chat.written_facts(chat.answer_ids("A cap is made of plastic that dents 🔎🔎 and scratches easily."))
    assert cut and "A cap is made of plastic".startswith(cut[:5])
    assert chat.fact_ids([cut])[1].sum() <= 5
