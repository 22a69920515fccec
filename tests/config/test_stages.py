"""The table of stages."""

from __future__ import annotations

import dataclasses

import pytest

from sage_jax.config import Config, TrainConfig
from sage_jax.config.stages import STAGES, TRAINING_STAGES, starts_from
from sage_jax.training.objectives import PreferenceObjective, SftObjective, stage_objective


@pytest.mark.parametrize("name", TRAINING_STAGES)
def test_every_training_stage_comes_from_fresh_weights_in_the_end(name: str) -> None:
    chain = [name]
    while (start := starts_from(chain[-1])) is not None:
        assert start in TRAINING_STAGES and start not in chain
        assert list(TRAINING_STAGES).index(start) < list(TRAINING_STAGES).index(chain[-1])  # trained before
        chain.append(start)
    assert chain[-1] == "base"


@pytest.mark.parametrize(("name", "stage"), TRAINING_STAGES.items())
def test_each_has_its_section_and_the_objective_of_the_table(name: str, stage: object) -> None:
    assert name == TRAINING_STAGES[name].name and name in STAGES
    assert isinstance(getattr(Config(), name), TrainConfig)
    learns_order = TRAINING_STAGES[name].objective == "preference"
    train = dataclasses.replace(TrainConfig(), answers="ranked" if learns_order else "best")
    assert isinstance(stage_objective(name, train), PreferenceObjective if learns_order else SftObjective)


def test_no_stage_stands_twice() -> None:
    assert len(STAGES) == len(set(STAGES)) and set(TRAINING_STAGES) < set(STAGES)
