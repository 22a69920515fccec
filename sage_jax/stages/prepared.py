"""The data set of a run and its chat template, built once for all its stages."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from sage_jax.config import Config
from sage_jax.data import store
from sage_jax.data.store import PreparedData
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.tokenizer import load_tokenizer, missing_tokenizer, save_tokenizer
from sage_jax.hf.config import CheckpointConfig
from sage_jax.hf.generation_config import read_generation_config
from sage_jax.hf.tokenizer import find_conversation, read_tokenizer
from sage_jax.process.signals import Interrupted
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.stages.folder import RunFolder


def prepare_data(config: Config, folder: RunFolder, stage: str = "") -> PreparedData:
    """The stored data set, built by the first process if it is not there; the others wait, then find it.

    Args:
      stage: A training stage with data of its own; "" = those of the run.

    Raises:
      Interrupted: A signal has come.
    """
    data = config.data_of(stage) if stage else config.data
    faults = folder.path / f"data_{stage}" if stage else folder.path
    build = functools.partial(store.prepare, data, config.text, seed=config.seed, run_dir=faults)
    first = None
    with contextlib.suppress(Interrupted):  # raised below, by all processes together
        first = build() if jax.process_index() == 0 else None
    barrier("data prepared")
    stop_if_asked("stopped while the data set was prepared; a build is whole or not kept")
    prepared = first or build()
    folder.write_sealed(f"data_{stage}/data.json" if stage else "data.json", prepared_counts(prepared))
    return prepared


def make_chat(
    config: Config,
    folder: RunFolder,
    weights: tuple[Path, CheckpointConfig] | None,
    prepared: Callable[[], PreparedData],
    begun: Path | None = None,
) -> Chat:
    """The chat template with the tokenizer of a run: that of the model it begins with, else one trained on the data.

    The tokenizer belongs to the run's models: it stays once a stage has begun to train, whatever data later stages
    read, and inspection needs no data set.

    Args:
      weights: Folder of `model.weights` and its config.json, or None.
      prepared: Makes the data set, where its tokenizer is needed.
      begun: Folder of the tokenizer of the run that this one goes on from, or None.

    Raises:
      WeightsError: The checkpoint's tokenizer or conversation is missing or not supported.
      UserError: The run's tokenizer is damaged, or missing beside stages that began to train with it.
    """
    if not (folder.stages.is_dir() and folder.tokenizer.is_dir()):
        if weights:
            tokenizer = read_tokenizer(*weights)
        elif begun:
            tokenizer = load_tokenizer(begun)
        elif folder.stages.is_dir() and any(folder.stages.iterdir()):
            raise missing_tokenizer(folder.tokenizer)  # of other data one would be trained that fits no stage
        else:
            tokenizer = prepared().tokenizer
        if jax.process_index() == 0:
            shutil.rmtree(folder.tokenizer, ignore_errors=True)
            if not folder.tokenizer.is_dir():
                folder.tokenizer.unlink(missing_ok=True)
            save_tokenizer(tokenizer, folder.tokenizer)
        barrier("tokenizer saved")
    saved = load_tokenizer(folder.tokenizer)
    if not weights:
        return Chat(config.text, saved, language=config.data.language)
    stop_ids = read_generation_config(*weights).stop_ids
    conversation = find_conversation(*weights, saved)
    # Of an export of a model that was trained here, verdicts are read and questions written as in its training.
    settings = weights[1].values.get("sage") or {}
    if "any_spelling" in settings:
        any_spelling = settings["any_spelling"]
        as_given = settings.get("as_given", any_spelling)  # exports of before say it of both
        conversation = dataclasses.replace(conversation, any_spelling=any_spelling, as_given=as_given)
    return Chat(config.text, saved, conversation, stop_ids, config.data.language)


def prepared_counts(prepared: PreparedData) -> dict[str, object]:
    """Revision and numbers of records of a data set, as `data.json` holds them."""
    return {"revision": prepared.revision, "train": prepared.num_train, "test": prepared.num_test}


def barrier(name: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
