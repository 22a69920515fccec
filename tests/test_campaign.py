"""The campaigns that break the program on purpose, kept short; `python -m tests.campaign` runs the long ones."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from sage_jax.config import STAGES
from sage_jax.config.command_line import read_config
from tests.campaign.contents import contents
from tests.campaign.damage import damage_run
from tests.campaign.damaged_run import LAST, Ended, Place, actions_on, date_back, read_since, tells_what_is_read
from tests.campaign.fuzz import fuzz_inputs, try_input
from tests.campaign.kill import kill_runs
from tests.campaign.kinds import KINDS, judge, starts, write_inputs
from tests.campaign.mutate import damage, mutate
from tests.campaign.report import Report, chosen
from tests.campaign.targets import Target, targets
from tests.support.tiny_run import CONFIG

PROGRAM = """
import sys, time
from pathlib import Path
folder, resumed = Path(sys.argv[1]), sys.argv[2]
for name in ("run", "compiled"):
    (folder / name).mkdir(exist_ok=True)
table, partial = folder / "run" / "table", folder / "run" / "partial"
rows = table.read_text().split() if table.exists() else []
if rows and resumed == "fails":
    raise KeyError("rows")
other = "x" if rows and resumed == "differs" else ""
for number in range(len(rows), 8):
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    rows.append(f"{number}{other}")
    partial.write_text(" ".join(rows))
    partial.replace(table)
    with (folder / "run" / "log.txt").open("a") as log:
        log.write(f"2026-01-02 03:04:05 count: {number}\\n")
"""
"""A run of eight steps that goes on where it was stopped, or ought to."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return targets(tmp_path_factory.mktemp("campaign") / "inputs")


def test_every_input_is_read_as_it_is(inputs: list[Target]) -> None:
    """Else nothing but refusals would be tried."""
    for target in inputs:
        assert try_input(target, target.content) == ("read", ""), target.name


def test_whatever_stands_in_place_of_an_input_is_read_or_refused(inputs: list[Target]) -> None:
    """JSON of other kinds, or nested deeper than any parser goes: mutants become these now and then."""
    others = [b"null", b"5", b"[]", b"{}", b'"text"', b"true", b"NaN", b"[" * 100_000, b'{"a":' * 100_000]
    for target in inputs:
        for content in (*others, b"[" * 5000 + b"]" * 5000, b'{"checksum":' + b"[" * 100_000, b"1" * 5000):
            outcome, about = try_input(target, content)
            target.path.write_bytes(target.content)
            assert outcome in ("read", "refused"), f"{target.name}: {content[:20]!r}: {about}"


def test_mutants_are_read_or_refused_in_one_message(tmp_path: Path) -> None:
    report = fuzz_inputs(tmp_path, 400, 7, keep=None, only="", say=lambda line: None)
    assert not report.failed, str(report)
    assert sum(report.counts.values()) == 400


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """A reader that fails otherwise, that reads another value, or that shows what it should not."""

    def fails(path: Path) -> Any:
        raise KeyError(path.name)

    content = b'{"a": 1}'
    kinds = {
        "traceback": Target("x", tmp_path / "x", content, fails),
        "silent": Target("x", tmp_path / "x", content, lambda path: len(path.read_bytes()), True, len(content)),
    }
    report = Report()
    for expected, target in kinds.items():
        outcome, about = try_input(target, content + b" ")
        assert outcome == expected and about
        report.add("x", outcome, about)
    report.add("x", "told")
    assert report.failed and "3 cases, 2 failed" in str(report)


def test_mutations_depend_on_their_seed_alone() -> None:
    content = b'{"a": [1, {"b": "c"}], "d": null}' * 1
    first, again = ([mutate(content, random.Random(seed)) for seed in range(200)] for _ in range(2))
    assert first == again and len(set(first)) > 120
    rng = random.Random(0)
    assert damage(content, "deleted", rng) is None and damage(content, "emptied", rng) == b""
    flipped = damage(content, "flipped", rng) or b""
    assert sum((a ^ b).bit_count() for a, b in zip(content, flipped, strict=True)) == 1
    assert content.startswith(damage(content, "truncated", rng) or b"")


def _start(resumed: str, folder: Path, cold: bool) -> subprocess.Popen[str]:
    with (folder / "said.txt").open("a") as said:
        command = [sys.executable, "-c", PROGRAM, str(folder), resumed]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)


def test_killed_runs_are_compared_with_a_run_that_nobody_kills(tmp_path: Path) -> None:
    said: list[str] = []
    kinds = {name: functools.partial(_start, name) for name in ("goes on", "differs", "fails")}
    report = kill_runs(tmp_path, 6, 1, kinds=kinds, say=said.append)
    assert {kind: outcome for kind, outcome in report.counts} == {
        "goes on, cold": "same",
        "goes on, warm": "same",
        "differs, cold": "silent",
        "differs, warm": "silent",
        "fails, cold": "untold",
        "fails, warm": "untold",
    }
    assert "KeyError: 'rows'" in str(report) and "1 differ: ['run/table']" in str(report)
    assert "6 runs, 2 the same" in said[-1] and "SIGKILL" in said[-1] and "count" in said[-1]


def test_a_killed_run_keeps_what_it_compiles_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is warm and what is cold depends on it."""
    begun: list[tuple[str, str]] = []

    def begin(how: str, folder: Path, *fields: str, environment: dict[str, str], stderr: Any) -> None:
        begun.append((how, environment["JAX_COMPILATION_CACHE_DIR"]))

    for name in ("start_main", "fork_main"):
        monkeypatch.setattr(f"tests.campaign.kinds.{name}", functools.partial(begin, name))
    start = starts(tmp_path, "http://127.0.0.1")["LoRA"]
    for cold in (True, False):
        start(tmp_path, cold)
    compiled = str(tmp_path / "compiled")
    assert begun == [("start_main", compiled), ("fork_main", compiled)]


def test_a_stopped_campaign_goes_on_behind_its_last_run(tmp_path: Path) -> None:
    started: list[Path] = []

    def start(folder: Path, cold: bool) -> subprocess.Popen[str]:
        started.append(folder)
        return _start("goes on", folder, cold)

    first = kill_runs(tmp_path, 1, 3, kinds={"x": start}, say=lambda line: None)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"seed": 3, "turn": 1, "ki')
    known = len(started)
    again = kill_runs(tmp_path, 1, 3, kinds={"x": start}, say=lambda line: None)
    assert again.counts == first.counts and len(started) == known
    kill_runs(tmp_path, 2, 3, kinds={"x": start}, say=lambda line: None)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["turn"] for row in rows] == [0, 1] and len(started) > known


def test_a_stopped_campaign_of_damage_goes_on_and_shares_its_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent wrong value and a file that is not handled are told; each case is done once, in one of the shares."""
    tried: list[tuple[str, str, str]] = []
    read = frozenset({"run/a", "run/b", "cache/c"})

    def train(folder: Path, *fields: str) -> None:
        last = (f"run/stages/{name}/checkpoints/{step}/state" for name, step in LAST.items())
        for name in ("run/a", "run/b", "cache/c", "run/log.txt", *last):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    def acted(place: Place, action: str, path: Path | None = None, how: str = "", seed: str = "") -> Ended:
        tried.append((action, str(path), how))
        left = "other" if path == Path("run/a") else "same"
        outcome = ("untold", "what?") if path == Path("run/b") and how == "deleted" else ("done", "")
        return Ended(*outcome, left, read if action == "judge" else frozenset())

    monkeypatch.setattr("tests.campaign.damage.run_main", train)
    monkeypatch.setattr("tests.campaign.damage.act", acted)
    said: list[str] = []
    first = damage_run(tmp_path, 0, 5, share=(1, 2), say=said.append)
    assert said[0].startswith("1 of 4 files are read by no action, and are not damaged: run/log.txt")
    assert said[-1].startswith("1 of 3 files were neither told of nor rebuilt: cache/c")
    with (tmp_path / "results_1_of_2.jsonl").open("a") as file:
        file.write('{"seed": 5, "turn": 3, "ou')
    known = len(tried)
    again = damage_run(tmp_path, 0, 5, share=(1, 2), say=lambda line: None)
    assert again.counts == first.counts and tried[known:] == [(action, "None", "") for action in actions_on()]
    second = damage_run(tmp_path, 0, 5, share=(2, 2), say=lambda line: None)
    cases = [case for case in tried if case[2]]
    assert len(cases) == len(set(cases)) and not any("log.txt" in path for _, path, _ in cases)
    looked = {"open", "inspect", "evaluate", "export", "judge"}
    assert {action for action, _, how in cases if how == "deleted"} == looked
    assert {action for action, _, how in cases if how != "deleted"} == {"judge"}
    assert sum(map(len, (first.failures, second.failures))) == 3 + 5 + 5  # run/a, its deletion, that of run/b


def test_a_run_that_cannot_be_gone_on_with_is_no_ground_to_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.campaign.damage.finished", lambda place: [Path("run/a")])
    monkeypatch.setattr("tests.campaign.damage.act", lambda *given: Ended("told", "no", None, frozenset()))
    with pytest.raises(SystemExit, match="nothing is damaged, and yet: .*open: no"):
        damage_run(tmp_path, 0, 0, say=lambda line: None)


def test_what_an_action_reads_is_told_by_the_file_system(tmp_path: Path) -> None:
    if not tells_what_is_read(tmp_path):
        pytest.skip("this file system does not note when a file is read")
    for name in ("read", "written", "left"):
        (tmp_path / name).write_text(name)
    date_back(tmp_path)
    (tmp_path / "read").read_text()
    (tmp_path / "written").write_text("more")
    os.stat(tmp_path / "left")
    assert "read" in read_since(tmp_path) and "left" not in read_since(tmp_path)


def test_a_campaign_of_nothing_has_failed() -> None:
    report = Report()
    assert report.failed
    report.add("disk full", "told")
    assert not report.failed
    assert chosen("", ("clock", "disk full")) == ["clock", "disk full"] and chosen("clock", ("clock", "x")) == ["clock"]
    with pytest.raises(SystemExit, match="there is no 'full disk'; there are clock, disk full"):
        chosen("clock,full disk", ("clock", "disk full"))


def test_a_damaged_file_is_tried_with_what_could_read_it() -> None:
    """A checkpoint with the stage that goes on from it; parameters with what answers, and the stages behind."""
    again = ("inspect", "evaluate", "judge", "calibrate", "benchmark", "facts", "export")
    last = ("export again", "open the export", "judge from replies")
    every = ("open", *again, *(f"go on with {stage}" for stage in LAST), *last)
    done = {
        "run/stages/sfe/checkpoints/10/state": ("go on with sfe",),
        "run/stages/sfe/final/manifest": ("open", *again, "go on with edpo", *last),
        "run/config.json": every,
        "cache/x/records": every,
        "run/export/config.json": ("export again", "open the export"),
        "run/judgements/edpo_one_shot.jsonl": every[:-1],
        "run/exported.json": ("export again", "open the export"),
    }
    assert {path: actions_on(Path(path)) for path in done} == done


def test_contents_are_compared_array_by_array_and_byte_by_byte(tmp_path: Path) -> None:
    def write(name: str, value: float, minute: int) -> dict[str, str]:
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(
                run / "stages" / "base" / "final", {"a": np.array([value, 2.0], np.float32), "b": np.zeros(3)}
            )
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0, "input_wait": minute}) + "\n")
        (run / "summary.json").write_text(json.dumps({"stages": {"base": {"seconds": minute}}, "metrics": {}}))
        (run / "benchmarks").mkdir()
        (run / "benchmarks" / "summary.json").write_text(json.dumps({"accuracy": 0.5}))
        (run / "report.html").write_text(f"<p>Written 2026-01-02 03:{minute}</p>")
        (run / "log.txt").write_text(f"{minute}")
        return contents(tmp_path / name)

    first, again = write("first", 1.0, 10), write("again", 1.0, 20)
    other = write("other", float(np.nextafter(np.float32(1), np.float32(2))), 10)
    assert first == again and len(first) == 6
    assert [name for name in first if first[name] != other[name]] == ["run/stages/base/final: ['a']"]
    (tmp_path / "again" / "run" / ".left").write_text("")
    assert contents(tmp_path / "again").keys() - first.keys() == {"run/.left"}


def test_the_runs_to_kill_have_all_that_can_be_stopped_half_way(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    with judge(tmp_path / "port") as url:
        given = [read_config(["--config", str(CONFIG), *kind.overrides(tmp_path, url)]) for kind in KINDS.values()]
    alone = {"plan", "learn", "serve", "watch"}  # no run's own, or without an end
    with judge(tmp_path / "port") as again:
        assert again == url  # or a campaign that goes on would find other configs
    assert {stage for config in given for stage in config.stage_names} == set(STAGES) - alone
    assert {config.data.vit_features for config in given} == {"none", "memory", "disk"}
    assert {config.data.num_workers for config in given} == {0, 1}
    assert {config.data.facts for config in given} == {"vocabulary", "model"}
    assert all(config.data.validation_fraction and config.sfe.eval_every for config in given)
    assert any(config.sfe.lora.rank for config in given) and any(config.base_dpo.lora.rank for config in given)
