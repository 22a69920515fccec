"""The tutorial's commands run, in their order, on real boards: smaller and shorter, and otherwise as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Final

import pytest

from tests.support.forked import run_forked
from tests.support.tiny_run import PROGRAM, ROOT, read_jsonl

BOARDS: Final = ROOT.parent / "shared" / "data" / "deeppcb"

_SHORTER: Final = {
    "bench.board_folders": "--templates 8 --tests 40 --calibration 24",
    "check": "--data.drawn-defects 1",
    "train": (
        "--stages prepare,base,sfe,evaluate,inspect --data.shrink-px 64 --data.drawn-defects 2 --evaluate.stages sfe"
        " --base.steps 3 --base.warmup-steps 1 --base.batch-size 4"
        " --sfe.steps 4 --sfe.warmup-steps 1 --sfe.batch-size 4"
        " --model.vit.tile-px 64 --model.vit.num-layers 1 --model.vit.embed-dim 32 --model.vit.num-heads 2"
        " --model.vit.mlp-dim 64 --model.decoder.num-layers 1 --model.decoder.embed-dim 32 --model.decoder.num-heads 2"
        " --model.decoder.num-kv-heads 2 --model.decoder.mlp-dim 64 --model.fusion.num-heads 2 --model.scan-unroll 1"
        " --evaluate.max-new-tokens 8"
    ),
}
"""What is added to a command, by the word that it is known by."""


def commands() -> list[list[str]]:
    """The page's commands, as words; the download left out."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    ((?:sage-jax|python -m) .*)$", text, re.MULTILINE)
    return [shlex.split(line.replace("DeepPCB/PCBData", str(BOARDS))) for line in lines]


def run(words: list[str], folder: Path) -> str:
    """What a command prints; it must end well."""
    added = next((more for word, more in _SHORTER.items() if word in words), "")
    program = "sage_jax" if words[0] == "sage-jax" else words[2]
    rest = words[1:] if words[0] == "sage-jax" else words[3:]
    environment = os.environ | {
        **PROGRAM,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HOME": str(folder),
    }
    done = run_forked([program, *rest, *shlex.split(added)], environment=environment, cwd=folder, timeout=600)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.mark.skipif(not BOARDS.is_dir(), reason="needs ../shared/data/deeppcb")
def test_the_tutorial_goes_from_photos_to_a_threshold(tmp_path: Path) -> None:
    told = {" ".join(words[:3]): run(words, tmp_path) for words in commands()}
    assert list(told) == [
        "python -m bench.board_folders",
        "sage-jax check own_parts",
        "sage-jax train own_parts",
        "sage-jax inspect boards/calibrate",
        "sage-jax calibrate boards/calibrate",
        "sage-jax inspect boards/test",
    ]
    assert "no faults" in told["sage-jax check own_parts"]
    run_dir = tmp_path / "runs" / "boards"
    assert (run_dir / "drawn_defects.png").is_file()
    assert "one_shot" in json.loads((run_dir / "summary.json").read_text())["metrics"]["sfe"]
    calibration = json.loads((run_dir / "calibration.json").read_text())
    assert calibration["num_good"] == 24 and calibration["promised"] <= 0.05
    tested = read_jsonl(run_dir / "tested" / "inspection.jsonl")
    assert len(tested) >= 30 and all(row["verdict"] != "unreadable" and row["reference"] for row in tested)
    report = (run_dir / "tested" / "report.html").read_text(encoding="utf-8")
    assert f"{calibration['promised']:.2%}" in report
