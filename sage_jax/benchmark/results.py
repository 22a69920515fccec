"""The results of a question set: answers, MMAD's official file, and metrics with intervals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sage_jax.benchmark.answer import Answer
from sage_jax.benchmark.items import Asked, Item
from sage_jax.config import ConfigError
from sage_jax.metrics.letters import official_letter, read_letter
from sage_jax.metrics.mmad import Choice, ChoiceAccuracy, accuracy_of, official_accuracy, rivals
from sage_jax.metrics.verdicts import Prediction, accuracy_by_kind, count_unparsable, group_accuracy, verdict_accuracy
from sage_jax.process.checksums import open_json, sealed_json
from sage_jax.process.files import replace_file
from sage_jax.process.shortages import raise_if_lacking

LIKELIHOOD: Final = "likelihood"
"""The option that is likeliest as an answer; the verdict that is likelier."""
GENERATED: Final = "generated"
"""The option or verdict that the written answer names."""
OFFICIAL: Final = "official"
"""MMAD's evaluator on the written answers."""

_Told = Sequence[tuple[Item, Sequence[Answer]]]


@dataclasses.dataclass(frozen=True)
class ShotResults:
    """Results with one number of references.

    Attributes:
      rows: One for each question, for the answers file.
      metrics: By the way of scoring, as they stand in `summary.json`.
      official: Content of MMAD's answer file; None for other sets.
    """

    rows: list[dict[str, Any]]
    metrics: dict[str, Any]
    official: list[dict[str, Any]] | None


def choice_results(told: _Told, *, samples: int, seed: int) -> ShotResults:
    """Results of multiple-choice questions."""
    drawn = {"samples": samples, "seed": seed}
    rows, official = [], []
    for item, answers in told:
        for number, (asked, answer) in enumerate(zip(item.asked, answers, strict=True), start=1):
            rows.append(_choice_row(item, asked, answer))
            official.append(_official_row(item, number, asked, answer))
    likely = [_choice(row, row["likeliest"]) for row in rows]
    written = [_choice(row, row["read"]) for row in rows]
    metrics = {
        LIKELIHOOD: _accuracy_json(accuracy_of(likely, **drawn)),
        GENERATED: _accuracy_json(accuracy_of(written, **drawn)),
        OFFICIAL: official_accuracy(official),
        "rivals": {name: _accuracy_json(accuracy_of(each, **drawn)) for name, each in rivals(likely).items()},
    }
    return ShotResults(rows, metrics, official)


def _choice_row(item: Item, asked: Asked, answer: Answer) -> dict[str, Any]:
    by_letter = dict(zip(asked.options, answer.logps, strict=True))
    return {
        "image": item.key,
        "type": asked.kind,
        "question": asked.text,
        "options": asked.options,
        "answer": asked.truth,
        "likeliest": max(by_letter, key=lambda letter: by_letter[letter]),
        "logps": by_letter,
        "said": answer.said,
        "read": read_letter(answer.said, asked.options),
    }


def _official_row(item: Item, number: int, asked: Asked, answer: Answer) -> dict[str, Any]:
    """A row of MMAD's answer file, the question's text as its scripts write it."""
    options = "".join(f"{letter}. {text}\n" for letter, text in asked.options.items())
    return {
        "image": item.key,
        "question": {"type": "text", "text": f"Question {number}: {asked.text} \n{options}", "options": asked.options},
        "question_type": asked.kind,
        "correct_answer": asked.truth,
        "gpt_answer": official_letter(answer.said),
    }


def _choice(row: Mapping[str, Any], letter: str | None) -> Choice:
    letters = list(row["options"])
    return Choice(
        row["image"],
        row["type"],
        tuple(row["options"].values()),
        letters.index(row["answer"]),
        None if letter is None else letters.index(letter),
    )


def _accuracy_json(found: ChoiceAccuracy) -> dict[str, Any]:
    return dataclasses.asdict(found)


def verdict_results(told: _Told, *, samples: int, seed: int) -> ShotResults:
    """Results of yes-or-no questions. One item is one group of Acc-G."""
    drawn = {"samples": samples, "seed": seed}
    rows, written, likely = [], [], []
    for item, answers in told:
        for asked, answer in zip(item.asked, answers, strict=True):
            said = _prediction(item, asked, answer.said)
            written.append(said)
            likely.append(dataclasses.replace(said, answer="Yes" if answer.yes >= 0.5 else "No"))
            rows.append(_verdict_row(item, asked, answer, said))
    constant = [[dataclasses.replace(each, answer=verdict) for each in written] for verdict in ("Yes", "No") if written]
    best = max(constant, key=lambda each: sum(one.right for one in each), default=[])
    metrics = {
        LIKELIHOOD: _verdict_json(likely, **drawn),
        GENERATED: _verdict_json(written, **drawn),
        "rivals": {f"always {best[0].answer.lower()}": _verdict_json(best, **drawn)} if best else {},
    }
    return ShotResults(rows, metrics, None)


def _prediction(item: Item, asked: Asked, said: str) -> Prediction:
    return Prediction(
        record_id=item.key,
        image_id=item.image,
        image=item.image,
        pair_type=asked.kind,
        label="",
        question=asked.text,
        reference_answer=f"{asked.truth}. {asked.conclusion}".strip(),
        answer=said,
        truth=asked.truth == "Yes",
    )


def _verdict_row(item: Item, asked: Asked, answer: Answer, said: Prediction) -> dict[str, Any]:
    """A row of the answers file, in the field names of the released evaluator where it has one."""
    return {
        "id": item.key,
        "image": item.image,
        "pair_type": asked.kind,
        "question": asked.text,
        "answer": said.reference_answer,
        "prediction": answer.said,
        "ground_truth": said.truth,
        "dichotomy": said.verdict,
        "verdict_score": answer.yes,
    }


def _verdict_json(predictions: Sequence[Prediction], *, samples: int, seed: int) -> dict[str, Any]:
    drawn = {"samples": samples, "seed": seed}
    by_kind = accuracy_by_kind(predictions, **drawn)
    return {
        "verdict_accuracy": dataclasses.asdict(verdict_accuracy(predictions, **drawn)),
        "by_kind": {kind: dataclasses.asdict(metric) for kind, metric in by_kind.items()},
        "acc_g": dataclasses.asdict(group_accuracy(predictions, **drawn)),
        "unread": count_unparsable(predictions),
    }


def write_answers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as JSON lines."""
    replace_file(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_official(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes MMAD's answer file as its own scripts do: one list, indented by 4."""
    replace_file(path, json.dumps(rows, indent=4) + "\n")


def load_results(path: Path) -> dict[str, Any]:
    """The content of a benchmark's `summary.json`; empty where there is none.

    Raises:
      ConfigError: It is damaged.
    """
    try:
        content = open_json(path.read_text(encoding="utf-8"), always=False)
        if not isinstance(content.get("stages"), dict):
            raise ValueError("it has no object stages")
        return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise_if_lacking(error, path)
        raise ConfigError(
            f"{path}: damaged: {error}: delete it, and run the stage benchmark again: answers are kept"
        ) from None


def record_results(path: Path, stage: str, shots: int, about: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Writes the metrics of a stage with so many references into a benchmark's `summary.json`, beside the others'.

    Args:
      about: What they were measured on and by; entries of the same stage that say otherwise are taken out.
    """
    summary = load_results(path) or {"stages": {}}
    entry = summary["stages"].get(stage, {})
    about = json.loads(json.dumps(about))
    kept = entry.get("shots", {}) if {**entry, "shots": None} == {**about, "shots": None} else {}
    kept = {**kept, str(shots): metrics}
    summary["stages"][stage] = {**about, "shots": dict(sorted(kept.items(), key=lambda each: int(each[0])))}
    replace_file(path, json.dumps(sealed_json(summary), indent=1, ensure_ascii=False) + "\n")
