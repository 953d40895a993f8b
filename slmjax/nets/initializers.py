"""Weight initialisers and activations by name: everything that flax has, and an `orthogonal` that survives `vmap`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from slmjax.registry import nearest
from slmjax.types import Array, Key, SpecError

Initializer = Callable[..., Array]

_ACTIVATIONS = (
    "celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu log_sigmoid log_softmax mish PReLU "
    "relu relu6 selu sigmoid silu soft_sign softmax softplus squareplus standardize swish tanh"
).split()
_FACTORIES = (
    "glorot_normal glorot_uniform he_normal he_uniform kaiming_normal kaiming_uniform lecun_normal lecun_uniform "
    "normal truncated_normal uniform variance_scaling xavier_normal xavier_uniform"
).split()
_CONSTANT = ("ones", "ones_init", "zeros", "zeros_init")


def orthogonal(gain: Any = 1.0) -> Initializer:
    """Orthogonal matrices scaled by `gain` (Saxe et al. 2014), without LAPACK.

    flax's initialiser calls a QR decomposition, which deadlocks on XLA's CPU backend when it is batched on few cores.
    Gram-Schmidt on Gaussian columns, each projected out twice ("twice is enough", Giraud et al. 2005), has the same
    (Haar) distribution and batches like any other arithmetic.
    """

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        rows, columns = shape[-1], 1
        for extent in shape[:-1]:
            columns *= extent
        tall, thin = max(rows, columns), min(rows, columns)
        gaussian = jax.random.normal(key, (thin, tall), jnp.float32)

        def step(basis: Array, i_vector: tuple[Array, Array]) -> tuple[Array, None]:
            i, v = i_vector
            v = v - (basis @ v) @ basis
            v = v - (basis @ v) @ basis
            return basis.at[i].set(v / jnp.linalg.norm(v)), None

        basis, _ = jax.lax.scan(step, jnp.zeros_like(gaussian), (jnp.arange(thin), gaussian))
        matrix = basis if rows == tall else basis.T
        return (gain * matrix.reshape(shape)).astype(dtype)

    return init


def initializer(name: str | None, gain: Any) -> Initializer:
    """The initialiser of that name; None is flax's default (`lecun_normal`).

    `gain` scales `orthogonal`, and is what `constant` fills with.

    Raises:
        SpecError: unknown name (says the nearest).
    """
    if name is None:
        return nn.initializers.lecun_normal()
    if name == "orthogonal":
        return orthogonal(gain)
    if name == "constant":
        return lambda key, shape, dtype=jnp.float32: jnp.full(shape, gain, dtype)
    if name in _FACTORIES:
        arguments = (1.0, "fan_in", "truncated_normal") if name == "variance_scaling" else ()
        return getattr(nn.initializers, name)(*arguments)
    if name in _CONSTANT:
        return getattr(nn.initializers, name.removesuffix("_init"))
    valid = sorted(["constant", "orthogonal", *_FACTORIES, *_CONSTANT])
    known = ", ".join(valid)
    raise SpecError(f"unknown initialiser {name!r}.{nearest(name, valid)} Known: {known}.", "agent.net.init_fn")


def activation(name: str | None, path: str = "") -> Callable[[Array], Array]:
    """The activation function of that name; None is the identity. `path` is the key that an error names.

    `PReLU` has a slope to learn, so like a layer it is called inside of a module.

    Raises:
        SpecError: unknown name (says the nearest).
    """
    if name is None or name == "identity":
        return lambda x: x
    if name == "PReLU":
        return lambda x: nn.PReLU()(x)
    if name in _ACTIVATIONS:
        return getattr(jax.nn, name)
    known = ", ".join(_ACTIVATIONS)
    raise SpecError(f"unknown activation {name!r}.{nearest(name, _ACTIVATIONS)} Known: {known}.", path)
