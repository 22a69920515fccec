"""Floating-point operations of a computation, counted on its traced form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(jaxpr: Any) -> int:
    """Operations of all matrix products that a jaxpr runs, a multiplication and an addition each counting one.

    Loops count as often as they run, what is computed again in the backward pass counts again. Everything else a
    transformer computes is well below a hundredth of that. Of a branch the larger side counts; a `while` whose number
    of rounds is not known counts once.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot_flops(equation)
        elif name == "cond":
            total += max(matmul_flops(branch) for branch in equation.params["branches"])
        else:
            rounds = equation.params["length"] if name == "scan" else 1
            total += rounds * sum(matmul_flops(inner) for inner in _inner(equation.params))
    return total


def _dot_flops(equation: Any) -> int:
    """2 x the product's size x the length of what is summed over."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    return 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, (ClosedJaxpr, Jaxpr)):
                yield one
