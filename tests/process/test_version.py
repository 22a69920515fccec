"""The version is that of the project, installed or not."""

from __future__ import annotations

import importlib.metadata
import tomllib

import pytest

from sage_jax.process import version
from tests.support.tiny_run import ROOT


def test_an_installed_package_has_the_version_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def installed(name: str) -> str:
        asked.append(name)
        return "1.2.3"

    monkeypatch.setattr(version, "version", installed)
    assert version.own_version() == "1.2.3"
    assert asked == [tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]]


def test_a_checkout_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", missing)
    assert version.own_version() == "0+source"
