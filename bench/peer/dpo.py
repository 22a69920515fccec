"""The peer of bench/edpo_step.py: a DPO step in torch on two pairs of each question's four ranked answers.

    python -m bench.peer.dpo --size small --questions 1 --variant trl
    python -m bench.peer.dpo --size 8b --questions 1 --variant loop --lora 16 --freeze-vision --gradient-checkpointing

Variants:

    trl          TRL's DPOTrainer (bench/peer/trl_trainer.py)
    loop         the same step by hand: chosen and rejected answers concatenated, prompt and image repeated for each,
                 reference log-probabilities from a frozen copy in every step, logits at answer tokens alone (as TRL
                 has them on a GPU; on a CPU it scores every position), fused AdamW, gradients clipped
    precomputed  `loop` with reference log-probabilities computed beforehand; TRL refuses this for images
    shared       a yardstick that no library has: the prompt once a question, its answers behind a block mask. It tells
                 the algorithm's gain from the framework's

Every step has a fresh batch with its own answer lengths. `--lora R` trains adapters of rank R of peft on the decoder
and the projector in full; its reference is the policy without adapters.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.nn.functional import logsigmoid

from bench.peer.allocator import restart_with_kept_memory
from bench.peer.batches import answer_logps, answer_logps_shared, collate, collate_shared
from bench.peer.clock import Clock
from bench.peer.model import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    model_of,
    on_device,
    peer_parser,
    reference_copy,
    say,
    size_of,
)
from bench.peer.sizes import PAIRS, Groups, PeerSize, make_groups
from bench.peer.trl_trainer import measure_trl

BETA: Final = 0.1
ADAPTED: Final = r".*language_model.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Modules that LoRA adapts: all products of the decoder's layers."""

Logps = tuple[torch.Tensor, torch.Tensor]
"""Log-probabilities of the chosen and of the rejected answers, one a pair each."""


@dataclasses.dataclass(frozen=True)
class Steps:
    """Measured steps.

    Attributes:
      clock: Its ticks, warm-up included.
      losses: Loss of each step, nats.
      tokens: Tokens of the language model a step, padding included, over policy and reference.
      tiles: Tiles of the ViT a step, over policy and reference.
    """

    clock: Clock
    losses: list[float]
    tokens: float
    tiles: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints one line of JSON; the arguments are those of the command line by default."""
    found = peer_parser(__doc__)
    found.add_argument("--variant", choices=["trl", "loop", "precomputed", "shared"], default="trl")
    found.add_argument("--questions", type=int, default=1, help="questions of a step, each with its own image")
    found.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 = the decoder trains in full")
    found.add_argument("--freeze-vision", action="store_true", help="the ViT does not train; SAGE's DPO trains it")
    found.add_argument("--gradient-checkpointing", action="store_true", help="TRL's default; slower, in less memory")
    options = found.parse_args(arguments)
    if options.variant == "trl" and options.lora:
        found.error("--lora is measured by --variant loop or precomputed")
    size = size_of(options)
    steps = options.warmup + options.repeats
    data = [make_groups(size, options.questions, 100 + step) for step in range(steps)]
    policy = model_of(size, options).train()
    if options.freeze_vision:
        policy.model.vision_tower.requires_grad_(False)
    if options.variant == "trl":
        measured = Steps(*measure_trl(policy, reference_copy(policy), data, options, beta=BETA))
    else:
        measured = measure_loop(policy, data, options, size)
    summary = measured.clock.summary(skip=options.warmup)
    say(
        "dpo",
        options,
        size,
        measured.clock,
        variant=options.variant,
        questions=options.questions,
        pairs=options.questions * len(PAIRS),
        lora=options.lora,
        freeze_vision=options.freeze_vision,
        gradient_checkpointing=options.gradient_checkpointing,
        **summary,
        questions_per_s=round(options.questions / summary["seconds"], 4),
        lm_tokens_per_step=measured.tokens,
        vit_tiles_per_step=measured.tiles,
        lm_tokens_per_s=round(measured.tokens / summary["seconds"], 1),
        losses=[round(loss, 5) for loss in measured.losses[:3]],
    )


def measure_loop(policy: Any, data: list[Groups], options: argparse.Namespace, size: PeerSize) -> Steps:
    """Steps by hand: policy and reference scored, loss, gradient, clipping, AdamW."""
    shared, longest = options.variant == "shared", size.answer_tokens[1] if options.compile else 0
    reference = None if options.lora else reference_copy(policy)
    adapted = with_adapters(policy, options.lora) if options.lora else policy
    model = adapted.base_model.model if options.lora else policy
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if options.compile:
        for each in [model] if reference is None else [model, reference]:
            each.model.compile(dynamic=False)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    batches = [on_device(collate_shared(each) if shared else collate(each.pairs(), longest), options) for each in data]
    score = answer_logps_shared if shared else answer_logps

    def score_reference(batch: dict[str, torch.Tensor]) -> Logps:
        disabled = adapted.disable_adapter() if reference is None else contextlib.nullcontext()
        with torch.no_grad(), disabled:
            return split(score(model if reference is None else reference, batch), shared=shared)

    known = None if options.variant == "loop" else [score_reference(batch) for batch in batches]
    clock, losses = Clock(options.device), []
    for step, batch in enumerate(batches):
        policy_logps = split(score(model, batch), shared=shared)
        reference_logps = score_reference(batch) if known is None else known[step]
        loss = dpo_loss(policy_logps, reference_logps)
        update(loss, trained, optimizer)
        losses.append(loss.item())
        clock.tick()
    passes = 2 if options.variant == "loop" else 1
    tokens = statistics.mean(batch["input_ids"].numel() for batch in batches[options.warmup :])
    return Steps(clock, losses, passes * tokens, passes * len(batches[0]["pixel_values"]))


def with_adapters(model: Any, rank: int) -> Any:
    """The model under peft's LoRA on the decoder; its projector trains in full, its ViT not at all."""
    from peft import LoraConfig, get_peft_model

    adapted: Any = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED))
    adapted.base_model.model.model.multi_modal_projector.requires_grad_(True)
    return adapted


def split(logps: torch.Tensor, *, shared: bool) -> Logps:
    """Scored answers as chosen and rejected ones."""
    if shared:
        chosen, rejected = ([pair[side] for pair in PAIRS] for side in (0, 1))
        return logps[:, chosen].flatten(), logps[:, rejected].flatten()
    first, second = logps.chunk(2)
    return first, second


def dpo_loss(policy: Logps, reference: Logps) -> torch.Tensor:
    """Mean DPO loss over pairs, nats."""
    (chosen, rejected), (reference_chosen, reference_rejected) = policy, reference
    return -logsigmoid(BETA * ((chosen - reference_chosen) - (rejected - reference_rejected))).mean()


def update(loss: torch.Tensor, trained: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Gradient, clipping and a step of the optimizer."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    restart_with_kept_memory()
    main()
