"""A pytree as arrays by name on the host, and back: what `leaves.write` keeps of it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.types import PyTree, UserError


def named(tree: PyTree) -> list[tuple[str, Any]]:
    """Leaves with their names (`jax.tree_util.keystr`), in the order of `jax.tree.leaves`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def described(template: PyTree) -> list[tuple[str, Any]]:
    """Names, shapes and dtypes of the arrays that stand for a pytree; of random keys, those of their data."""
    return [(name, jax.eval_shape(jax.random.key_data, x) if is_key(x) else x) for name, x in named(template)]


def check(template: PyTree, arrays: Mapping[str, Any], what: str, *, exact: bool = False) -> None:
    """Holds arrays against the pytree that they are to become; of both, shapes and dtypes are enough.

    Unless `exact`, only the kind of a dtype counts: what 64-bit mode has saved is of use without it.

    Raises:
        UserError: `what` lacks a leaf, has another, or one does not fit.
    """
    wanted = dict(described(template))
    if odd := sorted(wanted.keys() ^ arrays.keys()):
        raise UserError(f"{what} is of another kind of agent than its spec: {odd[0]} is not in both.")
    for name, want in wanted.items():
        got = arrays[name]
        fits = got.dtype == want.dtype if exact else _kind(got.dtype) == _kind(want.dtype)
        if got.shape != want.shape or not fits:
            raise UserError(
                f"{what} does not fit its spec: {name} is {got.dtype}{list(got.shape)}, "
                f"expected {want.dtype}{list(want.shape)}."
            )


def like(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """The pytree that arrays stand for, on no device in particular; keys of random numbers are those of `template`."""
    made = [as_leaf(leaf, arrays[name]) for name, leaf in named(template)]
    return jax.tree.unflatten(jax.tree.structure(template), made)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is keys of random numbers."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_leaf(want: Any, value: np.ndarray) -> jax.Array:
    """The leaf that an array stands for: itself, or keys of random numbers as `want` is."""
    placed = jnp.asarray(value)
    return jax.random.wrap_key_data(placed, dtype=want.dtype) if is_key(want) else placed


def _kind(dtype: Any) -> str:
    return "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind
