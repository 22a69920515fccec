"""A folder is the run's export if it was noted, made of the same, and is as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_jax.stages.export_record import FILE, is_exported, note_export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export that took its name after it was noted."""
    written = tmp_path / "writing"
    (written / "base").mkdir(parents=True)
    (written / "README.md").write_text("card")
    (written / "base" / "LICENSE").write_text("terms")
    note_export(tmp_path, tmp_path / "export", written, options="o", made_of="m")
    assert not is_exported(tmp_path, tmp_path / "export", options="o")
    return written.rename(tmp_path / "export")


def test_what_was_noted_is_found(tmp_path: Path, folder: Path) -> None:
    assert is_exported(tmp_path, folder, options="o") and is_exported(tmp_path, folder, options="o", made_of="m")


@pytest.mark.parametrize("given", [{"options": "other"}, {"options": "o", "made_of": "other"}])
def test_another_export_is_none(tmp_path: Path, folder: Path, given: dict[str, str]) -> None:
    assert not is_exported(tmp_path, folder, **given)
    assert not is_exported(tmp_path, folder.rename(tmp_path / "moved"), options="o")


def test_a_folder_that_was_changed_is_somebodys(tmp_path: Path, folder: Path) -> None:
    (folder / "base" / "LICENSE").write_text("longer terms")
    assert not is_exported(tmp_path, folder, options="o")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"folder": "x"}'])
def test_a_damaged_record_is_none(tmp_path: Path, folder: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert not is_exported(tmp_path, folder, options="o")
