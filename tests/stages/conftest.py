"""Exports that several test files read: of a model trained from scratch, and of one on published weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import (
    dynamic_module_utils,
)

from tests.support.exported_case import Case, checkpoint_folder, exported_case, from_weights
from tests.support.tiny_export import TRAINED_HERE


@pytest.fixture(scope="session")
def remote_code_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers keeps its copies of a folder's code here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Stage sfe of a model trained from scratch, with the quickstart's fusion."""
    tmp_path = tmp_path_factory.mktemp("trained_here")
    fusion = dataclasses.replace(TRAINED_HERE.model.fusion, difference_places=True)
    model = dataclasses.replace(TRAINED_HERE.model, fusion=fusion)
    return exported_case(dataclasses.replace(TRAINED_HERE, run_dir=str(tmp_path / "run"), model=model), "sfe")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_folder(tmp_path_factory.mktemp("weights") / "InternVL-tiny")


@pytest.fixture(scope="module")
def fine_tuned(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Stage sfe of a run on `model.weights`, whose facts are read by a frozen decoder."""
    tmp_path = tmp_path_factory.mktemp("fine_tuned")
    config = from_weights(weights, tmp_path / "run")
    return exported_case(config, "sfe", stages=("sfe",))


@pytest.fixture(params=["trained_here", "fine_tuned"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)
