"""Where each parameter stands in a checkpoint: one table a layout, read in both directions.

A row says, of one of our parameters, under which keys a layout stores it and how it is arranged there. Stacked layers
have one row; `{layer}` in a key is the layer's index. Kernels are stored transposed, (out, in), as torch's Linear has
them; `arrange` describes what else differs, on that (out, in) array.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Final

from flax import nnx

from sage_jax.config import ModelConfig
from sage_jax.hf.arrangements import (
    Arrange,
    AsStored,
    LeadingOne,
    PatchKernel,
    SeparateQkv,
    Shape,
    StackedQkv,
    Twice,
)
from sage_jax.hf.config_fields import Layout, TextModel
from sage_jax.models.sage import Placeholders, Sage
from sage_jax.parameters import split

PLAIN: Final = ("vit/", "adapter/", "decoder/")
"""Parameters of the base InternVL. The others, `fusion/` and `fact_encoder/`, are SAGE's own."""
STEM: Final = "vit/stem/"
"""Of the encoder, but no part of a plain InternVL."""

_STACK: Final = "/blocks/"


AS_STORED: Final = AsStored()


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours and its keys in a layout.

    Attributes:
      path: Our path; of all layers where it is stacked.
      keys: Their keys.
      arrange: Their arrangement.
    """

    path: str
    keys: tuple[str, ...]
    arrange: Arrange = AS_STORED

    @property
    def is_stacked(self) -> bool:
        return _STACK in self.path

    @property
    def is_transposed(self) -> bool:
        return self.path.endswith("/kernel")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of ours, a layer of it where it is stacked, as it stands in a checkpoint.

    Attributes:
      row: Its row.
      layer: Index of the layer, or None.
      shape: Shape before it is arranged as theirs: (out, in) for kernels.
    """

    row: Row
    layer: int | None
    shape: Shape

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key.format(layer=self.layer) for key in self.row.keys)

    def stored_shapes(self) -> dict[str, Shape]:
        """Shape of each key."""
        return dict(zip(self.keys, self.row.arrange.shapes(self.shape), strict=True))


@functools.cache
def param_shapes(model: ModelConfig, vocab_size: int) -> dict[str, Shape]:
    """Shape of every parameter of a Sage by path; nothing is computed."""
    sage = nnx.eval_shape(lambda: Sage(model, vocab_size, Placeholders(0, 0), nnx.Rngs(0)))
    return {path: leaf.shape for path, leaf in split(sage)[1].items()}


def tensors(rows: Iterable[Row], shapes: Mapping[str, Shape]) -> list[Tensor]:
    """Every array of some parameters, in the order of the paths and layers.

    Raises:
      ValueError: A path has no row, or several: the table does not fit the model.
    """
    by_path: dict[str, list[Row]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    found = []
    for path, shape in shapes.items():
        if len(by_path.get(path, ())) != 1:
            raise ValueError(f"parameter {path!r} matches {len(by_path.get(path, ()))} rows of the layout, not 1")
        (row,) = by_path[path]
        of_layer = shape[1:] if row.is_stacked else shape
        arranged = of_layer[::-1] if row.is_transposed else of_layer
        found += [Tensor(row, layer, arranged) for layer in (range(shape[0]) if row.is_stacked else (None,))]
    return found


def is_plain(path: str) -> bool:
    """Whether a parameter is one of a plain InternVL."""
    return path.startswith(PLAIN) and not path.startswith(STEM)


def plain_rows(layout: Layout, text_model: TextModel, model: ModelConfig) -> list[Row]:
    """The table of a layout: rows of every parameter that a base InternVL of any variant may have.

    Sources: transformers' `modeling_internvl.py`; OpenGVLab's `modeling_internvl_chat.py`, `modeling_intern_vit.py` and
    `modeling_internlm2.py`.
    """
    return [
        *(_vit_rows_internvl(model) if layout == "internvl" else _vit_rows_chat(model)),
        *_named("adapter/", *_ADAPTER[layout]),
        *(_internlm2_rows() if text_model == "internlm2" else _llama_rows(model)),
    ]


def with_copied_output(rows: Iterable[Row], text_model: TextModel) -> list[Row]:
    """The table of a model whose embedding is its output layer too, where readers want both.

    OpenGVLab's InternVLChatConfig, and SGLang's, set `tie_word_embeddings` to false whatever the file says: without the
    copy, their output layer would be random. The import knows a copy, and ties the two again.
    """
    both = (embedding_key(text_model), output_key(text_model))
    return [dataclasses.replace(row, keys=both, arrange=Twice()) if row.keys == both[:1] else row for row in rows]


def own_rows(paths: Iterable[str]) -> list[Row]:
    """The table of SAGE's own parameters: their paths with dots and torch's names of what is last in them."""
    rows = []
    for path in paths:
        key = path.replace(_STACK, "/blocks/{layer}/").replace("/embedding/embedding", "/embedding/weight")
        for ours in ("kernel", "scale"):
            key = key.removesuffix(ours) + "weight" if key.endswith(f"/{ours}") else key
        rows.append(Row(path, (key.replace("/", "."),)))
    return rows


def spelled(key: str, layout: Layout) -> str:
    """The key as the tables spell it.

    transformers writes `language_model.model.` and `language_model.lm_head` to files; its modules, and so some files,
    are called `model.language_model.` and `lm_head`.
    """
    if layout == "internvl":
        key = f"language_model.{key}" if key.startswith("lm_head.") else key.removeprefix("model.")
        name = key.removeprefix("language_model.")
        if name != key and not name.startswith(("model.", "lm_head.")):
            key = f"language_model.model.{name}"
    return key


def output_key(text_model: TextModel) -> str:
    """Key of the output layer, which is there beside the embedding where the two are not tied."""
    return "language_model.output.weight" if text_model == "internlm2" else "language_model.lm_head.weight"


def embedding_key(text_model: TextModel) -> str:
    """Key of the token embedding."""
    return f"language_model.model.{'tok_embeddings' if text_model == 'internlm2' else 'embed_tokens'}.weight"


_LAST: Final = {"kernel": "weight", "scale": "weight", "bias": "bias"}

_ADAPTER: Final[dict[Layout, tuple[str, dict[str, str]]]] = {
    "internvl": (
        "multi_modal_projector.",
        {"norm": "layer_norm", "linear_1": "linear_1", "linear_2": "linear_2"},
    ),
    "internvl_chat": ("mlp1.", {"norm": "0", "linear_1": "1", "linear_2": "3"}),
}
_VIT_BLOCK: Final[dict[Layout, dict[str, str]]] = {
    "internvl": {
        "attention_norm": "layernorm_before",
        "mlp_norm": "layernorm_after",
        "attention/out": "attention.projection_layer",
        "attention/query_norm": "attention.q_norm",
        "attention/key_norm": "attention.k_norm",
        "mlp/up": "mlp.fc1",
        "mlp/down": "mlp.fc2",
    },
    "internvl_chat": {
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "attention/out": "attn.proj",
        "attention/query_norm": "attn.q_norm",
        "attention/key_norm": "attn.k_norm",
        "mlp/up": "mlp.fc1",
        "mlp/down": "mlp.fc2",
    },
}
_LLAMA_BLOCK: Final = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention/out": "self_attn.o_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
_INTERNLM2_BLOCK: Final = {
    "attention_norm": "attention_norm",
    "mlp_norm": "ffn_norm",
    "attention/qkv": "attention.wqkv",  # published in the grouping that ours has
    "attention/out": "attention.wo",
    "mlp/gate": "feed_forward.w1",
    "mlp/up": "feed_forward.w3",
    "mlp/down": "feed_forward.w2",
}


def _named(ours: str, theirs: str, names: Mapping[str, str], arrange: Arrange = AS_STORED) -> list[Row]:
    """Rows of modules that are the same but for their names: kernel or scale, and bias."""
    return [
        Row(f"{ours}{our_name}/{last}", (f"{theirs}{their_name}.{_LAST[last]}",), arrange)
        for our_name, their_name in names.items()
        for last in (("scale", "bias") if our_name.endswith("norm") else ("kernel", "bias"))
    ]


def _vit_rows_internvl(model: ModelConfig) -> list[Row]:
    block, attention = "vision_tower.encoder.layer.{layer}.", "vision_tower.encoder.layer.{layer}.attention."
    heads = SeparateQkv(model.vit.num_heads, model.vit.num_heads)
    conv = "vision_tower.embeddings.patch_embeddings.projection."
    return [
        Row("vit/patch_embed/kernel", (f"{conv}weight",), PatchKernel(model.vit.patch_px)),
        Row("vit/patch_embed/bias", (f"{conv}bias",)),
        Row("vit/class_token", ("vision_tower.embeddings.cls_token",), LeadingOne()),
        Row("vit/position_embedding", ("vision_tower.embeddings.position_embeddings",), LeadingOne()),
        *_named("vit/blocks/", block, _VIT_BLOCK["internvl"]),
        Row("vit/blocks/attention_layer_scale", (f"{block}lambda_1",)),
        Row("vit/blocks/mlp_layer_scale", (f"{block}lambda_2",)),
        Row("vit/blocks/attention/qkv/kernel", tuple(f"{attention}{name}_proj.weight" for name in "qkv"), heads),
        Row("vit/blocks/attention/qkv/bias", tuple(f"{attention}{name}_proj.bias" for name in "qkv"), heads),
    ]


def _vit_rows_chat(model: ModelConfig) -> list[Row]:
    block = "vision_model.encoder.layers.{layer}."
    return [
        Row(
            "vit/patch_embed/kernel",
            ("vision_model.embeddings.patch_embedding.weight",),
            PatchKernel(model.vit.patch_px),
        ),
        Row("vit/patch_embed/bias", ("vision_model.embeddings.patch_embedding.bias",)),
        Row("vit/class_token", ("vision_model.embeddings.class_embedding",), LeadingOne()),
        Row("vit/position_embedding", ("vision_model.embeddings.position_embedding",), LeadingOne()),
        *_named("vit/blocks/", block, _VIT_BLOCK["internvl_chat"]),
        Row("vit/blocks/attention_layer_scale", (f"{block}ls1",)),
        Row("vit/blocks/mlp_layer_scale", (f"{block}ls2",)),
        *_named("vit/blocks/", block, {"attention/qkv": "attn.qkv"}, StackedQkv(model.vit.num_heads)),
    ]


def _llama_rows(model: ModelConfig) -> list[Row]:
    block, attention = "language_model.model.layers.{layer}.", "language_model.model.layers.{layer}.self_attn."
    heads = SeparateQkv(model.decoder.num_heads, model.decoder.num_kv_heads)
    return [
        Row("decoder/embedding/embedding", (embedding_key("llama"),)),
        *_named("decoder/blocks/", block, _LLAMA_BLOCK),
        Row("decoder/blocks/attention/qkv/kernel", tuple(f"{attention}{name}_proj.weight" for name in "qkv"), heads),
        Row("decoder/blocks/attention/qkv/bias", tuple(f"{attention}{name}_proj.bias" for name in "qkv"), heads),
        Row("decoder/norm/scale", ("language_model.model.norm.weight",)),
        Row("decoder/output/kernel", (output_key("llama"),)),
    ]


def _internlm2_rows() -> list[Row]:
    return [
        Row("decoder/embedding/embedding", (embedding_key("internlm2"),)),
        *_named("decoder/blocks/", "language_model.model.layers.{layer}.", _INTERNLM2_BLOCK),
        Row("decoder/norm/scale", ("language_model.model.norm.weight",)),
        Row("decoder/output/kernel", (output_key("internlm2"),)),
    ]
