"""The peer's model, InternVL of transformers on random weights, and the options and the line of its measurements.

InternViT, pixel shuffle, an MLP, and a Llama-style decoder, whose arithmetic is that of InternLM2, or Qwen2. Nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import warnings
from typing import Any, Final

import torch
import transformers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
)

from bench.peer.clock import Clock
from bench.peer.sizes import BOS, EOS, IMAGE, PAD, SIZES, PeerSize

LEARNING_RATE: Final = 5e-6
MAX_GRAD_NORM: Final = 1.0
"""Largest norm of a gradient; HF Trainer's default."""


def peer_parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all measurements of the peer share."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--size", choices=SIZES, default="tiny")
    found.add_argument("--tiles", type=int, default=0, help="tiles of an image; 0 = those of the size")
    found.add_argument("--repeats", type=int, default=3, help="measurements that count")
    found.add_argument("--warmup", type=int, default=1, help="measurements before that do not")
    found.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    found.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto = a GPU if there is one")
    found.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto = by device")
    found.add_argument("--compile", action="store_true", help="torch.compile; not the default of transformers or TRL")
    return found


def size_of(options: argparse.Namespace) -> PeerSize:
    """The size with the options' tiles; sets torch's threads, and device and dtype where they are `auto`."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.dtype == "auto":
        options.dtype = "bfloat16" if options.device == "cuda" else "float32"
    size = SIZES[options.size]
    return dataclasses.replace(size, tiles=options.tiles or size.tiles)


def model_of(size: PeerSize, options: argparse.Namespace) -> Any:
    """The model on the options' device, in their dtype."""
    return build_model(size, device=options.device, dtype=getattr(torch, options.dtype))


def build_model(
    size: PeerSize, *, device: str = "cpu", dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Any:
    """An InternVL model of random weights in evaluation mode."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = InternVLForConditionalGeneration(_config(size, attention))
    finally:
        torch.set_default_dtype(before)
    model = model.to(dtype).eval()
    with torch.no_grad():  # nothing stays at zero or one, so that a weight that is left out shows
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model


def _config(size: PeerSize, attention: str) -> InternVLConfig:
    vision = InternVLVisionConfig(
        image_size=size.tile_px,
        patch_size=size.patch_px,
        hidden_size=size.vit_dim,
        num_hidden_layers=size.vit_layers,
        num_attention_heads=size.vit_heads,
        intermediate_size=size.vit_mlp,
        attention_bias=True,
    )
    text: dict[str, Any] = {
        "vocab_size": size.vocab_size,
        "hidden_size": size.dim,
        "num_hidden_layers": size.layers,
        "intermediate_size": size.mlp,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 8192,
        "rms_norm_eps": size.norm_eps,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    decoder: Any = {"llama": LlamaConfig, "qwen2": Qwen2Config}[size.family]
    more: dict[str, Any] = {"attn_implementation": attention, "tie_word_embeddings": False}
    return InternVLConfig(
        vision_config=vision,
        text_config=decoder(**text),
        image_token_id=IMAGE,
        image_seq_length=size.tokens_per_tile,
        downsample_ratio=0.5,
        **more,
    )


def reference_copy(policy: Any) -> Any:
    """A frozen reference: the policy, moved a little, so that its log-probabilities differ from the policy's."""
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    torch.manual_seed(7)
    for parameter in reference.parameters():
        parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
    return reference


def on_device(batch: dict[str, torch.Tensor], options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """A batch on the options' device, its pixels in their dtype."""
    dtype = getattr(torch, options.dtype)
    return {
        name: value.to(options.device, dtype if value.is_floating_point() else value.dtype)
        for name, value in batch.items()
    }


def say(what: str, options: argparse.Namespace, size: PeerSize, clock: Clock, **figures: Any) -> None:
    """Prints a measurement as one line of JSON."""
    about = {
        "peer": "transformers",
        "what": what,
        "size": options.size,
        "tiles": size.tiles,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "threads": options.threads,
        "dtype": options.dtype,
        "compile": options.compile,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps({**about, **figures, "peak_memory_gb": clock.peak_memory_gb()}), flush=True)
