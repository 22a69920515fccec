"""The folder of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from sage_jax.config import Config, ConfigError
from sage_jax.process.checksums import open_json
from sage_jax.stages.folder import RunFolder, held_by_one


def test_every_file_lies_in_the_folder_and_json_is_written_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for path in (folder.summary, folder.tokenizer, folder.stages, folder.stage("sfe")):
        assert path.is_relative_to(folder.path)
    assert folder.stage("sfe").parent == folder.stages
    folder.write_json("stages/sfe/data.json", {"train": 3})
    folder.write_json("stages/sfe/data.json", {"train": 4})
    assert json.loads((folder.stage("sfe") / "data.json").read_text()) == {"train": 4}
    folder.write_sealed("stages/sfe/data.json", {"train": 5})
    assert open_json((folder.stage("sfe") / "data.json").read_text()) == {"train": 5}
    assert [path.name for path in folder.stage("sfe").iterdir()] == ["data.json"]  # no temporary file stays


def test_a_config_is_written_with_its_checksum(tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path), dataclasses.replace(Config(), seed=7)
    for each in (Config(), config):
        folder.write_config(each)
    content = (tmp_path / "config.json").read_bytes()
    assert json.loads(content)["seed"] == 7
    assert (tmp_path / "config.json.sha256").read_text().strip() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BlockingIOError(11, "busy"), "another process works in it; wait for it, or give another watch.output"),
        (PermissionError(13, "Permission denied"), "cannot be written: Permission denied"),
    ],
)
def test_what_keeps_a_folder_from_being_held_is_told_by_its_field(error: OSError, told: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"watch.output = '/results'.* {told}"),
        held_by_one("watch.output", "/results"),
    ):
        raise error
