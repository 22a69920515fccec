"""Next-token loss on answers, and the dense similarity loss of encoders from scratch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sage_jax.axes import Array, Bool, Float


def next_token_loss(token_logps: Float[Array, "B Q N L"], target_mask: Bool[Array, "B Q N L"]) -> Float[Array, " B"]:
    """Summed cross-entropy of each row's answer tokens, in nats; divide by the number of tokens for the mean."""
    return -jnp.sum(jnp.where(target_mask, token_logps, 0.0), axis=(1, 2, 3))


def similarity_loss(
    similarity: Float[Array, "B M"],
    token_labels: Float[Array, "B M"],
    compared_mask: Bool[Array, "B M"],
    *,
    scale: float = 8.0,
) -> tuple[Float[Array, "B M"], Bool[Array, "B M"], Bool[Array, "B M"]]:
    """Logistic loss that pulls good tokens towards the reference and pushes anomalous ones away.

    The probability of an anomaly is sigmoid(scale * (0.5 - similarity)). A token counts as anomalous from 10 % of
    anomalous pixels on, as good without any, and is left out in between, as it is where nothing is known. This stands
    for the dense correspondence that a pretrained vision encoder brings: the paper's stages do not have it, ours where
    they train an encoder that has never been pretrained.

    Args:
      similarity: Cosine of each test token and its match in the reference.
      token_labels: Share of anomalous pixels, -1 where unknown.
      compared_mask: True where the row has a reference.

    Returns:
      Loss of each token in nats, 0 where left out; True at anomalous tokens; True at good ones.
    """
    anomalous = compared_mask & (token_labels >= 0.1)
    good = compared_mask & (token_labels == 0.0)
    logits = scale * (0.5 - similarity.astype(jnp.float32))
    loss = jnp.where(anomalous, jax.nn.softplus(-logits), jnp.where(good, jax.nn.softplus(logits), 0.0))
    return loss, anomalous, good


def hardest_tokens(similarity: Float[Array, "B M"], good: Bool[Array, "B M"], *, count: int) -> Bool[Array, "B M"]:
    """True at the `count` good tokens of each row that look least like their reference; all of a row with fewer.

    An image is called defective for its most deviating tokens, so that a few good ones that deviate cost more than
    the mean over all shows. Ties go to the earlier token.
    """
    order = jnp.where(good, jax.lax.stop_gradient(similarity), jnp.inf)
    _, lowest = jax.lax.top_k(-order, min(count, similarity.shape[1]))
    rows = jnp.arange(similarity.shape[0])[:, None]
    return jnp.zeros(good.shape, bool).at[rows, lowest].set(True) & good
