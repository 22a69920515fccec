"""A model card says what the run wrote down, in the hub's form, and what nobody stated is said to be missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from sage_jax.config import Config, ModelConfig, TrainConfig
from sage_jax.data.adpl.wording import INSPECTION_QUESTIONS
from sage_jax.data.trees.conversations import CONVERSATIONS
from sage_jax.hf.model_card import Base, CardContent, licence_files, model_card, read_base
from sage_jax.hf.original_code import code_files

SCORES = {
    "one_shot": {
        "verdict_accuracy": {"value": 0.9421, "low": 0.9219, "high": 0.959, "n": 1000},
        "auroc": {"value": None, "low": None, "high": None, "n": 0},
    }
}
CONTENT = CardContent(
    name="user/parts",
    stage="edpo",
    layout="internvl",
    text_model="internlm2",
    dtype="bfloat16",
    facts_as="fusion",
    base=None,
    license="",
    data_license="",
    recipe=[("sfe", dataclasses.asdict(TrainConfig(steps=77))), ("edpo", dataclasses.asdict(TrainConfig()))],
    data={**dataclasses.asdict(Config().data), "source": "mvtec", "root": "a/secret/folder", "held_out": ("gear",)},
    data_counts={"revision": "ab" * 32, "train": 4000, "test": 200},
    model=ModelConfig(weights="another/secret"),
    metrics=SCORES,
    headings={"verdict_accuracy": "Verdict accuracy", "auroc": "AUROC"},
    scored_revision="cd" * 32,
    no_scores="",
    template_note="",
)


def card(**fields: Any) -> tuple[str, dict[str, Any]]:
    """Text of the card and its metadata as the hub reads it."""
    text = model_card(dataclasses.replace(CONTENT, **fields))
    return text, huggingface_hub.ModelCard(text).data.to_dict()


def test_scores_have_their_interval_and_number_and_stand_in_the_metadata() -> None:
    text, data = card()
    assert "| Verdict accuracy | one-shot | 0.942 | 0.922 to 0.959 | 1000 |" in text and "AUROC" not in text
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "verdict_accuracy", "value": 0.9421}]
    assert result["dataset"]["name"] == f"test records of revision {'cd' * 6}, one-shot"
    text, data = card(metrics={}, no_scores="No scores: none.")
    assert "No scores: none." in text and "model-index" not in data


def test_data_and_recipe_are_named_and_no_folder_is() -> None:
    text, data = card()
    for wanted in (f"`{'ab' * 32}`", "4000 training and 200 test records", 'held_out `["gear"]`', "steps `77`"):
        assert wanted in text
    assert "Stages, in order: sfe, edpo." in text
    assert "secret" not in text and "keep_last" not in text
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "image-text-to-text")
    assert "not recorded by the run" in card(data_counts={})[0]


@pytest.mark.parametrize(
    ("fields", "metadata", "said"),
    [
        ({}, {}, ("this model: not stated", "training data (mvtec): not stated; see the terms")),
        ({"license": "mit", "data_license": "CC BY"}, {"license": "mit"}, ("this model: mit", "training data: CC BY")),
        (
            {"base": Base("org/vlm", {"license": "other", "license_name": "qwen"}, on_hub=True)},
            {"license": "other", "license_name": "qwen", "base_model": "org/vlm"},
            ("this model: not stated", "base, org/vlm: other, qwen"),
        ),
        (
            {"base": Base("vlm", {}, on_hub=False), "license": "mit"},
            {"license": "mit"},
            ("base, vlm: its folder has no card that states one",),
        ),
    ],
)
def test_licences_are_those_that_were_stated(
    fields: dict[str, Any], metadata: dict[str, str], said: tuple[str, ...]
) -> None:
    text, data = card(**fields)
    found = {name: data[name] for name in ("license", "license_name", "base_model") if name in data}
    assert found == metadata
    for sentence in said:
        assert sentence in text


def test_the_original_layout_says_which_code_it_needs_and_promises_no_torch_module() -> None:
    text, data = card(layout="internvl_chat", template_note="Set the system message.")
    assert "sage.py" not in text and "Set the system message." in text and "library_name" not in data
    assert all(f"- `{name}`\n" in text for name in code_files("internlm2"))
    assert '\n    hf download OpenGVLab/InternVL2_5-8B --include "*.py" --local-dir .\n' in text
    assert "modeling_internlm2.py" not in card(layout="internvl_chat", text_model="qwen2")[0]
    assert "hf download" not in card()[0]
    assert CONVERSATIONS["internvl2_5"].system not in text


def test_a_base_is_what_its_folder_says(tmp_path: Path) -> None:
    assert read_base(tmp_path, "") == Base(tmp_path.name, {}, on_hub=False)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlicense_link: LICENSE\ntags: [a]\n---\n# VLM\n")
    for name in ("LICENSE.txt", "NOTICE", "weights.txt"):
        (tmp_path / name).write_text("x")
    found = read_base(tmp_path, "org/vlm")
    assert found == Base("org/vlm", {"license": "apache-2.0", "license_link": "LICENSE"}, on_hub=True)
    assert [path.name for path in licence_files(tmp_path)] == ["LICENSE.txt", "NOTICE"]
    (tmp_path / "README.md").write_text("no header: at all")
    assert read_base(tmp_path, "").licence == {}


def test_the_question_is_in_the_models_language_and_english_goes_without_saying() -> None:
    english, chinese = card()[0], card(language="zh", data={**CONTENT.data, "source": "adpl", "language": "zh"})[0]
    assert INSPECTION_QUESTIONS["en"] in english and 'language `"' not in english
    assert INSPECTION_QUESTIONS["zh"] in chinese and 'language `"zh"`' in chinese
    assert INSPECTION_QUESTIONS["en"] not in chinese
