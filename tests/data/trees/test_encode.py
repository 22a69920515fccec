"""Records as token ids and tiles, before they are laid out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sage_jax.config import ModelConfig, TextConfig, TrainConfig, VitConfig
from sage_jax.data.images import encode_png
from sage_jax.data.records import Answer, Question, Reference
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import (
    AnswersKept,
    ChosenRecords,
    RecordCounts,
    TileForm,
    TreeError,
    TreeFormat,
    TreeUse,
    count_records,
    decode_pixels,
    encode_text,
    feature_form,
    pixel_form,
    questions_of,
    tiles_per_image,
)
from sage_jax.data.trees.tokenizer import train_tokenizer
from tests.support.stream_records import make_record

TEXT = TextConfig(vocab_size=300, max_facts=2, max_fact_tokens=40, max_answer_tokens=60)
MODEL = ModelConfig(vit=VitConfig(tile_px=16, patch_px=4, embed_dim=8), downsample=2)
RECORD = make_record(0, np.random.default_rng(0))


@pytest.fixture(scope="module")
def form() -> TreeFormat:
    tokenizer = train_tokenizer(["Yes. No. Is there a dent? The cap."] * 3, 300)
    return TreeFormat(Chat(TEXT, tokenizer), MODEL, TEXT, names=("scratch",))


def test_the_answers_that_a_stage_trains_on_are_encoded(form: TreeFormat) -> None:
    numbers: dict[AnswersKept, int] = {"best": 1, "ranked": 3, "none": 0}
    for kept, number in numbers.items():
        found = encode_text(RECORD, form, TreeUse(kept), with_reference=True)
        assert [len(question.answers) for question in found.questions] == [number] * 5
        for question, asked in zip(found.questions, RECORD.questions, strict=True):
            said = [form.chat.decode(ids) for ids in question.answers]
            assert said == [answer.text for answer in asked.answers[:number]]
            assert question.length == len(question.ids) + sum(map(len, question.answers))


def test_a_question_without_all_scores_is_scored_by_rank(form: TreeFormat) -> None:
    scored = (Question("Is it?", (Answer("Yes.", 4.0), Answer("No.", 2.0), Answer("No, no.", 1.0))),)
    ranked = (Question("Is it?", (Answer("Yes."), Answer("No.", 2.0), Answer("No, no.", 1.0))),)
    for questions, scores in ((scored, (4.0, 2.0, 1.0)), (ranked, (5.0, 3.0, 1.0))):
        record = dataclasses.replace(RECORD, questions=questions)
        assert encode_text(record, form, TreeUse("ranked"), with_reference=True).questions[0].scores == scores


def test_what_cannot_be_encoded_is_named(form: TreeFormat) -> None:
    bare = dataclasses.replace(RECORD, descriptions=(), questions=(Question("Is it?", ()),))
    with pytest.raises(TreeError, match="record r0 has no descriptions: leave the stage out"):
        questions_of(bare, "description")
    with pytest.raises(TreeError, match=r"question 'Is it\?' has no answer to train on"):
        encode_text(bare, form, TreeUse("best"), with_reference=True)
    assert encode_text(bare, form, TreeUse("none"), with_reference=True).questions[0].answers == ()
    prompt = dataclasses.replace(form, text=dataclasses.replace(TEXT, reference="prompt"))
    two = dataclasses.replace(RECORD, further_references=(Reference(b"", "more.png"),))
    with pytest.raises(TreeError, match="record r0 has 2 references, and text.reference = 'prompt' shows one"):
        encode_text(two, prompt, TreeUse("best"), with_reference=True)


def test_counts_are_kept_by_a_choice_of_records() -> None:
    rng = np.random.default_rng(1)
    many = [make_record(index, rng, num_questions=1 + index) for index in range(4)]
    counts = count_records(many)
    assert counts == RecordCounts(questions=4, answers=3, descriptions=1, description_answers=1, references=1)
    chosen = ChosenRecords(many, [0, 1])
    assert len(chosen) == 2 and chosen[1] is many[1] and chosen.counts == counts
    assert list(chosen[1:]) == [many[1]] and chosen[1:].counts == counts
    assert ChosenRecords(chosen, [0]).counts == counts  # known, and not counted again


def test_forms_have_the_size_of_what_they_hold() -> None:
    assert pixel_form(MODEL) == TileForm((16, 16, 3), np.dtype(np.uint8)) and pixel_form(MODEL).nbytes == 768
    features = feature_form(MODEL, np.dtype(np.float32))
    assert features.shape == (4, 32) and features.nbytes == 4 * 4 * 32
    assert tiles_per_image(MODEL) == 1 and tiles_per_image(dataclasses.replace(MODEL, max_tiles=4)) == 5


def test_the_use_of_a_stage_is_that_of_its_config() -> None:
    train = TrainConfig(answers="ranked", questions="description", facts="text", questions_per_image=3)
    assert TreeUse.of(train) == TreeUse("ranked", "description", "text", 3)


def test_pixels_are_the_tiles_of_each_image_and_a_reference_is_decoded_once() -> None:
    rng = np.random.default_rng(2)
    picture, good = (rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(2))
    record = dataclasses.replace(RECORD, test_image=encode_png(picture), reference_image=encode_png(good))
    first, again = decode_pixels(record, model=MODEL), decode_pixels(record, model=MODEL)
    np.testing.assert_array_equal(first.tiles[0], picture)
    np.testing.assert_array_equal(first.references[0][0], good)
    assert first.references[0] is again.references[0] and not first.references[0].flags.writeable
    assert first.nbytes > first.tiles.nbytes + first.references[0].nbytes
