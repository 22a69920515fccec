"""What a checkpoint's generation_config.json says, and which ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.hf.faults import WeightsError
from sage_jax.hf.generation_config import GenerationConfig, read_generation_config
from tests.hf.test_tokenizer import checkpoint_config


def written(folder: Path, values: Any, **config: Any) -> GenerationConfig:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return read_generation_config(folder, checkpoint_config("internvl_chat", **config))


def test_values_and_stop_tokens_are_the_files(tmp_path: Path) -> None:
    qwen = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    found = written(tmp_path, {**qwen, "eos_token_id": [151645, 151643]})
    assert found == GenerationConfig(0.7, 0.8, 20, 1.05, (151645, 151643), do_sample=True)
    assert written(tmp_path, {"eos_token_id": 92542}) == GenerationConfig(stop_ids=(92542,))
    assert written(tmp_path, {"do_sample": True}).top_k == 50  # transformers' own default
    assert not written(tmp_path, {"temperature": 0.2}).do_sample
    assert written(tmp_path, {"temperature": None, "top_k": None}) == GenerationConfig()


def test_a_missing_file_leaves_the_stop_tokens_to_config_json(tmp_path: Path) -> None:
    text = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 9, "eos_token_id": 7}
    assert read_generation_config(tmp_path, checkpoint_config("internvl_chat", llm_config=text)).stop_ids == (7,)
    assert read_generation_config(tmp_path, checkpoint_config()) == GenerationConfig()


def test_fields_that_choose_tokens_in_other_ways_are_named(tmp_path: Path) -> None:
    """Neutral values of them are no fault, and what only a draw reads is none without one."""
    neutral = {"num_beams": 1, "no_repeat_ngram_size": 0, "min_p": None, "bad_words_ids": None, "typical_p": 1.0}
    other = {"num_beams": 4, "no_repeat_ngram_size": 3, "min_p": 0.1, "max_new_tokens": 9, "use_cache": True}
    for values, named in (
        (neutral, ()),
        (other, ("no_repeat_ngram_size", "num_beams")),
        ({**other, "do_sample": True}, ("min_p", "no_repeat_ngram_size", "num_beams")),
    ):
        assert written(tmp_path, values).others == named


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"temperature": -1}, "temperature = -1: out of range"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"top_p": 0}, "top_p = 0"),
        ({"top_k": 2.5}, "top_k = 2.5"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0"),
        ({"temperature": "hot"}, "temperature = 'hot'"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id = "),
        ({"do_sample": "yes"}, "do_sample = 'yes': expected true or false"),
        ({"do_sample": True, "temperature": 0}, "temperature = 0 with do_sample"),
        ([], "expected an object"),
    ],
)
def test_values_that_cannot_be_are_named(values: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=fault):
        written(tmp_path, values)
