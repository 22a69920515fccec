"""Data set and chat of a run, built once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NoReturn

import pytest

from sage_jax.config import Config, DataConfig, TextConfig
from sage_jax.data.trees.chat import Chat
from sage_jax.process.checksums import open_json
from sage_jax.stages.folder import RunFolder
from sage_jax.stages.prepared import make_chat, prepare_data, prepared_counts

DATA = DataConfig(num_train=8, num_test=4, image_px=32)
TEXT = TextConfig(vocab_size=512)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = dataclasses.replace(DATA, cache_dir=str(tmp_path / "cache"))
    return Config(run_dir=str(tmp_path / "run"), data=data, text=TEXT)


def never() -> NoReturn:
    raise AssertionError("the data set was asked for")


def test_a_data_set_is_built_once_and_counted(config: Config) -> None:
    folder = RunFolder(Path(config.run_dir))
    first = prepare_data(config, folder)
    built = {path: path.stat().st_mtime_ns for path in Path(config.data.cache_dir).rglob("*") if path.is_file()}
    again = prepare_data(config, folder)
    assert {path: path.stat().st_mtime_ns for path in Path(config.data.cache_dir).rglob("*") if path.is_file()} == built
    assert prepared_counts(first) == prepared_counts(again)
    counts = {"revision": first.revision, "train": 8, "test": 4}
    assert prepared_counts(first) == counts == open_json((folder.path / "data.json").read_text())


def test_the_tokenizer_stays_once_a_stage_has_begun(config: Config) -> None:
    folder = RunFolder(Path(config.run_dir))
    prepared = prepare_data(config, folder)
    chat = make_chat(config, folder, None, lambda: prepared)
    assert isinstance(chat, Chat) and folder.tokenizer.is_dir()
    other = prepare_data(dataclasses.replace(config, seed=1), folder)
    with pytest.raises(AssertionError, match="was asked for"):
        make_chat(config, folder, None, never)  # no stage yet: the data decides
    changed = make_chat(config, folder, None, lambda: other)
    folder.stages.mkdir()
    kept = make_chat(config, folder, None, never)
    assert kept.tokenizer_digest() == changed.tokenizer_digest()
