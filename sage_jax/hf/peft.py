"""Adapters to PEFT's format: adapter_config.json and adapter_model.safetensors, for transformers' InternVL.

PEFT adds `lora_alpha / r * B A` to a layer's weight (out, in). Ours are (in, rank) and (rank, out), and queries, keys
and values are one layer: its A goes to all three, and each gets its rows of B, out of their grouping by key/value head.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from sage_jax.config import LoraConfig, ModelConfig
from sage_jax.hf.config_writer import text_model_of
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.layouts import Row, plain_rows, tensors
from sage_jax.hf.safetensors_file import ShardWriter
from sage_jax.models.lora import LOW_RANK, fold, layers_of
from sage_jax.parameters import Params, on_host
from sage_jax.process.files import replace_file

ADAPTER_FILE: Final = "adapter_model.safetensors"
_WHOLE: Final = {"adapter": "multi_modal_projector", "vit": "vision_tower"}


def save_adapters(params: Params, file: Path) -> None:
    """Writes the low-rank parameters (models/lora.py) among some, float32, by our paths; the first process writes."""
    low_rank = {path: on_host(leaf) for path, leaf in sorted(params.items()) if path.endswith(LOW_RANK)}
    if jax.process_index() == 0:
        _write(low_rank, file)


def export_peft_adapter(
    params: Params,
    lora: LoraConfig,
    model: ModelConfig,
    folder: Path,
    *,
    base_model: str = "",
    whole: Sequence[str] = (),
) -> None:
    """Writes a stage's adapters for PEFT: onto the plain model that they stand on, they give the stage's.

    Adapters of earlier stages that the parameters hold (`base_a`, `base_b`) go in with their own, as one of the ranks'
    sum. Every process takes part, the first one writes.

    Args:
      params: A stage's parameters, as it trained them or folded.
      lora: Of the stage.
      folder: Where the two files go; those of an earlier export are replaced.
      base_model: Name or folder of the plain model, for adapter_config.json.
      whole: Parts that were trained without adapters, of `adapter` and `vit`: they go along as they are.

    Raises:
      WeightsError: The parameters have no adapters.
    """
    rows = {row.path: row for row in plain_rows("internvl", text_model_of(model.decoder, "internvl", None), model)}
    folded, rank, alpha = params, lora.rank, lora.alpha
    if any(path.endswith(("base_a", "base_b")) for path in params):
        folded = fold(params, scale=lora.scale)
        rank = max((leaf.shape[-1] for path, leaf in folded.items() if path.endswith("base_a")), default=0)
        alpha = float(rank)
    found: dict[str, np.ndarray] = {}
    targets: set[str] = set()
    for layer, leaves in layers_of(folded).items():
        names = ("lora_a", "lora_b") if "lora_a" in leaves else ("base_a", "base_b")
        if names[0] in leaves:
            a, b = (on_host(leaves[name]) for name in names)
            row = rows[f"{layer}/kernel"]
            found.update(_layer_tensors(row, a, b, rank))
            targets |= {_target(key) for key in row.keys}
    if not targets:
        raise WeightsError("there are no adapters to export: train a stage with lora.rank, such as 16")
    for part in whole:
        found.update(_whole_tensors(part, folded, rows))
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _write(found, folder / ADAPTER_FILE)
        config = _adapter_config(rank, alpha, base_model, sorted(targets), whole)
        replace_file(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")


def _adapter_config(
    rank: int, alpha: float, base_model: str, targets: Sequence[str], whole: Sequence[str]
) -> dict[str, Any]:
    """Content of adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model or None,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": list(targets),
        "modules_to_save": [_WHOLE[part] for part in whole] or None,
    }


def _layer_tensors(row: Row, a: np.ndarray, b: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """A layer's adapter by PEFT's keys; a smaller rank is filled up with zeros, so that all layers have one."""
    found = {}
    for index in range(len(a)) if row.is_stacked else (None,):
        down, up = (matrix if index is None else matrix[index] for matrix in (a, b))
        missing = rank - down.shape[-1]
        down, up = np.pad(down.T, ((0, missing), (0, 0))), np.pad(up.T, ((0, 0), (0, missing)))
        for key, part in zip(row.keys, row.arrange.theirs(up), strict=True):
            module = _module(key.format(layer=index))
            found[f"{module}.lora_A.weight"] = down
            found[f"{module}.lora_B.weight"] = part
    return found


def _whole_tensors(part: str, params: Params, rows: Mapping[str, Row]) -> dict[str, np.ndarray]:
    """The parameters of a part by PEFT's keys."""
    shapes = {path: leaf.shape for path, leaf in params.items() if path.startswith(f"{part}/")}
    found = {}
    for tensor in tensors(rows.values(), shapes):
        values = on_host(params[tensor.row.path] if tensor.layer is None else params[tensor.row.path][tensor.layer])
        values = values.T if tensor.row.is_transposed else values
        for key, theirs in zip(tensor.keys, tensor.row.arrange.theirs(values), strict=True):
            name, _, last = key.rpartition(".")
            found[f"{_module(name)}.{last}"] = theirs
    return found


def _module(key: str) -> str:
    """PEFT's name of a module from the key that transformers writes its weight under."""
    name = key.removesuffix(".weight").replace("language_model.model.", "language_model.", 1)
    return f"base_model.model.model.{name}"


def _target(key: str) -> str:
    """The end of a module's name that PEFT finds it by: unlike that of any module of another part."""
    return re.sub(r".*\{layer\}\.", "", key.removesuffix(".weight"))


def _write(found: Mapping[str, np.ndarray], file: Path) -> None:
    """Writes float32 tensors, the whole file or nothing."""
    shapes = [(key, values.shape) for key, values in found.items()]
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as temporary:
        dtype = np.dtype(np.float32)
        with ShardWriter(Path(temporary), shapes, dtype, max_shard_bytes=1 << 62, single=file.name) as writer:
            for key, values in found.items():
                writer.write(key, values)
        os.replace(Path(temporary) / file.name, file)
