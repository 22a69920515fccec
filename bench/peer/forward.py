"""The peer of bench/forward.py: a forward pass of transformers with logits at every token.

python -m bench.peer.forward --size small --rows 4
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bench.peer.allocator import restart_with_kept_memory
from bench.peer.batches import Batch
from bench.peer.clock import Clock
from bench.peer.model import model_of, on_device, peer_parser, say, size_of
from bench.peer.sizes import FIRST_FREE, PeerSize, make_prompts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints one line of JSON; the arguments are those of the command line by default."""
    found = peer_parser(__doc__)
    found.add_argument("--rows", type=int, default=4, help="sequences at once")
    options = found.parse_args(arguments)
    size = size_of(options)
    model = model_of(size, options)
    if options.compile:
        model.compile()
    batch = on_device(sequences(size, options.rows), options)
    with torch.inference_mode():
        for _ in range(options.warmup):
            model(**batch, use_cache=False)
        clock = Clock(options.device)
        for _ in range(options.repeats):
            model(**batch, use_cache=False)
            clock.tick()
    summary, tokens = clock.summary(), batch["input_ids"].numel()
    rate = round(tokens / summary["seconds"], 1)
    say("forward", options, size, clock, rows=options.rows, tokens=tokens, **summary, tokens_per_s=rate)


def sequences(size: PeerSize, rows: int) -> Batch:
    """Images with a question and as many tokens again as an answer has."""
    ids, pixels = make_prompts(size, rows, 1)
    tail = np.random.RandomState(2).randint(FIRST_FREE, size.vocab_size, (rows, size.new_tokens))
    tokens = torch.from_numpy(np.concatenate([ids, tail], axis=1))
    tiles = torch.from_numpy(pixels).flatten(0, 1)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": tiles}


if __name__ == "__main__":
    restart_with_kept_memory()
    main()
