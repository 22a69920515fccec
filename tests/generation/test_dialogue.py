"""Conversations of several turns against transformers' generate over all that was said; what they compile."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType
from transformers import PreTrainedTokenizerFast

from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig, TextConfig
from sage_jax.data.images import decode_rgb, encode_png
from sage_jax.data.records import Question, Record
from sage_jax.data.stream.pipeline import make_eval_batches
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.conversations import TRANSFORMERS
from sage_jax.data.trees.encode import TreeError, TreeFormat, TreeUse
from sage_jax.data.trees.tiles import tile_image
from sage_jax.generation.dialogue import Dialogue, fact_record, write_facts
from sage_jax.generation.responder import Decoding, Responder
from sage_jax.generation.sampling import Sampling
from sage_jax.hf.tokenizer import read_tokenizer
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import split
from sage_jax.sharding import MESH_AXES
from tests.hf.test_parity import loaded
from tests.support.tiny_internvl import imported, shapes_of
from tests.support.tiny_sage import random_params
from tests.support.tiny_tokenizers import qwen_tokenizer

NEW = 10
SIZES = ((8, 8), (8, 24), (24, 8), (8, 16))
TURNS = ("Where is it?", "Is the thread whole, or is there a scratch near the top of the cap?", "Why?")
TEXT = TextConfig(max_facts=1, assist_prompt="", buckets=(80, 128, 320), reference="prompt")


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A checkpoint of random weights with its chat, here and in transformers."""

    peer: Any
    chat: Chat
    model: ModelConfig
    graphdef: nnx.GraphDef[Sage]
    params: Any
    tokenizer: PreTrainedTokenizerFast

    def stopping_at(self, *stop_ids: int) -> Speaker:
        """The same, answers ending at further tokens too."""
        return dataclasses.replace(self, chat=Chat(TEXT, self.tokenizer, TRANSFORMERS, stop_ids))

    def responder(self, **options: Any) -> Responder:
        mesh = jax.make_mesh((1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])
        chat = self.chat
        decoding = Decoding(NEW, chat.end_id, chat.verdict_ids, chat.stop_ids, **options)
        return Responder(self.graphdef, self.params, mesh, decoding)

    def batch(self, records: list[Record], rows: int = 0) -> TreeBatch:
        form, use = TreeFormat(self.chat, self.model, TEXT), TreeUse("none", facts="text")
        (batch,) = make_eval_batches(records, form, use, batch_size=rows or len(records), with_reference=True)
        return batch

    def said_by_peer(self, record: Record, spoken: list[int], stop_ids: tuple[int, ...], penalty: float) -> list[int]:
        """What transformers' generate adds to a conversation."""
        images = [record.test_image, *([record.reference_image] if record.reference_image else [])]
        tiles = [tile_image(decode_rgb(image, name=""), tile_px=8, max_tiles=4).tiles for image in images]
        pixels = (np.concatenate(tiles) / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        ids = torch.tensor([spoken])
        found = self.peer.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
            max_new_tokens=NEW,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=list(stop_ids),
            pad_token_id=self.chat.pad_id,
        )
        return found[0, len(spoken) :].tolist()


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Speaker:
    folder, tokenizer = tmp_path_factory.mktemp("speaker"), qwen_tokenizer()
    checkpoint, peer = loaded(folder, "internvl", "qwen2", livelier=6.0, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(str(folder))
    peer.config.image_token_id = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    values = {**checkpoint.config.values, "image_token_id": peer.config.image_token_id}
    read = read_tokenizer(folder, dataclasses.replace(checkpoint.config, values=values))
    chat = Chat(TEXT, read, TRANSFORMERS)
    placeholders = Placeholders(chat.image_id, chat.comparison_id, True)
    model = dataclasses.replace(checkpoint.model, max_tiles=4)
    graphdef, _ = split(nnx.eval_shape(lambda: Sage(model, chat.vocab_size, placeholders, nnx.Rngs(0))))
    params = imported(checkpoint, chat.vocab_size)
    own = {path: leaf for path, leaf in shapes_of(checkpoint, chat.vocab_size).items() if path not in params}
    return Speaker(peer, chat, model, graphdef, jax.device_get({**random_params(own), **params}), read)


def make_records(number: int = len(SIZES)) -> list[Record]:
    """Images of one and of several tiles, every other one with a reference of another size."""
    rng, found = np.random.default_rng(0), []
    for index in range(number):
        height, width = SIZES[index % len(SIZES)]
        picture, reference = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((height, width), (width, height)))
        found.append(
            Record(
                record_id=f"r{index}",
                image_id=f"i{index}",
                test_image=encode_png(picture),
                reference_image=encode_png(reference) if index % 2 else None,
                category="cap",
                pair_type="standard comparison",
                facts=(),
                questions=(Question("Is there a defect in this cap?", ()),),
                descriptions=(),
                anomalous=None,
                defects=(),
                mask=None,
                test_path=f"{index}.png",
                reference_path=f"{index}_good.png" if index % 2 else "",
            )
        )
    return found


def up_to_close(ids: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    """An answer without the token that closes it."""
    return next((ids[:at] for at, token in enumerate(ids) if token in stop_ids), ids)


def test_every_turn_is_what_transformers_says_to_the_whole_conversation(speaker: Speaker) -> None:
    penalty = 1.5  # counts every token of the conversation
    records, chat = make_records(), speaker.chat
    batch = speaker.batch(records)
    assert (batch.token_ids == chat.image_id).sum(axis=1).tolist() == [4, 32, 16, 24]
    spoken = [batch.token_ids[row][batch.token_mask[row]].tolist() for row in range(len(records))]
    speaker = speaker.stopping_at(speaker.said_by_peer(records[1], spoken[1], chat.stop_ids, penalty)[4])
    chat, stop_ids = speaker.chat, speaker.chat.stop_ids
    responder = speaker.responder(sampling=Sampling(repetition_penalty=penalty))
    dialogue = Dialogue(responder, chat, batch, facts_as="text")
    closed = []
    for turn, question in enumerate((None, *TURNS)):
        answers = (
            dialogue.ask(question)
            if question
            else [chat.decode(up_to_close(list(said), stop_ids)) for said in dialogue.said]
        )
        for row, record in enumerate(records):
            if question:
                spoken[row] += chat.follow_up_ids(question, facts_as="text").tolist()
            said = up_to_close(speaker.said_by_peer(record, spoken[row], stop_ids, penalty), stop_ids)
            assert up_to_close(dialogue.said[row].tolist(), stop_ids) == said, (turn, row)
            assert answers[row] == chat.decode(said)
            spoken[row] += said
            closed.append(len(said) < NEW)
    assert {True, False} == set(closed)


compilations: list[str] = []


def note(event: str, duration_secs: float, **_: str | int) -> None:
    """Notes each compilation of this process."""
    if event.endswith("backend_compile_duration"):
        compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(note)


def test_turns_tiles_and_lengths_compile_a_few_shapes_once(speaker: Speaker) -> None:
    """Prefills go by bucket and by whether a reference is shown, further turns by length (a few sizes) and by bucket.

    That is all, whatever the images and the questions.
    """
    chat, responder, rng = speaker.chat, speaker.responder(sampling=Sampling(0.9, seed=8)), np.random.default_rng(0)

    before, seen = len(compilations), set()
    for turn in range(24):
        records = make_records(8)[turn % 8 : turn % 8 + 1 + turn % 2]
        batch = speaker.batch(records, 2)
        dialogue = Dialogue(responder, chat, batch, facts_as="text")
        asked = [int(number) for number in rng.integers(1, 12, turn % 4)]
        for number in asked:
            dialogue.ask("a " * number)
        seen.add((int(batch.token_mask.sum(axis=1).max()), *asked))
    assert len(seen) > 15
    prefills, turns, wider = (
        2 * 3,
        3 * 3,
        3,
    )  # buckets with and without reference; lengths up to 16, 24 and 32, and buckets; pairs of buckets
    assert 0 < len(compilations) - before <= prefills + turns + wider


def test_a_conversation_is_the_same_in_any_batch(speaker: Speaker) -> None:
    responder = speaker.responder(sampling=Sampling(0.9, seed=8))
    records = make_records(2)
    seeds = np.array([11, 12])
    both = Dialogue(responder, speaker.chat, speaker.batch(records), facts_as="text", seeds=seeds)
    alone = Dialogue(responder, speaker.chat, speaker.batch(records[1:], 2), facts_as="text", seeds=seeds[::-1])
    said = []
    for question in (None, *TURNS[:2]):
        if question:
            answers = alone.ask(question)
            assert both.ask(question)[1] == answers[0] and answers[1] == ""
        said.append(both.said[1].tolist())
        assert alone.said[0].tolist() == said[-1]
    assert len({tuple(ids) for ids in said}) == 3


def test_own_facts_and_what_is_asked_then_are_as_from_scratch(speaker: Speaker) -> None:
    """The images are read once; nothing of the question for facts stays in what follows."""
    chat, responder, records = speaker.chat, speaker.responder(), make_records(2)
    asked = speaker.batch([fact_record(record, chat) for record in records])
    told, prefix = write_facts(responder, chat, asked, max_new_tokens=NEW)
    assert told == [chat.written_facts(said) for said in Dialogue(responder, chat, asked, facts_as="text").said]
    assert all(told) and told[0] != told[1]
    batch = speaker.batch([dataclasses.replace(record, facts=own) for record, own in zip(records, told, strict=True)])
    begun = Dialogue(responder, chat, batch, facts_as="text", prefix=prefix)
    expected = Dialogue(responder, chat, batch, facts_as="text")
    np.testing.assert_array_equal(begun.said, expected.said)
    np.testing.assert_allclose(begun.answers.verdict_score, expected.answers.verdict_score, atol=1e-5)
    assert begun.ask(TURNS[0]) == expected.ask(TURNS[0])


def test_a_conversation_longer_than_the_largest_bucket_is_refused(speaker: Speaker) -> None:
    responder = speaker.responder(sampling=Sampling(0.9, seed=8))
    dialogue = Dialogue(responder, speaker.chat, speaker.batch(make_records(2)), facts_as="text")
    with pytest.raises(TreeError, match=r"a conversation has \d+ tokens .* text.buckets \(now \(80, 128, 320\)\)"):
        for _ in range(10):
            dialogue.ask("a " * 30)


def test_a_conversation_without_buckets_grows(speaker: Speaker) -> None:
    chat = Chat(dataclasses.replace(TEXT, buckets=()), speaker.tokenizer, TRANSFORMERS)
    dialogue = Dialogue(speaker.responder(), chat, speaker.batch(make_records(2)), facts_as="text")
    for _ in range(4):  # far beyond the 320 tokens of the largest bucket
        assert all(isinstance(said, str) for said in dialogue.ask("a " * 60))


def test_a_conversation_has_one_question_a_row(speaker: Speaker) -> None:
    record = make_records(1)[0]
    more = dataclasses.replace(record, questions=record.questions * 2)
    with pytest.raises(TreeError, match="one question a row, the batch has 2"):
        Dialogue(speaker.responder(), speaker.chat, speaker.batch([more]), facts_as="text")
