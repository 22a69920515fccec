"""The folder of a run."""

from __future__ import annotations

import json
from pathlib import Path

from sage_jax.stages.folder import RunFolder


def test_every_file_lies_in_the_folder_and_json_is_written_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for path in (folder.summary, folder.tokenizer, folder.stages, folder.stage("sfe")):
        assert path.is_relative_to(folder.path)
    assert folder.stage("sfe").parent == folder.stages
    folder.write_json("stages/sfe/data.json", {"train": 3})
    folder.write_json("stages/sfe/data.json", {"train": 4})
    assert json.loads((folder.stage("sfe") / "data.json").read_text()) == {"train": 4}
    assert [path.name for path in folder.stage("sfe").iterdir()] == ["data.json"]  # no temporary file stays
