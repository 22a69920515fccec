"""Parameters by path."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sage_jax.models.adapter import Adapter
from sage_jax.parameters import count, digest, merge, split
from tests.support.tiny_sage import TINY, random_params, structure


def test_a_module_split_and_merged_is_the_same_module() -> None:
    adapter = Adapter(6, 4, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    graphdef, params = split(adapter)
    assert sorted(params) == sorted(
        [f"linear_{number}/{kind}" for number in (1, 2) for kind in ("bias", "kernel")] + ["norm/bias", "norm/scale"]
    )
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 6)), jnp.float32)
    np.testing.assert_array_equal(merge(graphdef, params)(tokens), adapter(tokens))
    doubled = merge(graphdef, {path: 2.0 * leaf for path, leaf in params.items()})
    np.testing.assert_array_equal(doubled.linear_1.kernel[...], 2.0 * params["linear_1/kernel"])


def test_every_parameter_comes_back_under_its_own_path() -> None:
    graphdef, shapes = structure()
    params = random_params(shapes)
    _, again = split(merge(graphdef, params))
    assert again.keys() == params.keys()
    for path in params:
        np.testing.assert_array_equal(again[path], params[path], err_msg=path)
    decoder = TINY.decoder
    assert params["decoder/blocks/mlp/up/kernel"].shape == (decoder.num_layers, decoder.embed_dim, decoder.mlp_dim)


def test_count_is_the_number_of_scalars() -> None:
    assert count({"a": jnp.zeros((2, 3)), "b": jnp.zeros(()), "c": jnp.zeros((4, 0))}) == 7


def test_digest_tells_values_shapes_dtypes_and_paths_and_not_their_order() -> None:
    base = {"a": jnp.arange(6.0), "b": jnp.ones((2, 2))}
    same = {"b": jnp.ones((2, 2)), "a": jnp.arange(6.0)}
    assert digest(base) == digest(same)
    nearly = np.nextafter(np.float32(3.0), np.float32(4.0))
    others = [
        base | {"a": base["a"].at[3].set(nearly)},
        base | {"a": base["a"].reshape(2, 3)},
        base | {"a": jax.lax.bitcast_convert_type(base["a"], jnp.int32)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    assert len({digest(params) for params in [base, *others]}) == 1 + len(others)
