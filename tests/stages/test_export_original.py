"""An export in OpenGVLab's layout names its base's conversation and code, and is read back as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import ExportConfig, ModelConfig
from sage_jax.data.trees.conversations import CONVERSATIONS
from sage_jax.hf.original_code import AUTO_MAP
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from tests.support.exported_case import Case, from_weights
from tests.support.tiny_export import TRAINED_HERE
from tests.support.tiny_internvl import save_original, stored_bytes, torch_internvl
from tests.support.tiny_tokenizers import qwen_tokenizer

pytestmark = pytest.mark.usefixtures("remote_code_cache")


def original_checkpoint(folder: Path, **fields: Any) -> Path:
    """A checkpoint as OpenGVLab publishes them with Qwen2, of random weights, with rows to spare for a new token."""
    tokenizer = qwen_tokenizer()
    save_original(torch_internvl("qwen2", vocab_size=len(tokenizer) + 8), folder, "qwen2")
    tokenizer.save_pretrained(str(folder))
    path = folder / "config.json"
    about = json.loads(path.read_text())
    del about["llm_config"]["rope_scaling"]  # its 512 positions are too few for the prompts here
    about["llm_config"]["vocab_size"] = len(tokenizer) + 8
    path.write_text(json.dumps({**about, **fields}))
    return folder


@pytest.mark.parametrize(
    ("template", "system"), [("Hermes-2", ""), ("internlm2-chat", ""), ("internvl2_5", ""), ("Hermes-2", "Be brief.")]
)
def test_the_conversation_of_the_base_keeps_its_name_and_system_message(
    template: str, system: str, tmp_path: Path
) -> None:
    base = original_checkpoint(tmp_path / "InternVL2-tiny", template=template)
    text = dataclasses.replace(TRAINED_HERE.text, system=system)
    options = ExportConfig(layout="internvl_chat", dtype="float32")
    config = from_weights(base, tmp_path / "run", text=text, export=options)
    run_stages(config)
    folder = tmp_path / "run" / "export"
    about, before = (json.loads((written / "config.json").read_text()) for written in (folder, base))
    assert about["template"] == template
    assert (about["auto_map"], about["ps_version"], about["select_layer"]) == (AUTO_MAP, "v2", -1)
    assert about["llm_config"]["eos_token_id"] == before["llm_config"]["eos_token_id"]
    assert stored_bytes(folder) == stored_bytes(base)
    card = (folder / "README.md").read_text()
    assert ("set it in the tool that reads this" in card) == bool(system)
    assert 'hf download OpenGVLab/InternVL3-1B --include "*.py" --local-dir .' in card
    again = Run(from_weights(folder, tmp_path / "again"))
    assert again.chat.conversation == CONVERSATIONS[template]
    assert again.chat.system == CONVERSATIONS[template].system


def test_an_export_that_is_read_back_writes_questions_as_its_run_does(case: Case, tmp_path: Path) -> None:
    ran = case.run.config
    model = ModelConfig(weights=str(case.folder), fusion=ran.model.fusion, compute_dtype="float32")
    again = Run(dataclasses.replace(ran, run_dir=str(tmp_path / "again"), model=model)).chat
    assert again.conversation.as_given == case.run.chat.conversation.as_given == bool(ran.model.weights)
    for question in ("  Is it whole?\n", "Is it whole?"):
        assert again.question_ids(question).tolist() == case.run.chat.question_ids(question).tolist()
    shown = (case.folder / "chat_template.jinja").read_text()
    assert ("part.text | trim" in shown) != bool(ran.model.weights)
