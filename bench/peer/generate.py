"""The peer of bench/generate.py: greedy decoding of transformers with its KV cache, of a fixed number of tokens.

    python -m bench.peer.generate --size small --rows 8

The times of tokens are read in a stopping criterion. `--compile` compiles the model on a static cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from bench.peer.allocator import restart_with_kept_memory
from bench.peer.batches import Batch
from bench.peer.clock import Clock
from bench.peer.model import model_of, on_device, peer_parser, say, size_of
from bench.peer.sizes import PeerSize, make_prompts


class Stamps(StoppingCriteria):
    """Seconds at which each token was there; stops nothing.

    Args:
      device: `cuda` waits for the GPU at each token, so that the time is the token's own.
    """

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self._device = device

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Notes the time."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints one line of JSON; the arguments are those of the command line by default."""
    found = peer_parser(__doc__)
    found.add_argument("--rows", type=int, default=8, help="prompts at once")
    options = found.parse_args(arguments)
    size = size_of(options)
    model = model_of(size, options)
    if options.compile:
        model.forward = torch.compile(model.forward, dynamic=False)
    batch = on_device(prompts_of(size, options.rows), options)
    with torch.inference_mode():
        for _ in range(options.warmup):
            generate(model, batch, size, options)
        clock, runs = Clock(options.device), []
        for _ in range(options.repeats):
            runs.append(generate(model, batch, size, options))
            clock.tick()
    summary = clock.summary()
    first, each = (statistics.median(found) for found in zip(*runs, strict=True))
    say(
        "generate",
        options,
        size,
        clock,
        rows=options.rows,
        prompt_tokens=batch["input_ids"].shape[1],
        new_tokens=size.new_tokens,
        **summary,
        first_token_seconds=round(first, 5),
        seconds_per_decode_step=round(each, 5),
        decode_tokens_per_s=round(options.rows / each, 1),
        tokens_per_s=round(options.rows * size.new_tokens / summary["seconds"], 1),
    )


def prompts_of(size: PeerSize, rows: int) -> Batch:
    """Images with a question each."""
    ids, pixels = make_prompts(size, rows, 1)
    tokens, tiles = torch.from_numpy(ids), torch.from_numpy(pixels).flatten(0, 1)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": tiles}


def generate(model: Any, batch: Batch, size: PeerSize, options: argparse.Namespace) -> tuple[float, float]:
    """Generates an answer of each prompt: seconds to the first token, and seconds of a further one."""
    stamps, start = Stamps(options.device), time.perf_counter()
    ids = model.generate(
        **batch,
        use_cache=True,
        do_sample=False,
        min_new_tokens=size.new_tokens,
        max_new_tokens=size.new_tokens,
        stopping_criteria=StoppingCriteriaList([stamps]),
        **({"cache_implementation": "static"} if options.compile else {}),
    )
    assert ids.shape[1] == batch["input_ids"].shape[1] + size.new_tokens and len(stamps.seconds) == size.new_tokens
    first, last = stamps.seconds[0], stamps.seconds[-1]
    return first - start, (last - first) / (size.new_tokens - 1)


if __name__ == "__main__":
    restart_with_kept_memory()
    main()
