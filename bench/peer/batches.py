"""Batches of the peer's training steps, and log-probabilities of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from bench.peer.sizes import PAD, Groups, PairExample

Batch = dict[str, torch.Tensor]


def collate(examples: Sequence[PairExample], longest_answer: int = 0) -> Batch:
    """TRL's layout: all chosen answers, then all rejected ones, each behind its prompt and image, padded on the right.

    Args:
      longest_answer: Tokens to pad answers to, one shape for torch.compile; 0 pads to the batch's longest sequence.
    """
    rows = [(each["prompt"], each["chosen"]) for each in examples]
    rows += [(each["prompt"], each["rejected"]) for each in examples]
    pixels = torch.from_numpy(np.concatenate([each["image"] for each in examples] * 2))
    return {**pad_rows(rows, longest_answer), "pixel_values": pixels}


def pad_rows(rows: Sequence[tuple[list[int], list[int]]], longest_answer: int = 0) -> Batch:
    """(prompt, answer) rows padded on the right: ids, mask of tokens, mask of answer tokens."""
    width = max(len(prompt) + max(len(answer), longest_answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), PAD)
    attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        attention[row, :end] = 1
        completion[row, len(prompt) : end] = 1
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}


def collate_shared(groups: Groups) -> Batch:
    """One row a question: its prompt, then its answers one after the other, positions going on from the prompt.

    `attention_mask` lets an answer see itself and the prompt. Logits at flat positions `source` score the tokens
    `target` of the answers `owner`.
    """
    ids, answers = groups.prompt_ids, groups.answers
    count, prompt = ids.shape
    width = prompt + max(sum(map(len, ranked)) for ranked in answers)
    tokens, position = torch.full((count, width), PAD), torch.zeros(count, width, dtype=torch.long)
    segment = torch.full((count, width), -1)
    tokens[:, :prompt], position[:, :prompt], segment[:, :prompt] = torch.from_numpy(ids), torch.arange(prompt), 0
    source, target, owner = [], [], []
    for row, ranked in enumerate(answers):
        at = prompt
        for rank, answer in enumerate(ranked):
            end = at + len(answer)
            tokens[row, at:end] = torch.tensor(answer)
            position[row, at:end] = torch.arange(prompt, prompt + len(answer))
            segment[row, at:end] = rank + 1
            source += [row * width + prompt - 1, *range(row * width + at, row * width + end - 1)]
            target += answer
            owner += [row * 4 + rank] * len(answer)
            at = end
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = segment[:, :, None] == segment[:, None, :]
    mask = (causal & (same | (segment[:, None, :] == 0)))[:, None]
    pixels = torch.from_numpy(groups.pixels.reshape(-1, *groups.pixels.shape[2:]))
    scored = {"source": torch.tensor(source), "target": torch.tensor(target), "owner": torch.tensor(owner)}
    return {
        "input_ids": tokens,
        "position_ids": position,
        "attention_mask": mask,
        "pixel_values": pixels,
        **scored,
    }


def answer_logps(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probability of each row's answer, nats, (rows,); logits are made at answer tokens alone."""
    logps, mask = _token_logps(model, batch)
    return torch.zeros(mask.shape, device=logps.device, dtype=logps.dtype).masked_scatter(mask, logps).sum(1)


def next_token_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean next-token loss over answer tokens, nats."""
    return -_token_logps(model, batch)[0].mean()


def _token_logps(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of all answer tokens in a row, float32, and the mask of the logits' positions."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    mask = batch["completion_mask"][:, 1:].bool()
    logits = model.lm_head(hidden[mask]).float()
    return -cross_entropy(logits, batch["input_ids"][:, 1:][mask], reduction="none"), mask


def answer_logps_shared(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probability of each answer of rows that share a prompt, nats, (questions, 4)."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids", "pixel_values")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[batch["source"]]).float()
    logps = -cross_entropy(logits, batch["target"], reduction="none")
    return torch.zeros(4 * len(hidden), device=logps.device).index_add(0, batch["owner"], logps).view(-1, 4)
