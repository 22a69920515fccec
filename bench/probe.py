"""Where kind and place of a defect can be read in a trained model, and where they are lost on the way to the answer.

    python -m bench.probe --model runs/deeppcb --stage sfe

Linear readings (softmax regression, weight decay chosen by holding out a fifth) of what each part of the model holds of
an image pair, fitted on training images and tested on test images, all of one kind of defect and with a reference:

    similarities            of the image tokens to the reference, the map
    ViT and adapter         mean over the distinct patches of the test tokens, and of test - reference
    image tokens            mean over the distinct patches of what the decoder is shown of the image
    comparison embeddings   all facts' embeddings, side by side
    written answer          kind and place that the answer to an open question names

Place is the cell of the 3 x 3 grid that holds the centre of the largest defect. The last column is what always saying
the most frequent kind or place of the test images would get.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sage_jax.batch import TreeBatch
from sage_jax.data import store
from sage_jax.data.adpl.preferences import PLACES, cell_of
from sage_jax.data.records import Record
from sage_jax.data.trees.encode import ChosenRecords
from sage_jax.data.trees.tiles import image_size
from sage_jax.evaluation.evaluator import Evaluator, inspection_record
from sage_jax.metrics.mle import read
from sage_jax.models.sage import Sage
from sage_jax.parameters import merge
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run

DECAYS: Final = (1e-4, 1e-3, 1e-2, 1e-1)
STEPS: Final = 400


def features(model: Sage, batch: TreeBatch) -> dict[str, jax.Array]:
    """What each part holds of the rows' images, a vector a row."""
    images = model.encode_images(batch)
    asked = (batch.question_index >= 0) & (batch.answer_index < 0) & batch.token_mask
    shown = model.embed_facts(images, batch.fact_ids, batch.fact_mask, asked)
    chosen = images.compared.distinct_mask[..., None]

    def over_distinct(tokens: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(chosen, tokens, 0.0), axis=1) / jnp.sum(chosen, axis=1)

    reference = images.test if images.reference is None else images.reference
    matched = jnp.take_along_axis(reference, images.compared.match[..., None], axis=1)
    encoded = [over_distinct(images.test), over_distinct(images.test - matched)]
    return {
        "similarities": images.compared.similarity,
        "ViT and adapter": jnp.concatenate(encoded, axis=1),
        "image tokens": over_distinct(shown.image[:, : images.test.shape[1]]),
        "comparison embeddings": shown.comparison.reshape(len(shown.comparison), -1),
    }


def fit(x: np.ndarray, y: np.ndarray, num_classes: int, decay: float) -> Any:
    """Weights of a softmax regression with a bias."""
    optimizer = optax.adam(0.05)

    def loss(weights: jax.Array) -> jax.Array:
        nll = optax.softmax_cross_entropy_with_integer_labels(x @ weights[:-1] + weights[-1], y).mean()
        return nll + 0.5 * decay * jnp.sum(weights[:-1] ** 2)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    start = jnp.zeros((x.shape[1] + 1, num_classes))
    (weights, _), _ = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), length=STEPS))(start)
    return np.asarray(weights)


def probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_classes: int) -> float:
    """Share of test rows that a linear reading gets right; features are standardised by the training rows."""
    (x, y), (x_test, y_test) = train, test
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    cut = len(x) * 4 // 5

    def right(weights: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> float:
        return float(np.mean((rows @ weights[:-1] + weights[-1]).argmax(axis=1) == labels))

    best = max(DECAYS, key=lambda decay: right(fit(x[:cut], y[:cut], num_classes, decay), x[cut:], y[cut:]))
    return right(fit(x, y, num_classes, best), x_test, y_test)


def single_kind(records: Sequence[Record], most: int) -> Iterator[int]:
    """Indices of the first images with a reference and defects of one kind, each image once."""
    seen: set[str] = set()
    for index in range(len(records)):
        record = records[index]
        one_kind = len({defect.type for defect in record.defects}) == 1
        if one_kind and record.defects[0].placed and record.reference_image is not None and record.image_id not in seen:
            seen.add(record.image_id)
            yield index
        if len(seen) == most:
            return


def labels(records: Sequence[Record], kinds: Sequence[str], terms: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Kind, and cell of the largest defect, of each record."""
    largest = [
        max(record.defects, key=lambda d: (d.box.right - d.box.left) * (d.box.bottom - d.box.top)) for record in records
    ]
    cells = [
        PLACES.index(cell_of(defect.box, *image_size(record.test_image, name=record.test_path)))
        for defect, record in zip(largest, records, strict=True)
    ]
    return np.asarray([kinds.index(terms[defect.type]) for defect in largest]), np.asarray(cells)


def gathered(evaluator: Evaluator, records: Sequence[Record], compute: Any, params: Any) -> dict[str, np.ndarray]:
    """The features of all records."""
    rows: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for batch in evaluator.batches(records, with_reference=True, answers="none"):
        real = np.asarray(batch.record_index) >= 0
        for name, values in compute(params, batch).items():
            rows[name].append(np.asarray(values)[real])
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def written(evaluator: Evaluator, records: Sequence[Record], kinds: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Kind and cell that the answer to the inspection question names; -1 where it names none, or several."""
    found: list[tuple[int, int]] = []
    names = {"defect_terms": kinds, "places": PLACES, "synonyms": evaluator.vocabulary.synonyms}
    asked = [inspection_record(record) for record in records]
    by_id = {}
    for record, answers in evaluator.answers(asked, with_reference=True):
        by_id[record.record_id] = read(evaluator.chat.decode(np.asarray(answers.token_ids[0])), **names)
    for record in records:
        said = by_id[record.record_id]
        kind, place = (next(iter(each)) if len(each) == 1 else None for each in (said.terms, said.places))
        found.append((-1 if kind is None else kinds.index(kind), -1 if place is None else PLACES.index(place)))
    return np.asarray([kind for kind, _ in found]), np.asarray([place for _, place in found])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run folder")
    parser.add_argument("--stage", default="sfe")
    parser.add_argument("--images", type=int, default=1600, help="training images that readings are fitted on")
    options = parser.parse_args()
    run = Run(config_of(options.model))
    evaluator = run.evaluator(options.stage, run.weights.answering(options.stage, wanted_by="probe"))
    params = run.weights.answering(options.stage, wanted_by="probe")
    structure = run.weights.structure.of(params)
    compute = jax.jit(functools.partial(lambda params, batch: features(merge(structure, params), batch)))
    splits: dict[str, list[Record]] = {}
    sizes: tuple[tuple[store.Split, int], ...] = (("train", options.images), ("test", 1 << 30))
    for split, most in sizes:
        stored = store.open_split(run.prepared, split)
        chosen = ChosenRecords(stored, list(single_kind(stored, most)))
        splits[split] = [chosen[index] for index in range(len(chosen))]
    types = {d.type for record in itertools.chain(*splits.values()) for d in record.defects}
    terms = {name: run.vocabulary.defect_of(name).term for name in types}
    kinds = sorted(set(terms.values()))
    truth = {split: labels(records, kinds, terms) for split, records in splits.items()}
    held = {split: gathered(evaluator, records, compute, params) for split, records in splits.items()}
    print(f"{options.model}, {options.stage}: {len(splits['train'])} training and {len(splits['test'])} test images")
    print("| read from | kind | place |\n|---|---|---|")
    for name in held["train"]:
        shares = [
            probe((held["train"][name], truth["train"][of]), (held["test"][name], truth["test"][of]), size)
            for of, size in ((0, len(kinds)), (1, len(PLACES)))
        ]
        print(f"| {name} | {shares[0]:.2f} | {shares[1]:.2f} |", flush=True)
    said = written(evaluator, splits["test"], kinds)
    shares = [float(np.mean(answer == true)) for answer, true in zip(said, truth["test"], strict=True)]
    print(f"| the written answer | {shares[0]:.2f} | {shares[1]:.2f} |")
    most = [np.bincount(true).max() / len(true) for true in truth["test"]]
    print(f"| always the same | {most[0]:.2f} | {most[1]:.2f} |")


if __name__ == "__main__":
    main()
