"""Next-token loss on answers, and the dense losses of encoders from scratch: similarity, and naming."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float, Int


def next_token_loss(token_logps: Float[Array, "B Q N L"], target_mask: Bool[Array, "B Q N L"]) -> Float[Array, " B"]:
    """Summed cross-entropy of each row's answer tokens, in nats; divide by the number of tokens for the mean."""
    return -jnp.sum(jnp.where(target_mask, token_logps, 0.0), axis=(1, 2, 3))


def similarity_loss(
    similarity: Float[Array, "B M"],
    token_labels: Float[Array, "B M"],
    compared_mask: Bool[Array, "B M"],
    *,
    scale: float = 8.0,
    whole_share: float = 0.1,
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"], Bool[Array, "B M"]]:
    """Logistic loss that pulls good tokens towards the reference and pushes anomalous ones away.

    The probability of an anomaly is sigmoid(scale * (0.5 - similarity)). Its target is the share of anomalous pixels
    over `whole_share`, at most 1: tokens that a defect only touches are told from those that it fills, by which the map
    between tokens finds the defect's edge and the place vectors its middle. Tokens of which nothing is known are left
    out. This stands for the dense correspondence that a pretrained vision encoder brings: the paper's stages do not
    have it, ours where they train an encoder that has never been pretrained.

    Args:
      similarity: Cosine of each test token and its match in the reference.
      token_labels: Share of anomalous pixels, -1 where unknown.
      compared_mask: True where the row has a reference.
      whole_share: Share of anomalous pixels from which on a token counts as anomalous throughout.

    Returns:
      Loss of each token in nats, 0 where left out; True at tokens with an anomalous pixel; True at good ones.
    """
    anomalous = compared_mask & (token_labels > 0.0)
    good = compared_mask & (token_labels == 0.0)
    logits = scale * (0.5 - similarity.astype(jnp.float32))
    target = jnp.clip(token_labels / whole_share, 0.0, 1.0)
    loss = target * jax.nn.softplus(-logits) + (1.0 - target) * jax.nn.softplus(logits)
    return jnp.where(anomalous | good, loss, 0.0), anomalous, good


def most_anomalous_tokens(
    token_labels: Float[Array, "B M"], token_names: Int[Array, "B M J"], *, count: int
) -> Int[Array, "B _"]:
    """The `count` image tokens of each row with the most of a named defect, others behind them; ties go to the earlier.

    Of an image with fewer tokens than `count`, all.
    """
    named = (token_names >= 0).any(axis=-1)
    _, most = jax.lax.top_k(jnp.where(named, token_labels + 2.0, 0.0), min(count, named.shape[1]))
    return most


def naming_loss(logits: Float[Array, "B C V"], names: Int[Array, "B C J"]) -> tuple[Float[Array, "B C"], Array]:
    """Cross-entropy of the words that name what an image token shows, read off its embedding by the output layer.

    The mean over a name's tokens, whatever their order. It teaches the encoder which defect lies where, from labels of
    boxes, while the next-token loss has one or two words of an answer to do it with: alignment of regions and words
    (Li et al. 2022, GLIP) in the decoder's own vocabulary. The paper's stages do not have it.

    Args:
      logits: Of image tokens, over the vocabulary.
      names: Token ids of each name; -1 where there is none.

    Returns:
      Loss of each image token in nats, 0 without a name; and, 0..1, how often its likeliest word belongs to its name.
    """
    real = names >= 0
    logps = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    each = jnp.take_along_axis(logps, jnp.where(real, names, 0), axis=-1)
    loss = -jnp.sum(jnp.where(real, each, 0.0), axis=-1) / jnp.maximum(jnp.sum(real, axis=-1), 1)
    top = jnp.argmax(logits, axis=-1)
    return loss, jnp.any(real & (names == top[..., None]), axis=-1)


def hardest_tokens(similarity: Float[Array, "B M"], good: Bool[Array, "B M"], *, count: int) -> Bool[Array, "B M"]:
    """True at the `count` good tokens of each row that look least like their reference; all of a row with fewer.

    An image is called defective for its most deviating tokens, so that a few good ones that deviate cost more than
    the mean over all shows. Ties go to the earlier token.
    """
    order = jnp.where(good, jax.lax.stop_gradient(similarity), jnp.inf)
    _, lowest = jax.lax.top_k(-order, min(count, similarity.shape[1]))
    rows = jnp.arange(similarity.shape[0])[:, None]
    return jnp.zeros(good.shape, bool).at[rows, lowest].set(True) & good
