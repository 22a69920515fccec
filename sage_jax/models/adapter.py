"""Adapter: pixel shuffle and the MLP that turns patch features into decoder embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from sage_jax.axes import Array, Float
from sage_jax.models.layers import LayerNorm, Linear


def pixel_shuffle(patches: Float[Array, "A P D"], *, rows: int, columns: int, fold: int) -> Float[Array, "A M E"]:
    """Folds each fold x fold square of patches into one token of fold^2 times the width.

    Tokens stay row by row; a token's channels are its square's patches row by row (InternVL's `pixel_shuffle`, v2).

        fold=2, 2 x 2 patches a b / c d  ->  one token [a b c d]
    """
    num, _, width = patches.shape
    squares = patches.reshape(num, rows // fold, fold, columns // fold, fold, width).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(num, (rows // fold) * (columns // fold), fold * fold * width)


class Adapter(nnx.Module):
    """LayerNorm, Linear, GELU, Linear over shuffled patches."""

    def __init__(self, width_in: int, width_out: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = LayerNorm(width_in, eps=1e-5, rngs=rngs)
        init = nnx.initializers.normal(width_in**-0.5)
        self.linear_1 = Linear(width_in, width_out, dtype=dtype, kernel_init=init, rngs=rngs)
        init = nnx.initializers.normal(width_out**-0.5)
        self.linear_2 = Linear(width_out, width_out, dtype=dtype, kernel_init=init, rngs=rngs)

    def __call__(self, tokens: Float[Array, "A M E"]) -> Float[Array, "A M D"]:
        """Decoder embeddings of image tokens."""
        return self.linear_2(jax.nn.gelu(self.linear_1(self.norm(tokens)), approximate=False))
