"""Weights of transformers' InternVL in torch, as Sage's parameters."""

from __future__ import annotations

import numpy as np
import torch

from sage_jax.config import ModelConfig

_VIT_LAYER = {
    "attention_norm/scale": "layernorm_before.weight",
    "attention_norm/bias": "layernorm_before.bias",
    "mlp_norm/scale": "layernorm_after.weight",
    "mlp_norm/bias": "layernorm_after.bias",
    "attention/out/kernel": "attention.projection_layer.weight",
    "attention/out/bias": "attention.projection_layer.bias",
    "attention/query_norm/scale": "attention.q_norm.weight",
    "attention/key_norm/scale": "attention.k_norm.weight",
    "attention_layer_scale": "lambda_1",
    "mlp_layer_scale": "lambda_2",
    "mlp/up/kernel": "mlp.fc1.weight",
    "mlp/up/bias": "mlp.fc1.bias",
    "mlp/down/kernel": "mlp.fc2.weight",
    "mlp/down/bias": "mlp.fc2.bias",
}
_DECODER_LAYER = {
    "attention_norm/scale": "input_layernorm.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
    "attention/out/kernel": "self_attn.o_proj.weight",
    "attention/query_norm/scale": "self_attn.q_norm.weight",
    "attention/key_norm/scale": "self_attn.k_norm.weight",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/down/kernel": "mlp.down_proj.weight",
}


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Moves every weight by random noise, so that none stays at zero or one and could be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """A module's weights by torch's names; the functions below take out what they use."""
    return {name: values.detach().numpy() for name, values in module.state_dict().items()}


def vit_params(weights: dict[str, np.ndarray], config: ModelConfig, torch_prefix: str) -> dict[str, np.ndarray]:
    """Parameters under `vit/`."""
    embeddings, width = f"{torch_prefix}embeddings.", config.vit.embed_dim
    conv = weights.pop(f"{embeddings}patch_embeddings.projection.weight")  # out, colour, row, column
    params = {
        "vit/patch_embed/kernel": conv.transpose(2, 3, 1, 0).reshape(-1, width),
        "vit/patch_embed/bias": weights.pop(f"{embeddings}patch_embeddings.projection.bias"),
        "vit/class_token": weights.pop(f"{embeddings}cls_token")[0],
        "vit/position_embedding": weights.pop(f"{embeddings}position_embeddings")[0],
    }
    heads = config.vit.num_heads
    for layer in range(config.vit.num_layers):
        prefix = f"{torch_prefix}encoder.layer.{layer}."
        _take_layer(params, weights, f"vit/blocks/{layer}/", prefix, _VIT_LAYER)
        _take_qkv(params, weights, f"vit/blocks/{layer}/attention/qkv/", f"{prefix}attention.", heads, heads)
    return _stacked(params, "vit/blocks/", config.vit.num_layers)


def adapter_params(weights: dict[str, np.ndarray], torch_prefix: str) -> dict[str, np.ndarray]:
    """Parameters under `adapter/`."""
    return {
        "adapter/norm/scale": weights.pop(f"{torch_prefix}layer_norm.weight"),
        "adapter/norm/bias": weights.pop(f"{torch_prefix}layer_norm.bias"),
        "adapter/linear_1/kernel": weights.pop(f"{torch_prefix}linear_1.weight").T,
        "adapter/linear_1/bias": weights.pop(f"{torch_prefix}linear_1.bias"),
        "adapter/linear_2/kernel": weights.pop(f"{torch_prefix}linear_2.weight").T,
        "adapter/linear_2/bias": weights.pop(f"{torch_prefix}linear_2.bias"),
    }


def decoder_params(weights: dict[str, np.ndarray], config: ModelConfig, torch_prefix: str) -> dict[str, np.ndarray]:
    """Parameters under `decoder/`; with tied embeddings torch's second copy is dropped."""
    decoder = config.decoder
    params = {
        "decoder/embedding/embedding": weights.pop(f"{torch_prefix}embed_tokens.weight"),
        "decoder/norm/scale": weights.pop(f"{torch_prefix}norm.weight"),
    }
    output = weights.pop("lm_head.weight")
    if not decoder.tie_embeddings:
        params["decoder/output/kernel"] = output.T
    for layer in range(decoder.num_layers):
        ours, prefix = f"decoder/blocks/{layer}/", f"{torch_prefix}layers.{layer}."
        _take_layer(params, weights, ours, prefix, _DECODER_LAYER)
        _take_qkv(
            params, weights, f"{ours}attention/qkv/", f"{prefix}self_attn.", decoder.num_heads, decoder.num_kv_heads
        )
    return _stacked(params, "decoder/blocks/", decoder.num_layers)


def _take_layer(
    params: dict[str, np.ndarray], weights: dict[str, np.ndarray], ours: str, theirs: str, names: dict[str, str]
) -> None:
    for our_name, their_name in names.items():
        if f"{theirs}{their_name}" in weights:
            values = weights.pop(f"{theirs}{their_name}")
            params[f"{ours}{our_name}"] = values.T if our_name.endswith("kernel") else values


def _take_qkv(
    params: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    ours: str,
    theirs: str,
    num_heads: int,
    num_kv_heads: int,
) -> None:
    """One projection, grouped by key/value head: its query heads, then key, then value."""
    for ours_kind, theirs_kind in (("kernel", "weight"), ("bias", "bias")):
        if f"{theirs}q_proj.{theirs_kind}" not in weights:
            continue
        query, key, value = (weights.pop(f"{theirs}{name}_proj.{theirs_kind}") for name in "qkv")
        width = query.shape[0] // num_heads
        columns = []
        for head in range(num_kv_heads):
            shared = num_heads // num_kv_heads
            columns.append(query[head * shared * width : (head + 1) * shared * width])
            columns += [part[head * width : (head + 1) * width] for part in (key, value)]
        params[f"{ours}{ours_kind}"] = np.concatenate(columns).T


def _stacked(params: dict[str, np.ndarray], prefix: str, num_layers: int) -> dict[str, np.ndarray]:
    """Layers of their own paths on one leading axis."""
    stacked = {path: values for path, values in params.items() if not path.startswith(prefix)}
    first = f"{prefix}0/"
    for path in [path for path in params if path.startswith(first)]:
        name = path.removeprefix(first)
        stacked[prefix + name] = np.stack([params[f"{prefix}{layer}/{name}"] for layer in range(num_layers)])
    return stacked
