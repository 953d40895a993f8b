"""Convolutions over the images of an observation, dense layers over what they see and the rest, then tails."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from slmjax.nets import inputs, layers
from slmjax.nets.initializers import Initializer
from slmjax.nets.keys import LayerKeys
from slmjax.nets.layers import Inits, Recipe
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Key, Net, Network, PyTree, Space, SpecError, Tail

PRESETS = {"nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1))}  # Mnih et al. 2015, methods: with one dense layer of 512

_PATH = "agent.net.conv_hid_layers"
_FORM = "[channels, kernel, stride, padding, dilation] (the last three: 1, 0 and 1 if left out)"


@hyper
class ConvNet(LayerKeys):
    """`agent.net` of type `ConvNet`. Images are `[height, width, channels]`; bytes are divided by 255."""

    type: str = key(default="ConvNet", doc="name of the network")
    conv_hid_layers: str | tuple[tuple[int | str, ...], ...] = key(
        default="nature",
        doc="`nature`, or a list of [channels, kernel, stride, padding]; padding in pixels, SAME or VALID",
    )
    fc_hid_layers: tuple[int, ...] = key(default=(512,), doc="width of each dense layer behind the images", low=1)
    hid_layers_activation: str = key(default="relu", doc="any flax activation")


@hyper
class DuelingConvNet(ConvNet):
    """`agent.net` of type `DuelingConvNet`: critics with a number an action are a value and advantages."""

    type: str = key(default="DuelingConvNet", doc="name of the network")


class ConvLayer(NamedTuple):
    """One convolution with square kernels."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int | str = 0
    dilation: int = 1

    def size(self, extent: int) -> int:
        """Pixels that it leaves of `extent` (0 or less: the kernel is larger than the image)."""
        if self.padding == "SAME":
            return -(-extent // self.stride)
        return (extent + 2 * self.edge - self.reach) // self.stride + 1

    @property
    def reach(self) -> int:
        """Pixels that its kernel spans."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def edge(self) -> int:
        """Pixels that padding adds at each side."""
        return self.padding if isinstance(self.padding, int) else 0


def conv_layers(asked: str | Sequence[Sequence[int | str]]) -> tuple[ConvLayer, ...]:
    """The layers that `conv_hid_layers` describes.

    Raises:
        SpecError: unknown preset, none at all, or one of another form.
    """
    if isinstance(asked, str):
        if asked not in PRESETS:
            raise SpecError(f"expected {', '.join(PRESETS)} or a list of {_FORM}, got {asked!r}.", _PATH)
        asked = PRESETS[asked]
    if not asked:
        raise SpecError(f"expected at least one layer {_FORM}, got none.", _PATH)
    return tuple(_conv_layer(values, f"{_PATH}.{i}") for i, values in enumerate(asked))


def _conv_layer(values: Sequence[int | str], path: str) -> ConvLayer:
    numbers, padding = [*values[:3], *values[4:]], values[3] if len(values) > 3 else 0
    if isinstance(padding, str) and padding.upper() in ("SAME", "VALID"):
        padding = padding.upper()
    fits = 2 <= len(values) <= 5 and all(isinstance(n, int) and n > 0 for n in numbers)
    if not fits or (padding not in ("SAME", "VALID") and not (isinstance(padding, int) and padding >= 0)):
        raise SpecError(f"expected {_FORM}, got {list(values)}.", path)
    channels, kernel, stride, dilation = (*map(int, numbers), *(1,) * (4 - len(numbers)))
    return ConvLayer(channels, kernel, stride, padding, dilation)


def check_images(asked: tuple[ConvLayer, ...], observation_space: Space) -> None:
    """Follows every image of an observation through the layers.

    Raises:
        SpecError: there is no image, or one becomes smaller than a kernel (says which, and its size there).
    """
    every = inputs.leaves(observation_space, inputs.example(observation_space))
    images: list[Any] = [space for space, _ in every if inputs.is_image(space)]
    if not images:
        raise SpecError(
            f"expected an observation with an image [height, width, channels], got {observation_space}.",
            "agent.net.type",
        )
    for space in images:
        height, width = space.shape[:2]
        for i, layer in enumerate(asked):
            if min(layer.size(height), layer.size(width)) < 1:
                least = layer.reach - 2 * layer.edge
                raise SpecError(
                    f"layer {i + 1} of {len(asked)} (kernel {layer.kernel}, stride {layer.stride}, padding "
                    f"{layer.padding}) expected an image of at least {least} x {least}, got {height} x {width}, "
                    f"which the layers before leave of {space}.",
                    _PATH,
                )
            height, width = layer.size(height), layer.size(width)


def convolve(x: Array, asked: tuple[ConvLayer, ...], look: Recipe, init: Initializer) -> Array:
    """Features `[..., size]` of images `[..., height, width, channels]`; called inside of a module."""
    lead = x.shape[:-3]
    for layer in asked:
        square = lambda n: (n, n)  # noqa: E731
        padding: Any = layer.padding if isinstance(layer.padding, str) else square(square(layer.padding))
        x = nn.Conv(
            layer.channels,
            square(layer.kernel),
            square(layer.stride),
            padding,
            kernel_dilation=layer.dilation,
            kernel_init=init,
        )(x)
        x = nn.LayerNorm()(x) if look.layer_norm else x
        x = look.act(x)
    return x.reshape(*lead, -1)


def encode(
    images: tuple[Array, ...], vector: Array | None, asked: tuple[ConvLayer, ...], look: Recipe, init: Initializer
) -> Array:
    """What the convolutions see of each image, and the rest of the observation, as one vector `[..., size]`."""
    seen = [convolve(image, asked, look, init) for image in images]
    return jnp.concatenate(seen if vector is None else [*seen, vector], -1)


class Conv(nn.Module):
    """Convolutions, dense layers and tails; takes what `inputs.split` gives, returns one `[..., width]` a tail."""

    convolutions: tuple[ConvLayer, ...]
    body: tuple[int, ...]
    look: Recipe
    inits: Inits

    @nn.compact
    def __call__(self, images: tuple[Array, ...], vector: Array | None) -> tuple[Array, ...]:
        """The tails' outputs."""
        after = lambda x: x  # noqa: E731
        x = encode(images, vector, self.convolutions, self.look, self.inits.hidden)
        x = layers.body(x, self.body, self.look, self.inits.hidden, after)
        return layers.tails(x, self.look, self.inits, after)


def build(
    spec: ConvNet, observation_space: Space, tails: tuple[Tail, ...], critic: bool = False, dueling: bool = False
) -> Net:
    """A network from its spec: an image, or a dict with images, in; one output a tail out.

    Raises:
        SpecError: unknown names, layers of a wrong form, no image, or one too small.
    """
    del critic  # it looks like the actor
    convolutions = conv_layers(spec.conv_hid_layers)
    check_images(convolutions, observation_space)
    look = layers.recipe(spec, tails, spec.fc_hid_layers, dueling)
    module = Conv(convolutions, spec.fc_hid_layers, look, layers.no_inits(tails))

    def init(rng: Key, spec: ConvNet) -> PyTree:
        fresh = module.clone(inits=layers.inits(spec, tails))
        return fresh.init(rng, *inputs.split(observation_space, inputs.example(observation_space)))

    def apply(params: PyTree, obs: PyTree, carry: PyTree) -> tuple[tuple[Array, ...], PyTree]:
        outputs: Any = module.apply(params, *inputs.split(observation_space, obs))
        return outputs, carry

    return Net(init, apply)


CONV_NET = Network(ConvNet, build)
DUELING_CONV_NET = Network(DuelingConvNet, partial(build, dueling=True))
