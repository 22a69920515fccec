"""Runs that lack something, in short; `python -m tests.campaign resources` has the long campaign."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.campaign.full_disk import full_disks
from tests.campaign.lacks import LACKS, NAMES, Lack, small_disk
from tests.campaign.resources import fault_of, resource_runs
from tests.campaign.work import Ended, Work

FIELDS = ("--config.stages=prepare,base", "--config.base.checkpoint_every=3")
STAGES = Path("run") / "stages" / "base"


def weights_of(folder: Path) -> str:
    """Hash of the base model's parameters."""
    return json.loads((folder / STAGES / "DONE.json").read_text(encoding="utf-8"))["weights"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that lacked nothing, and of what it compiled."""
    folder = tmp_path_factory.mktemp("whole")
    ended = Work(folder, random.Random(0), FIELDS).run()
    assert ended.outcome == "done", ended.said
    return folder


@pytest.fixture
def work(tmp_path: Path, whole: Path) -> Work:
    """A place where what the whole run compiled is compiled already."""
    shutil.copytree(whole / "compiled", tmp_path / "compiled")
    return Work(tmp_path, random.Random(0), FIELDS)


@pytest.mark.parametrize("kilobytes", (300, 1100))
def test_a_full_disk_is_told_and_with_room_the_same_command_goes_on(work: Work, whole: Path, kilobytes: int) -> None:
    disk = work.folder / "disk"
    fields = (f"--config.run_dir={disk / 'run'}", f"--config.data.cache_dir={disk / 'cache'}")
    with contextlib.ExitStack() as mounted:
        try:
            resize = mounted.enter_context(small_disk(disk, kilobytes))
        except OSError as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        lacking = work.run(*fields)
        assert lacking.outcome == "told", lacking.said
        assert "No space left on device: make room on that disk" in lacking.said
        resize(64_000)
        again = work.run(*fields)
        assert again.outcome == "done", again.said
        assert weights_of(disk) == weights_of(whole)


def test_nothing_depends_on_home_locale_network_or_the_folders_name(work: Work, whole: Path) -> None:
    alone = ("unshare", "--net") if subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0 else ()
    odd = work.folder / "".join(NAMES)
    fields = (f"--config.run_dir={odd / 'run'}", f"--config.data.cache_dir={odd / 'cache'}")
    nothing = {"HOME": "", "LC_ALL": "C", "LANG": ""}  # Python then takes UTF-8, which the folder's name needs
    ended = work.run(*fields, environment=nothing, before=alone)
    assert ended.outcome == "done", ended.said
    assert weights_of(odd) == weights_of(whole)


def test_how_a_run_ended_is_read_from_what_it_said() -> None:
    """Else a campaign would find nothing."""
    cases = {
        "told": Ended(2, "sfe: step 1\nerror: /x: No space left on device\n"),
        "done": Ended(0, "sfe: step 1\n"),
        "died": Ended(-9, ""),
        "traceback": Ended(1, "Traceback (most recent call last):\nOSError\nerror: x"),
        "untold": Ended(2, "error: a\nerror: b"),
    }
    assert [ended.outcome for ended in cases.values()] == list(cases)
    assert Ended(1, "error: a").outcome == Ended(0, "error: a").outcome == "untold"


def test_the_stage_in_which_a_run_ended_is_read_from_what_it_said() -> None:
    said = "prepare 3/8\nbase: on 1 x cpu\nbase_dpo 1/4  2 step/s\nparameters  base\nerror: inspect/a: No space left"
    assert Ended(2, said).stage == "base_dpo"
    assert Ended(2, "error: base: no such field").stage == "start"


def test_a_message_about_something_else_and_a_lack_that_never_bites_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = LACKS["disk full"]
    said = {name: Ended(2, f"error: /x: {text}\n") for name, text in (("it", "No space left on device"), ("no", "x"))}
    assert fault_of(said["it"], full) == "" and fault_of(said["no"], full) == "untold"
    assert fault_of(said["it"], LACKS["clock"]) == "untold"  # nothing is lacking there
    assert fault_of(Ended(-9, ""), full) == "died" and fault_of(Ended(-9, ""), LACKS["memory"]) == ""
    assert fault_of(Ended(0, ""), full) == "" and fault_of(Ended(1, "Traceback"), full) == "traceback"

    def run(work: Work) -> Ended:
        (work.folder / "compiled").mkdir(exist_ok=True)
        return Ended(0, "")

    monkeypatch.setattr(Work, "run", run)
    monkeypatch.setattr("tests.campaign.resources.left", lambda run: {})
    lacks = {"bites": Lack(lambda work: said["it"], full.says), "never": Lack(lambda work: Ended(0, ""), full.says)}
    report = resource_runs(tmp_path, 2, 0, only="", say=lambda line: None, lacks=lacks)
    assert [line.split(":")[0] for line in report.failures] == ["never"] and "had enough of it" in report.failures[0]


def test_an_action_that_does_not_tell_of_a_full_disk_or_ends_otherwise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = ("refused", "error: /x: No space left on device: make room\n", None)
    ends = {
        "inspect": [("done", "", "a"), full, ("done", "", "a")],
        "judge": [("done", "", "a"), ("refused", "error: x\n", None), ("done", "", "a")],
        "facts": [("done", "", "a"), full, ("done", "", "b")],
        "export": [("done", "", "a"), full, full],
    }
    monkeypatch.setattr("tests.campaign.full_disk.acted", lambda place, action: ends[action].pop(0))
    monkeypatch.setattr("tests.campaign.full_disk.copy_run", lambda place, action: None)
    monkeypatch.setattr("tests.campaign.full_disk.finished", lambda place: [])
    monkeypatch.setattr(
        "tests.campaign.full_disk.small_disk", lambda disk, size: contextlib.nullcontext(lambda size: None)
    )
    monkeypatch.setattr("tests.campaign.full_disk._ROOM", 0)
    (tmp_path / "disk").mkdir()
    report = full_disks(tmp_path, 1, 0, only="inspect,judge,facts,export", say=lambda line: None)
    found = {kind.partition(":")[0]: outcome for kind, outcome in report.counts}
    assert found == {"inspect": "same", "judge": "untold", "facts": "silent", "export": "untold"}
