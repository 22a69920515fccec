"""A run that starts from published weights: what it takes from them, and what it refuses before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sage_jax.config import Config, ConfigError, DecoderConfig, DecodingConfig, LoraConfig, ModelConfig, TextConfig
from sage_jax.config.command_line import read_config
from sage_jax.generation.sampling import Sampling
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import open_checkpoint
from sage_jax.models.sage import Placeholders
from sage_jax.parameters import merge
from sage_jax.stages.run import Run
from sage_jax.training.finished import load_final
from sage_jax.training.lora_params import start_params
from tests.support.tiny_internvl import imported, save_internvl, torch_internvl
from tests.support.tiny_run import CONFIG, run_main
from tests.support.tiny_tokenizers import qwen_tokenizer

TINY = read_config(["--config", str(CONFIG)])


def with_weights(folder: Path, **model: Any) -> Config:
    """A config that starts from the folder; sizes are left out unless given."""
    sized = ModelConfig(weights=str(folder), fusion=TINY.model.fusion)
    return Config(run_dir=str(folder / "run"), model=dataclasses.replace(sized, **model))


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny config's sizes."""
    vit, decoder = TINY.model.vit, TINY.model.decoder
    tokenizer = qwen_tokenizer()
    peer = torch_internvl(
        vocab_size=len(tokenizer),
        hidden_size=decoder.embed_dim,
        num_hidden_layers=decoder.num_layers,
        num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads,
        intermediate_size=decoder.mlp_dim,
        rope_theta=decoder.rope_theta,
        vision={
            "image_size": vit.tile_px,
            "patch_size": vit.patch_px,
            "hidden_size": vit.embed_dim,
            "num_hidden_layers": vit.num_layers,
            "num_attention_heads": vit.num_heads,
            "intermediate_size": vit.mlp_dim,
        },
    )
    peer.config.image_token_id = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    folder = save_internvl(peer, tmp_path_factory.mktemp("weights"))
    tokenizer.save_pretrained(str(folder))
    return folder


def test_stage_1_and_evaluation_start_from_the_weights_without_a_base_stage(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    run = run_main(
        tmp_path,
        f"--config.model.weights={checkpoint_folder}",
        "--config.stages=prepare,base,sfe,evaluate",
        "--config.text.buckets=(1024, 1536)",
        "--config.sfe.steps=1",
        "--config.evaluate.stages=('base', 'sfe')",
    )
    said = (run.run_dir / "log.txt").read_text(encoding="utf-8")
    assert f"base: not trained: {checkpoint_folder} stands in for it" in said
    assert run.summary()["metrics"].keys() == {"base", "sfe"}
    expected = imported(open_checkpoint(checkpoint_folder, ModelConfig(fusion=TINY.model.fusion)))
    trained = load_final(run.run_dir / "stages" / "sfe")
    for path in expected:
        if path.startswith("vit/"):  # frozen in stage 1
            np.testing.assert_array_equal(trained[path], expected[path], err_msg=path)
    table = expected["decoder/embedding/embedding"]
    encoder = np.asarray(trained["fact_encoder/embedding/embedding"])  # frozen too, and as the decoder's before stage 1
    np.testing.assert_array_equal(encoder[: len(table)], table)
    np.testing.assert_allclose(
        encoder[len(table) :], np.repeat(table.mean(0)[None], len(encoder) - len(table), 0), atol=1e-6
    )
    assert np.asarray(trained["fusion/attention/query/kernel"]).std() > 0.1  # SAGE's own starts fresh


def test_a_run_has_the_sizes_of_its_checkpoint(checkpoint_folder: Path) -> None:
    run = Run(with_weights(checkpoint_folder))
    assert run.config.model.vit == TINY.model.vit
    assert run.config.model.decoder == dataclasses.replace(TINY.model.decoder)
    assert "base" in run.trained and "sfe" not in run.trained
    again = Run(run.config)  # as the runs inside an ablation
    assert again.config == run.config


def test_a_run_talks_as_its_checkpoint_does(checkpoint_folder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(with_weights(checkpoint_folder), run_dir=str(tmp_path / "run"))
    chat = Run(config).chat
    published = qwen_tokenizer()
    said = "<|im_start|>user\n<img><IMG_CONTEXT></img>\nIs it whole?<|im_end|>\n<|im_start|>assistant\n"
    asked = [*chat.prefix_ids(1, facts=(), facts_as="text"), *chat.question_ids("Is it whole?", facts_as="text")]
    assert asked == published.encode(said)
    assert chat.comparison_id == len(published) and chat.vocab_size == len(published) + 1
    assert chat.stop_ids == (chat.end_id, 2)  # 2 is what generation_config.json says
    (tmp_path / "run" / "stages").mkdir()
    again = Run(config)
    assert again.chat.tokenizer_digest() == chat.tokenizer_digest()
    params = again.weights.merged("base", wanted_by="sfe")
    assert params["decoder/embedding/embedding"].shape[0] == len(published) + 1
    assert not merge(again.weights.structure.graphdef, params).placeholders.reference
    two_images = Run(dataclasses.replace(config, text=TextConfig(reference="prompt")))
    found = merge(two_images.weights.structure.graphdef, params).placeholders
    assert found == Placeholders(chat.image_id, chat.comparison_id, True)
    for path in checkpoint_folder.iterdir():
        if "token" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(WeightsError, match="there is no tokenizer.json"):
        _ = Run(dataclasses.replace(with_weights(tmp_path), run_dir=str(tmp_path / "other"))).chat


def test_answers_are_chosen_as_the_config_or_the_checkpoint_says(checkpoint_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in checkpoint_folder.iterdir():
        if path.name not in ("generation_config.json", "run"):
            (folder / path.name).symlink_to(path)
    said = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": [2, 5]}
    params = None
    for decoding, drawn, expected in (
        (DecodingConfig("checkpoint", seed=4), True, Sampling(0.7, 20, 0.8, 1.05, 4)),
        (DecodingConfig("checkpoint"), False, Sampling(repetition_penalty=1.05)),
        (DecodingConfig("sample", 0.5, 0.9, 3, 1.1, 6), True, Sampling(0.5, 3, 0.9, 1.1, 6)),
        (DecodingConfig(repetition_penalty=1.3), True, Sampling(repetition_penalty=1.3)),
        (DecodingConfig(), True, Sampling()),
    ):
        (folder / "generation_config.json").write_text(json.dumps({**said, "do_sample": drawn}))
        config = with_weights(folder)
        config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, decoding=decoding))
        run = Run(config)
        params = params or run.weights.merged("base", wanted_by="evaluate")
        found = run.responder(params).decoding
        assert found.sampling == expected
        assert found.closes(np.array([2, 5, run.chat.end_id, 6])).tolist() == [True, True, True, False]


@pytest.mark.parametrize("fact_encoder", ["embedding_mean", "hidden_mean"])
def test_stage_1_on_quantised_weights_starts_from_those_of_the_checkpoint(
    checkpoint_folder: Path, tmp_path: Path, fact_encoder: Literal["embedding_mean", "hidden_mean"]
) -> None:
    lora = LoraConfig(rank=2, base="int8")
    fusion = dataclasses.replace(TINY.model.fusion, fact_encoder=fact_encoder)
    config = with_weights(checkpoint_folder, fusion=fusion)
    sfe = dataclasses.replace(config.sfe, lora=lora)
    run = Run(dataclasses.replace(config, run_dir=str(tmp_path / "run"), sfe=sfe))
    plain = run.weights.merged("base", wanted_by="sfe")
    expected = start_params(dict(plain), lora, seed=run.config.seed)
    found = run.weights.start("sfe")
    assert found["decoder/blocks/mlp/up/kernel"].dtype == np.int8
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_a_checkpoint_with_faults_or_a_contradicting_config_stops_the_run(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"config\.model\.decoder\.num_layers = 7, but text_config"):
        Run(with_weights(checkpoint_folder, decoder=DecoderConfig(num_layers=7)))
    with pytest.raises(WeightsError, match="config.json: there is no such file"):
        Run(with_weights(tmp_path))


def test_sequences_must_end_before_rope_is_scaled(checkpoint_folder: Path, tmp_path: Path) -> None:
    text = (checkpoint_folder / "config.json").read_text()
    assert '"rope_type": "default"' in text
    scaled = text.replace('"rope_type": "default"', '"rope_type": "dynamic", "factor": 2.0')
    for path in checkpoint_folder.glob("*.safetensors*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").write_text(scaled)
    config = with_weights(tmp_path)
    with pytest.raises(ConfigError, match="make 1064 positions; .* scales RoPE after 512"):
        Run(dataclasses.replace(config, text=TextConfig(buckets=(256, 512, 1024))))
    assert Run(dataclasses.replace(config, text=TextConfig(buckets=(256,)))).checkpoint is not None
