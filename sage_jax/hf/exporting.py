"""Parameters to a checkpoint folder that transformers or InternVL's own tools read: the inverse of the import."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from sage_jax.config import ModelConfig
from sage_jax.hf.config_fields import Dtype, Layout
from sage_jax.hf.config_writer import config_json, text_model_of
from sage_jax.hf.faults import WeightsError
from sage_jax.hf.importing import OWN_FILE
from sage_jax.hf.layouts import STEM, Row, Tensor, is_plain, own_rows, plain_rows, tensors, with_copied_output
from sage_jax.hf.safetensors_file import ShardWriter
from sage_jax.models.sage import copy_text_encoder
from sage_jax.parameters import Params
from sage_jax.process.files import new_folder

MAX_SHARD_BYTES: Final = 5_000_000_000


def export_checkpoint(
    params: Params,
    model: ModelConfig,
    folder: Path | str,
    *,
    layout: Layout = "internvl",
    dtype: Dtype = "bfloat16",
    image_token_id: int | None = None,
    base: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    add_files: Callable[[Path], None] | None = None,
) -> None:
    """Writes config.json, the plain model's weights and SAGE's own beside them: the whole folder or nothing.

    What was imported comes back bit for bit, as long as `dtype` is the checkpoint's. The fact encoder is written where
    it is no longer the decoder's, from which it would else be copied again. One tensor at a time is on the host; every
    process takes part, the first one writes.

    Args:
      folder: A new folder.
      layout: `internvl` is what stock transformers loads, `internvl_chat` OpenGVLab's own.
      dtype: Of all tensors.
      image_token_id, base: See `config_writer.config_json`.
      max_shard_bytes: Most bytes of tensors in a file.
      add_files: Writes what else belongs into the folder (tokenizer, processor) before it takes its name.

    Raises:
      WeightsError: There is something at `folder`, or the layout has no such decoder.
    """
    folder = Path(folder).expanduser()
    vocab_size = params["decoder/embedding/embedding"].shape[0]
    about = config_json(
        model, layout=layout, vocab_size=vocab_size, dtype=dtype, image_token_id=image_token_id, base=base
    )
    text_model = text_model_of(model.decoder, layout, base)
    rows = plain_rows(layout, text_model, model)
    if layout == "internvl_chat" and model.decoder.tie_embeddings:
        rows = with_copied_output(rows, text_model)
    plain = {path: leaf for path, leaf in params.items() if is_plain(path)}
    own = _own_params(params)
    first = jax.process_index() == 0
    if first and folder.exists():
        raise WeightsError(f"{folder} is there already: delete it, or export to another folder")
    with new_folder(folder) if first else contextlib.nullcontext() as written:
        if written:
            text = json.dumps(about, indent=2, sort_keys=True) + "\n"
            (written / "config.json").write_text(text, encoding="utf-8")
        _write(plain, rows, dtype, written, max_shard_bytes)
        if own:
            # One file, however large: it is read as one.
            _write(own, own_rows(own), dtype, written, max_bytes=1 << 62, single=OWN_FILE)
        if written and add_files:
            add_files(written)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("exported")


def _own_params(params: Params) -> Params:
    """SAGE's own parameters, without a fact encoder that is a copy of the decoder."""
    own = {path: leaf for path, leaf in params.items() if path.startswith(("fusion/", STEM))}
    encoder = {path: leaf for path, leaf in params.items() if path.startswith("fact_encoder/")}
    copied = copy_text_encoder(params)
    if any(leaf is not copied[path] and not bool(_equal(leaf, copied[path])) for path, leaf in encoder.items()):
        own.update(encoder)
    return own


def _write(params: Params, rows: list[Row], dtype: Dtype, folder: Path | None, max_bytes: int, **options: str) -> None:
    """Writes parameters by a table; without a folder, a process only takes part in fetching them."""
    wanted = tensors(rows, {path: leaf.shape for path, leaf in params.items()})
    listed = [item for tensor in wanted for item in tensor.stored_shapes().items()]
    stored = np.dtype(dtype)
    writer = ShardWriter(folder, listed, stored, max_shard_bytes=max_bytes, **options) if folder else None
    with writer or contextlib.nullcontext():
        for tensor in wanted:
            values = _fetch(params[tensor.row.path], tensor, stored)
            if writer:
                for key, part in zip(tensor.keys, tensor.row.arrange.theirs(values), strict=True):
                    writer.write(key, part)


def _fetch(leaf: jax.Array, tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    """One tensor on the host, (out, in) for kernels, whatever mesh it is split over."""
    whole = NamedSharding(leaf.sharding.mesh, PartitionSpec()) if isinstance(leaf.sharding, NamedSharding) else None
    layer = None if tensor.layer is None else np.int32(tensor.layer)
    fetched = _one(leaf, layer, transposed=tensor.row.is_transposed, dtype=dtype, sharding=whole)
    return np.asarray(fetched.addressable_data(0))


@functools.partial(jax.jit, static_argnames=("transposed", "dtype", "sharding"))
def _one(
    leaf: jax.Array,
    layer: jax.Array | None,
    *,
    transposed: bool,
    dtype: np.dtype,
    sharding: NamedSharding | None,
) -> jax.Array:
    values = leaf if layer is None else jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False)
    values = (values.T if transposed else values).astype(dtype)
    return values if sharding is None else jax.lax.with_sharding_constraint(values, sharding)


@jax.jit
def _equal(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a == b).all()
