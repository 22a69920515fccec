"""Records written as files of other trainers: TRL's preference rows, and AD-PL's JSON."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sage_jax.data.images import SUFFIXES
from sage_jax.data.records import Question, Record, validate
from sage_jax.data.sources.adpl_json import NUM_ANSWERS, NUM_QUESTIONS, TEXT_KEYS
from sage_jax.data.sources.rankings import pairs_of
from sage_jax.process.files import replace_file
from sage_jax.verdict import Language

Pairs = Literal["all", "extreme"]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written of one split.

    Attributes:
      num_rows: Preference rows.
      num_items: AD-PL items.
      without_pair: Questions that have no two answers of different rank, which rows cannot hold.
      no_items: Records that AD-PL's JSON cannot hold: other numbers of questions or answers, no verdicts, or more than
        one reference.
    """

    num_rows: int
    num_items: int
    without_pair: int
    no_items: int


def export_split(
    records: Sequence[Record],
    folder: Path,
    split: str,
    *,
    pairs: Pairs,
    language: Language = "en",
    advance: Callable[[int], None] | None = None,
) -> Exported:
    """Writes `<split>.jsonl` (TRL), `adpl_<split>.json` and the images of both, below `images/`.

    Each file appears whole; images are named by their content and written once, so that a call that was cut short and
    is made again goes on. A file without any row is not written, and an older one of its name removed.

    Args:
      records: The split.
      folder: Gets the files.
      split: Their name.
      pairs: `all` writes each better answer with each worse, `extreme` the best with the worst.
      language: What the records are written in: AD-PL has keys for each.
      advance: Takes the number of records done; what it raises ends the export.
    """
    numbers: collections.Counter[str] = collections.Counter()
    items: list[str] = []

    def lines() -> Iterator[str]:
        for index in range(len(records)):
            record = records[index]
            names = [_write_image(folder, record, image, path) for image, path in _images(record)]
            for number, question in enumerate(record.questions, start=1):
                found = list(_rows(question, names, pairs, f"{record.record_id}#{number}"))
                numbers["rows"] += len(found)
                numbers["without_pair"] += not found
                yield from found
            if _is_item(record, language):
                items.append(json.dumps(_item(record, names, language), ensure_ascii=False))
            if advance is not None:
                advance(index + 1)

    rows_file, items_file = folder / f"{split}.jsonl", folder / f"adpl_{split}.json"
    replace_file(rows_file, lines())
    if not numbers["rows"]:
        rows_file.unlink()
    if items:
        replace_file(items_file, "[\n" + ",\n".join(items) + "\n]\n")
    else:
        items_file.unlink(missing_ok=True)
    return Exported(numbers["rows"], len(items), numbers["without_pair"], len(records) - len(items))


def _images(record: Record) -> list[tuple[bytes, str]]:
    """Images in the order of rows: references, then the test image; each with the path that it came from."""
    return [*((each.image, each.path) for each in record.references), (record.test_image, record.test_path)]


def _write_image(folder: Path, record: Record, content: bytes, path: str) -> str:
    """Path of an image below the folder, whose last folder is the category; the file is written if it is not there."""
    suffix = PurePosixPath(path).suffix.lower()
    category = re.sub(r"[^\w-]+", "_", record.category.lower()).strip("_") or "part"
    digest = hashlib.sha256(content).hexdigest()[:32]
    name = f"images/{category}/{digest}{suffix if suffix in SUFFIXES else '.png'}"
    if not (folder / name).is_file():
        replace_file(folder / name, content)
    return name


def _rows(question: Question, names: Sequence[str], pairs: Pairs, question_id: str) -> Iterator[str]:
    """A question's preferences as lines of TRL's conversational format with images; TRL drops `question_id`."""
    shown: list[dict[str, str]] = [{"type": "image"}] * len(names)
    prompt = [{"role": "user", "content": [*shown, _text(question.text)]}]
    for better, worse in pairs_of(question.answers, only_extreme=pairs == "extreme"):
        chosen, rejected = ([{"role": "assistant", "content": [_text(answer)]}] for answer in (better, worse))
        row = {
            "images": list(names),
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "question_id": question_id,
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _is_item(record: Record, language: Language) -> bool:
    faults = validate(record, num_questions=NUM_QUESTIONS, num_answers=NUM_ANSWERS, language=language)
    return not record.further_references and not faults


def _item(record: Record, names: Sequence[str], language: Language) -> dict[str, Any]:
    """A record as an AD-PL item, with the further keys that data.source=adpl reads."""

    keys = TEXT_KEYS[language]

    def asked(question: Question) -> dict[str, Any]:
        options = [
            {keys.answer: each.text} | ({} if each.score is None else {"score": each.score})
            for each in question.answers
        ]
        return {keys.question: question.text, "answer_options": options}

    reference = {"reference_image": names[0]} if len(names) > 1 else {}
    facts = {"facts": list(record.facts)} if record.facts else {}
    state = {} if record.anomalous is None else {"anomalous": record.anomalous}
    return {
        "pair_type": record.pair_type,
        "test_image": names[-1],
        **reference,
        "question_answer": [asked(question) for question in record.questions],
        "id": record.record_id,
        "category": record.category,
        **facts,
        **state,
    }
