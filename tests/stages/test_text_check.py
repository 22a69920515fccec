"""Text that does not fit is told with file and line before anything trains, whichever batch would have drawn it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import Config, DataConfig, EvaluateConfig, ModelConfig, TextConfig
from sage_jax.config.command_line import read_config
from sage_jax.data.images import encode_png
from sage_jax.data.records import Fault
from sage_jax.data.store import open_split, prepare
from sage_jax.data.stream.text_fit import measure_text
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeError, TreeFormat, TreeUse
from sage_jax.data.trees.shapes import enclosing, needed_shape
from sage_jax.data.trees.tree import build_tree
from sage_jax.journal.run_log import RunLog
from sage_jax.stages.stages import run_stages
from sage_jax.stages.text_check import TextCheck
from tests.support.tiny_run import CONFIG

TEXT = TextConfig(vocab_size=400, max_facts=1, max_fact_tokens=64, max_answer_tokens=24, buckets=(64, 512))
SFE = TreeUse("best")


def write_items(
    root: Path, *, long_answer: int | None = None, long_question: bool = False
) -> tuple[DataConfig, list[int]]:
    """Six AD-PL items and the line that each begins on; the fifth has one long answer of a rank, or long questions."""
    items: list[dict[str, Any]] = []
    for index in range(6):
        (root / f"{index}.png").write_bytes(encode_png(np.full((8, 8), index, np.uint8)))
        odd = index == 4
        asked = "Is it " + "so " * (200 if odd and long_question else 1) + "?"
        options = [
            {"answer_en": f"{word}. " + "cap " * (60 if odd and rank == long_answer else rank)}
            for rank, word in enumerate(("Yes", "Yes", "No", "No"))
        ]
        questions = [{"question_en": asked, "answer_options": options}] * 5
        kind = "defect diagnosis"
        items.append(
            {"pair_type": kind, "test_image": f"{index}.png", "question_answer": questions, "facts": ["A cap."]}
        )
    text = json.dumps(items, indent=1)
    (root / "adpl.json").write_text(text)
    lines = [number for number, row in enumerate(text.splitlines(), 1) if row == " {"]
    data = DataConfig(
        source="adpl",
        root=str(root / "adpl.json"),
        cache_dir=str(root / "cache"),
        num_train=0,
        num_test=0,
        test_fraction=1e-9,
    )
    return data, lines


def found(data: DataConfig, root: Path, use: TreeUse, text: TextConfig = TEXT) -> list[Fault]:
    prepared = prepare(data, text, seed=0, run_dir=root / "run")
    form = TreeFormat(Chat(text, prepared.tokenizer), ModelConfig(), text)
    results = list(measure_text(open_split(prepared, "train"), form, use, data))
    assert len(results) == 6
    return [each for each in results if isinstance(each, Fault)]


def test_a_long_answer_is_told_with_its_line_and_only_where_it_is_read(tmp_path: Path) -> None:
    data, lines = write_items(tmp_path, long_answer=3)
    assert found(data, tmp_path, SFE) == []
    (fault,) = found(data, tmp_path, dataclasses.replace(SFE, answers="ranked"))
    assert (fault.file, fault.line) == (data.root, lines[4])
    assert "tokens" in fault.problem and fault.cure == "raise text.max_answer_tokens (now 24)"
    assert f"{data.root}:{lines[4]}: record 4.png||defect diagnosis: an answer to 'Is it so ?' has" in str(fault)


def test_a_long_fact_is_told(tmp_path: Path) -> None:
    data, _ = write_items(tmp_path)
    faults = found(data, tmp_path, SFE, dataclasses.replace(TEXT, max_fact_tokens=2))
    assert len(faults) == 6 and "raise text.max_fact_tokens (now 2)" in faults[0].cure
    assert found(data, tmp_path, dataclasses.replace(SFE, facts="text")) == []


def test_a_tree_that_no_bucket_holds_is_told_by_its_longest_questions(tmp_path: Path) -> None:
    data, lines = write_items(tmp_path, long_question=True)
    (fault,) = found(data, tmp_path, SFE)
    assert fault.line == lines[4] and "add a bucket of" in fault.cure
    assert found(data, tmp_path, dataclasses.replace(SFE, questions_per_image=1)) == []


def test_a_stages_use_decides_and_what_fits_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, lines = write_items(tmp_path, long_answer=3)
    config = Config(data=data, text=TEXT, run_dir=str(tmp_path / "run"), evaluate=EvaluateConfig(stages=("sfe",)))
    prepared = prepare(data, TEXT, seed=0, run_dir=tmp_path / "run")
    parts: dict[str, Any] = {"config": config, "prepared": prepared, "chat": Chat(TEXT, prepared.tokenizer)}
    with RunLog(tmp_path / "run", "prepare") as log:
        check = TextCheck(**parts, log=log)
        check.require_fits(["prepare", "sfe", "evaluate"])
        with pytest.raises(TreeError, match=f"1 train record does not fit: .*adpl.json:{lines[4]}: "):
            check.require_fits(["sfe", "edpo"])
        check.require_fits(["plain"])
        largest = check.largest("sfe")
        monkeypatch.setattr("sage_jax.stages.text_check.measure_text", None)
        check.require_fits(["sfe", "plain"])
        assert check.largest("sfe") == largest


def test_the_largest_tree_is_told_and_one_beyond_the_models_positions_refused(tmp_path: Path) -> None:
    data, _ = write_items(tmp_path, long_question=True)
    text = dataclasses.replace(TEXT, buckets=())
    config = Config(data=data, text=text, run_dir=str(tmp_path / "run"))
    prepared = prepare(data, text, seed=0, run_dir=tmp_path / "run")
    chat = Chat(text, prepared.tokenizer)
    form, records = TreeFormat(chat, config.model, text), open_split(prepared, "train")
    trees = [build_tree(record, form, TreeUse("best"), with_reference=True) for record in records]
    with RunLog(tmp_path / "run", "prepare") as log:
        largest = TextCheck(config, prepared, chat, log).largest("sfe")
        assert largest.length == max(tree.length for tree in trees) > 512
        assert largest == enclosing(needed_shape(tree.tokens, tree.question_ids) for tree in trees)
        with pytest.raises(TreeError, match=f"has {largest.length} tokens.* up to {largest.length - 1}: lower"):
            TextCheck(config, prepared, chat, log, max_tokens=largest.length - 1).require_fits(["sfe"])


def test_prepare_stops_before_a_stage_that_could_not_draw_all(tmp_path: Path) -> None:
    overrides = ["--config.stages=prepare,base,sfe", "--config.text.max_answer_tokens=8", "--config.data.num_train=6"]
    overrides += ["--config.base.batch_size=8", "--config.sfe.batch_size=8"]  # for the eight devices of the tests
    folders = [f"--config.run_dir={tmp_path / 'run'}", f"--config.data.cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(TreeError, match=r"raise text\.max_answer_tokens \(now 8\)"):
        run_stages(read_config(["--config", str(CONFIG), *overrides, *folders]))
    assert not (tmp_path / "run" / "stages").exists()
