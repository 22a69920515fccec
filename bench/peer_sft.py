"""The peer of bench/sfe_step.py: a supervised step of transformers in torch, on the peer's model and data.

    python -m bench.peer_sft --peer PEER_BENCH.py --size small --rows 4

One question and one answer an image. Decoder and projector train with fused AdamW and clipping; the frozen ViT runs
without gradient; logits are computed at answer tokens alone, as ours are.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from bench.peer import load_peer


def main() -> None:
    """Measures and prints one line of JSON."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--peer", required=True)
    found.add_argument("--size", choices=["tiny", "small"], default="tiny")
    found.add_argument("--rows", type=int, default=4)
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--warmup", type=int, default=1)
    found.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = found.parse_args()
    peer = load_peer(options.peer)
    import torch

    torch.set_num_threads(options.threads)
    size = peer["SIZES"][options.size]
    model = peer["build_model"](size, 0).train()
    model.model.vision_tower.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-6, weight_decay=0.0, fused=True)
    seeds = range(100, 100 + options.warmup + options.repeats)
    batches = [batch_of(torch, peer, size, options.rows, seed) for seed in seeds]
    clock, losses = peer["Clock"](), []
    for batch in batches:
        loss = next_token_loss(torch, model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, peer["MAX_GRAD_NORM"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        clock.tick()
    summary = clock.summary(skip=options.warmup)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches[options.warmup :]) / options.repeats
    about = {"peer": "transformers", "torch": torch.__version__, "what": "sft", "size": options.size}
    rates = {"tokens_per_s": round(tokens / summary["seconds"], 1), "losses": [round(loss, 4) for loss in losses]}
    print(json.dumps({**about, "rows": options.rows, **summary, **rates, "peak_rss_mb": peer["rss_mb"]("VmHWM")}))


def batch_of(torch: Any, peer: dict[str, Any], size: dict[str, int], rows: int, seed: int) -> dict[str, Any]:
    """Prompts with their first answer, padded on the right."""
    ids, pixels, answers = peer["make_groups"](size, rows, seed)
    prompt = ids.shape[1]
    width = prompt + max(len(ranked[0]) for ranked in answers)
    tokens = torch.full((rows, width), peer["PAD"])
    mask, answer = torch.zeros_like(tokens), torch.zeros(rows, width, dtype=torch.bool)
    for row, ranked in enumerate(answers):
        end = prompt + len(ranked[0])
        tokens[row, :end] = torch.tensor([*ids[row].tolist(), *ranked[0]])
        mask[row, :end] = 1
        answer[row, prompt:end] = True
    pixel_values = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:]))
    return {"input_ids": tokens, "attention_mask": mask, "answer": answer, "pixel_values": pixel_values}


def next_token_loss(torch: Any, model: Any, batch: dict[str, Any]) -> Any:
    """Mean next-token loss over answer tokens, in nats."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    scored = batch["answer"][:, 1:]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[scored]), batch["input_ids"][:, 1:][scored])


if __name__ == "__main__":
    main()
