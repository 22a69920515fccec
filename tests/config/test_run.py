"""Dataclasses and ConfigDict hold the same config, and what comes back is checked field by field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sage_jax.config import (
    STAGES,
    TRAINING_STAGES,
    AblateConfig,
    Config,
    ConfigError,
    DataConfig,
    DecodingConfig,
    EvaluateConfig,
    FusionConfig,
    InspectConfig,
    ModelConfig,
    TrainConfig,
    field_paths,
    from_config_dict,
    to_config_dict,
)


def test_a_config_comes_back_from_its_config_dict_unchanged() -> None:
    config = Config(
        seed=3, data=DataConfig(held_out=("gear", "pill"), defect_rate=0.25), sfe=TrainConfig(freeze=(), steps=30)
    )
    assert from_config_dict(to_config_dict(config)) == config


def test_config_dicts_are_locked() -> None:
    with pytest.raises(AttributeError):
        to_config_dict(Config()).sead = 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sead", 1, "config.sead: no such field; did you mean 'seed'?"),
        ("sfe.stesp", 1, "config.sfe.stesp: no such field; did you mean 'steps'?"),
        ("seed", "1", "config.seed = '1': expected int, got str"),
        ("seed", True, "config.seed = True: expected int, got bool"),
        ("model.vit.qk_norm", 1, "config.model.vit.qk_norm = 1: expected bool, got int"),
        ("data.held_out", "gear", "config.data.held_out = 'gear': expected a tuple, such as ('gear',)"),
        ("text.buckets", (256, "x"), "config.text.buckets[1] = 'x': expected int, got str"),
        ("data.source", "deepcb", "did you mean 'deeppcb'?"),
        ("sfe", 3, "config.sfe = 3: expected its fields, config.sfe.<field>"),
        ("sfe.accumulate", 3, "config.sfe.accumulate = 3 does not divide batch_size = 16"),
        ("model.vit.patch_px", 7, "config.model.vit.patch_px = 7 does not divide"),
        ("stages", "prepare,evalute", "config.stages: 'evalute' is no stage; did you mean 'evaluate'?"),
        ("stages", " , ", "config.stages is empty"),
        ("run_dir", "", "config.run_dir is empty"),
        ("evaluate.stages", ("basic",), "config.evaluate.stages: 'basic' is no training stage; did you mean 'base'?"),
        ("inspect.stage", "evaluate", "config.inspect.stage: 'evaluate' is no training stage"),
        ("inspect.questions", ("Where?", " "), "config.inspect.questions = ('Where?', ' '): one of them is empty"),
        ("evaluate.decoding.method", "sampel", "did you mean 'sample'?"),
        (
            "evaluate.decoding.method",
            "checkpoint",
            "evaluate.decoding.method = 'checkpoint' needs one: name it in model.we",
        ),
        (
            "evaluate.decoding.temperature",
            0.5,
            "temperature = 0.5 has no effect with method = 'greedy': set method = 's",
        ),
        ("evaluate.decoding.top_k", 5, "config.evaluate.decoding.top_k = 5 has no effect"),
        ("evaluate.decoding.top_p", 1.5, "config.evaluate.decoding.top_p = 1.5: give a share"),
        ("evaluate.decoding.repetition_penalty", 0.0, "decoding.repetition_penalty = 0.0: must be above 0"),
        ("evaluate.decoding.seed", 2**32, "must be below 2^32"),
        ("text.reference", "both", "config.text.reference = 'both' is none of fusion, prompt"),
        ("ablate.seeds", (1, 1), "config.ablate.seeds = (1, 1): give each seed once"),
        ("ablate.seeds", (0, 2**32), "config.ablate.seeds = 4294967296: give a seed from 0 to 4294967295"),
        ("seed", 10**20, "config.seed = 100000000000000000000: give a seed from 0 to 4294967295"),
        ("sfe.eval_every", 5, "config.sfe.eval_every = 5, but data.validation_fraction is 0"),
        ("seed", -1, "config.seed = -1: give a seed from 0"),
        ("edpo.answers", "best", "config.edpo.answers = 'best': preferences are learnt from 'ranked'"),
        ("dpo.questions", "description", "config.dpo.questions = 'description': preferences are learnt from"),
        ("edpo.facts", "text", "config.edpo.facts = 'text': preferences are learnt from 'fusion'"),
        ("dpo.preference.lambda_easy", 0.0, "config.dpo.preference.lambda_hard and lambda_easy are 0"),
        ("edpo.preference.sigmoid_weight", 0.0, "bco_weight and sft_weight are 0: nothing would train"),
    ],
)
def test_wrong_fields_are_named_with_their_path_and_the_way_out(path: str, value: Any, message: str) -> None:
    values = to_config_dict(Config()).to_dict()
    *sections, name = path.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[name] = value
    with pytest.raises(ConfigError) as raised:
        from_config_dict(values)
    assert message in str(raised.value)


def test_decoding_takes_what_its_method_reads() -> None:
    assert DecodingConfig(repetition_penalty=1.2).method == "greedy"
    assert DecodingConfig("sample", 0.7, 0.8, 20, 1.05, 3).top_k == 20
    with pytest.raises(ConfigError, match="repetition_penalty = 1.2 has no effect with method = 'checkpoint'"):
        DecodingConfig("checkpoint", repetition_penalty=1.2)


def test_a_question_head_is_passed_by_questions_asked_together_alone() -> None:
    model = dataclasses.replace(ModelConfig(), fusion=FusionConfig(head="all"))
    asked = InspectConfig(questions=("Where is it?",), ask="in_turn")
    with pytest.raises(ConfigError, match=r"inspect\.questions: .* set inspect\.ask to 'together'"):
        Config(model=model, inspect=asked)
    assert Config(model=model, inspect=dataclasses.replace(asked, ask="together")).inspect.questions


def test_an_integer_is_taken_for_a_float() -> None:
    values = to_config_dict(Config()).to_dict()
    values["sfe"]["clip_norm"] = 2
    rate = from_config_dict(values).sfe.clip_norm
    assert (type(rate), rate) == (float, 2.0)


def test_field_paths_are_the_fields_of_all_sections() -> None:
    def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
        inner = [leaves(value, f"{prefix}{name}.") for name, value in values.items() if isinstance(value, dict)]
        return {prefix + name for name in values}.union(*inner)

    assert set(field_paths()) == leaves(dataclasses.asdict(Config()))


def test_stages_stand_in_order_and_every_training_stage_has_its_config() -> None:
    assert Config(stages="base, sfe ,evaluate").stage_names == ("base", "sfe", "evaluate")
    assert set(TRAINING_STAGES) <= set(STAGES)
    for stage in TRAINING_STAGES:
        assert Config().training(stage) is getattr(Config(), stage)


def test_plain_dpo_has_no_margin_and_the_extreme_pair_alone() -> None:
    assert (Config().dpo.preference.eta, Config().dpo.preference.lambda_hard) == (0.0, 0.0)
    assert Config().edpo.preference.eta > 0 and Config().edpo.preference.lambda_hard > 0


def test_empty_choices_of_stages_are_refused() -> None:
    for make in (lambda: EvaluateConfig(stages=()), lambda: AblateConfig(stages=()), lambda: InspectConfig(stage="x")):
        with pytest.raises(ConfigError, match="stage"):
            make()
