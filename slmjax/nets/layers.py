"""What networks are made of: dense layers with their norms, hidden stacks, plain and dueling heads.

The functions that take a `LayerSpec` are called inside a module's `__call__`; the layers that they make are its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slmjax.nets.batch_renorm import STATISTICS
from slmjax.nets.initializers import Initializer, activation, initializer, orthogonal
from slmjax.nets.inputs import example
from slmjax.nets.keys import LayerKeys
from slmjax.types import Array, Head, Key, Net, PyTree, Space, SpecError

POWER_ITERATIONS = 32  # a Gaussian matrix of any size is then found at most 2 % too small

NARROW = 4  # columns up to which a product is cheaper one by one
FEW = 8  # rows up to which it is not

_ZEROS = initializer("zeros", None)


class Inits(NamedTuple):
    """Initialisers of hidden layers and of each head."""

    hidden: Initializer
    heads: tuple[Initializer, ...]


def inits(spec: LayerKeys, heads: tuple[Head, ...]) -> Inits:
    """The initialisers that a spec asks for; its gains may be traced.

    Raises:
        SpecError: unknown initialiser.
    """
    hidden = initializer(spec.init_fn, spec.init_gain)
    own = [getattr(spec, f"{head.role}_init_std") for head in heads]
    return Inits(hidden, tuple(hidden if gain is None else orthogonal(gain) for gain in own))


def no_inits(heads: tuple[Head, ...]) -> Inits:
    """Zeros: to check shapes, flax traces every initialiser again whenever a module is applied."""
    return Inits(_ZEROS, (_ZEROS,) * len(heads))


class LayerSpec(NamedTuple):
    """What the layers of a network are: the static values of its spec.

    Attributes:
        act: activation of hidden layers.
        out_act: activation of the heads.
        heads: what the network puts out.
        head_hidden: widths of the hidden layers that each head has of its own.
        layer_norm: standardise features before `act`.
        weight_norm: hidden dense layers learn length and direction of their weights.
        spectral_norm: divide the last hidden layer by its largest singular value.
        dueling: critics are a value and advantages.
    """

    act: Callable[[Array], Array]
    out_act: Callable[[Array], Array]
    heads: tuple[Head, ...]
    head_hidden: tuple[int, ...]
    layer_norm: bool
    weight_norm: bool
    spectral_norm: bool
    dueling: bool = False


def layer_spec(spec: LayerKeys, heads: tuple[Head, ...], hidden: tuple[int, ...], dueling: bool = False) -> LayerSpec:
    """What a spec whose last layers before the heads are `hidden` says of its layers.

    Raises:
        SpecError: unknown activation or initialiser, no layer that `spectral_norm` could divide, or dueling
            critics with one number to put out.
    """
    critics = [_actions(head) for head in heads if head.role == "critic"]
    if dueling and critics and max(critics) < 2:
        raise SpecError(
            f"expected a plain network, got {spec.type}: a dueling critic is a value and the advantages of several "  # type: ignore[attr-defined]
            "actions, and here it puts out one number.",
            "agent.net.type",
        )
    inits(spec, heads)  # an unknown name shows here, not in the first trace
    if spec.spectral_norm and not (*hidden, *spec.head_hid_layers):
        raise SpecError("expected a hidden dense layer to divide, got a network without.", "agent.net.spectral_norm")
    return LayerSpec(
        activation(spec.hid_layers_activation, "agent.net.hid_layers_activation"),
        activation(spec.out_layer_activation, "agent.net.out_layer_activation"),
        heads,
        spec.head_hid_layers,
        spec.layer_norm,
        spec.weight_norm,
        spec.spectral_norm,
        dueling,
    )


class Dense(nn.Module):
    """`x W + b`, `[..., in] -> [..., width]`, with `W` as it is or normalised.

    Attributes:
        weight_norm: `W = g V / |V|` for each column (Salimans & Kingma 2016, equation 2); `g` starts as `|V|`.
        spectral_norm: `W / sigma(W)` (Miyato et al. 2018, equation 8).
    """

    width: int
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros
    weight_norm: bool = False
    spectral_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The layer's output."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.width))
        bias = self.param("bias", self.bias_init, (self.width,))
        if self.weight_norm:
            length = jnp.sqrt(jnp.sum(kernel**2, 0) + 1e-12)  # the root of 0 has no gradient
            kernel = kernel / length * self.param("scale", lambda key: length)
        if self.spectral_norm:
            kernel = kernel / jnp.maximum(largest_singular_value(kernel), 1e-12)
        return product(x, kernel) + bias


def product(x: Array, kernel: Array) -> Array:
    """`x W`, `[..., in] @ [in, width] -> [..., width]`, one column at a time where there are few.

    The gradient of a narrow `W` is a product with a transposed `x`, whose packing takes XLA on a CPU as long as if `W`
    were 64 wide; of a single column it is a product with a vector. Leading axes are flattened to one: a gradient that
    contracts two of them is transposed in memory.
    """
    rows = x.reshape(-1, x.shape[-1])
    wide = kernel.shape[-1] > NARROW or len(rows) <= FEW
    output = rows @ kernel if wide else jnp.stack([rows @ column for column in kernel.T], -1)
    return output.reshape(*x.shape[:-1], kernel.shape[-1])


def largest_singular_value(matrix: Array) -> Array:
    """`sigma(W) = u' W v`, by power iteration from a fixed vector; never too large.

    Its gradient is that of Miyato et al. 2018 (equation 10): `u` and `v` are constants. Nothing is kept from call to
    call (their `u` is), so parameters stay the only state, and the result does not depend on how often it was asked.
    """
    fixed = jax.lax.stop_gradient(matrix)
    start = jnp.asarray(np.cos(0.7 * np.arange(1, matrix.shape[-1] + 1) ** 2), matrix.dtype)

    def unit(x: Array) -> Array:
        return x / jnp.sqrt(jnp.sum(x**2) + 1e-30)

    v = jax.lax.fori_loop(0, POWER_ITERATIONS, lambda _, v: unit(fixed.T @ (fixed @ v)), unit(start))
    return unit(fixed @ v) @ matrix @ v


def hidden(
    x: Array, widths: tuple[int, ...], spec: LayerSpec, init: Initializer, after: Any, last: bool = False
) -> Array:
    """Hidden layers: dense, layer norm, activation, `after`. `last`: no other hidden layer follows."""
    for i, width in enumerate(widths):
        divided = spec.spectral_norm and last and i == len(widths) - 1
        x = Dense(width, init, weight_norm=spec.weight_norm, spectral_norm=divided)(x)
        x = nn.LayerNorm()(x) if spec.layer_norm else x
        x = after(spec.act(x))
    return x


def body(x: Array, widths: tuple[int, ...], spec: LayerSpec, init: Initializer, after: Any) -> Array:
    """The hidden layers that all heads share."""
    return hidden(x, widths, spec, init, after, last=not spec.head_hidden)


def heads(x: Array, spec: LayerSpec, init: Inits, after: Any) -> tuple[Array, ...]:
    """One output `[..., width]` a head."""

    def stream(width: int, head_init: Initializer) -> Array:
        own = hidden(x, spec.head_hidden, spec, init.hidden, after, last=True)
        return Dense(width, head_init)(own)

    outputs = []
    for head, head_init in zip(spec.heads, init.heads, strict=True):
        actions = _actions(head)
        if spec.dueling and head.role == "critic" and actions > 1:
            value, advantage = stream(head.width // actions, head_init), stream(head.width, head_init)
            outputs.append(spec.out_act(duel(value, advantage, actions)))
        else:
            outputs.append(spec.out_act(stream(head.width, head_init)))
    return tuple(outputs)


def _actions(head: Head) -> int:
    return head.width if head.actions is None else head.actions


def duel(value: Array, advantage: Array, actions: int) -> Array:
    """`Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)` (Wang et al. 2016, equation 9), for each atom on its own.

    `value [..., atoms]`, `advantage [..., actions x atoms]` and the result hold the action first.
    """
    each = advantage.reshape(*advantage.shape[:-1], actions, -1)
    q = value[..., None, :] + each - jnp.mean(each, -2, keepdims=True)
    return q.reshape(advantage.shape)


def feed_forward(module: Any, see: Callable[[Any], tuple[Any, ...]], space: Space, statistics: bool) -> Net:
    """The network of a module with the fields `spec` and `inits`, which takes what `see(obs)` gives.

    `statistics` where it also takes `train` and `weight`, and moves running statistics by them.
    """

    def init(rng: Key, spec: Any) -> PyTree:
        return module.clone(inits=inits(spec, module.spec.heads)).init(rng, *see(example(space)))

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        return module.apply(params, *see(obs)), carry

    def learn(params: PyTree, obs: PyTree, weight: Array | None = None) -> tuple[tuple[Array, ...], PyTree]:
        outputs, moved = module.apply(params, *see(obs), True, weight, mutable=[STATISTICS])
        return outputs, params | moved

    return Net(init, apply, learn=learn if statistics else None)
