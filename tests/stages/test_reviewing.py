"""The page's view of a run: its versions, the one that answers, and where requests are kept."""

from __future__ import annotations

import json
from pathlib import Path

from sage_jax.process.checksums import sealed_json
from sage_jax.stages.reviewing import versions_json
from sage_jax.stages.versions import REPORT, use_version, version_folder


def make_version(root: Path, number: int) -> Path:
    folder = version_folder(root, number)
    folder.mkdir(parents=True)
    metric = {"value": 0.5, "low": 0.4, "high": 0.6}
    report = {
        "version": number,
        "from_version": 0,
        "time": 1.8e9,
        "offered": True,
        "why": "nothing fell",
        "measures": {"test_verdicts": {"before": metric, "after": metric, "gain": metric, "fell": False}},
        "learnt": {"trained": [1, 2, 3], "held_out": [4]},
    }
    (folder / REPORT).write_text(json.dumps(sealed_json(report)), encoding="utf-8")
    return folder


def test_versions_say_which_answers_here_and_which_waits_for_a_restart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    first = make_version(tmp_path, 1)
    found = versions_json(tmp_path)
    assert [(each["number"], each["active"], each["answering"]) for each in found["versions"]] == [
        (0, True, True),
        (1, False, False),
    ]
    assert found["note"] == ""
    assert "3 corrected images, measured on 1" in found["versions"][1]["learnt"]
    assert list(found["versions"][1]["measures"]) == ["Verdicts, old test set"]
    use_version(tmp_path, 1)
    waiting = versions_json(tmp_path)
    assert [each["answering"] for each in waiting["versions"]] == [True, False] and "Version 1" in waiting["note"]
    answering = versions_json(first)
    assert [each["answering"] for each in answering["versions"]] == [False, True] and answering["note"] == ""
    assert answering["versions"][1]["command"] == f"sage-jax use {tmp_path} --version 1"


def test_a_model_that_is_no_run_has_no_versions(tmp_path: Path) -> None:
    found = versions_json(tmp_path / "exported")
    assert found["versions"] == [] and "exported" in found["note"]
