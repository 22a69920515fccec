"""The peer of bench/sfe_step.py: a supervised step of transformers in torch.

    python -m bench.peer.sft --size small --rows 4

One question and one answer an image. Decoder and projector train with fused AdamW and clipping; the frozen ViT runs
without gradient; logits are computed at answer tokens alone, as ours are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.peer.allocator import restart_with_kept_memory
from bench.peer.batches import Batch, next_token_loss, pad_rows
from bench.peer.clock import Clock
from bench.peer.dpo import update
from bench.peer.model import LEARNING_RATE, model_of, on_device, peer_parser, say, size_of
from bench.peer.sizes import PeerSize, make_groups


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints one line of JSON; the arguments are those of the command line by default."""
    found = peer_parser(__doc__)
    found.add_argument("--rows", type=int, default=4)
    found.add_argument("--gradient-checkpointing", action="store_true")
    options = found.parse_args(arguments)
    size = size_of(options)
    model = model_of(size, options).train()
    model.model.vision_tower.requires_grad_(False)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if options.compile:
        model.model.compile(dynamic=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    seeds = range(100, 100 + options.warmup + options.repeats)
    batches = [on_device(batch_of(size, options.rows, seed), options) for seed in seeds]
    clock, losses = Clock(options.device), []
    for batch in batches:
        loss = next_token_loss(model, batch)
        update(loss, trained, optimizer)
        losses.append(loss.item())
        clock.tick()
    summary = clock.summary(skip=options.warmup)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches[options.warmup :]) / options.repeats
    say(
        "sft",
        options,
        size,
        clock,
        rows=options.rows,
        gradient_checkpointing=options.gradient_checkpointing,
        **summary,
        tokens_per_s=round(tokens / summary["seconds"], 1),
        losses=[round(loss, 4) for loss in losses],
    )


def batch_of(size: PeerSize, rows: int, seed: int) -> Batch:
    """Prompts with their first answer, padded on the right."""
    groups = make_groups(size, rows, seed)
    pixels = torch.from_numpy(groups.pixels.reshape(-1, *groups.pixels.shape[2:]))
    pairs = [(ids.tolist(), ranked[0]) for ids, ranked in zip(groups.prompt_ids, groups.answers, strict=True)]
    return {**pad_rows(pairs), "pixel_values": pixels}


if __name__ == "__main__":
    restart_with_kept_memory()
    main()
