"""Tree rows: every branch equals its separate row, and padding says nothing."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig, VitConfig
from sage_jax.data.images import ImageFault, encode_png
from sage_jax.data.records import Answer, Box, Defect, Question, Record, Reference
from sage_jax.data.trees.chat import Chat, ChatError
from sage_jax.data.trees.encode import (
    TreeError,
    TreeFormat,
    TreeUse,
    count_image_tokens,
    count_records,
    count_reference_tokens,
)
from sage_jax.data.trees.shapes import TreeShape, choose_bucket, choose_shape
from sage_jax.data.trees.tiles import tile_image, token_labels
from sage_jax.data.trees.tokenizer import train_tokenizer
from sage_jax.data.trees.tree import Capacity, TreeRow, build_tree, stack_rows

TEXT = TextConfig(vocab_size=300, max_facts=3, max_fact_tokens=30, max_answer_tokens=30, buckets=(400, 800))
MODEL = ModelConfig(vit=VitConfig(tile_px=16, patch_px=4), downsample=2)
TILED = dataclasses.replace(MODEL, max_tiles=4)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(TEXT, train_tokenizer(["Is there a dent? No. The cap is fine."] * 3, 300))


def picture(height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_record(*, facts: int = 2, seed: int = 0, size: tuple[int, int] = (16, 16), **changes: Any) -> Record:
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < 0.3
    questions = tuple(
        Question(
            f"Is there a dent {'or hole ' * q}here?",
            tuple(Answer(f"{'No' if q else 'Yes'}. {'cap ' * int(rng.integers(4))}", 5.0 - rank) for rank in range(n)),
        )
        for q, n in enumerate((3, 1, 2))
    )
    values: dict[str, Any] = {
        "record_id": f"r{seed}",
        "image_id": f"i{seed}",
        "test_image": encode_png(picture(*size, seed=seed)),
        "reference_image": encode_png(picture(*size, seed=seed + 1)),
        "category": "cap",
        "pair_type": "standard comparison",
        "facts": tuple(f"Fact {index}." for index in range(facts)),
        "questions": questions,
        "descriptions": (Question("What is it?", (Answer("A cap."),)),),
        "anomalous": True,
        "defects": (),
        "mask": encode_png(mask),
        "test_path": f"{seed}.png",
        "reference_path": f"{seed}_good.png",
    }
    return Record(**{**values, **changes})


def row_of(record: Record, chat: Chat, **changes: Any) -> TreeRow:
    form = TreeFormat(chat, changes.pop("model", MODEL), changes.pop("text", TEXT))
    names = ("answers", "questions", "facts")
    use = TreeUse(**{"answers": "ranked", **{name: changes.pop(name) for name in names if name in changes}})
    return build_tree(record, form, use, **{"with_reference": True, **changes})


def stack(rows: list[TreeRow | None], chat: Chat, **changes: Any) -> TreeBatch:
    form = TreeFormat(chat, changes.pop("model", MODEL), changes.pop("text", TEXT))
    shape = changes.pop("shape", TreeShape(400))
    return stack_rows(rows, form, Capacity(**{"questions": 4, "answers": 3, **changes}), shape)


def visibility(token_mask: np.ndarray, question_index: np.ndarray, answer_index: np.ndarray) -> np.ndarray:
    """Which tokens each token sees, pair by pair from the definition."""
    size = len(token_mask)
    seen = np.zeros((size, size), bool)
    for i in range(size):
        for j in range(i + 1):
            on_branch = question_index[j] in (-1, question_index[i]) and answer_index[j] in (-1, answer_index[i])
            seen[i, j] = token_mask[i] and token_mask[j] and on_branch
    return seen


@pytest.mark.parametrize("facts", [0, 2, 3])
@pytest.mark.parametrize("facts_as", ["fusion", "text"])
def test_every_answer_sees_exactly_its_separate_row(chat: Chat, facts: int, facts_as: Any) -> None:
    record = make_record(facts=facts)
    batch = stack([row_of(record, chat, facts=facts_as)], chat)
    branch = (batch.token_mask[0], batch.question_index[0], batch.answer_index[0])
    seen = visibility(*map(np.asarray, branch))
    prefix = chat.prefix_ids(4, facts=record.facts, facts_as=facts_as).tolist()
    for _ in range(TEXT.max_facts - facts if facts_as == "fusion" else 0):
        prefix.remove(chat.comparison_id)
    for q, question in enumerate(record.questions):
        for a, answer in enumerate(question.answers):
            asked = chat.question_ids(question.text, facts_as=facts_as).tolist()
            target = chat.answer_ids(answer.text).tolist()
            whole = prefix + asked + target
            last = int(np.flatnonzero(batch.answer_index[0] == q * 3 + a).max())
            visible = np.flatnonzero(seen[last])
            assert batch.token_ids[0, visible].tolist() == whole
            assert batch.position_ids[0, visible].tolist() == list(range(len(whole)))
            mask = batch.target_mask[0, q, a]
            assert batch.target_ids[0, q, a, mask].tolist() == target
            sources = batch.source_index[0, q, a, mask]
            # The token that predicts is the one before, on this branch.
            assert sources.tolist() == visible[len(prefix) + len(asked) - 1 : -1].tolist()


def test_slots_hold_what_the_record_has(chat: Chat) -> None:
    batch = stack([row_of(make_record(), chat, record_index=7)], chat)
    assert batch.answer_mask[0].sum(axis=1).tolist() == [3, 1, 2, 0]
    assert batch.scores[0].tolist() == [[5, 4, 3], [5, 0, 0], [5, 4, 0], [0, 0, 0]]
    assert batch.question_ids[0].tolist() == [0, 1, 2, -1]
    assert batch.record_index.tolist() == [7]
    np.testing.assert_array_equal(batch.target_mask.any(axis=3), batch.answer_mask)
    assert not batch.reference_logps.any()
    assert batch.fact_mask[0].any(axis=1).tolist() == [True, True, False]


def test_tokens_of_verdict_kind_and_place_are_marked_a_kind_of_the_users_own_too(chat: Chat) -> None:
    text = "Yes. A gash at the upper left, no dent."
    question = Question("Is it good?", (Answer(text, 5.0),))
    form = TreeFormat(chat, MODEL, TEXT, ("dent", "upper left"))

    def marked(record: Record) -> str:
        row = build_tree(record, form, TreeUse("best"), with_reference=True)
        batch = stack_rows([row], form, Capacity(1, 1), TreeShape(400))
        assert not batch.claim_mask[~batch.target_mask].any()
        return chat.decode(batch.target_ids[batch.claim_mask]).replace(" ", "")

    record = make_record(questions=(question,))
    assert marked(record) == "Yesupperleftdent"
    record = dataclasses.replace(record, defects=(Defect("gash", Box(0, 0, 4, 4)),))
    assert marked(record) == "YesAgashupperleftdent"


def test_image_tokens_carry_the_name_of_their_defect(chat: Chat) -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[0:8, 0:8] = mask[8:16, 8:16] = True
    defects = (Defect("dent", Box(8, 8, 16, 16)), Defect("big  dent", Box(0, 0, 8, 8)))
    names = stack([row_of(make_record(mask=encode_png(mask), defects=defects), chat), None], chat).token_names
    said = chat.answer_ids("It has a dent. It has a big dent.").tolist()
    found = [[token for token in name if token >= 0] for name in names[0].tolist()]
    named = [index for index, name in enumerate(found) if name]
    assert len(named) == 2 and (names[1] == -1).all()
    for name, word in zip((found[index] for index in named), ("big dent", "dent"), strict=True):
        assert chat.decode(name) == word
        assert any(said[at : at + len(name)] == name for at in range(len(said)))  # as it is written in a sentence


def test_chosen_questions_take_the_slots_in_their_order(chat: Chat) -> None:
    record = make_record()
    batch = stack([row_of(record, chat, question_ids=(2, 0))], chat)
    assert batch.question_ids[0].tolist() == [2, 0, -1, -1]
    opening = batch.token_ids[0][batch.question_index[0] == 0].tolist()
    expected = chat.question_ids(record.questions[2].text).tolist()
    assert opening[: len(expected)] == expected


@pytest.mark.parametrize("answers", ["best", "none"])
def test_fewer_answers_leave_the_rest_out(chat: Chat, answers: Any) -> None:
    record = make_record()
    batch = stack([row_of(record, chat, answers=answers)], chat, answers=1)
    assert batch.answer_mask[0, :3, 0].tolist() == [answers == "best"] * 3
    for q in range(3):
        last = int(np.flatnonzero((batch.question_index[0] == q) & (batch.answer_index[0] == -1)).max())
        assert batch.source_index[0, q, 0, 0] == last
    answered = sum(len(chat.answer_ids(question.answers[0].text)) for question in record.questions)
    assert (batch.answer_index[0] >= 0).sum() == (answered if answers == "best" else 0)


def test_descriptions_stand_in_for_questions(chat: Chat) -> None:
    batch = stack([row_of(make_record(), chat, questions="description", answers="best")], chat)
    assert chat.decode(np.asarray(batch.target_ids[0, 0, 0])) == "A cap."
    assert batch.answer_mask.sum() == 1


def test_wider_padding_changes_no_real_token(chat: Chat) -> None:
    row = row_of(make_record(), chat)
    short, long = stack([row], chat), stack([row, None], chat, shape=TreeShape(800))
    for name in ("token_ids", "token_mask", "position_ids", "question_index", "answer_index"):
        np.testing.assert_array_equal(getattr(short, name)[0], getattr(long, name)[0, :400], err_msg=name)
    np.testing.assert_array_equal(short.source_index[0], long.source_index[0])
    assert not long.token_mask[0, 400:].any() and (long.token_ids[0, 400:] == chat.pad_id).all()
    for name in ("tile_mask", "reference_tile_mask", "fact_mask", "token_mask", "target_mask", "answer_mask"):
        assert not getattr(long, name)[1].any()
    assert long.record_index.tolist() == [0, -1] and (long.token_labels[1] == -1).all()


def test_questions_without_judge_scores_are_scored_by_rank(chat: Chat) -> None:
    answers = tuple(Answer(f"Yes. {rank}", 5.0 if rank == 3 else None) for rank in range(4))
    record = make_record(questions=(Question("Here?", answers),))
    batch = stack([row_of(record, chat)], chat, answers=4)
    np.testing.assert_allclose(batch.scores[0, 0], [5, 11 / 3, 7 / 3, 1], rtol=1e-6)


def test_tiles_labels_and_thumbnail_are_the_images(chat: Chat) -> None:
    record = make_record(size=(20, 41))
    small = make_record(seed=5, reference_image=None)
    rows: list[TreeRow | None] = [row_of(record, chat, model=TILED), row_of(small, chat, model=TILED)]
    batch = stack(rows, chat, model=TILED)
    tiled = tile_image(picture(20, 41), tile_px=16, max_tiles=4)
    assert tiled.tiles.shape[0] == 3 and batch.tiles.shape[1] == 5
    np.testing.assert_array_equal(batch.tiles[0, :3], tiled.tiles)
    assert batch.tile_mask.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]
    assert batch.reference_tile_mask[:, 0].tolist() == [True, False]
    mask = np.asarray(Image.open(io.BytesIO(record.mask or b""))) != 0
    np.testing.assert_array_equal(batch.token_labels[0, :12], token_labels(mask, tiled, tokens_per_side=2))
    assert (batch.token_labels[0, 12:] == -1).all()
    assert (batch.token_ids == chat.image_id).sum(axis=1).tolist() == [12, 4]
    assert [count_image_tokens(each, model=TILED) for each in (record, small)] == [12, 4]


@pytest.mark.parametrize(("size", "num_tiles"), [((28, 20), 3), ((20, 28), 5)])
def test_tokens_counted_from_the_header_are_those_of_the_tiles(chat: Chat, size: Any, num_tiles: int) -> None:
    record = make_record(size=size)
    assert len(row_of(record, chat, model=TILED).pixels.tiles) == num_tiles
    assert count_image_tokens(record, model=TILED) == 4 * num_tiles


def test_labels_are_unknown_without_a_mask_unless_the_part_is_good(chat: Chat) -> None:
    unknown, good = make_record(mask=None), make_record(mask=None, anomalous=False)
    labels = stack([row_of(unknown, chat), row_of(good, chat)], chat).token_labels
    assert (labels[0] == -1).all() and (labels[1] == 0).all()


def test_reference_is_left_out_on_request(chat: Chat) -> None:
    batch = stack([row_of(make_record(), chat, with_reference=False)], chat)
    assert not batch.reference_tile_mask.any() and not batch.reference_tiles.any()


def test_each_of_several_references_has_room_for_the_tiles_of_an_image(chat: Chat) -> None:
    pictures = [picture(seed, seed) for seed in (16, 30, 17)]
    more = tuple(Reference(encode_png(each), f"{number}.png") for number, each in enumerate(pictures[1:]))
    record = make_record(size=(20, 41), reference_image=encode_png(pictures[0]), further_references=more)
    one = make_record(seed=1, size=(20, 41), reference_image=encode_png(pictures[2]))
    rows = [row_of(each, chat, model=TILED) for each in (record, one)]
    batch = stack([*rows, None], chat, model=TILED, references=3)
    room = batch.tiles.shape[1]
    assert batch.reference_tiles.shape[1] == 3 * room
    shown = batch.reference_tile_mask.reshape(3, 3, room)
    for number, each in enumerate(pictures):
        tiles = tile_image(each, tile_px=TILED.vit.tile_px, max_tiles=TILED.max_tiles).tiles
        assert shown[0, number].tolist() == [True] * len(tiles) + [False] * (room - len(tiles))
        first = number * room
        np.testing.assert_array_equal(batch.reference_tiles[0, first : first + len(tiles)], tiles)
    assert shown[1, 0].any() and not shown[1, 1:].any() and not shown[2].any()
    with pytest.raises(TreeError, match="record r0 has 3 references, and text.reference = 'prompt' shows one"):
        row_of(record, chat, model=TILED, text=IN_PROMPT)


IN_PROMPT = dataclasses.replace(TEXT, reference="prompt")


@pytest.mark.parametrize("facts_as", ["fusion", "text"])
def test_a_reference_in_the_prompt_follows_the_test_image(chat: Chat, facts_as: Any) -> None:
    record = make_record(size=(20, 41), reference_image=encode_png(picture(16, 30)))
    options: dict[str, Any] = {"model": TILED, "text": IN_PROMPT, "facts": facts_as}
    shown, dropped = (row_of(record, chat, **options, with_reference=each) for each in (True, False))
    alone = row_of(dataclasses.replace(record, reference_image=None), chat, **options)
    through_fusion = row_of(record, chat, **{**options, "text": TEXT})
    batch = stack([shown, dropped, alone], chat, model=TILED, text=IN_PROMPT)
    assert (batch.token_ids == chat.image_id).sum(axis=1).tolist() == [12 + 12, 12, 12]
    assert batch.reference_tile_mask.sum(axis=1).tolist() == [3, 0, 0]
    two, one = (
        chat.prefix_ids(12, facts=record.facts, facts_as=facts_as, num_reference_tokens=number) for number in (12, 0)
    )
    np.testing.assert_array_equal(shown.tokens.prefix_ids, two)
    for row in (dropped, alone, through_fusion):
        np.testing.assert_array_equal(row.tokens.prefix_ids, one)
    with pytest.raises(ChatError, match="record r0: 24 image placeholders for 12 image embeddings"):
        stack([dataclasses.replace(shown, with_reference=False)], chat, model=TILED, text=IN_PROMPT)
    with pytest.raises(ChatError, match="record r0: 12 image placeholders for 24 image embeddings"):
        stack([dataclasses.replace(dropped, with_reference=True)], chat, model=TILED, text=IN_PROMPT)


def test_image_tokens_are_counted_from_the_headers(chat: Chat) -> None:
    record = make_record(size=(20, 41), reference_image=encode_png(picture(16, 16)))
    assert [count(record, model=TILED) for count in (count_image_tokens, count_reference_tokens)] == [12, 4]
    assert count_reference_tokens(make_record(reference_image=None), model=TILED) == 0


def test_bucket_is_the_smallest_that_fits() -> None:
    assert [choose_bucket([length, 3], ["a", "b"], TEXT) for length in (4, 400, 401, 800)] == [400, 400, 800, 800]
    with pytest.raises(TreeError, match=r"record b: .*801 tokens.*text\.buckets"):
        choose_bucket([5, 801], ["a", "b"], TEXT)


def test_shape_holds_every_answer_and_all_answer_tokens(chat: Chat) -> None:
    rows = [row_of(make_record(seed=seed), chat) for seed in range(3)]
    tokens = [row.tokens for row in rows]
    shape = choose_shape(tokens, [row.question_ids for row in rows], TEXT)
    answers = [[len(answer) for question in one.questions for answer in question.answers] for one in tokens]
    longest = max(length for tree in answers for length in tree)
    assert shape.answer_slots in (32, 64, 128) and longest <= shape.answer_slots < 2 * max(longest, 32)
    assert shape.target_slots % 100 == 0 and 0 <= shape.target_slots - max(map(sum, answers)) < 100


def test_shape_holds_every_prefix_and_question_and_is_one_of_few(chat: Chat) -> None:
    rows = [row_of(make_record(facts=facts, seed=facts), chat) for facts in (0, 2, 3)]
    tokens = [row.tokens for row in rows]
    shape = choose_shape(tokens, [row.question_ids for row in rows], TEXT)
    assert shape.length == 400 and shape.prefix_slots % 50 == 0
    assert 0 <= shape.prefix_slots - max(len(one.prefix_ids) for one in tokens) < 50
    longest = max(len(question.ids) for one in tokens for question in one.questions)
    assert shape.question_slots in (32, 64, 128) and longest <= shape.question_slots < 2 * max(longest, 32)


def test_what_does_not_fit_is_named_with_its_option(chat: Chat) -> None:
    long = make_record(questions=(Question("Here?", (Answer("Yes. " + "zx" * 40),)),))
    with pytest.raises(TreeError, match=r"record r0: .*'Here\?'.*text\.max_answer_tokens \(now 30\)"):
        row_of(long, chat)
    with pytest.raises(TreeError, match=r"record r0: fact .*text\.max_fact_tokens"):
        row_of(dataclasses.replace(make_record(), facts=("zx" * 40,)), chat)
    with pytest.raises(TreeError, match="record r0 has no questions"):
        row_of(make_record(questions=()), chat)
    with pytest.raises(TreeError, match="record r0: question 'Here\\?' has no answer"):
        row_of(make_record(questions=(Question("Here?", ()),)), chat, answers="best")
    row = row_of(make_record(), chat)
    for changes in ({"shape": TreeShape(20)}, {"questions": 2}, {"answers": 2}):
        with pytest.raises(TreeError, match="record r0: .* do not fit"):
            stack([row], chat, **changes)
    with pytest.raises(ImageFault, match=r"0\.png"):
        row_of(make_record(test_image=make_record().test_image[:60]), chat)


def test_tiles_and_placeholders_must_agree(chat: Chat) -> None:
    one, three = row_of(make_record(), chat, model=TILED), row_of(make_record(size=(20, 41)), chat, model=TILED)
    with pytest.raises(ChatError, match="record r0: 4 image placeholders for 12 image embeddings"):
        stack([dataclasses.replace(one, pixels=three.pixels)], chat, model=TILED)


def test_counts_are_the_most_of_any_record() -> None:
    counts = count_records([make_record(), make_record(descriptions=()), make_record(questions=())])
    assert dataclasses.astuple(counts) == (3, 3, 1, 1, 1)
