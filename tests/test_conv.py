"""Convolutional networks against a NumPy loop; the Nature layout; images that are too small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import param_count

from slmjax.nets.conv import ConvLayer, ConvNet, by_windows, by_xla, conv_layers
from slmjax.nets.network import build
from slmjax.types import Box, Dict, Discrete, Head, SpecError

RNG = np.random.default_rng(0)


def started(spec, space):
    net = build(spec, space, (Head(4, "critic"),))
    shapes = jax.eval_shape(net.init, jax.random.key(0), spec)
    return net, jax.tree.map(lambda x: 0.3 * RNG.normal(size=x.shape).astype("f"), shapes)


def counted(spec, shape, heads):
    net = build(spec, Box(0, 255, shape, jnp.uint8), heads)
    shapes = jax.eval_shape(net.init, jax.random.key(0), spec)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def test_the_nature_network_has_the_published_number_of_parameters():
    trunk = (8 * 8 * 4 * 32 + 32) + (4 * 4 * 32 * 64 + 64) + (3 * 3 * 64 * 64 + 64) + (7 * 7 * 64 * 512 + 512)
    assert counted(ConvNet(), (84, 84, 4), (Head(4, "critic"),)) == trunk + 512 * 4 + 4 == 1_686_180
    duelling = ConvNet(
        type="DuelingConvNet", fc_hid_layers=(), head_hid_layers=(512,)
    )  # Wang et al. 2016: streams of 512 each
    streams = 2 * (3136 * 512 + 512) + (512 * 1 + 1) + (512 * 4 + 4)
    assert counted(duelling, (84, 84, 4), (Head(4, "critic"),)) == trunk - (3136 * 512 + 512) + streams


def numpy_conv(image, kernel, bias, layer):
    """One image `[H, W, C]`, one output pixel and channel at a time."""
    k, s, d = layer.kernel, layer.stride, layer.dilation
    reach = d * (k - 1) + 1
    out = []
    for n in image.shape[:2]:
        if layer.padding == "SAME":
            total = max((-(-n // s) - 1) * s + reach - n, 0)
            out.append((total // 2, total - total // 2))
        else:
            out.append((0, 0) if layer.padding == "VALID" else (layer.padding,) * 2)
    padded = np.pad(np.float64(image), (*out, (0, 0)))
    height, width = ((padded.shape[i] - reach) // s + 1 for i in (0, 1))
    result = np.empty((height, width, layer.channels))
    for y, x, c in np.ndindex(*result.shape):
        window = padded[y * s : y * s + reach : d, x * s : x * s + reach : d]
        result[y, x, c] = (window * kernel[..., c]).sum() + bias[c]
    return result


LAYERS = {
    "defaults": (2, 3),
    "stride": (3, 2, 2),
    "number": (2, 3, 2, 1),
    "SAME": (2, 3, 2, "SAME"),
    "valid, in small letters": (2, 2, 1, "valid"),
    "dilation": (2, 2, 1, "SAME", 2),
    "dilation and stride": (2, 3, 2, 1, 2),
    "large": (2, 4, 2, 1),
    "large, SAME": (2, 5, 3, "SAME"),
    "large, dilation": (2, 4, 1, 3, 2),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_a_convolution_is_the_sum_over_its_window(case):
    (layer,) = conv_layers((case,))
    spec = ConvNet(conv_hid_layers=(case, (2, 1)), fc_hid_layers=(5,), hid_layers_activation="tanh")
    net, params = started(spec, Box(0, 255, (6, 7, 2), jnp.uint8))
    images = RNG.integers(0, 256, (2, 3, 6, 7, 2), dtype=np.uint8)
    (got,), _ = jax.jit(net.apply)(params, images, ())
    p = jax.tree.map(np.float64, params["params"])
    for lead in np.ndindex(2, 3):
        x = np.tanh(numpy_conv(images[lead] / 255.0, p["Convolution_0"]["kernel"], p["Convolution_0"]["bias"], layer))
        assert x.shape[:2] == (layer.size(6), layer.size(7))
        x = np.tanh(numpy_conv(x, p["Convolution_1"]["kernel"], p["Convolution_1"]["bias"], ConvLayer(2, 1))).reshape(
            -1
        )
        x = np.tanh(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
        expected = x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
        np.testing.assert_allclose(got[lead], expected, rtol=1e-3, atol=1e-4)


def test_both_ways_of_convolving_have_one_gradient():
    x = RNG.normal(size=(3, 9, 8, 2)).astype("f")
    for name in ("SAME", "dilation and stride", "large"):
        (layer,) = conv_layers((LAYERS[name],))
        kernel = RNG.normal(size=(layer.kernel, layer.kernel, 2, layer.channels)).astype("f")
        slopes = [
            jax.jit(jax.grad(lambda x, k, way=way, layer=layer: jnp.sum(jnp.sin(way(x, k, layer))), (0, 1)))(x, kernel)
            for way in (by_xla, by_windows)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *slopes)


def test_bytes_are_divided_by_255_and_nothing_else_is():
    spec = ConvNet(conv_hid_layers=((2, 2),), fc_hid_layers=(3,))
    values = RNG.integers(0, 256, (2, 4, 4, 1))
    bytes_, params = started(spec, Box(0, 255, (4, 4, 1), jnp.uint8))
    floats = build(spec, Box(0, 255, (4, 4, 1)), (Head(4, "critic"),))
    one = bytes_.apply(params, values.astype("u1"), ())[0][0]
    np.testing.assert_allclose(one, floats.apply(params, (values / 255.0).astype("f"), ())[0][0], rtol=1e-5, atol=1e-6)
    assert np.abs(one - floats.apply(params, values.astype("f"), ())[0][0]).max() > 0.1


def test_minatar_is_seen():
    spec = ConvNet(conv_hid_layers=((16, 3, 1, 0),), fc_hid_layers=(128,))  # Young & Tian 2019
    expected = (3 * 3 * 4 * 16 + 16) + (8 * 8 * 16 * 128 + 128) + (128 * 3 + 3)
    assert counted(spec, (10, 10, 4), (Head(3, "critic"),)) == expected


def test_images_of_a_dict_are_convolved_and_the_rest_is_joined():
    space = Dict(
        {"eye": Box(0, 255, (4, 4, 1), jnp.uint8), "in": Dict({"gear": Discrete(3), "map": Box(0, 1, (3, 3, 2))})}
    )
    spec = ConvNet(conv_hid_layers=((2, 2),), fc_hid_layers=(5,), hid_layers_activation="tanh")
    net, params = started(spec, space)
    obs = {
        "eye": RNG.integers(0, 256, (2, 4, 4, 1), dtype=np.uint8),
        "in": {"gear": np.int32([0, 2]), "map": RNG.random((2, 3, 3, 2)).astype("f")},
    }
    (got,), _ = jax.jit(net.apply)(params, obs, ())
    p = jax.tree.map(np.float64, params["params"])
    layer = ConvLayer(2, 2)
    for i in range(2):
        eye = np.tanh(
            numpy_conv(obs["eye"][i] / 255.0, p["Convolution_0"]["kernel"], p["Convolution_0"]["bias"], layer)
        )
        chart = np.tanh(
            numpy_conv(obs["in"]["map"][i], p["Convolution_1"]["kernel"], p["Convolution_1"]["bias"], layer)
        )
        x = np.concatenate([eye.reshape(-1), chart.reshape(-1), np.eye(3)[obs["in"]["gear"][i]]])
        x = np.tanh(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
        np.testing.assert_allclose(got[i], x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"], rtol=1e-3, atol=1e-4)
    assert param_count(params) == (2 * 2 * 1 * 2 + 2) + (2 * 2 * 2 * 2 + 2) + ((18 + 8 + 3) * 5 + 5) + (5 * 4 + 4)


@pytest.mark.parametrize(
    ("shape", "asked", "said"),
    [
        ((10, 10, 4), "nature", r"layer 2 of 3 \(kernel 4, .* at least 4 x 4, got 1 x 1"),
        ((84, 20, 4), "nature", r"layer 3 of 3 \(kernel 3, .* at least 3 x 3, got 9 x 1"),
        ((3, 9, 1), ((2, 4, 1, 0, 2),), r"layer 1 of 1 .* at least 7 x 7, got 3 x 9"),
        ((3, 3, 1), ((2, 3), (2, 4, 1, 1)), r"layer 2 of 2 .* at least 2 x 2, got 1 x 1"),
    ],
)
def test_an_image_that_is_too_small_names_the_layer_and_the_size(shape, asked, said):
    with pytest.raises(SpecError, match=said) as error:
        build(ConvNet(conv_hid_layers=asked), Box(0, 1, shape), (Head(1, "critic"),))
    assert error.value.path == "agent.net.conv_hid_layers"


def test_padding_makes_room():
    for padding in (1, "SAME"):
        spec = ConvNet(conv_hid_layers=((2, 3), (2, 3, 1, padding)))
        net = build(spec, Box(0, 1, (3, 3, 1)), (Head(1, "critic"),))
        assert jax.eval_shape(net.init, jax.random.key(0), spec)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("natur", ""),
        ((), ""),
        (((8,),), ".0"),
        (((8, 3), (8, 0)), ".1"),
        (((8, "SAME"),), ".0"),
        (((8, 3, 1, "FULL"),), ".0"),
        (((8, 3, 1, -1),), ".0"),
        (((8, 3, 1, 0, 1, 1),), ".0"),
    ],
)
def test_layers_of_a_wrong_form_are_an_error(asked, path):
    with pytest.raises(SpecError, match="expected") as error:
        conv_layers(asked)
    assert error.value.path == f"agent.net.conv_hid_layers{path}"


def test_a_stack_of_images_is_told_how_to_become_one():
    with pytest.raises(SpecError, match="stack_op: concat"):
        build(ConvNet(), Box(0, 255, (84, 84, 3, 4)), (Head(1, "critic"),))


def test_an_observation_without_an_image_is_an_error():
    for space in (Box(-1, 1, (84,)), Dict({"a": Discrete(2)})):
        with pytest.raises(SpecError, match="expected an observation with an image") as error:
            build(ConvNet(), space, (Head(1, "critic"),))
        assert error.value.path == "agent.net.type"
