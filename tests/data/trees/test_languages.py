"""What a Chinese run says in Chinese, and the tokens that tell its verdicts apart."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from sage_jax.config import TextConfig
from sage_jax.data.trees.chat import Chat, ChatError
from sage_jax.data.trees.claims import claim_spans
from sage_jax.data.trees.conversations import CONVERSATIONS, OWN
from sage_jax.data.trees.languages import ASSIST_PROMPTS, FACTS_QUESTIONS, chinese_verdict_ids, in_language, sentences
from sage_jax.data.trees.tokenizer import COMPARISON_TOKEN, train_tokenizer
from sage_jax.verdict import CHINESE_NO, CHINESE_YES
from tests.support.tiny_tokenizers import CORPUS, qwen_tokenizer

TEXT = TextConfig(max_facts=2, max_fact_tokens=12)
SAID = ("是的，左上角有划痕。", "没有。", "不，与参考图一致。", "否", "对。", "这个零件是否有缺陷？")
LEARNT = ("是 是的 否 不 不是 没有 没 有 无 对 会 能 正确 错误", *SAID)


def published(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a published model that has learnt from the words."""
    tokenizer = qwen_tokenizer(620, words=(*CORPUS, *words))
    tokenizer.add_tokens(COMPARISON_TOKEN, special_tokens=True)
    return tokenizer


def test_the_default_prompt_is_in_the_language_and_another_stays() -> None:
    assert in_language(TEXT, "en") == TEXT
    chinese = in_language(TEXT, "zh")
    assert chinese == dataclasses.replace(TEXT, assist_prompt=ASSIST_PROMPTS["zh"]) == in_language(chinese, "zh")
    assert in_language(chinese, "en") == TEXT
    for given in ("", "看上面。"):
        own = dataclasses.replace(TEXT, assist_prompt=given)
        assert in_language(own, "zh") == own


def test_sentences_end_where_their_language_ends_them() -> None:
    assert sentences("瓶盖是塑料的。它会变形！然后", "zh") == ["瓶盖是塑料的。", "它会变形！"]
    assert sentences("瓶盖是塑料的", "zh") == ["瓶盖是塑料的"]
    assert sentences("One. Two! Thr", "en") == ["One.", "Two!"]
    assert sentences("一。二。", "en") == ["一。二。"], "as English runs always read it"


@pytest.mark.parametrize("any_spelling", [True, False])
def test_verdict_ids_are_those_that_open_chinese_answers(any_spelling: bool) -> None:
    """Of a published tokenizer, and of one trained here, which has each word whole wherever it has seen it or not."""
    talk = CONVERSATIONS["internvl2_5"] if any_spelling else OWN
    tokenizer = published(*LEARNT) if any_spelling else train_tokenizer(["Yes."], 330, "zh")
    chat = pickle.loads(pickle.dumps(Chat(TEXT, tokenizer, talk, language="zh")))
    yes, no = map(set, chat.verdict_ids)
    assert yes and no and not yes & no
    for answer, opened in {"是的，有划痕。": yes, "对。": yes, "没有。": no, "不，一致。": no, "否": no}.items():
        assert chat.answer_ids(answer)[0] in opened
    assert chat.decode([sorted(yes)[0]]) in "".join(CHINESE_YES)
    english = Chat(TEXT, tokenizer, talk)
    assert not {*english.verdict_ids[0], *english.verdict_ids[1]} & (yes | no)
    assert english.language == "en" and chat.language == "zh"


def test_own_tokenizers_have_chinese_verdicts_whole_and_pieces_of_words_not() -> None:
    tokenizer = train_tokenizer(SAID, 330, "zh")
    for word in (*CHINESE_YES, *CHINESE_NO):
        first, *_ = tokenizer.encode(f"{word}，好")
        assert tokenizer.decode([first]) == word
        assert tokenizer.convert_ids_to_tokens(tokenizer.encode(f"{word}甲"))[0] != word, "the front of another word"
    assert "是的" not in train_tokenizer(SAID, 330).get_vocab()


def test_tokenizers_that_cut_characters_are_refused() -> None:
    for tokenizer, talk, words in (
        (published(), CONVERSATIONS["internvl2_5"], "否, 不"),  # the corpus of the tests has 是
        (train_tokenizer(["Yes."], 300), OWN, "是, 否, 不"),
    ):
        with pytest.raises(ChatError, match=f"cannot tell the Chinese verdicts {words} from other words"):
            Chat(TEXT, tokenizer, talk, language="zh")


def test_a_word_whose_first_token_opens_one_of_the_other_side_is_left_out() -> None:
    ids = {character: number for number, character in enumerate("".join((*CHINESE_YES, *CHINESE_NO)))}
    names = {number: character for character, number in ids.items()}

    def encode(word: str) -> list[int]:
        return [ids[character] for character in word]

    def decode(found: Sequence[int]) -> str:
        return "".join(names[each] for each in found)

    yes, no, lost = chinese_verdict_ids(encode, decode)
    assert not lost and not set(yes) & set(no)
    assert ids["没"] not in {*yes, *no}, "没错 and 没有 begin alike"
    assert {ids["是"], ids["有"]} <= set(yes) and {ids["否"], ids["不"], ids["无"]} <= set(no)
    ids["不"] = ids["是"]
    assert chinese_verdict_ids(encode, decode)[2] == ("不",), "its token is another word's"


def test_facts_are_asked_for_and_read_in_chinese() -> None:
    chat = Chat(TEXT, published(*LEARNT), CONVERSATIONS["internvl2_5"], language="zh")
    assert chat.facts_question() == FACTS_QUESTIONS["zh"].format(number=2)
    assert chat.facts_question("说{number}句。") == "说2句。"
    first, second = chat.facts_in("1. 是零件。没有划痕。第三句。")
    assert (first, second) == ("是零件。", "没有划痕。")
    (cut,) = chat.facts_in("鑫鑫鑫鑫鑫鑫鑫鑫")  # three tokens a character, which no cut may leave in pieces
    assert cut == "鑫" * 4 and len(chat.fact_ids([cut])[0][0]) == 12


def test_the_verdict_is_the_claim_of_a_chinese_answer() -> None:
    answer = "是的，左上角有划痕。"
    assert claim_spans(answer, None, "zh") == [(0, 2)] and claim_spans(answer, None) == []
    chat = Chat(TEXT, published(*LEARNT), CONVERSATIONS["internvl2_5"], language="zh")
    marked = chat.answer_claims(answer, None)
    assert chat.decode(chat.answer_ids(answer)[np.flatnonzero(marked)]) == "是的"
