"""Memory that a training step takes beside its arguments: a formula by phase of the step."""

from __future__ import annotations

import dataclasses
from typing import Final

import jax.numpy as jnp

from sage_jax.config import ModelConfig
from sage_jax.losses.log_probs import CHUNK_LOGITS
from sage_jax.models.attention.select import takes_cudnn
from sage_jax.plan.abstract_step import TreeSize

MOMENT_COPIES: Final = 1.5
"""Copies of Adam's moments that the compiler keeps in the update, in bytes of the gradients: as measured on CPU.
A compiler that fuses the update needs none."""


PART_COPIES: Final = 2
"""How often the scores of questions and answers count in the backward pass of tree attention: their parts under one
softmax are alive side by side, as measured on CPU."""


KERNELS: Final = ("pallas", "cudnn", "splash")
"""Attention that keeps no scores: each block's are made, used and made again in the backward pass."""


@dataclasses.dataclass(frozen=True)
class LocalSizes:
    """What one device computes of a micro-batch.

    Attributes:
      model, tree: Sizes of the model and of its trees; `attention` and `compute_dtype` are what the device computes
        with.
      rows: Rows of a micro-batch on one device.
      answer_tokens: Tokens of an answer slot (L).
      vocab_size: Rows of the token embedding.
      tensor: Devices that share heads, hidden units and vocabulary.
      gathered: Whether parameters are split over `fsdp`, so that each layer's are gathered before it is computed.
      dtype_bytes: Bytes of an activation.
      gradient_bytes: Bytes of the gradients of all trainable parameters on this device.
      accumulates: Whether the step has several micro-batches.
      trains_decoder: Whether the decoder's kernels train; else (LoRA) no gradient of theirs is made.
      vision_tiles: Tiles that the ViT runs on together on one device; 0 where all features are stored.
    """

    model: ModelConfig
    tree: TreeSize
    rows: int
    answer_tokens: int
    vocab_size: int
    tensor: int
    gathered: bool
    dtype_bytes: int
    gradient_bytes: int
    accumulates: bool
    trains_decoder: bool
    vision_tiles: int

    def split(self, size: int, over: int | None = None) -> int:
        """A size over `tensor` devices; one that they do not divide (or of whose heads they do not) stays whole."""
        return size // self.tensor if (over or size) % self.tensor == 0 else size


def temporary_bytes(local: LocalSizes) -> dict[str, int]:
    """Bytes of temporaries at the largest moment of each phase, gradients included; the step's peak is the largest.

    `vision`: forward pass of the vision encoder. `loss`: logits of the answers and their gradient. `backward`: the
    decoder's backward pass. `update`: gradients, and what the optimizer copies.
    """
    gradients, kept, output = local.gradient_bytes, kept_bytes(local), output_bytes(local)
    accumulated = gradients if local.accumulates else 0
    always = accumulated + (output if local.accumulates else 0)  # a copy outlives the loop over micro-batches
    gradient_of_output = output if local.trains_decoder else 0
    return {
        "vision": always + vision_bytes(local),
        "loss": accumulated + kept + output + gradient_of_output + logit_bytes(local),
        "backward": accumulated + gradients + kept + output + gradient_of_output + layer_bytes(local),
        "update": int((1 + MOMENT_COPIES) * gradients),
    }


def kept_bytes(local: LocalSizes) -> int:
    """What the decoder's forward pass keeps for the backward pass, of all layers.

    `full` keeps the input of each layer; `dots` also the products with parameters; `none`, as `auto` that nobody has
    settled, also attention weights, once in float32 and once as they are multiplied, norms in float32 and the parts of
    SwiGLU. Kernels of attention keep their outputs and a float32 sum of each query and head in place of weights.
    """
    decoder, c = local.model.decoder, local.dtype_bytes
    tokens = local.rows * local.tree.shape.length
    width, hidden = decoder.embed_dim, local.split(decoder.mlp_dim)
    projected = local.split((decoder.num_heads + 2 * decoder.num_kv_heads) * decoder.width_of_head)
    by_layer = tokens * width * c
    if local.model.remat != "full":
        by_layer += tokens * c * (projected + 2 * width + 2 * hidden)
    if local.model.remat in ("none", "auto"):
        by_layer += tokens * (2 * 4 * width + c * (projected + 2 * width + 3 * hidden)) + (4 + c) * _scores(local)
        by_layer += kernel_bytes(local)
    return decoder.num_layers * by_layer


def layer_bytes(local: LocalSizes) -> int:
    """Working set of the backward pass of one decoder layer, computed again where it was not kept."""
    decoder, c = local.model.decoder, local.dtype_bytes
    tokens = local.rows * local.tree.shape.length
    width, hidden = decoder.embed_dim, local.split(decoder.mlp_dim)
    attention = (2 * c + 8) * _scores(local, part_copies=PART_COPIES) + 2 * c * _block_values(local) + 8 * _sums(local)
    mlp = (4 + c) * _scores(local) + 6 * c * tokens * hidden
    copies = (c if local.gathered or c < 4 else 0) + (c if local.trains_decoder else 0)
    attention += 2 * c * _branch_mask(local)  # and its gradient, which cuDNN gives unasked
    return max(attention, mlp) + 6 * c * tokens * width + copies * layer_parameters(local)


def kernel_bytes(local: LocalSizes) -> int:
    """What a kernel of attention keeps of one layer beside its queries, keys and values as they are projected."""
    decoder = local.model.decoder
    if local.model.attention in ("splash", "cudnn"):  # and those once more, in slots
        return local.dtype_bytes * _block_values(local) + 4 * _sums(local)
    heads = local.split(decoder.num_heads, over=decoder.num_kv_heads)
    outputs = local.rows * local.tree.shape.length * heads * decoder.width_of_head
    return (local.dtype_bytes * outputs + 4 * _sums(local)) if local.model.attention == "pallas" else 0


def _sums(local: LocalSizes) -> int:
    """Sums of weights that a kernel of attention makes, one a query and head."""
    heads = local.split(local.model.decoder.num_heads, over=local.model.decoder.num_kv_heads)
    return local.rows * heads * _slots(local) if local.model.attention in KERNELS else 0


def _slots(local: LocalSizes) -> int:
    """Tokens of a tree as its attention computes them: in slots with room for the longest, or packed."""
    shape, tree = local.tree.shape, local.tree
    if local.model.attention not in ("tree", "cudnn", "splash"):
        return shape.length
    return shape.prefix_slots + tree.num_questions * (shape.question_slots + tree.num_answers * local.answer_tokens)


def _block_values(local: LocalSizes) -> int:
    """Queries, keys and values as attention computes them, and its outputs; with `tree` also the copies of a question's
    keys and values for each of its answers, with `cudnn` those of the prefix's for each question. Masked attention
    makes no copies.
    """
    decoder, shape, tree = local.model.decoder, local.tree.shape, local.tree
    if local.model.attention == "masked":
        return 0
    heads, pairs = local.split(decoder.num_heads, over=decoder.num_kv_heads), local.split(decoder.num_kv_heads)
    slots = _slots(local)
    copied = {
        "tree": tree.num_questions * tree.num_answers * shape.question_slots,
        "cudnn": tree.num_questions * shape.prefix_slots,
    }.get(local.model.attention, 0)
    return local.rows * decoder.width_of_head * (2 * slots * (heads + pairs) + 2 * copied * pairs)


def _branch_mask(local: LocalSizes) -> int:
    """Elements of the mask that hides pairs inside a question's branch; 0 but for `cudnn`."""
    if local.model.attention != "cudnn":
        return 0
    shape, tree = local.tree.shape, local.tree
    branch = shape.question_slots + tree.num_answers * local.answer_tokens
    return local.rows * tree.num_questions * branch * (shape.prefix_slots + branch)


def layer_parameters(local: LocalSizes) -> int:
    """Parameters of one decoder layer's kernels, those of one device's heads and hidden units."""
    decoder = local.model.decoder
    projected = local.split((2 * decoder.num_heads + 2 * decoder.num_kv_heads) * decoder.width_of_head)
    return decoder.embed_dim * (projected + 3 * local.split(decoder.mlp_dim))


def output_bytes(local: LocalSizes) -> int:
    """The output layer's kernel as it is multiplied: gathered, in the dtype of activations."""
    copied = local.gathered or local.dtype_bytes < 4
    return copied * local.dtype_bytes * local.model.decoder.embed_dim * local.split(local.vocab_size)


def logit_bytes(local: LocalSizes) -> int:
    """Logits at the answer tokens of one chunk, in float32 and as computed, with their gradient."""
    tokens = local.tree.num_questions * local.tree.num_answers * local.answer_tokens
    at_once = -(-tokens // max(1, -(-tokens * local.vocab_size // CHUNK_LOGITS)))
    return (8 + local.dtype_bytes) * local.rows * at_once * local.split(local.vocab_size)


def vision_bytes(local: LocalSizes) -> int:
    """Working set of one layer of the vision encoder; nothing is kept of it."""
    vit, c, tiles = local.model.vit, local.dtype_bytes, local.vision_tiles
    patches = (vit.tile_px // vit.patch_px) ** 2 + 1
    scores = tiles * local.split(vit.num_heads) * patches**2
    if local.model.attention == "splash" or (
        local.model.attention in ("pallas", "cudnn")
        and takes_cudnn(jnp.dtype(local.model.compute_dtype), vit.embed_dim // vit.num_heads)
    ):
        scores = 0
    mlp = 2 * c * tiles * patches * local.split(vit.mlp_dim)
    return max((4 + c) * scores, mlp) + 4 * c * tiles * patches * vit.embed_dim


def _scores(local: LocalSizes, part_copies: int = 1) -> int:
    """Attention scores of one decoder layer in memory: of each block with what it sees; masked, of all tokens with all;
    with kernels none.
    """
    if local.model.attention in KERNELS:
        return 0
    decoder = local.model.decoder
    heads = local.split(decoder.num_heads, over=decoder.num_kv_heads)
    shape, answer = local.tree.shape, local.answer_tokens
    pairs = shape.length**2
    if local.model.attention == "tree":
        own = shape.question_slots * (shape.prefix_slots + shape.question_slots)
        answers = local.tree.num_answers * answer * (shape.prefix_slots + shape.question_slots + answer)
        pairs = shape.prefix_slots**2 + part_copies * local.tree.num_questions * (own + answers)
    return local.rows * heads * pairs
