"""Pytrees as dicts of NumPy arrays by name, to compare bit by bit; and what tests do to parameters."""

import jax
import numpy as np
import optax


def host(tree) -> dict[str, np.ndarray]:
    """Every leaf by its path; random keys as the numbers that they are."""
    named, _ = jax.tree_util.tree_flatten_with_path(tree)
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return {jax.tree_util.keystr(k): np.asarray(jax.random.key_data(v) if is_key(v) else v) for k, v in named}


def unlike(a, b) -> list[str]:
    """Names of the leaves that are not bit-equal; empty when all are."""
    first, second = host(a), host(b)
    assert first.keys() == second.keys()
    return [k for k in first if not np.array_equal(first[k], second[k], equal_nan=True)]


def same(a, b) -> bool:
    """Whether two pytrees are bit-equal."""
    return not unlike(a, b)


def param_count(params) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def descend(transformation, gradient, opt_state, params):
    """One optimiser step: `(params, opt_state)`."""
    updates, opt_state = transformation.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
