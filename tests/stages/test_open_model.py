"""Folders with a model, and what is said of those without."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest

from sage_jax.config import Config, InspectConfig
from sage_jax.errors import UserError
from sage_jax.process.shortages import ShortageError
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.open_model import config_of


def test_a_run_folder_answers_under_its_own_config_wherever_it_lies(tmp_path: Path) -> None:
    config = dataclasses.replace(Config(), seed=7, run_dir="runs/elsewhere")
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    assert config_of(tmp_path) == dataclasses.replace(config, run_dir=str(tmp_path))


def test_an_export_keeps_its_settings_and_a_released_checkpoint_has_none(tmp_path: Path) -> None:
    fusion = dataclasses.asdict(Config().model.fusion)
    sage = {
        "system": "", "max_facts": 3, "max_fact_tokens": 20, "assist_prompt": "Look.", "assist_position": "prefix",
        "reference": "fusion", "fusion": {**fusion, "num_distinct": 5}, "max_tiles": 2, "facts_as": "text",
        "max_new_tokens": 9,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl", "sage": sage}))
    found = config_of(tmp_path, scratch=tmp_path / "scratch")
    assert found.run_dir == str(tmp_path / "scratch") and found.model.weights == str(tmp_path)
    assert (found.model.fusion.num_distinct, found.model.max_tiles, found.text.max_facts) == (5, 2, 3)
    assert (found.base.facts, found.evaluate.max_new_tokens, found.text.system) == ("text", 9, "none")
    assert found.evaluate.map_detail == "tokens"
    assert found.data == Config().data
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl", "sage": {**sage, "language": "zh"}}))
    assert config_of(tmp_path).data.language == "zh"
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["InternVLChatModel"]}))
    released = config_of(tmp_path)
    assert released.run_dir == str(Path("runs") / tmp_path.name) and released.model.weights == str(tmp_path)
    (tmp_path / "sage_fusion.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="the settings of SAGE are missing"):
        config_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no model is here: neither a run .* nor a checkpoint"),
        ("{", "config.json: cannot be read"),
        ("[" * 100_000, "config.json: cannot be read"),
        *((content, "config.json: it is no JSON object") for content in ("5", "null", "[]", "true", '"model_type"')),
        ('{"model_type": "x", "sage": {}}', "config.json: sage: .* is lacking or of another kind: export anew"),
        ('{"sead": 3}', r"no run of this version: config.sead: no such field; did you mean 'seed'\?"),
    ],
)
def test_a_folder_without_a_model_says_what_trains_one(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        config_of(tmp_path)
    with pytest.raises(UserError, match="there is no such folder. `sage-jax train quickstart` trains a model"):
        config_of(tmp_path / "none")


def test_a_config_with_another_checksum_is_told_and_without_one_read(tmp_path: Path) -> None:
    config = dataclasses.replace(Config(), inspect=InspectConfig(threshold=0.5))
    RunFolder(tmp_path).write_config(config)
    assert config_of(tmp_path).inspect.threshold == 0.5
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"threshold": 0.5', '"threshold": 0.7'))
    with pytest.raises(UserError, match=r"config.json: damaged, or changed by hand.* delete .*config.json.sha256"):
        config_of(tmp_path)
    (tmp_path / "config.json.sha256").unlink()
    assert config_of(tmp_path).inspect.threshold == 0.7


def test_a_checksum_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_config(Config())
    seal = tmp_path / "config.json.sha256"
    seal.unlink()
    seal.mkdir()
    with pytest.raises(UserError, match=r"config.json.sha256: cannot be read.*: delete it"):
        config_of(tmp_path)


def test_a_lack_of_handles_is_never_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder(tmp_path).write_config(Config())
    read = Path.read_text

    def lacking(path: Path, *arguments: str, **options: str) -> str:
        if path.name == "config.json.sha256":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", lacking)
    with pytest.raises(ShortageError) as told:
        config_of(tmp_path)
    assert "config.json.sha256" in str(told.value) and "delete" not in str(told.value)
