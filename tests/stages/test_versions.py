"""Versions of a run: which there are, which answers, and back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from sage_jax.process.checksums import sealed_json
from sage_jax.stages.versions import (
    VersionError,
    active_folder,
    active_version,
    root_of,
    use_version,
    version_folder,
    version_numbers,
    versions_of,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with versions 1 and 2, and a third that has not finished."""
    folder = tmp_path / "run"
    for number in (1, 2, 3):
        version_folder(folder, number).mkdir(parents=True)
        if number < 3:
            report = json.dumps(sealed_json({"version": number}))
            (version_folder(folder, number) / "learned.json").write_text(report)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_run_answers_as_it_was_trained_until_a_version_is_chosen(run: Path) -> None:
    assert active_version(run) == 0 and active_folder(run) == run
    assert [(each.number, each.active) for each in versions_of(run)] == [(0, True), (1, False), (2, False)]
    assert use_version(run, 2).folder == run / "versions" / "002"
    assert active_version(run) == 2 and active_folder(run) == version_folder(run, 2)
    assert [each.active for each in versions_of(run)] == [False, False, True]
    use_version(run, 0)
    assert active_folder(run) == run
    assert version_numbers(run) == [1, 2, 3]


def test_a_folder_of_a_version_is_taken_as_it_is(run: Path) -> None:
    use_version(run, 2)
    assert active_folder(version_folder(run, 1)) == version_folder(run, 1)
    assert root_of(version_folder(run, 1)) == run == root_of(run)
    assert root_of(run / "versions") == run / "versions"
    use_version(version_folder(run, 2), 1)
    assert active_version(run) == 1


@pytest.mark.parametrize("number", [3, 4, -1])
def test_a_version_that_is_not_there_or_not_finished_is_refused(run: Path, number: int) -> None:
    with pytest.raises(VersionError, match=f"version {number}: .* has 0, 1, 2; `sage-jax versions`"):
        use_version(run, number)
    assert active_version(run) == 0


def test_damage_is_told_and_another_version_can_be_chosen(run: Path) -> None:
    use_version(run, 1)
    (run / "versions" / "active.json").write_text('{"version": 2}')
    with pytest.raises(VersionError, match="it has no checksum"):
        active_version(run)
    assert not any(each.active for each in versions_of(run))
    assert use_version(run, 1).active and active_version(run) == 1
    (version_folder(run, 1) / "learned.json").unlink()
    with pytest.raises(VersionError, match="version 1 is not there any more"):
        active_folder(run)
    (version_folder(run, 2) / "learned.json").write_text("{}")
    with pytest.raises(VersionError, match=r"002.learned\.json"):
        versions_of(run)


def test_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="there is no run here"):
        versions_of(tmp_path)


def test_a_reader_sees_one_version_or_the_other_while_it_is_changed(run: Path) -> None:
    use_version(run, 1)
    ended = threading.Event()
    seen = set[int]()

    def read() -> None:
        while not ended.is_set():
            seen.add(active_version(run))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(200):
        use_version(run, 1 + turn % 2)
    ended.set()
    reader.join()
    assert seen == {1, 2}
