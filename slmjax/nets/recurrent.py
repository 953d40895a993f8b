"""Recurrent networks: encoder, RNN, GRU or LSTM cells with a real carry from step to step, heads."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from slmjax.nets import inputs, layers
from slmjax.nets.conv import ConvLayer, check_images, conv_layers, encode
from slmjax.nets.initializers import Initializer, initializer, orthogonal
from slmjax.nets.keys import LayerKeys
from slmjax.nets.layers import Dense, Inits, LayerSpec
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Head, Key, Net, Network, PyTree, Space, SpecError


@hyper
class RecurrentNet(LayerKeys):
    """`agent.net` of type `RecurrentNet` or `DuelingRecurrentNet`, for algorithms that keep a carry."""

    type: str = key(default="RecurrentNet", doc="name of the network")
    conv_hid_layers: str | tuple[tuple[int | str, ...], ...] | None = key(
        default=None, doc="convolutions over images, as in ConvNet; none: images are flattened"
    )
    fc_hid_layers: tuple[int, ...] | None = key(
        default=None, doc="width of each dense layer before the cells; none: [64]", low=1
    )
    hid_layers: tuple[int, ...] | None = key(default=None, doc="the same, as MLPNet calls it", low=1)
    cell_type: str = key(default="GRU", doc="what remembers", choices=("RNN", "GRU", "LSTM"))
    rnn_hidden_size: int = key(default=64, doc="width of a layer of cells", low=1)
    rnn_num_layers: int = key(default=1, doc="layers of cells", low=1)


class Cell(NamedTuple):
    """A kind of cell.

    Attributes:
        gates: vectors that it computes from its input and its output before.
        states: vectors that it carries; the first is its output.
        step: `(x W + b [..., gates x H], state, U [H, gates x H], c [H]) -> state`, `c` for the GRU alone.
        bias: of each gate at first.
    """

    gates: int
    states: int
    step: Callable[..., tuple[Array, ...]]
    bias: tuple[float, ...]


def rnn(x: Array, state: tuple[Array, ...], kernel: Array, bias: Any) -> tuple[Array, ...]:
    """`h' = tanh(x + h U)` (Elman 1990)."""
    del bias
    return (jnp.tanh(x + state[0] @ kernel),)


def gru(x: Array, state: tuple[Array, ...], kernel: Array, bias: Any) -> tuple[Array, ...]:
    """`h' = (1 - z) n + z h`, `n = tanh(x_n + r (h U_n + c))`, gates `r, z, n` (Cho et al. 2014).

    The reset gate is applied after the product with `U_n`, as in cuDNN.
    """
    (h,) = state
    from_r, from_z, from_n = jnp.split(h @ kernel, 3, -1)
    x_r, x_z, x_n = jnp.split(x, 3, -1)
    r, z = jax.nn.sigmoid(x_r + from_r), jax.nn.sigmoid(x_z + from_z)
    n = jnp.tanh(x_n + r * (from_n + bias))
    return ((1.0 - z) * n + z * h,)


def lstm(x: Array, state: tuple[Array, ...], kernel: Array, bias: Any) -> tuple[Array, ...]:
    """`c' = f c + i g`, `h' = o tanh(c')`, gates `i, f, g, o` (Hochreiter & Schmidhuber 1997; Gers et al. 2000)."""
    del bias
    h, c = state
    i, f, g, o = jnp.split(x + h @ kernel, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


CELLS = {
    "RNN": Cell(1, 1, rnn, (0.0,)),
    "GRU": Cell(3, 1, gru, (0.0, 0.0, 0.0)),
    "LSTM": Cell(4, 2, lstm, (0.0, 1.0, 0.0, 0.0)),  # it remembers at first (Jozefowicz et al. 2015)
}


class Cells(nn.Module):
    """A layer of cells over time: everything that does not wait for the step before is done for all steps at once.

    Recurrent weights start orthogonal, one square a gate, regardless of `init_fn` (Saxe et al. 2014).
    """

    cell: str
    width: int
    kernel_init: Initializer

    @nn.compact
    def __call__(
        self, x: Array, state: tuple[Array, ...], ended: Array
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """`x [T, ..., in]`, state `[..., H]`, ended `[T, ...]` -> output and states of each step `[T, ..., H]`, state.

        A state is zero again after a step that ended an episode; those of each step are from before that.
        """
        cell = CELLS[self.cell]

        def bias_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            return jnp.repeat(jnp.asarray(cell.bias, dtype), self.width)

        def kernel_init(key: Key, shape: tuple[int, ...]) -> Array:
            squares = jax.vmap(lambda k: orthogonal()(k, (self.width, self.width)))(jax.random.split(key, cell.gates))
            return jnp.concatenate([*squares], -1)

        driven = Dense(cell.gates * self.width, self.kernel_init, bias_init)(x)
        kernel = self.param("recurrent_kernel", kernel_init, (self.width, cell.gates * self.width))
        bias = self.param("recurrent_bias", nn.initializers.zeros, (self.width,)) if self.cell == "GRU" else None

        def step(state: tuple[Array, ...], now: tuple[Array, Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
            x, ended = now
            reached = cell.step(x, state, kernel, bias)
            return tuple(jnp.where(ended[..., None], 0.0, s) for s in reached), reached

        state, reached = jax.lax.scan(step, state, (driven, ended))
        return reached[0], reached, state


class Recurrent(nn.Module):
    """Encoder, layers of cells, heads; takes what `inputs.split` gives, over time."""

    convolutions: tuple[ConvLayer, ...]
    encoder: tuple[int, ...]
    cells: tuple[str, ...]
    width: int
    spec: LayerSpec
    inits: Inits
    cell_init: Initializer

    @nn.compact
    def __call__(
        self, images: tuple[Array, ...], vector: Array | None, carry: tuple, ended: Array
    ) -> tuple[tuple[Array, ...], tuple, tuple]:
        """Outputs `[T, ..., width]`, carry after each step, carry."""
        after = lambda x: x  # noqa: E731
        x = encode(images, vector, self.convolutions, self.spec, self.inits.hidden, after)
        x = layers.hidden(x, self.encoder, self.spec, self.inits.hidden, after)
        reached, last = [], []
        for cell, state in zip(self.cells, carry, strict=True):
            x, states, state = Cells(cell, self.width, self.cell_init)(x, state, ended)
            reached.append(states)
            last.append(state)
        return layers.heads(x, self.spec, self.inits, after), tuple(reached), tuple(last)


def build(
    spec: RecurrentNet, observation_space: Space, heads: tuple[Head, ...], critic: bool = False, dueling: bool = False
) -> Net:
    """A network from its spec: observations of any space in, one output a head out.

    Its carry is a tuple over layers of tuples of `[..., H]`: output, and the LSTM's cell.

    Raises:
        SpecError: unknown names, layers under both of their names, or convolutions that do not fit.
    """
    del critic  # it looks like the actor
    convolutions = () if spec.conv_hid_layers is None else conv_layers(spec.conv_hid_layers)
    if convolutions:
        check_images(convolutions, observation_space)
    if spec.fc_hid_layers is not None and spec.hid_layers is not None:
        raise SpecError("expected it or fc_hid_layers, which is the same, got both.", "agent.net.hid_layers")
    named = [widths for widths in (spec.fc_hid_layers, spec.hid_layers) if widths is not None]
    encoder = named[0] if named else (64,)
    what = layers.layer_spec(spec, heads, (), dueling)
    cells, width = (spec.cell_type,) * spec.rnn_num_layers, spec.rnn_hidden_size
    zeros = layers.no_inits(heads)
    module = Recurrent(convolutions, encoder, cells, width, what, zeros, zeros.hidden)

    def see(obs: PyTree) -> tuple[tuple[Array, ...], Array | None]:
        if convolutions:
            return inputs.split(observation_space, obs)
        return (), inputs.flatten(observation_space, obs)

    def carry(num_envs: int) -> PyTree:
        state = tuple(jnp.zeros((num_envs, width)) for _ in range(CELLS[spec.cell_type].states))
        return (state,) * spec.rnn_num_layers

    def init(rng: Key, spec: RecurrentNet) -> PyTree:
        fresh = module.clone(inits=layers.inits(spec, heads), cell_init=initializer(spec.init_fn, 1.0))
        obs = jax.tree.map(lambda x: x[None, None], inputs.example(observation_space))
        return fresh.init(rng, *see(obs), carry(1), jnp.zeros((1, 1), bool))

    def unroll(params: PyTree, obs: PyTree, carry: PyTree, ended: Array) -> tuple[tuple[Array, ...], PyTree, PyTree]:
        outputs: Any = module.apply(params, *see(obs), carry, ended)
        return outputs

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        lead = jax.tree.leaves(carry)[0].shape[:-1]
        now = jax.tree.map(lambda x: jnp.asarray(x)[None], obs)
        outputs, _, carry = unroll(params, now, carry, jnp.zeros((1, *lead), bool))
        return tuple(x[0] for x in outputs), carry

    return Net(init, apply, carry, unroll=unroll)


RECURRENT_NET = Network(RecurrentNet, build)
DUELING_RECURRENT_NET = Network(RecurrentNet, partial(build, dueling=True))
