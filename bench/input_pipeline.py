"""How long a training step waits for its batch: the input stream of a config against a step of given seconds.

    python -m bench.input_pipeline --config configs/quickstart.py --stage sfe --step-seconds 0.15
    python -m bench.input_pipeline --config configs/sage_8b_lora.py --stage edpo --image-px 1024 --step-seconds 3

Records are drawn by the built-in generator, with pictures of `--image-px`; all else is as in the config. The step is a
sleep, as the host sees a step on an accelerator; 0 s tells how many images the input can give. Prints one line of JSON;
the first batch, which no step hides, is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import runpy
import time

import numpy as np
from absl import flags

from sage_jax.config import DataConfig, from_config_dict
from sage_jax.data.records import Record
from sage_jax.data.sources.readers import read_records
from sage_jax.data.stream.pipeline import StreamOptions, make_train_loader
from sage_jax.data.trees.chat import Chat
from sage_jax.data.trees.encode import TreeFormat
from sage_jax.data.trees.tokenizer import train_tokenizer


def words_of(records: list[Record]) -> list[str]:
    """All text of records, to train a tokenizer on."""
    asked = [question for record in records for question in (*record.questions, *record.descriptions)]
    answers = [answer.text for question in asked for answer in question.answers]
    return [*(question.text for question in asked), *answers, *(fact for record in records for fact in record.facts)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--stage", default="sfe")
    parser.add_argument("--step-seconds", type=float, required=True, help="of the simulated step")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--image-px", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=0, help="rows of this process; 0 = the config's")
    parser.add_argument("--num-workers", type=int, default=0, help="worker processes; 0 = threads")
    parser.add_argument("--group-batches", type=int, default=-1, help="-1 = the config's")
    given = parser.parse_args()
    flags.FLAGS.mark_as_parsed()
    config = from_config_dict(runpy.run_path(given.config)["get_config"]())
    data = DataConfig(num_train=given.num_images, num_test=1, image_px=given.image_px)
    records = [found for found in read_records(data, "train", 0) if isinstance(found, Record)]
    chat = Chat(config.text, train_tokenizer(words_of(records), min(config.text.vocab_size, 768)))
    train = config.training(given.stage)
    train = dataclasses.replace(train, batch_size=given.batch_size or train.batch_size, accumulate=1)
    options = StreamOptions(
        seed=0,
        num_workers=given.num_workers,
        prefetch=max(config.data.prefetch, given.num_workers),
        group_batches=config.data.group_batches if given.group_batches < 0 else given.group_batches,
    )
    loader = make_train_loader(records, TreeFormat(chat, config.model, config.text), train, options)
    waits, padding, lengths, tiles_mb = [], [], set(), 0.0
    with contextlib.closing(loader):
        next(loader)
        started = before = time.perf_counter()
        for batch in itertools.islice(loader, given.steps):
            waits.append(time.perf_counter() - before)
            padding.append(1.0 - np.mean(batch.token_mask))
            lengths.add(batch.token_ids.shape[1])
            tiles_mb = (batch.tiles.nbytes + batch.reference_tiles.nbytes) / 1e6
            time.sleep(given.step_seconds)
            before = time.perf_counter()
    found = {
        "what": "input_pipeline",
        "stage": f"{given.config} {given.stage}",
        "cores": os.cpu_count(),
        "num_workers": given.num_workers,
        "batch_size": train.batch_size,
        "tiles_mb": round(tiles_mb, 1),
        "step_seconds": given.step_seconds,
        "input_wait": round(sum(waits) / (before - started), 4),
        "median_wait_ms": round(1e3 * float(np.median(waits)), 2),
        "images_per_s": round(train.batch_size * len(waits) / (before - started), 2),
        "padding": round(float(np.mean(padding)), 4),
        "expected_padding": round(loader.shapes.padding, 4) if loader.shapes else None,
        "lengths": sorted(lengths),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
