"""Convolutions over the images of an observation, dense layers over what they see and the rest, then heads."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from slmjax.nets import inputs, layers
from slmjax.nets.batch_renorm import renormalise
from slmjax.nets.initializers import Initializer
from slmjax.nets.keys import RenormKeys
from slmjax.nets.layers import Inits, LayerSpec
from slmjax.spec.schema import hyper, key
from slmjax.types import Array, Box, Head, Net, Network, Space, SpecError

PRESETS = {"nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1))}  # Mnih et al. 2015, methods: with one dense layer of 512

WINDOWED = 3  # the largest kernel that is faster as a product of matrices

_PATH = "agent.net.conv_hid_layers"
_FORM = "[channels, kernel, stride, padding, dilation] (the last three: 1, 0 and 1 if left out)"


@hyper
class ConvNet(RenormKeys):
    """`agent.net` of type `ConvNet` or `DuelingConvNet`.

    Images are `[height, width, channels]`, square kernels go over them; bytes are divided by 255.
    """

    type: str = key(default="ConvNet", doc="name of the network")
    conv_hid_layers: str | tuple[tuple[int | str, ...], ...] = key(
        default="nature",
        doc="`nature`, or a list of [channels, kernel, stride, padding, dilation], the last three 1, 0 and 1 if left "
        "out; padding in pixels, SAME or VALID",
    )
    fc_hid_layers: tuple[int, ...] = key(default=(512,), doc="width of each dense layer behind the images", low=1)
    hid_layers_activation: str = key(default="relu", doc="any flax activation")


class ConvLayer(NamedTuple):
    """One convolution with square kernels."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int | str = 0
    dilation: int = 1

    def size(self, extent: int) -> int:
        """Pixels that it leaves of `extent`; 0 or less where the kernel is larger than the image."""
        if self.padding == "SAME":
            return -(-extent // self.stride)
        return (extent + 2 * self.edge - self.reach) // self.stride + 1

    @property
    def reach(self) -> int:
        """Pixels that its kernel spans."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def edge(self) -> int:
        """Pixels that padding adds at each side, where that is the same for all images."""
        return self.padding if isinstance(self.padding, int) else 0

    def pads(self, extent: int) -> tuple[int, int]:
        """Pixels that padding adds before and behind `extent`."""
        if self.padding != "SAME":
            return self.edge, self.edge
        total = max((self.size(extent) - 1) * self.stride + self.reach - extent, 0)
        return total // 2, total - total // 2


class Convolution(nn.Module):
    """One layer, `[..., height, width, in] -> [..., height, width, channels]`, channels last."""

    layer: ConvLayer
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The layer's output."""
        layer, flat = self.layer, x.reshape(-1, *x.shape[-3:])
        kernel = self.param("kernel", self.kernel_init, (layer.kernel, layer.kernel, x.shape[-1], layer.channels))
        bias = self.param("bias", nn.initializers.zeros, (layer.channels,))
        y = (by_windows if layer.kernel <= WINDOWED else by_xla)(flat, kernel, layer)
        return y.reshape(*x.shape[:-3], *y.shape[1:]) + bias


def by_xla(x: Array, kernel: Array, layer: ConvLayer) -> Array:
    """The convolution of `x [B, height, width, in]` by XLA's operation."""
    pads = [layer.pads(extent) for extent in x.shape[1:3]]
    strides, dilation = (layer.stride,) * 2, (layer.dilation,) * 2
    form = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=form)


def by_windows(x: Array, kernel: Array, layer: ConvLayer) -> Array:
    """The same as one product of matrices: the pixels under each entry of the kernel, side by side.

    Sessions under `vmap` have kernels of their own, which makes XLA's operation a grouped convolution. Measured on a
    CPU with 4 sessions, MinAtar's 3 x 3 layer takes half of its time forth and two thirds of its time back this way,
    with one session four fifths of it. Under kernels of 8 x 8 pixels are copied 64 times, and it loses.
    """
    x = jnp.pad(x, ((0, 0), *(layer.pads(extent) for extent in x.shape[1:3]), (0, 0)))
    height, width = ((extent - layer.reach) // layer.stride + 1 for extent in x.shape[1:3])
    offsets = range(0, layer.reach, layer.dilation)
    rows, columns = (height - 1) * layer.stride + 1, (width - 1) * layer.stride + 1
    under = [x[:, i : i + rows : layer.stride, j : j + columns : layer.stride] for i in offsets for j in offsets]
    windows = jnp.concatenate(under, -1)  # flat, so that the gradient contracts one axis (`unroll.py`)
    pixels = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, layer.channels)
    return pixels.reshape(*windows.shape[:-1], layer.channels)


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
        stacked = any(isinstance(space, Box) and len(space.shape) == 4 for space, _ in every)
        hint = " memory.stack_op: concat joins the frames of a stack as channels." if stacked else ""
        raise SpecError(
            f"expected an observation with an image [height, width, channels], got {observation_space}.{hint}",
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
                    f"which the layers before leave of {space}. For small images: conv_hid_layers: [[16, 3]].",
                    _PATH,
                )
            height, width = layer.size(height), layer.size(width)


def convolve(x: Array, asked: tuple[ConvLayer, ...], spec: LayerSpec, init: Initializer, after: Any) -> Array:
    """Features `[..., size]` of images `[..., height, width, channels]`; called inside of a module."""
    lead = x.shape[:-3]
    for layer in asked:
        x = Convolution(layer, init)(x)
        x = nn.LayerNorm()(x) if spec.layer_norm else x
        x = after(spec.act(x))
    return x.reshape(*lead, -1)


def encode(
    images: tuple[Array, ...],
    vector: Array | None,
    asked: tuple[ConvLayer, ...],
    spec: LayerSpec,
    init: Initializer,
    after: Any,
) -> Array:
    """What the convolutions see of each image, and the rest of the observation, as one vector `[..., size]`."""
    seen = [convolve(image, asked, spec, init, after) for image in images]
    return jnp.concatenate(seen if vector is None else [*seen, after(vector)], -1)


class Conv(nn.Module):
    """Convolutions, dense layers and heads; takes what `inputs.split` gives, returns one `[..., width]` a head.

    `renorm` counts the batches of plain batch normalisation; None: no batch renormalisation.
    """

    convolutions: tuple[ConvLayer, ...]
    body: tuple[int, ...]
    spec: LayerSpec
    inits: Inits
    renorm: int | None = None

    @nn.compact
    def __call__(
        self, images: tuple[Array, ...], vector: Array | None, train: bool = False, weight: Array | None = None
    ) -> tuple[Array, ...]:
        """The heads' outputs; `weight [...]` of each observation in the statistics of the batch."""
        after, init = renormalise(self.renorm, train, weight), self.inits.hidden
        x = encode(images, vector, self.convolutions, self.spec, init, after)
        x = layers.body(x, self.body, self.spec, init, after)
        return layers.heads(x, self.spec, self.inits, after)


def build(
    spec: ConvNet, observation_space: Space, heads: tuple[Head, ...], critic: bool = False, dueling: bool = False
) -> Net:
    """A network from its spec: an image, or a dict with images, in; one output a head out.

    Raises:
        SpecError: unknown names, layers of a wrong form, no image, or one too small.
    """
    del critic  # it looks like the actor
    convolutions = conv_layers(spec.conv_hid_layers)
    check_images(convolutions, observation_space)
    what = layers.layer_spec(spec, heads, spec.fc_hid_layers, dueling)
    renorm = spec.batch_renorm_warmup if spec.batch_renorm else None
    module = Conv(convolutions, spec.fc_hid_layers, what, layers.no_inits(heads), renorm)

    see = partial(inputs.split, observation_space)
    return layers.feed_forward(module, see, observation_space, spec.batch_renorm)


CONV_NET = Network(ConvNet, build)
DUELING_CONV_NET = Network(ConvNet, partial(build, dueling=True))
