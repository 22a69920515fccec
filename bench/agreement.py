"""Answers whose words contradict the verdict of score and threshold, as a run's model says them and as it reports them.

    python -m bench.product_folders --out products
    python -m bench.agreement --run runs/quickstart --folder products

The images of `test/` are inspected with their references and without, under the run's own threshold and under two at
the ends of the scale, where score and threshold decide against most of the model's own verdicts.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

from sage_jax.data.adpl.preferences import PLACES
from sage_jax.data.records import Reference
from sage_jax.evaluation.evaluator import Evaluator
from sage_jax.inspection.images import InputImage, make_input
from sage_jax.inspection.inspection_model import InspectionModel, Threshold
from sage_jax.metrics.mle import read
from sage_jax.metrics.reasons import contradicts
from sage_jax.stages.answering_model import inspection_model
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run

_ROWS = 32


def main() -> None:
    """Prints a line for each threshold, with references and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a trained run")
    parser.add_argument("--folder", required=True, help="what bench/product_folders.py or bench/board_folders.py wrote")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.0001, 0.9999], help="beside the run's own")
    options = parser.parse_args()
    model = inspection_model(Run(config_of(Path(options.run))), wanted_by="bench.agreement")
    for value, compared in itertools.product([None, *options.thresholds], (True, False)):
        under = model.thresholds[compared] if value is None else Threshold(value, promise="")
        inputs = read_inputs(Path(options.folder), model.evaluator, compared=compared)
        line = {"what": "agreement", "threshold": under.value, "references": compared, "images": len(inputs)}
        print(json.dumps(line | contradictions(model.evaluator, model.stage, under, inputs)), flush=True)


def read_inputs(folder: Path, evaluator: Evaluator, *, compared: bool) -> list[InputImage]:
    """The images of `test/`, with their references of the same name."""
    found = []
    for path in sorted((folder / "test").glob("*/*")):
        own = folder / "references/test" / path.parent.name / path.name
        references = [Reference(own.read_bytes(), str(own))] if compared else []
        found.append(make_input(str(path), path.read_bytes(), references, "part", evaluator.vocabulary))
    return found


def contradictions(evaluator: Evaluator, stage: str, under: Threshold, inputs: list[InputImage]) -> dict[str, int]:
    """How many answers contradict their verdict: as the model goes on from the verdict, and as they are reported."""
    found = {}
    responder = evaluator.responder.decoding_with(verdict_threshold=under.value, joint_score=under.joint_score)
    evaluator = dataclasses.replace(evaluator, shifts=under.shifts)
    model = InspectionModel(
        dataclasses.replace(evaluator, responder=responder),
        stage,
        {True: under, False: under},
        {True: None, False: None},
    )
    batches = [model.read(inputs[start : start + _ROWS], (), rows=_ROWS) for start in range(0, len(inputs), _ROWS)]
    said = [
        evaluator.chat.decode(ids)
        for batch in batches
        for _, records, trees in batch.batch.trees
        for ids in responder.answer(trees).token_ids[: len(records), 0]
    ]
    found["as_said"] = sum(_contradicts(text, evaluator) for text in said)
    reported = [answer.reason for batch in batches for answer in model.answer(batch) if answer is not None]
    return found | {"as_reported": sum(_contradicts(text, evaluator) for text in reported)}


def _contradicts(text: str, evaluator: Evaluator) -> bool:
    vocabulary = evaluator.vocabulary
    said = read(text, defect_terms=vocabulary.defect_terms, places=PLACES, synonyms=vocabulary.synonyms)
    return contradicts(said, abnormal_yes=True)


if __name__ == "__main__":
    main()
