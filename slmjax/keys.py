"""Random keys: JAX's own threefry, written out where it runs on a CPU.

JAX lowers a draw on a CPU to a loop of five rounds. A loop cannot be fused with anything, and costs an agent with few
environments a tenth of its time. Written out, the rounds are one operation. The bits are the same.
"""

import functools
import math
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp

from slmjax.types import Array, Key, PyTree

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def root_key(seed: int) -> Key:
    """The key of a seed: `jax.random.key`, with the same draws, and faster ones on a CPU."""
    config: Any = jax.config  # made at run time, so no type checker knows it
    usual = config.jax_default_prng_impl == "threefry2x32" and config.jax_threefry_partitionable
    fast = usual and jax.default_backend() == "cpu"
    return jax.random.key(seed, impl=_written_out()) if fast else jax.random.key(seed)


def usual(tree: PyTree) -> PyTree:
    """A pytree with the same keys as JAX's own: the same draws, and one operation each where nothing is compiled."""

    def plain(x: Any) -> Any:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(jax.random.key_data(x)) if is_key else x

    return jax.tree.map(plain, tree)


@functools.partial(jax.jit, inline=True)  # traced once for all draws of a shape: the program is the same
def threefry2x32(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds of the counters `(high, low)`, any shape, all uint32 (Salmon et al. 2011)."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    a, b = high + schedule[0], low + schedule[1]
    for i in range(5):
        for turn in _ROTATIONS[i % 2]:
            a = a + b
            b = a ^ ((b << jnp.uint32(turn)) | (b >> jnp.uint32(32 - turn)))
        a, b = a + schedule[(i + 1) % 3], b + schedule[(i + 2) % 3] + jnp.uint32(i + 1)
    return a, b


def _counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    if math.prod(shape) >= 2**32:
        raise ValueError(f"expected fewer than 2^32 draws at once, got {shape}")
    low = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return jnp.zeros_like(low), low


def _seed(seed: Array) -> Array:
    seed = jnp.asarray(seed)
    wide = seed.dtype.itemsize > 4
    high = jax.lax.shift_right_logical(seed, jnp.asarray(32, seed.dtype)) if wide else jnp.zeros_like(seed)
    return jnp.stack([high.astype(jnp.uint32), seed.astype(jnp.uint32)])


# A key that is made here is stored before it is used. Otherwise XLA fuses the making into every use of it, so that each
# draw makes the key again, its key as well, and so on: programs grow with the power of the depth.
def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.lax.optimization_barrier(jnp.stack(threefry2x32(key, *_counters(shape)), -1))


def _fold_in(key: Array, data: Any) -> Array:
    pair = threefry2x32(key, jnp.zeros((), jnp.uint32), jnp.asarray(data).astype(jnp.uint32))
    return jax.lax.optimization_barrier(jnp.stack(pair))


def _random_bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    a, b = threefry2x32(key, *_counters(tuple(shape)))
    if width == 64:
        return (a.astype(jnp.uint64) << 32) | b.astype(jnp.uint64)
    return (a ^ b).astype(jnp.dtype(f"uint{width}"))


@functools.cache
def _written_out() -> Any:
    return jax.extend.random.define_prng_impl(
        key_shape=(2,),
        seed=_seed,
        split=_split,
        random_bits=_random_bits,
        fold_in=_fold_in,
        name="threefry2x32_written_out",
        tag="fry20",
    )
