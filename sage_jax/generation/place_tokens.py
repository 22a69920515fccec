"""The words of a place, chosen by decoder and anomaly map together."""

from __future__ import annotations

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from sage_jax.axes import Array, Bool, Float, Int

PlaceIds = tuple[tuple[int, ...], ...]
"""Ids of each cell's words, one or two, cell i in row i // 3 and column i % 3."""

_FINER: Final = 4
"""Map pixels along an image token: where a region ends is read off the slope between tokens."""
_LEVEL: Final = 0.5
_PART: Final = 0.6
"""Of the highest value: the level of a region on a map that reaches `_LEVEL` nowhere."""
_LEAST: Final = 1e-3
"""Evidence of a cell without a region, and how near the others come to 1."""


def place_evidence(similarity: Float[Array, "B M"], tokens_per_tile: int) -> Float[Array, "B 9"]:
    """Log-odds of each cell of the 3x3 grid to hold the middle of a region of the anomaly map.

    A region is 8-connected and above one half, as in `metrics.localisation.peak_boxes`; its evidence is its highest
    value. An image that is like its reference everywhere, or has none, has the same evidence for all cells; so have
    images of several tiles.

    Args:
      similarity: Of each image token to its reference.
    """
    rows, tokens = similarity.shape
    side = int(np.sqrt(tokens_per_tile))
    if tokens != side * side:
        return jnp.zeros((rows, 9), jnp.float32)
    size = side * _FINER
    grid = 1.0 - similarity.astype(jnp.float32).reshape(rows, side, side)
    value = jax.image.resize(grid, (rows, size, size), "linear")
    highest = value.max(axis=(1, 2), keepdims=True)
    inside = (value >= jnp.where(highest >= _LEVEL, _LEVEL, _PART * highest)) & (highest > _LEAST)
    down, across = jnp.arange(size, dtype=jnp.float32)[:, None], jnp.arange(size, dtype=jnp.float32)[None, :]
    ends = [jnp.broadcast_to(each, value.shape) for each in (-down, down, -across, across)]
    top, bottom, left, right, peak = jnp.moveaxis(_spread(jnp.stack([*ends, value], axis=-1), inside), -1, 0)
    row, column = (
        jnp.clip(3.0 * (end - start + 1.0) / (2.0 * size), 0.0, 2.0).astype(jnp.int32)
        for start, end in ((top, bottom), (left, right))
    )
    cell = jnp.where(inside, 3 * row + column, -1)
    best = jnp.stack([jnp.max(jnp.where(cell == each, peak, 0.0), axis=(1, 2)) for each in range(9)], axis=-1)
    return jax.scipy.special.logit(jnp.clip(best, _LEAST, 1.0 - _LEAST))


def _spread(values: Float[Array, "B H W _"], inside: Bool[Array, "B H W"]) -> Float[Array, "B H W _"]:
    """The largest value of each region, at all of its pixels."""

    def wider(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, _ = carry
        near = jax.lax.reduce_window(found, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        near = jnp.where(inside[..., None], near, -jnp.inf)
        return near, jnp.any(near > found)

    begun = jnp.where(inside[..., None], values, -jnp.inf)
    return jax.lax.while_loop(lambda carry: carry[1], wider, (begun, jnp.asarray(True)))[0]


def by_evidence(
    logits: Float[Array, "B Q V"],
    before: Int[Array, "B Q"] | None,
    evidence: Float[Array, "B Q 9"],
    place_ids: PlaceIds,
    weight: float,
) -> Float[Array, "B Q V"]:
    """Logits of which the words of places share their probability anew, by decoder and evidence.

    The product of both, normalised to what these words had together: whether a place is named stays the decoder's. A
    first word that several cells begin with counts the mean of their odds, so that equal odds change nothing.

    Args:
      before: The token before, which says whether a second word of a place may follow; None at an answer's first token.
      weight: Of the evidence's log-odds.
    """
    groups = _by_first_word(place_ids)
    each = [
        jax.nn.logsumexp(evidence[..., jnp.asarray(cells)], axis=-1) - np.log(len(cells)) for cells in groups.values()
    ]
    found = _shared(logits, list(groups), jnp.stack(each, axis=-1), weight)
    for first, cells in groups.items() if before is not None else ():
        if seconds := [place_ids[cell][1] for cell in cells if len(place_ids[cell]) == 2]:
            after = _shared(logits, seconds, evidence[..., jnp.asarray(cells)], weight)
            found = jnp.where((before == first)[..., None], after, found)
    return found


def without_named(
    evidence: Float[Array, "B Q 9"], before: Int[Array, "B Q"] | None, token: Int[Array, "B Q"], place_ids: PlaceIds
) -> Float[Array, "B Q 9"]:
    """The evidence that is left when a token has named a cell: none for that cell, so that others come next."""
    groups, named = _by_first_word(place_ids), []
    second = jnp.zeros(token.shape, bool)
    if before is not None:
        two_words = [first for first, cells in groups.items() if len(place_ids[cells[0]]) == 2]
        second = jnp.isin(before, jnp.asarray(two_words, jnp.int32))
    for ids in place_ids:
        if len(ids) == 1:
            named.append((token == ids[0]) & ~second)
        else:
            named.append(jnp.zeros(token.shape, bool) if before is None else (before == ids[0]) & (token == ids[1]))
    return jnp.where(jnp.stack(named, axis=-1), jax.scipy.special.logit(jnp.float32(_LEAST)), evidence)


def _by_first_word(place_ids: PlaceIds) -> dict[int, list[int]]:
    """First word -> cells whose names begin with it."""
    groups: dict[int, list[int]] = {}
    for cell, ids in enumerate(place_ids):
        groups.setdefault(ids[0], []).append(cell)
    return groups


def _shared(logits: Float[Array, "B Q V"], ids: list[int], evidence: Float[Array, "B Q _"], weight: float) -> Array:
    chosen = jnp.asarray(ids)
    old = logits[..., chosen]
    new = old + weight * evidence
    total = jax.nn.logsumexp(old, axis=-1, keepdims=True) - jax.nn.logsumexp(new, axis=-1, keepdims=True)
    possible = jnp.isfinite(old)  # where an answer must open with its verdict, no place may
    return logits.at[..., chosen].set(jnp.where(possible, new + jnp.where(jnp.isfinite(total), total, 0.0), old))
