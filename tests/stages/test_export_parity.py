"""An exported model in torch: stock transformers gives the plain model's logits, SAGE the answers of JAX."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    InternVLForConditionalGeneration,
    InternVLModel,
)

from sage_jax.config import ExportConfig
from sage_jax.evaluation.maps import anomaly_map
from sage_jax.models.sage import Sage
from sage_jax.models.vit import IMAGENET_DEVIATION, IMAGENET_MEAN
from sage_jax.parameters import merge
from sage_jax.stages.stages import run_stages
from tests.support.exported_case import Case, exported_case
from tests.support.tiny_export import FACTS, QUESTIONS, TRAINED_HERE, load_sage, picture, record

PROMPTS = range(20)

pytestmark = pytest.mark.usefixtures("remote_code_cache")


@functools.cache
def answers(case: Case, *, with_reference: bool) -> tuple[list[Any], list[Any]]:
    """Answers to the prompts by JAX, as (text, score, similarity), and by torch."""
    evaluator = case.run.evaluator(case.stage, case.run.weights.merged(case.stage, wanted_by="test"))
    records = [record(number, num_facts=number % 4) for number in PROMPTS]
    ours, theirs = [], []
    for asked, found in evaluator.answers(records, with_reference=with_reference):
        text = evaluator.chat.decode(np.asarray(found.token_ids[0]))
        ours.append((text, float(found.verdict_score[0]), np.asarray(found.similarity)))
        images = [Image.open(io.BytesIO(data)) for data in (asked.test_image, asked.reference_image or b"")]
        shown = images[1] if with_reference else None
        theirs.append(case.sage.answer(images[0], asked.questions[0].text, asked.facts, shown))
    return ours, theirs


def test_torch_gives_the_text_and_score_of_jax_with_and_without_reference(case: Case) -> None:
    said: dict[bool, list[str]] = {}
    for with_reference in (True, False):
        ours, theirs = answers(case, with_reference=with_reference)
        assert [answer.text for answer in theirs] == [text for text, _, _ in ours]
        scores = [answer.verdict_score for answer in theirs]
        np.testing.assert_allclose(scores, [score for _, score, _ in ours], atol=1e-5)
        said[with_reference] = [text for text, _, _ in ours]
        assert len(set(said[with_reference])) > 5 and all(said[with_reference])
    different = [number for number in PROMPTS if said[True][number] != said[False][number]]
    assert len(different) > 5 and not any(number % 4 == 0 for number in different)  # without facts nothing is compared


@pytest.mark.parametrize("reference", ["fusion", "prompt"])
def test_torch_has_the_heads_of_image_and_question_and_the_second_image(reference: Any, tmp_path: Path) -> None:
    fusion = dataclasses.replace(TRAINED_HERE.model.fusion, head="all")
    model = dataclasses.replace(TRAINED_HERE.model, fusion=fusion)
    text = dataclasses.replace(TRAINED_HERE.text, reference=reference)
    config = dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"), model=model, text=text)
    case = exported_case(config, "sfe")
    for with_reference in (True, False):
        ours, theirs = answers(case, with_reference=with_reference)
        assert [answer.text for answer in theirs] == [text for text, _, _ in ours]
        np.testing.assert_allclose(
            [answer.verdict_score for answer in theirs], [score for _, score, _ in ours], atol=1e-5
        )
    module = __import__(type(case.sage).__module__, fromlist=["SageExample"])
    examples = [
        module.SageExample(picture(1), "Is there a defect?", FACTS[:1], picture(5)),
        module.SageExample(picture(0), "Where?"),
    ]
    options = {"max_new_tokens": 6, "do_sample": False}
    batch = case.sage.processor(examples)
    together = case.sage.generate(batch, **options)
    for row, example in enumerate(examples):
        alone = case.sage.generate(case.sage.processor(example), **options)[0].tolist()
        assert together[row, : len(alone)].tolist() == alone
    with pytest.raises(ValueError, match="give question_mask, as the processor makes it"):
        case.sage(**{name: values for name, values in batch.items() if name != "question_mask"})
    assert case.sage(**batch).logits[:, -1].argmax(dim=-1).tolist() == together[:, 0].tolist()


@pytest.mark.parametrize("kind", ["embedding_mean", "hidden_mean"])
def test_facts_are_read_by_the_plain_decoder_where_the_encoder_is_its_copy(kind: Any, tmp_path: Path) -> None:
    fusion = dataclasses.replace(TRAINED_HERE.model.fusion, fact_encoder=kind)
    model = dataclasses.replace(TRAINED_HERE.model, fusion=fusion)
    config = dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"), model=model)
    case = exported_case(config, "sfe", copied=True)
    assert case.sage.fact_encoder is None and case.sage.config.sage["own_fact_encoder"] is False
    ids, mask = case.run.chat.fact_ids(FACTS[:2])  # and a third one without a token
    sage: Sage = merge(case.run.weights.structure.graphdef, case.run.weights.merged("sfe", wanted_by="test"))
    expected = jax.jit(sage.fact_encoder.__call__)(jnp.asarray(ids[None]), jnp.asarray(mask[None]))
    with torch.no_grad():
        found = case.sage.encode_facts(torch.from_numpy(ids[None]).long(), torch.from_numpy(mask[None]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_bfloat16_export_loads_as_it_is_and_answers(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    options = ExportConfig(folder=str(tmp_path / "half"), stage="sfe")
    run_stages(dataclasses.replace(run.config, export=options))
    sage = load_sage(tmp_path / "half")
    assert {values.dtype for values in sage.state_dict().values()} == {torch.bfloat16}
    asked = (picture(1), QUESTIONS[0], FACTS, picture(5))
    half, full = sage.answer(*asked), trained_here.sage.answer(*asked)
    assert half.verdict_score == pytest.approx(full.verdict_score, abs=0.05) and half.text
    wide = AutoModel.from_pretrained(tmp_path / "half", trust_remote_code=True, dtype=torch.float32)
    assert {values.dtype for values in wide.state_dict().values()} == {torch.float32}


def test_answers_do_not_hang_on_the_bases_generation_config(trained_here: Case, tmp_path: Path) -> None:
    """A base may search beams or forbid repetition where it is asked as itself; answers are greedy, as sage_jax's."""
    folder = tmp_path / "out"
    shutil.copytree(trained_here.folder, folder)
    path = folder / "generation_config.json"
    other = {"num_beams": 3, "no_repeat_ngram_size": 1, "repetition_penalty": 1.5, "min_new_tokens": 9}
    path.write_text(json.dumps({**json.loads(path.read_text()), **other}))
    asked = (picture(1), QUESTIONS[0], FACTS, picture(5))
    sage = load_sage(folder)
    assert sage.answer(*asked).text == trained_here.sage.answer(*asked).text
    assert sage.plain.generation_config.num_beams == 3


def test_the_anomaly_map_is_that_of_jax(trained_here: Case) -> None:
    ours, theirs = answers(trained_here, with_reference=True)
    for number, ((_, _, similarity), answer) in enumerate(zip(ours, theirs, strict=True)):
        expected = anomaly_map(record(number, num_facts=0), similarity, trained_here.run.config)
        np.testing.assert_allclose(answer.anomaly_map, expected.values, atol=1e-5)
    alone = trained_here.sage.answer(picture(0), "Is it whole?")
    assert alone.anomaly_map is None and alone.similarity is None


def jax_logits(case: Case, tiles: np.ndarray) -> Callable[[list[int]], np.ndarray]:
    """Logits of the plain model for token ids, by JAX; the length is padded, so that it compiles once."""
    run = case.run
    params = run.weights.merged(case.stage, wanted_by="test")
    plain = {path: leaf * 0.0 if path.startswith("vit/stem/out") else leaf for path, leaf in params.items()}
    sage: Sage = merge(run.weights.structure.graphdef, plain)
    length, causal = 128, jnp.tril(jnp.ones((1, 128, 128), bool))

    @jax.jit
    def logits(ids: jax.Array, tiles: jax.Array) -> jax.Array:
        here = ids == run.chat.image_id
        image = sage.encode_tiles(tiles)[0][jnp.clip(jnp.cumsum(here) - 1, 0)]
        embeddings = jnp.where(here[:, None], image, sage.decoder.embedding(ids))
        return sage.decoder.logits(sage.decoder(embeddings[None], jnp.arange(length)[None], causal)[0])[0]

    return lambda ids: np.asarray(logits(jnp.asarray(ids + [0] * (length - len(ids))), jnp.asarray(tiles)))[: len(ids)]


def test_stock_transformers_gives_the_plain_models_logits_and_greedy_tokens(case: Case) -> None:
    stock = AutoModelForImageTextToText.from_pretrained(case.folder)
    assert type(stock) is InternVLForConditionalGeneration
    assert type(AutoModel.from_pretrained(case.folder)) is InternVLModel  # which trust_remote_code makes SageModel
    chat, num_tokens = case.run.chat, 2 * case.run.config.model.tokens_per_tile
    prompt = [*chat.prefix_ids(num_tokens, facts=(), facts_as="text"), *chat.question_ids("Whole?", facts_as="text")]
    ids = list(map(int, prompt))
    tiles = np.random.default_rng(0).integers(0, 256, (1, 2, 16, 16, 3), np.uint8)
    pixels = (tiles[0] / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_DEVIATION)
    inputs = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
    }
    with torch.no_grad():
        found = stock(**inputs).logits[0].numpy()
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": -1, "max_new_tokens": 16}
    generated = stock.generate(**inputs, **greedy)[0, len(ids) :].tolist()
    logits, written = jax_logits(case, tiles), list(ids)
    assert np.abs(found - logits(ids)).max() <= 1e-4
    for _ in range(16):
        written.append(int(logits(written)[-1].argmax()))
    assert generated == written[len(ids) :]


def test_a_left_padded_batch_generates_as_its_rows_do(trained_here: Case) -> None:
    sage, module = trained_here.sage, __import__(type(trained_here.sage).__module__, fromlist=["SageExample"])
    facts = ("This is a cap.", "It has a thread.")
    examples = [
        module.SageExample(picture(1), "Is there a defect?", facts, picture(5)),
        module.SageExample(picture(0), "Where?"),
        module.SageExample(picture(2), "Which, in a long question?", facts[:1], None),
    ]
    batch = sage.processor(examples)
    options = {"max_new_tokens": 10, "do_sample": False}
    together = sage.generate(batch, **options)
    for row, example in enumerate(examples):
        alone = sage.generate(sage.processor(example), **options)[0].tolist()
        assert together[row, : len(alone)].tolist() == alone
        answer = sage.answer(example.image, example.question, example.facts, example.reference, 10)
        assert sage.processor.decode(alone) == answer.text
    last = sage(**batch).logits[:, -1]
    assert last.argmax(dim=-1).tolist() == together[:, 0].tolist()


def test_placeholders_and_embeddings_must_be_equal_in_number(trained_here: Case) -> None:
    batch = trained_here.sage.processor(_example(trained_here, facts=("This is a cap.",)))
    del batch["fact_ids"], batch["fact_mask"]
    with pytest.raises(ValueError, match="1 comparison placeholders for 0 comparison embeddings"):
        trained_here.sage.generate(batch)


def _example(case: Case, **fields: Any) -> Any:
    module = __import__(type(case.sage).__module__, fromlist=["SageExample"])
    return module.SageExample(picture(0), "Is it whole?", **fields)
