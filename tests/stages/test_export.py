"""A trained stage as a folder: stock transformers gives the plain model's logits, SAGE in torch the answers of JAX."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Callable, Iterator
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
    AutoTokenizer,
    InternVLForConditionalGeneration,
    InternVLModel,
    dynamic_module_utils,
)

from sage_jax.config import Config, ConfigError, DecodingConfig, ExportConfig, FusionConfig, ModelConfig, VitConfig
from sage_jax.data.trees.tokenizer import load_tokenizer
from sage_jax.evaluation.evaluator import anomaly_map, scored_of
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import open_checkpoint
from sage_jax.hf.tokenizer import find_conversation, read_tokenizer
from sage_jax.hf.upload import UploadError
from sage_jax.journal.run_log import RunLog
from sage_jax.models.sage import Sage
from sage_jax.models.vit import IMAGENET_DEVIATION, IMAGENET_MEAN
from sage_jax.parameters import merge
from sage_jax.stages.export import Exported, write_export
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.tiny_export import FACTS, QUESTIONS, TRAINED_HERE, load_sage, make_run, picture, record
from tests.support.tiny_internvl import save_internvl, stored_bytes, torch_internvl
from tests.support.tiny_tokenizers import qwen_tokenizer

PROMPTS = range(20)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A run and what its stage `export` wrote."""

    run: Run
    stage: str
    folder: Path
    sage: Any


@functools.cache
def answers(case: Case, *, with_reference: bool) -> tuple[list[Any], list[Any]]:
    """Answers to the prompts by JAX, as (text, score, similarity), and by torch."""
    examination = case.run.examination(case.stage, case.run.weights.merged(case.stage, wanted_by="test"))
    records = [record(number, num_facts=number % 4) for number in PROMPTS]
    ours, theirs = [], []
    for asked, found in examination.answers(records, with_reference=with_reference):
        text = examination.chat.decode(np.asarray(found.token_ids[0]))
        ours.append((text, float(found.verdict_score[0]), np.asarray(found.similarity)))
        images = [Image.open(io.BytesIO(data)) for data in (asked.test_image, asked.reference_image or b"")]
        shown = images[1] if with_reference else None
        theirs.append(case.sage.answer(images[0], asked.questions[0].text, asked.facts, shown))
    return ours, theirs


def exported_case(config: Config, stage: str, **made: Any) -> Case:
    run = make_run(config, **made)
    run_stages(config)
    folder = Path(config.run_dir) / "export"
    return Case(run, stage, folder, load_sage(folder))


def checkpoint_folder(folder: Path) -> Path:
    """A base as transformers writes it, of random weights, with rows to spare for a new token, a card and a licence."""
    tokenizer = qwen_tokenizer()
    vision = {"image_size": 16, "patch_size": 4}
    peer = torch_internvl("qwen2", vocab_size=len(tokenizer) + 8, vision=vision, max_position_embeddings=1024)
    peer.config.image_token_id = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    save_internvl(peer, folder)
    tokenizer.save_pretrained(str(folder))
    generation = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.3, "eos_token_id": [2]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: qwen\n---\nA base.\n")
    (folder / "LICENSE").write_text("terms of the base")
    return folder


def from_weights(weights: Path, run_dir: Path, **fields: Any) -> Config:
    fusion = FusionConfig(num_heads=2, num_distinct=3, fact_encoder="hidden_mean", difference="residual")
    return dataclasses.replace(
        TRAINED_HERE,
        run_dir=str(run_dir),
        model=ModelConfig(weights=str(weights), fusion=fusion, max_tiles=2, compute_dtype="float32"),
        **fields,
    )


@pytest.fixture(scope="module", autouse=True)
def remote_code_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers keeps its copies of a folder's code here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Stage sfe of a model trained from scratch, with the quickstart's fusion."""
    tmp_path = tmp_path_factory.mktemp("trained_here")
    fusion = dataclasses.replace(TRAINED_HERE.model.fusion, difference_places=True)
    model = dataclasses.replace(TRAINED_HERE.model, fusion=fusion)
    return exported_case(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"), model=model), "sfe")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_folder(tmp_path_factory.mktemp("weights") / "InternVL-tiny")


@pytest.fixture(scope="module")
def fine_tuned(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Stage sfe of a run on `model.weights`, whose facts are read by a frozen decoder."""
    tmp_path = tmp_path_factory.mktemp("fine_tuned")
    config = from_weights(weights, tmp_path / "run")
    return exported_case(config, "sfe", stages=("sfe",))


@pytest.fixture(params=["trained_here", "fine_tuned"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


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
        _, expected = anomaly_map(record(number, num_facts=0), similarity, trained_here.run.config.model)
        np.testing.assert_allclose(answer.anomaly_map, expected, atol=1e-5)
    alone = trained_here.sage.answer(picture(0), "Is it whole?")
    assert alone.anomaly_map is None and alone.similarity is None


def jax_logits(case: Case, tiles: np.ndarray) -> Callable[[list[int]], np.ndarray]:
    """Logits of the plain model for token ids, by JAX; the length is padded, so that it compiles once."""
    run = case.run
    sage: Sage = merge(run.weights.structure.graphdef, run.weights.merged(case.stage, wanted_by="test"))
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


def test_sage_saved_by_torch_is_the_exported_one(trained_here: Case, tmp_path: Path) -> None:
    trained_here.sage.save_pretrained(tmp_path / "saved")
    assert open_checkpoint(tmp_path / "saved", trained_here.run.config.model).has_fact_encoder
    again = load_sage(tmp_path / "saved")
    asked = ("Is it whole?", ("This is a cap.",), picture(5))
    assert again.answer(picture(1), *asked).text == trained_here.sage.answer(picture(1), *asked).text


def test_the_tokenizer_comes_back_and_the_conversation_with_it(case: Case) -> None:
    ours, theirs = load_tokenizer(case.run.folder.tokenizer), AutoTokenizer.from_pretrained(case.folder)
    assert theirs.get_vocab() == ours.get_vocab()
    for text in ("Is there a defect? Yes, 你是 <IMG_CONTEXT>\n\n<|im_end|>", "True. No."):
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(theirs.encode(text)) == ours.decode(ours.encode(text))
    assert theirs.context_image_token_id == case.run.chat.image_id
    checkpoint = open_checkpoint(case.folder, ModelConfig(fusion=case.run.config.model.fusion))
    found = find_conversation(case.folder, checkpoint.config, read_tokenizer(case.folder, checkpoint.config))
    assert (found.system, found.between) == (case.run.chat.system, case.run.chat.conversation.between)


def test_a_checkpoint_that_went_through_the_stage_is_the_same_bit_for_bit(weights: Path, tmp_path: Path) -> None:
    config = from_weights(weights, tmp_path / "run")
    run_stages(config)  # of stage base, for which the weights stand in: nothing is trained
    written = tmp_path / "run" / "export"
    assert stored_bytes(written) == stored_bytes(weights)
    again = from_weights(written, tmp_path / "again")
    run_stages(again)
    assert stored_bytes(tmp_path / "again" / "export") == stored_bytes(weights)
    own = "sage_fusion.safetensors"
    assert (tmp_path / "again" / "export" / own).read_bytes() == (written / own).read_bytes()
    card = (written / "README.md").read_text()
    assert "license: other\nlicense_name: qwen\n" in card and "base, InternVL-tiny: other, qwen" in card
    assert "None: these are the base's weights" in card
    assert (written / "base" / "LICENSE").read_text() == "terms of the base"
    generation = json.loads((written / "generation_config.json").read_text())
    assert generation["temperature"] == 0.7 and generation["eos_token_id"] == list(Run(config).chat.stop_ids)


def test_a_checkpoints_way_to_choose_tokens_is_refused_where_it_is_not_computed(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "beams")
    (tmp_path / "beams" / "generation_config.json").write_text('{"num_beams": 4}')
    evaluate = dataclasses.replace(TRAINED_HERE.evaluate, decoding=DecodingConfig(method="checkpoint"))
    assert Run(from_weights(weights, tmp_path / "run", evaluate=evaluate)).checkpoint
    with pytest.raises(WeightsError, match="num_beams is not supported; .*decoding.method=greedy"):
        Run(from_weights(tmp_path / "beams", tmp_path / "run", evaluate=evaluate))


def test_a_stage_knows_the_weights_that_it_started_from(weights: Path, tmp_path: Path) -> None:
    """By content: a checkpoint of its training holds what trains alone, which means nothing over others."""
    moved, other = (tmp_path / name for name in ("moved", "other"))
    for folder in (moved, other):
        shutil.copytree(weights, folder)
    path = sorted(other.glob("*.safetensors"))[-1]
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # of one number of the last tensor
    path.write_bytes(content)
    first, second, third = (
        Run(from_weights(f, tmp_path / "run")).trained.start_hash("sfe") for f in (weights, moved, other)
    )
    assert first == second != third and first
    assert Run(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"))).trained.start_hash("base") == ""


def test_the_folder_names_no_path_of_the_machine(case: Case) -> None:
    secret = [str(case.run.folder.path.parent), case.run.config.model.weights or str(case.run.folder.path)]
    for path in (path for path in case.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not [name for name in secret if name.encode() in content], path.name


def test_the_original_layout_has_no_torch_module_and_reads_back(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    folder = tmp_path / "original"
    options = ExportConfig(folder=str(folder), layout="internvl_chat", dtype="float32")
    run_stages(dataclasses.replace(run.config, export=options))
    assert not list(folder.glob("*.py"))
    about = json.loads((folder / "config.json").read_text())
    assert (about["model_type"], about["template"], about["max_dynamic_patch"]) == ("internvl_chat", "internvl2_5", 3)
    assert "auto_map" not in about and "sage" not in about
    assert "the system message that it was trained with is none" in (folder / "README.md").read_text()
    own = {path.name: path.read_bytes() for path in folder.glob("sage_fusion*")}
    assert own == {path.name: path.read_bytes() for path in trained_here.folder.glob("sage_fusion*")}
    assert open_checkpoint(folder, run.config.model).has_fusion


def test_the_card_has_the_scores_of_these_weights_alone(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    examination = run.examination("sfe", run.weights.merged("sfe", wanted_by="test"))
    metric = {"value": 0.75, "low": 0.5, "high": 0.875, "n": 10}
    for revision, shown in (("cd" * 32, True), ("ef" * 32, False)):
        key = scored_of(examination, "cd" * 32)
        summary = {"metrics": {"sfe": {"one_shot": {"verdict_accuracy": metric, "scored_of": key}}}}
        run.folder.write_json("summary.json", summary)
        run.folder.write_json("data.json", {"revision": revision, "train": 1, "test": 2})
        folder = tmp_path / revision[:2]
        run_stages(dataclasses.replace(run.config, export=ExportConfig(folder=str(folder), license="mit")))
        card = (folder / "README.md").read_text()
        assert ("| Verdict accuracy | one-shot | 0.750 | 0.500 to 0.875 | 10 |" in card) == shown
        assert ("No scores: summary.json has none of these weights" in card) != shown
        assert "license: mit\n" in card and f"revision: `{'ab' * 32}`" in card


def test_an_interrupted_export_leaves_nothing(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    config = dataclasses.replace(run.config, export=ExportConfig(folder=str(tmp_path / "out")))
    stopped = Run(config)
    params = stopped.weights.merged("sfe", wanted_by="test")
    exported = Exported(stopped.examination("sfe", params), "sfe", run.folder.tokenizer, None, {})
    seen: list[set[str]] = []

    def interrupt(folder: Path) -> None:
        seen.append({path.name for path in folder.iterdir()})
        raise KeyboardInterrupt

    with RunLog(run.folder.path, "export") as log, pytest.raises(KeyboardInterrupt):
        write_export(params, exported, log=log, add_files=[interrupt])
    assert {"README.md", "tokenizer.json", "modeling_sage.py", "model.safetensors"} <= seen[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stage": "edpo"}, ConfigError, "stage 'export' needs stage 'edpo', .*--config.stages=edpo,export"),
        ({"folder": "."}, ConfigError, r"config.export.folder: \. is there already: delete it, or give another"),
        ({"upload_to": "user/parts"}, UploadError, "HF_HUB_OFFLINE is set: unset it, or leave upload_to out"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(
    trained_here: Case,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = dataclasses.replace(trained_here.run.config, export=ExportConfig(**{"folder": "absent", **options}))
    config_file = trained_here.run.folder.path / "config.json"
    before = config_file.stat().st_mtime_ns
    with pytest.raises(error, match=message):
        run_stages(config)
    assert config_file.stat().st_mtime_ns == before and not Path("absent").exists()


def test_a_model_that_the_layout_cannot_compute_is_refused_before_any_work(tmp_path: Path) -> None:
    model = ModelConfig(vit=VitConfig(tile_px=72, patch_px=8), downsample=3)
    config = dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"), model=model, stages="base,export")
    with pytest.raises(WeightsError, match="model.downsample = 3: transformers' InternVL takes 1, 2, 4"):
        run_stages(config)
    assert not (tmp_path / "run").exists()


class Hub:
    """Stands in for huggingface_hub.HfApi; remembers what it was asked, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.asked = failing, []

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> None:
        self.asked.append(("create_repo", repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, commit_message: str | None = None) -> None:
        self.asked.append(("upload_folder", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        if self.failing:
            raise ConnectionError(self.failing)


def test_an_upload_gets_the_finished_folder_and_a_failed_one_keeps_it(trained_here: Case, tmp_path: Path) -> None:
    run = trained_here.run
    for failing in ("", "no route to host"):
        folder, hub = tmp_path / f"out{len(failing)}", Hub(failing)
        options = ExportConfig(folder=str(folder), upload_to="user/parts")
        one = Run(dataclasses.replace(run.config, export=options))
        params = one.weights.merged("sfe", wanted_by="test")
        exported = Exported(one.examination("sfe", params), "sfe", run.folder.tokenizer, None, {})
        with RunLog(run.folder.path, "export") as log:
            if failing:
                message = rf"{folder} is complete, but was not uploaded .* no route .*\n.*hf upload user/parts {folder}"
                with pytest.raises(UploadError, match=message):
                    write_export(params, exported, log=log, api=hub)
            else:
                write_export(params, exported, log=log, api=hub)
        names = sorted(path.name for path in folder.iterdir())
        assert hub.asked == [("create_repo", "user/parts", True, True), ("upload_folder", "user/parts", names)]
        assert {"config.json", "README.md", "modeling_sage.py"} <= set(names)
        assert 'from_pretrained("user/parts", trust_remote_code=True)' in (folder / "README.md").read_text()
