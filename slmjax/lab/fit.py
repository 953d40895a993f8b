"""What a person hands to a policy, held against what it acts on: by shapes and dtypes alone, so that `jit` works."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.spec.errors import brief, show
from slmjax.types import Box, Dict, PyTree, Space, UserError


def check_obs(space: Space, obs: PyTree) -> int:
    """The number of environments `E` that observations `[E, ...]` of a space come from.

    Raises:
        UserError: another shape, another kind of number, no axis `E`, other keys than the space has, or no array.
    """
    sizes = {name: _check_part(part, value, name) for name, part, value in _parts(space, obs, "obs")}
    if len(set(sizes.values())) > 1:
        raise UserError(f"expected one number of environments, got {', '.join(f'{n}: {e}' for n, e in sizes.items())}.")
    return next(iter(sizes.values()))


def _parts(space: Space, obs: PyTree, name: str) -> list[tuple[str, Any, Any]]:
    """(name, space, value) of each array."""
    if not isinstance(space, Dict):
        return [(name, space, obs)]
    wanted = sorted(space.spaces)
    if not isinstance(obs, Mapping):
        raise UserError(f"expected {name} with the keys {', '.join(wanted)}, got {_kind_of(obs)}.")
    if set(obs) != set(wanted):
        raise UserError(f"expected {name} with the keys {', '.join(wanted)}, got {', '.join(map(str, obs)) or 'none'}.")
    return [part for key in wanted for part in _parts(space.spaces[key], obs[key], f"{name}[{key!r}]")]


def _check_part(space: Any, value: Any, name: str) -> int:
    expected = f"expected {name} as {np.dtype(space.dtype).name}[{', '.join(['E', *map(str, space.shape)])}]"
    if not _is_array(value):
        raise UserError(f"{expected}, got {_kind_of(value)}: numpy.asarray makes an array of it.")
    got = f"got {_kind_of(value)}"
    if value.shape[1:] != space.shape or value.ndim != len(space.shape) + 1:
        hint = f", of one environment: add an axis: {name}[None]" if value.shape == space.shape else ""
        raise UserError(f"{expected}, {got}{hint}.")
    if not _same_kind(space, value.dtype):
        raise UserError(f"{expected}, {got}.")
    return int(value.shape[0])


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "ndim")


def _kind_of(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if _is_array(value) else show(value)


def _same_kind(space: Any, dtype: Any) -> bool:
    """Images are bytes, for they are scaled as such; other numbers are of any width."""
    if isinstance(space, Box):
        return bool(dtype == np.uint8) if space.dtype == np.uint8 else bool(jnp.issubdtype(dtype, jnp.floating))
    return bool(jnp.issubdtype(dtype, jnp.integer))


def check_carry(expected: PyTree, carry: PyTree, num_envs: int) -> None:
    """Holds a carry against the shapes of that of `num_envs` environments.

    Raises:
        UserError: it is another.
    """
    try:
        same: PyTree = jax.tree.map(lambda want, got: _is_array(got) and got.shape == want.shape, expected, carry)
    except ValueError:  # another structure
        same = [False]
    if not all(jax.tree.leaves(same)):
        raise UserError(
            f"expected the carry of {num_envs} environments, as many as there are observations: "
            f"policy.start({num_envs}), or what the step before returned."
        )


def check_number(number: Any, of_what: str) -> int:
    """A number of environments or episodes.

    Raises:
        UserError: it is not.
    """
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise UserError(f"expected a number of {of_what}, at least 1, got {brief(repr(number))}.")
    return int(number)


def check_key(key: Any) -> None:
    """Holds a key against what draws; None says that there is none.

    Raises:
        UserError: it is another.
    """
    typed = _is_array(key) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    old = _is_array(key) and key.dtype == np.uint32 and key.shape == (2,)  # of jax.random.PRNGKey
    if key is not None and not typed and not old:
        raise UserError(f"expected a key, such as jax.random.key(0), got {_kind_of(key)}.")


def check_ended(ended: Any, num_envs: int) -> None:
    """Holds `ended` against bool `[E]`; None says that no episode ended.

    Raises:
        UserError: it is another.
    """
    if ended is None or (_is_array(ended) and ended.shape == (num_envs,) and ended.dtype == bool):
        return
    raise UserError(f"expected ended as bool[{num_envs}], got {_kind_of(ended)}.")
