"""SAGE: vision encoder, adapter, fact fusion and decoder over one tree of image, questions and answers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Bool, Float, Int, UInt8
from sage_jax.batch import TreeBatch
from sage_jax.config import ModelConfig
from sage_jax.models.adapter import Adapter, pixel_shuffle
from sage_jax.models.attention.blocks import tree_blocks
from sage_jax.models.attention.select import Visibility, attention_of
from sage_jax.models.attention.tree import TreeBranches, TreeSlots, prefix_layout, tree_layout
from sage_jax.models.decoder import Decoder
from sage_jax.models.fact_fusion import Comparison, FactEncoder, FactFusion, compare, without_reference
from sage_jax.models.vit import Vit
from sage_jax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Placeholders:
    """What stands for embeddings in a prompt.

    Attributes:
      image: Token id of an image token.
      comparison: Token id of a comparison embedding.
      reference: Whether the reference's image tokens follow those of the test image.
    """

    image: int
    comparison: int
    reference: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageEmbeddings:
    """What the decoder gets of an image pair.

    Attributes:
      image: Embeddings of the image tokens of the prompt: the test image's, padding and all; with the reference in the
        prompt twice as many, the test image's real ones with the reference's right behind them. A batch without room
        for references has the test image's alone.
      comparison: Comparison embeddings, one a fact.
      compared: Similarities and distinct patches.
      question_mask: True at the tokens of questions, which pass the question head; None where there is none.
    """

    image: Float[Array, "B M D"]
    comparison: Float[Array, "B F D"]
    compared: Comparison
    question_mask: Bool[Array, "B S"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """What is known of an image pair before any fact.

    Attributes:
      test, reference: Image tokens, padding and all, of several references one after the other; `reference` is None
        where the batch shows none.
      test_mask, reference_mask: True at real ones.
      compared: Similarities and distinct patches.
    """

    test: Float[Array, "B M D"]
    reference: Float[Array, "B N D"] | None
    test_mask: Bool[Array, "B M"]
    reference_mask: Bool[Array, "B N"]
    compared: Comparison


def tree_mask(
    token_mask: Bool[Array, "B S"], question_index: Int[Array, "B S"], answer_index: Int[Array, "B S"]
) -> Bool[Array, "B S S"]:
    """True where token i sees token j: j comes no later and lies on i's own branch.

    Tokens p p | q0 | a0 | a1 | q1 | a2 of one tree (p prefix, q question, a answer), rows see columns:

             p p q0 a0 a1 q1 a2
        p    x
        p    x x
        q0   x x x
        a0   x x x  x
        a1   x x x     x
        q1   x x          x
        a2   x x          x  x
    """
    length = token_mask.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    question = (question_index[:, None, :] == -1) | (question_index[:, None, :] == question_index[:, :, None])
    answer = (answer_index[:, None, :] == -1) | (answer_index[:, None, :] == answer_index[:, :, None])
    return causal & question & answer & token_mask[:, None, :]


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """Dtype of activations; `auto` is bfloat16 on GPU and TPU, float32 on CPU."""
    if config.compute_dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.compute_dtype)


def copy_text_encoder(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The parameters with the fact encoder taken from the decoder: done once, before stage 1, and frozen from there."""
    copied = dict(params)
    for path in params:
        if path.startswith("fact_encoder/"):
            source = path.replace("fact_encoder/decoder/", "decoder/").replace("fact_encoder/", "decoder/")
            copied[path] = params[source]
    return copied


def _one_after_the_other(
    test: Float[Array, "B M D"], reference: Float[Array, "B M D"], test_mask: Bool[Array, "B M"]
) -> Float[Array, "B M2 D"]:
    """The real tokens of the test image, then the reference's, its padding last."""
    size = test.shape[1]
    slot, real = jnp.arange(2 * size), jnp.sum(test_mask, axis=1, keepdims=True)
    source = jnp.where(slot < real, slot, jnp.minimum(size + slot - real, 2 * size - 1))  # B M2
    return jnp.take_along_axis(jnp.concatenate([test, reference], axis=1), source[..., None], axis=1)


class Sage(nnx.Module):
    """The model of both stages.

    Parameters are float32 under `vit`, `adapter`, `fact_encoder`, `fusion` and `decoder`.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, placeholders: Placeholders, rngs: nnx.Rngs):
        dtype, width = compute_dtype(config), config.decoder.embed_dim
        self.config, self.placeholders = config, placeholders
        loop = {"remat": config.remat, "unroll": config.scan_unroll}
        self.attention = attention_of(config)
        self.vit = Vit(config.vit, dtype=dtype, attention=self.attention, rngs=rngs, **loop)
        self.adapter = Adapter(config.vit.embed_dim * config.downsample**2, width, dtype=dtype, rngs=rngs)
        self.fact_encoder = FactEncoder(config.decoder, config.fusion.fact_encoder, vocab_size, dtype=dtype, rngs=rngs)
        self.fusion = FactFusion(config.fusion, width, num_places=config.tokens_per_tile, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config.decoder, vocab_size, dtype=dtype, rngs=rngs, **loop)

    def vit_features(self, tiles: UInt8[Array, "A H W 3"]) -> Float[Array, "A M E"]:
        """What the adapter reads of each tile's image tokens: the ViT's patch features, pixel-shuffled."""
        _, height, width, _ = tiles.shape
        patch, fold = self.config.vit.patch_px, self.config.downsample
        return pixel_shuffle(self.vit(tiles), rows=height // patch, columns=width // patch, fold=fold)

    def encode_tiles(self, tiles: UInt8[Array, "B T H W 3"] | Float[Array, "B T _ E"]) -> Float[Array, "B M D"]:
        """Image tokens of every tile, tile by tile, each row by row; tiles may come as their features."""
        batch, num_tiles = tiles.shape[:2]
        each = tiles.reshape(batch * num_tiles, *tiles.shape[2:])
        tokens = each if jnp.issubdtype(tiles.dtype, jnp.floating) else self.vit_features(each)
        return constrain(
            self.adapter(tokens).reshape(batch, -1, self.config.decoder.embed_dim), "batch", "none", "none"
        )

    def _encode_pair(self, batch: TreeBatch) -> tuple[Float[Array, "B M D"], Float[Array, "B N D"] | None]:
        """Image tokens of the test images and of the references, in one pass; None where the batch shows none."""
        if not batch.reference_tiles.shape[1]:
            return self.encode_tiles(batch.tiles), None
        if batch.tiles.dtype != batch.reference_tiles.dtype:  # one of the two comes as features
            return self.encode_tiles(batch.tiles), self.encode_tiles(batch.reference_tiles)
        num_tiles = batch.tiles.shape[1]
        both = self.encode_tiles(jnp.concatenate([batch.tiles, batch.reference_tiles], axis=1))
        of_test = num_tiles * (both.shape[1] // (num_tiles + batch.reference_tiles.shape[1]))
        return both[:, :of_test], both[:, of_test:]

    def embed_images(self, batch: TreeBatch) -> ImageEmbeddings:
        """Embeddings of the test images and of their comparison with the references (SFE, steps 2 to 4)."""
        asked = (batch.question_index >= 0) & (batch.answer_index < 0) & batch.token_mask
        return self.embed_facts(self.encode_images(batch), batch.fact_ids, batch.fact_mask, asked)

    def encode_images(self, batch: TreeBatch) -> EncodedImages:
        """Image tokens of both images, and their comparison (SFE, step 3)."""
        test, reference = self._encode_pair(batch)
        per_tile = test.shape[1] // batch.tile_mask.shape[1]
        test_mask = jnp.repeat(batch.tile_mask, per_tile, axis=1)
        if reference is None:
            return EncodedImages(test, None, test_mask, jnp.zeros_like(test_mask), without_reference(test_mask))
        reference_mask = jnp.repeat(batch.reference_tile_mask, per_tile, axis=1)
        compared = compare(
            test,
            reference,
            test_mask,
            reference_mask,
            num_distinct=self.config.fusion.num_distinct,
            kind=self.config.fusion.similarity,
        )
        return EncodedImages(test, reference, test_mask, reference_mask, compared)

    def embed_facts(
        self,
        images: EncodedImages,
        fact_ids: Int[Array, "B F J"],
        fact_mask: Bool[Array, "B F J"],
        question_mask: Bool[Array, "B S"],
    ) -> ImageEmbeddings:
        """Embeddings of images and of what facts read from their comparison (SFE, steps 2 and 4).

        Args:
          question_mask: True at the tokens of questions among those that the embeddings will stand with.
        """
        facts = jax.lax.stop_gradient(self.fact_encoder(fact_ids, fact_mask))
        shown = images.reference_mask.any(axis=1)
        comparison, marked = self.fusion(facts, images.test, images.reference, images.compared, shown)
        image = jnp.where(fact_mask.any(axis=(1, 2))[:, None, None], marked, images.test)
        if self.placeholders.reference and images.reference is not None:
            image = _one_after_the_other(image, images.reference, images.test_mask)
        return ImageEmbeddings(
            image=image,
            comparison=comparison,
            compared=images.compared,
            question_mask=question_mask if self.config.fusion.head == "all" else None,
        )

    def embed_tokens(self, token_ids: Int[Array, "B S"], images: ImageEmbeddings) -> Float[Array, "B S D"]:
        """Token embeddings with image and comparison embeddings in place of their placeholders, in order."""
        embeddings = self.decoder.embedding(token_ids)
        image = images.image
        if images.question_mask is not None:
            image = self.fusion.image_head(image)
            asked = self.fusion.question_head(embeddings)
            embeddings = jnp.where(images.question_mask[..., None], asked, embeddings)
        for token, values in (
            (self.placeholders.image, image),
            (self.placeholders.comparison, images.comparison),
        ):
            here = token_ids == token
            order = jnp.clip(jnp.cumsum(here, axis=1) - 1, 0, values.shape[1] - 1)
            placed = jnp.take_along_axis(values, order[..., None], axis=1)
            embeddings = jnp.where(here[..., None], placed.astype(embeddings.dtype), embeddings)
        return constrain(embeddings, "batch", "none", "none")

    def __call__(self, batch: TreeBatch) -> tuple[Float[Array, "B S D"], ImageEmbeddings]:
        """Hidden states of the whole tree, and the image embeddings they were computed from."""
        images = self.embed_images(batch)
        embeddings = self.embed_tokens(batch.token_ids, images)
        hidden, _ = self.decoder(embeddings, batch.position_ids, self.visibility(batch))
        return hidden, images

    def visibility(self, batch: TreeBatch) -> Visibility:
        """What each token sees, as the model's attention takes it; a mask where the batch has no slots for it."""
        tree = batch.token_mask, batch.question_index, batch.answer_index
        if self.attention == "pallas":
            return tree_blocks(*tree)
        if self.attention == "masked" or not batch.prefix_slots:
            return tree_mask(*tree)
        layout = tree_layout(batch)
        if self.attention == "cudnn":
            return TreeBranches(layout)
        return TreeSlots(layout) if self.attention == "splash" else layout

    def prefix_visibility(self, real: Bool[Array, "B U"]) -> Visibility:
        """What each token of a prefix sees that stands without questions; `real` is True at its tokens."""
        if self.attention == "pallas":
            no_owner = jnp.full(real.shape, -1, jnp.int32)
            return tree_blocks(real, no_owner, no_owner)
        layout = prefix_layout(real)
        return TreeBranches(layout) if self.attention == "cudnn" else layout
