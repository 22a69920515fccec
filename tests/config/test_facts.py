"""Config of stage `facts`."""

from __future__ import annotations

import pytest

from sage_jax.config import ConfigError, DataConfig, FactsConfig


def test_a_prompt_may_name_the_number_and_nothing_else() -> None:
    assert FactsConfig(prompt="Write {number} facts, {{as JSON}}.").prompt
    for prompt in ("Write {count} facts.", "Write {number facts.", "Write {} facts.", "{number.x}"):
        with pytest.raises(ConfigError, match=r"prompt = .*\{number\}"):
            FactsConfig(prompt=prompt)


def test_wrong_fields_are_told() -> None:
    with pytest.raises(ConfigError, match="stage"):
        FactsConfig(stage="sft")
    with pytest.raises(ConfigError, match="max_tokens"):
        FactsConfig(max_tokens=0)
    with pytest.raises(ConfigError, match="no facts of their own"):
        DataConfig(facts="record")
