"""Stage `judge` on a folder that was evaluated, against a real server: results, resuming, what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_jax.config import ConfigError
from sage_jax.config.command_line import read_config
from sage_jax.endpoint.client import EndpointError
from sage_jax.errors import UserError
from sage_jax.process.signals import Interrupted
from sage_jax.stages.judging import REPLIES
from sage_jax.stages.stages import run_stages
from tests.support.endpoint_server import EndpointServer, Served, chat, failing, marks, served
from tests.support.evaluated_folder import evaluated_folder, write_evaluation
from tests.support.tiny_run import CONFIG, fork_main, read_jsonl
from tests.support.tiny_sentence_model import sentence_model

KEY = "sk-secret-5678"
SEED_MARKS = (3, 5)


def by_text(body: dict[str, Any], number: int) -> Served:
    """Marks by what the test answer says; the logic is other with each seed."""
    texts = json.loads(body["messages"][1]["content"])
    right = texts["test_answer"] == texts["reference_answer"]
    return marks(5 if right else 1, 5 if right else 2, SEED_MARKS[body.get("seed", 0) % 2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return evaluated_folder(tmp_path / "run")


def fields(folder: Path, url: str, *overrides: str) -> list[str]:
    options = [f"--config.run_dir={folder}", f"--config.judge.base_url={url}", "--config.judge.model=judge-1"]
    return [*options, "--config.stages=judge", "--config.judge.concurrency=3", *overrides]


def judge(folder: Path, server: EndpointServer, *overrides: str) -> dict[str, Any]:
    """Runs the stage in this process; gives the metrics of the summary."""
    run_stages(read_config(["--config", str(CONFIG), *fields(folder, server.url, *overrides)]))
    return json.loads((folder / "summary.json").read_text())["metrics"]


def test_each_answer_gets_its_judgements_and_the_summary_its_metrics(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(by_text) as server:
        metrics = judge(folder, server, "--config.judge.repetitions=2", "--config.judge.temperature=0.7")
        assert len(server.bodies) == 2 * 2 * 20 and server.most_at_once <= 3
        assert {body["model"] for body in server.bodies} == {"judge-1"}
    rows = read_jsonl(folder / "judgements" / "sfe_one_shot.jsonl")
    predictions = read_jsonl(folder / "predictions" / "sfe_one_shot.jsonl")
    assert len(rows) == 40 and [row["repetition"] for row in rows] == [0, 1] * 20
    for index, row in enumerate(rows):
        item = predictions[index // 2]
        assert [row[name] for name in ("question", "reference_answer", "test_answer")] == [
            item[name] for name in ("question", "answer", "prediction")
        ]
        right = item["answer"] == item["prediction"]
        assert (row["accuracy"], row["localization"]) == ((5, 5) if right else (1, 2))
        assert row["logic"] == SEED_MARKS[row["repetition"]] and row["scored_of"] == "first"
        assert row["average"] == pytest.approx(np.mean([row["accuracy"], row["localization"], row["logic"]]))
    entry = metrics["sfe"]["one_shot"]
    assert entry["judge"]["value"] == pytest.approx(np.mean([row["average"] for row in rows]))
    assert entry["judge"]["n"] == 20 and entry["judge"]["low"] <= entry["judge"]["value"] <= entry["judge"]["high"]
    assert entry["judge_logic"]["value"] == 4.0 and entry["judge_variance"]["value"] == pytest.approx(2 / 9)
    assert 0.5 < entry["judge_kappa_accuracy"]["value"] <= 1.0 and entry["verdict_accuracy"]["value"] == 0.5
    told = entry["judged"]
    assert (told["model"], told["repetitions"], told["judgements"], told["failed"]) == ("judge-1", 2, 40, 0)
    costs = json.loads((folder / "summary.json").read_text())["stages"]["judge"]
    assert (costs["requests"], costs["tokens"]) == (80, 800)
    said = capfd.readouterr().out
    assert "MLE by a language model" in said and "Judged by judge-1, 2 judgements of each answer." in said
    assert not list((folder / "judgements").glob("*.failed.jsonl"))


def test_judged_answers_are_not_judged_again_and_other_answers_are(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(by_text) as server:
        first = judge(folder, server)
        files = {path: path.read_bytes() for path in (folder / "judgements").iterdir()}
        capfd.readouterr()
        assert judge(folder, server) == first and len(server.bodies) == 40
        assert "sfe, one-shot: judged before, the same answers by the same judge" in capfd.readouterr().err
        assert {path: path.read_bytes() for path in (folder / "judgements").iterdir()} == files

        write_evaluation(folder, "sfe", [f"sfe-{n}" for n in range(6)], wrong=1, scored_of="second")
        entry = json.loads((folder / "summary.json").read_text())["metrics"]["sfe"]["one_shot"]
        assert not {name for name in entry if "judge" in name}  # nothing is told of the new answers
        metrics = judge(folder, server)
        assert len(server.bodies) == 44  # of six images, four answers are on the new one
        assert metrics["sfe"]["one_shot"]["judge"]["n"] == 24 and metrics["base"] == first["base"]
        rows = read_jsonl(folder / "judgements" / "sfe_one_shot.jsonl")
        assert len(rows) == 24 and {row["scored_of"] for row in rows} == {"second"}

        judge(folder, server, "--config.judge.model=judge-2", "--config.judge.stages=('sfe',)")
        assert [body["model"] for body in server.bodies[44:]] == ["judge-2"] * 24


def test_answers_that_the_summary_does_not_tell_about_are_refused(folder: Path) -> None:
    path = folder / "predictions" / "sfe_one_shot.jsonl"
    path.write_text(path.read_text().replace("intact", "broken"))
    with served(by_text) as server:
        with pytest.raises(ConfigError, match=r"sfe_one_shot\.jsonl: not the answers .*stages=evaluate,judge"):
            judge(folder, server)
        assert server.bodies == []


def test_failures_are_counted_and_listed_and_asked_for_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def some(body: dict[str, Any], number: int) -> Served:
        if "sfe-1" not in body["messages"][1]["content"]:
            return by_text(body, number)
        kind = json.loads(body["messages"][1]["content"])["question"]
        return {"Question 0?": chat("Fine."), "Question 1?": marks(9, 1, 1)}.get(kind, failing(500, "busy"))

    options = ["--config.judge.stages=('sfe',)", "--config.judge.asks=2", "--config.judge.retries=0"]
    with served(some) as server:
        metrics = judge(folder, server, *options)
    failed = read_jsonl(folder / "judgements" / "sfe_one_shot.failed.jsonl")
    assert len(failed) == 4 == metrics["sfe"]["one_shot"]["judged"]["failed"]
    reasons = [row["reason"] for row in failed]
    assert "no JSON object with marks in the reply 'Fine.' (2 replies)" in reasons[0]
    assert "accuracy = '9' is no whole number" in reasons[1] and "answers 500" in reasons[2]
    assert len(read_jsonl(folder / "judgements" / "sfe_one_shot.jsonl")) == 16
    assert metrics["sfe"]["one_shot"]["judge"]["n"] == 16 and "base" in metrics
    assert "4 of 20 judgements failed and count nowhere" in capfd.readouterr().err
    with served(by_text) as server:
        metrics = judge(folder, server, *options)
        assert len(server.bodies) == 4
    assert metrics["sfe"]["one_shot"]["judge"]["n"] == 20
    assert not (folder / "judgements" / "sfe_one_shot.failed.jsonl").exists()


def test_a_used_up_budget_stops_where_the_same_command_goes_on(folder: Path) -> None:
    with served(by_text) as server:
        for spent in (15, 30):
            with pytest.raises(Interrupted, match=r"after 15 requests and 150 tokens: .*judge\.max_requests = 15\."):
                judge(folder, server, "--config.judge.max_requests=15")
            assert len(server.bodies) == spent
        metrics = judge(folder, server, "--config.judge.max_requests=15")
        assert len(server.bodies) == 40 == len({json.dumps(body) for body in server.bodies})
        assert metrics["sfe"]["one_shot"]["judge"]["n"] == 20
        costs = json.loads((folder / "summary.json").read_text())["stages"]["judge"]
        assert (costs["requests"], costs["tokens"]) == (40, 400)


def secrets(folder: Path) -> list[str]:
    """Files that hold the key."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_killed_stage_goes_on_and_the_key_is_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    replies, with_key = folder / REPLIES, "--config.judge.api_key_env=JUDGE_KEY"

    def respond(body: dict[str, Any], number: int) -> Served:
        if number < 20:
            time.sleep(0.1)
        if number == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        return by_text(body, number)

    with served(respond) as server:
        options = [each for each in fields(folder, server.url, with_key) if "run_dir" not in each]
        process = fork_main(folder.parent, *options)
        while not replies.exists() or replies.read_bytes().count(b"\n") < 5:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.kill()
        said = "".join(process.communicate(timeout=60))
        lost = len(server.bodies) - replies.read_bytes().count(b"\n")
        assert 0 <= lost <= 3  # under way: their replies were read by nobody
        with pytest.raises(Interrupted, match="stage judge stopped after .* of 20 judgements of base, one-shot"):
            judge(folder, server, with_key)
        assert 12 < len(server.bodies) - lost == replies.read_bytes().count(b"\n") < 20
        judge(folder, server, with_key)
        assert len(server.bodies) == 40 + lost and set(server.keys) == {f"Bearer {KEY}"}
    assert len(read_jsonl(folder / "judgements" / "sfe_one_shot.jsonl")) == 20
    write_evaluation(folder, "sfe", ["new"], scored_of="third")
    with served(lambda body, number: failing(401, f"Bearer {KEY} is unknown")) as server:
        with pytest.raises(EndpointError, match=r"Bearer \[key\] is unknown \(check the key"):
            judge(folder, server, with_key)
    assert secrets(folder) == [] and KEY not in said + "".join(capfd.readouterr())
    assert json.loads((folder / "config.json").read_text())["judge"]["api_key_env"] == "JUDGE_KEY"


def test_an_endpoint_that_is_gone_is_one_error_and_loses_nothing(folder: Path) -> None:
    def dying(body: dict[str, Any], number: int) -> Served:
        return by_text(body, number) if number < 12 else Served(closed=True)

    with served(dying) as server:
        with pytest.raises(EndpointError, match="5 requests in a row got no reply; the last: .*cannot be reached"):
            judge(folder, server, "--config.judge.retries=0")
    assert (folder / REPLIES).read_bytes().count(b"\n") == 12
    with served(by_text) as server:
        assert judge(folder, server)["sfe"]["one_shot"]["judge"]["n"] == 20
        assert len(server.bodies) == 40 - 12


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["--config.judge.base_url="], "judge.base_url is empty: give the address .* or, without a judge"),
        (["--config.judge.model="], "judge.model is empty"),
        (["--config.judge.api_key_env=NO_SUCH_KEY"], "judge.api_key_env names an environment variable that is not set"),
        (["--config.judge.sbert_model=/nowhere"], "judge.sbert_model = '/nowhere': no folder"),
        (
            ["--config.judge.stages=('edpo',)"],
            "stage 'judge' needs the answers .* has none of edpo in summary.json: run with --config",
        ),
    ],
)
def test_what_is_missing_is_told_before_any_request(overrides: list[str], said: str, folder: Path) -> None:
    with served(by_text) as server:
        with pytest.raises(UserError, match=said):
            judge(folder, server, *overrides)
        assert server.bodies == []


def test_a_run_that_was_not_evaluated_says_what_to_run(tmp_path: Path) -> None:
    with served(by_text) as server:
        with pytest.raises(ConfigError, match=r"needs the answers that stage 'evaluate' writes.*stages=evaluate,judge"):
            judge(tmp_path / "run", server)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_of_its_own_name_is_judged_in_its_own_folder(folder: Path) -> None:
    one = evaluated_folder(folder / "evaluations" / "line-2", stages=("sfe",), questions=2)
    with served(by_text) as server:
        judge(folder, server, "--config.evaluate.name=line-2")
        assert len(server.bodies) == 10
    assert len(read_jsonl(one / "judgements" / "sfe_one_shot.jsonl")) == 10
    assert "judge" in json.loads((one / "summary.json").read_text())["metrics"]["sfe"]["one_shot"]
    assert "judge" not in json.loads((folder / "summary.json").read_text())["metrics"]["sfe"]["one_shot"]


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="sentence-transformers, the extra sbert, is not installed",
)
def test_similarity_is_measured_without_a_judge(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = sentence_model(folder.parent / "model")
    config = [f"--config.run_dir={folder}", "--config.stages=judge", f"--config.judge.sbert_model={model}"]
    for _ in range(2):
        run_stages(read_config(["--config", str(CONFIG), *config]))
    said = capfd.readouterr()
    assert "sfe, one-shot: similarity measured before, by the same model" in said.err and "SBERT" in said.out
    entry = json.loads((folder / "summary.json").read_text())["metrics"]["sfe"]["one_shot"]
    assert entry["sbert"]["n"] == 20 and 0.3 < entry["sbert"]["value"] < 1.0 and "judge" not in entry
