"""Stage `judge`: MLE by a language model, and SBERT similarity, of the answers that `evaluate` wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils

from sage_jax.config import Config, ConfigError
from sage_jax.endpoint.asking import Asker
from sage_jax.endpoint.budget import Budget, BudgetUsedUp
from sage_jax.endpoint.replies import ReplyStore
from sage_jax.journal.summary import MODELS, MODES, load_summary, record_metrics
from sage_jax.judging.answers import Answer, failures_file, judgements_file, predictions_file, read_answers
from sage_jax.judging.answers import write_judgements as write_files
from sage_jax.judging.judge import Judging
from sage_jax.judging.marks import read_marks
from sage_jax.judging.prompt import CORRECTION
from sage_jax.judging.scores import judge_metrics
from sage_jax.judging.similarity import SentenceModel, check_sentence_model
from sage_jax.metrics.intervals import bootstrap_mean
from sage_jax.metrics.mle import MleScore
from sage_jax.process import signals
from sage_jax.process.checksums import file_sum
from sage_jax.process.stop_request import StopRequest
from sage_jax.stages.asked_endpoint import budget_of, key_of, open_endpoint
from sage_jax.stages.run import Stage, StageCost
from sage_jax.stages.scoring import results_folder

REPLIES: Final = Path("judgements") / "replies.jsonl"
"""Replies of all judges, below the run's folder: evaluations of other data share them."""


@dataclasses.dataclass(frozen=True)
class _Mode:
    """Answers of a stage in a mode.

    Attributes:
      folder: Of the run, or of an evaluation below it.
      model: The training stage that answered.
      mode: One of MODES.
      entry: Their entry of the summary.
      sum: Hash of the predictions file.
    """

    folder: Path
    model: str
    mode: str
    entry: dict[str, Any]
    sum: str

    @property
    def name(self) -> str:
        return f"{self.model}, {self.mode.replace('_', '-')}"

    def answers(self) -> list[Answer]:
        return read_answers(predictions_file(self.folder, self.model, self.mode))

    def digest(self, config: Config, asked: str) -> str:
        """Hash of all that decides what is measured of the answers, with the hash of what is asked."""
        drawn = [config.evaluate.bootstrap_samples, config.seed]
        parts = [self.entry.get("scored_of", ""), self.sum, asked, drawn]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def judge(stage: Stage) -> StageCost:
    """Judges the answers of evaluated stages; only the first process asks, the others wait.

    Raises:
      ConfigError: No answers are there, or they are not those of the summary.
      UserError: The endpoint refuses, is gone, or the sentence model cannot be read.
    """
    folder = results_folder(stage.run)
    cost = _judge(stage, folder) if jax.process_index() == 0 else StageCost(worked=False)
    if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.asarray(bool(cost.interrupted))):
        return dataclasses.replace(cost, interrupted=cost.interrupted or "stopped while the first process judged")
    return cost


def check_judge(config: Config, stages: Sequence[str]) -> None:
    """Checks, before any work, that there are answers, a judge and its key; asks no endpoint.

    Raises:
      ConfigError: One is missing; the message names the field, or the stage to run.
      UserError: There is no key, or no sentence model.
    """
    options, folder = config.judge, Path(config.run_dir).expanduser()
    if not options.base_url and not options.sbert_model:
        raise ConfigError(
            "judge.base_url is empty: give the address of an OpenAI-compatible endpoint, such as "
            "http://localhost:8000/v1 (vLLM) or http://localhost:11434/v1 (Ollama); or, without a judge, the folder "
            "of a sentence model in judge.sbert_model"
        )
    if options.base_url and not options.model:
        raise ConfigError("judge.model is empty: give the name of the model at the endpoint")
    key_of(options, "judge")
    if options.sbert_model:
        check_sentence_model(Path(options.sbert_model).expanduser())
    written = [folder / "predictions", *folder.glob("evaluations/*/predictions")]
    if "evaluate" not in stages[: stages.index("judge")] and not any(each.is_dir() for each in written):
        raise _no_answers(folder)


def _no_answers(folder: Path, models: Sequence[str] = ()) -> ConfigError:
    of = f" of {', '.join(models)} in summary.json" if models else " in summary.json and predictions/"
    return ConfigError(
        f"stage 'judge' needs the answers that stage 'evaluate' writes, and {folder} has none{of}: "
        "run with --config.stages=evaluate,judge"
    )


def _judge(stage: Stage, folder: Path) -> StageCost:
    run, log, options = stage.run, stage.log, stage.config.judge
    modes = list(_evaluated(stage, folder))
    budget = budget_of(options, "judge")
    anew, resumed, stopped = False, False, ""
    with StopRequest(log.line, run.mesh, after="the requests under way, whose replies are kept"):
        try:
            for work in _works(stage, budget) if modes else ():
                for mode in modes:
                    if not stopped:
                        done = work.measure(stage, mode)
                        anew, resumed = anew or done.worked, resumed or done.resumed
                        stopped = done.interrupted
        except BudgetUsedUp as error:
            spent = f"after {budget.requests} requests and {budget.total_tokens} tokens"
            stopped = f"stage judge stopped {spent}: {error}. All replies are kept; the next start has the budget again"
    counts = {"requests": float(budget.requests), "tokens": float(budget.total_tokens)} if options.base_url else {}
    return StageCost(worked=anew or bool(stopped), resumed=resumed, counts=counts, interrupted=stopped)


def _evaluated(stage: Stage, folder: Path) -> Iterator[_Mode]:
    """The modes that can be judged.

    Raises:
      ConfigError: There are none, or predictions are not those that the summary tells about.
    """
    asked = stage.config.judge.stages
    metrics = load_summary(folder / "summary.json")["metrics"]
    found = [(model, mode) for model in asked or MODELS for mode in MODES if mode in metrics.get(model, {})]
    if not found:
        raise _no_answers(folder, asked)
    if missing := [model for model in asked if model not in dict(found)]:
        stage.log.line(f"not evaluated in {folder}, so not judged: {', '.join(missing)}")
    for model, mode in found:
        path, entry = predictions_file(folder, model, mode), metrics[model][mode]
        content = file_sum(path) if path.is_file() else ""
        if not content or entry.get("predictions", content) != content:
            what = "not the answers" if content else "gone, the answers"
            raise ConfigError(
                f"{path}: {what} that {folder / 'summary.json'} tells about, for it was changed or an evaluation has "
                "not ended: run with --config.stages=evaluate,judge"
            )
        yield _Mode(folder, model, mode, entry, content)


def _works(stage: Stage, budget: Budget) -> Iterator[_Marks | _Similarity]:
    """What is to be measured, one after the other."""
    options = stage.config.judge
    if options.base_url:
        yield _Marks(_asker(stage, budget))
    if options.sbert_model:
        yield _Similarity(SentenceModel(Path(options.sbert_model).expanduser()))


def _asker(stage: Stage, budget: Budget) -> Asker[MleScore]:
    options = stage.config.judge
    store = ReplyStore(stage.run.folder.path / REPLIES)
    if store.num_damaged:
        stage.log.line(f"{store.num_damaged} damaged lines of {REPLIES} are passed over, and asked for again")
    return Asker(open_endpoint(options, "judge", budget), store, read_marks, correction=CORRECTION, asks=options.asks)


@dataclasses.dataclass(frozen=True)
class _Marks:
    """MLE by a language model."""

    asker: Asker[MleScore]

    def measure(self, stage: Stage, mode: _Mode) -> StageCost:
        """Judges a mode, and writes its judgements and their metrics.

        Raises:
          UserError: As `judge`; the replies so far are kept.
        """
        config, options, log = stage.config, stage.config.judge, stage.log
        judging = Judging(mode.answers(), options)
        digest = mode.digest(config, judging.digest())
        before, path = mode.entry.get("judged") or {}, judgements_file(mode.folder, mode.model, mode.mode)
        is_whole = path.is_file() and file_sum(path) == before.get("written")
        if before.get("judged_of") == digest and not before.get("failed") and is_whole:
            log.line(f"{mode.name}: judged before, the same answers by the same judge")
            return StageCost(worked=False, resumed=True)
        found = judging.stored(self.asker)
        known = len(found)
        if known:
            log.line(f"{mode.name}: {known} of {len(judging)} judgements were given before")
        with log.progress(len(judging), done=known, unit=f"{mode.model} {mode.mode} judgement") as advance:
            judgements = judging.ask(self.asker, found, lambda done, failed: advance(done, {"failed": failed}))
        if judgements is None:
            kept = f"stage judge stopped after {len(found)} of {len(judging)} judgements of {mode.name}; all are kept"
            return StageCost(resumed=bool(known), interrupted=kept)
        write_files(mode.folder, mode.model, mode.mode, judgements, scored_of=mode.entry.get("scored_of", ""))
        metrics = judge_metrics(judgements, samples=config.evaluate.bootstrap_samples, seed=config.seed)
        failed = [each for each in judgements if each.marks is None]
        about = {
            "judged_of": digest,
            "model": options.model,
            "temperature": options.temperature if options.temperature >= 0 else None,
            "repetitions": options.repetitions,
            "judgements": len(judgements) - len(failed),
            "failed": len(failed),
            "written": file_sum(path),
        }
        record_metrics(mode.folder / "summary.json", mode.model, mode.mode, metrics, {"judged": about})
        if failed:
            listed = failures_file(mode.folder, mode.model, mode.mode)
            log.line(
                f"{mode.name}: {len(failed)} of {len(judgements)} judgements failed and count nowhere; a further start "
                f"asks for them again. {listed} lists them; the first: {failed[0].reason}"
            )
        return StageCost(resumed=bool(known))


@dataclasses.dataclass(frozen=True)
class _Similarity:
    """SBERT similarity."""

    model: SentenceModel

    def measure(self, stage: Stage, mode: _Mode) -> StageCost:
        """Measures a mode, and writes the metric.

        Raises:
          UserError: The model cannot be read.
        """
        config, log = stage.config, stage.log
        digest = mode.digest(config, self.model.digest())
        if mode.entry.get("sbert_of") == digest:
            log.line(f"{mode.name}: similarity measured before, by the same model")
            return StageCost(worked=False, resumed=True)
        answers = mode.answers()
        pairs = [(answer.text, answer.reference_answer) for answer in answers]
        with log.progress(self.model.num_texts(pairs), unit=f"{mode.model} {mode.mode} text") as advance:
            for done in self.model.embed(pairs):
                advance(done)
                if signals.requested():
                    return StageCost(interrupted=f"stage judge stopped while {mode.name} was measured")
        values = self.model.similarities(pairs)
        drawn = {"samples": config.evaluate.bootstrap_samples, "seed": config.seed}
        metric = bootstrap_mean(values, [answer.image for answer in answers], **drawn)
        record_metrics(mode.folder / "summary.json", mode.model, mode.mode, {"sbert": metric}, {"sbert_of": digest})
        return StageCost()
