"""Which file of facts belongs to a run: all that decides them changes it, and nothing else does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sage_jax.config import Config, ConfigError
from sage_jax.data.trees.chat import Chat
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.image_facts import image_facts
from sage_jax.stages.trained import TrainedStages
from tests.support.inspection_records import make_chat
from tests.support.tiny_export import record


class Given:
    """A model that stands in for `base`."""

    def __init__(self, weights: str) -> None:
        self._weights = weights

    def fingerprint(self) -> str:
        return self._weights


def digest(config: Config, chat: Chat, weights: str = "w") -> str:
    return image_facts(config, chat, TrainedStages(RunFolder(Path(config.run_dir)), Given(weights))).digest


def changed(config: Config, section: str, **fields: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})


def test_what_decides_facts_names_their_file(tmp_path: Path) -> None:
    chat = make_chat()
    config = changed(Config(run_dir=str(tmp_path)), "data", cache_dir=str(tmp_path / "cache"))
    own = digest(config, chat)
    others = [
        digest(config, chat, weights="v"),
        digest(changed(config, "facts", prompt="Say {number} things."), chat),
        digest(changed(config, "facts", max_tokens=5), chat),
        digest(changed(config, "text", max_fact_tokens=5), chat),
        digest(changed(config, "model", max_tiles=4), chat),
        digest(changed(config, "evaluate", weights_dtype="bfloat16"), chat),
    ]
    assert len({own, *others}) == 1 + len(others)
    same = [
        changed(config, "model", attention="masked"),
        changed(config, "data", num_train=7),
        dataclasses.replace(config, seed=9),
    ]
    assert {digest(each, chat) for each in same} == {own}


def test_records_wait_for_facts_of_all_images(tmp_path: Path) -> None:
    config = changed(Config(run_dir=str(tmp_path)), "data", cache_dir=str(tmp_path / "cache"))
    facts = image_facts(config, make_chat(), TrainedStages(RunFolder(tmp_path), Given("w")))
    records = [record(number, num_facts=1) for number in range(2)]
    facts.book.add((each.test_image, each.test_path, ["Written."]) for each in records)
    with pytest.raises(ConfigError, match=r"not written yet: run with --config\.stages=facts,sfe"):
        facts.records(records, "revision", wanted_by="sfe")
    facts.book.complete("revision")
    assert [each.facts for each in facts.records(records, "revision", wanted_by="sfe")] == [("Written.",)] * 2


def test_facts_need_the_stage_that_writes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage 'facts' needs stage 'base'"):
        image_facts(Config(run_dir=str(tmp_path)), make_chat(), TrainedStages(RunFolder(tmp_path), None))
