"""Layers of networks against NumPy: encoders, norms, dueling heads, batch renormalisation."""

import os
import subprocess
import sys
import textwrap
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agents import spec_of
from runs import LIMIT
from trees import descend, param_count

from slmjax.lab.trial import make_agent
from slmjax.nets import layers
from slmjax.nets.actor_critic import build_actor_critic
from slmjax.nets.batch_renorm import BatchRenorm, keep_statistics
from slmjax.nets.conv import ConvLayer, ConvNet, by_xla
from slmjax.nets.mlp import MLPNet
from slmjax.nets.network import build
from slmjax.nets.optim import OptimSpec, optimizer
from slmjax.nets.recurrent import RecurrentNet
from slmjax.policies.heads import action_head
from slmjax.types import Box, Dict, Discrete, Head, MultiBinary, MultiDiscrete, SpecError

BOX = Box(-1, 1, (3,))
IMAGE = Box(0, 255, (5, 5, 2), jnp.uint8)
PARTS = Dict({"speed": Box(-1, 1, (2,)), "gear": Discrete(4)})
RNG = np.random.default_rng(0)
OBS = RNG.normal(size=(7, 3)).astype(np.float32)


def started(net, spec):
    return jax.tree.map(np.array, jax.jit(net.init)(jax.random.key(0), spec))


def shapes(net, spec):
    return jax.eval_shape(net.init, jax.random.key(0), spec)


def drawn_params(net, spec):
    """Parameters of the right shapes with nothing at its initial value; nothing is compiled."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.6 * rng.normal(size=x.shape).astype("f"), shapes(net, spec))


def shaken(params, seed=0):
    """Parameters with nothing at its initial value; statistics stay."""
    rng = np.random.default_rng(seed)
    return params | {"params": jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype("f"), params["params"])}


def dense(params, i):
    layer = params["params"][f"Dense_{i}"]
    return np.float64(layer["kernel"]), np.float64(layer["bias"])


def outputs(net, params, obs, carry=()):
    return jax.jit(lambda p, o, c: net.apply(p, o, c)[0])(params, obs, carry)


# ------------------------------------------------------------------------------------------------------ every network

SPACES = {
    "discrete": Discrete(5),
    "vector": BOX,
    "scalar": Box(-1, 1),
    "image": IMAGE,
    "multi-discrete": MultiDiscrete((2, 3)),
    "multi-binary": MultiBinary(4),
    "dict": Dict({"eye": IMAGE, "in": Dict({"gear": Discrete(3), "speed": BOX})}),
}
CONV = {"conv_hid_layers": ((3, 3, 1), (2, 2, 2, "SAME")), "fc_hid_layers": (6,)}
NETS = {
    "MLP": MLPNet(hid_layers=(6,)),
    "dueling MLP": MLPNet(type="DuelingMLPNet", hid_layers=(6,), head_hid_layers=(4,)),
    "normed MLP": MLPNet(hid_layers=(6, 5), layer_norm=True, weight_norm=True, spectral_norm=True),
    "renormed MLP": MLPNet(hid_layers=(6,), batch_renorm=True),
    "conv": ConvNet(**CONV, layer_norm=True),
    "dueling conv": ConvNet(type="DuelingConvNet", **CONV),
    "RNN": RecurrentNet(cell_type="RNN", fc_hid_layers=(6,), rnn_hidden_size=4),
    "GRU": RecurrentNet(cell_type="GRU", fc_hid_layers=(), rnn_hidden_size=4, rnn_num_layers=2, init_fn="orthogonal"),
    "LSTM": RecurrentNet(cell_type="LSTM", fc_hid_layers=(6,), rnn_hidden_size=4, head_hid_layers=(3,)),
}
HEADS = (Head(3, "actor"), Head(4, "critic"), Head(1, "critic"))
WITH_IMAGES = ("image", "dict")


def made(spec, space, heads=HEADS):
    return build(spec, space, heads, recurrent=True, statistics=True)


def drawn(space, lead):
    keys = jax.random.split(jax.random.key(1), int(np.prod(lead)))
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), jax.vmap(space.sample)(keys))


CASES = [(net, space) for net in NETS for space in SPACES if "conv" not in net or space in WITH_IMAGES]


@pytest.mark.parametrize(("name", "space"), CASES)
def test_every_network_reads_every_space(name, space):
    spec, space = NETS[name], SPACES[space]
    net = made(spec, space)

    def run(key):
        params = net.init(key, spec)
        outs = []
        for lead in ((4,), (2, 4)):
            carry = jax.tree.map(lambda x, lead=lead: jnp.broadcast_to(x, (*lead, x.shape[-1])), net.carry(4))
            outs.append(net.apply(params, drawn(space, lead), carry))
        return outs

    for lead, (outs, carry) in zip(((4,), (2, 4)), jax.eval_shape(run, jax.random.key(0)), strict=True):
        assert [x.shape for x in outs] == [(*lead, 3), (*lead, 4), (*lead, 1)]
        assert all(x.dtype == jnp.float32 for x in outs)
        assert jax.tree.structure(carry) == jax.tree.structure(net.carry(4))


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_feels_the_loss_and_two_keys_differ(name):
    spec, space = NETS[name], SPACES["image"] if "conv" in name else BOX
    net = made(spec, space)

    def loss(params, obs, carry):
        total = 0.0
        for i in range(3):  # recurrent weights move nothing in a first step
            outs, carry = net.apply(params, jax.tree.map(lambda x, i=i: x[i], obs), carry)
            total += sum(jnp.sum((out - 0.37) ** 2 * jnp.arange(1.0, out.shape[-1] + 1)) for out in outs)
        return total

    init = jax.jit(net.init)
    one, other = (jax.tree.map(np.array, init(jax.random.key(seed), spec)) for seed in (0, 1))
    slope = jax.jit(jax.grad(loss))(shaken(one), drawn(space, (3, 4)), net.carry(4))
    for path, leaf in jax.tree_util.tree_leaves_with_path(slope["params"]):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    kernels = [p for p in jax.tree_util.tree_leaves_with_path(one["params"]) if "kernel" in jax.tree_util.keystr(p[0])]
    others = dict(jax.tree_util.tree_leaves_with_path(other["params"]))
    assert kernels
    assert all((leaf != others[path]).any() for path, leaf in kernels)


DEADLOCK = """
    import jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    from jax.sharding import AxisType, Mesh, PartitionSpec
    from slmjax.nets.network import build
    from slmjax.nets.conv import ConvNet
    from slmjax.nets.mlp import MLPNet
    from slmjax.nets.recurrent import RecurrentNet
    from slmjax.types import Box, Head

    keys = {"init_fn": "orthogonal", "actor_init_std": 0.01, "critic_init_std": 1.0}
    conv = ConvNet(type="DuelingConvNet", conv_hid_layers=((8, 3),), **keys)
    specs = (MLPNet(type="DuelingMLPNet", **keys), RecurrentNet(**keys), conv)
    mesh = Mesh(np.array(jax.devices()), ("session",), axis_types=(AxisType.Auto,))
    assert len(jax.devices()) == 2
    each, space, heads = PartitionSpec("session"), Box(-1, 1, (5, 5, 2)), (Head(2, "actor"), Head(3, "critic"))
    for spec in specs:
        net = build(spec, space, heads, recurrent=True)
        init = jax.vmap(lambda k: net.init(k, spec))
        init = jax.jit(jax.shard_map(init, mesh=mesh, in_specs=each, out_specs=each, check_vma=False))
        params = jax.block_until_ready(init(jax.random.split(jax.random.key(0), 4)))
        for leaf in jax.tree.leaves(params):
            assert leaf.ndim == 2 or len({x.tobytes() for x in np.asarray(leaf)}) == 4
    print("finished")
"""


def test_orthogonal_networks_of_many_sessions_on_two_cpu_devices_do_not_deadlock():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(DEADLOCK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)
    assert done.stdout == "finished\n", done.stderr


# -------------------------------------------------------------------------------------------------------------- heads


def test_parts_of_an_observation_go_through_heads_of_their_own():
    spec = MLPNet(encoder_hid_layers={"speed": (5, 3)}, hid_layers=(4,))
    net = build(spec, PARTS, (Head(2, "critic"),))
    params = drawn_params(net, spec)
    obs = {"speed": RNG.normal(size=(6, 2)).astype("f"), "gear": RNG.integers(0, 4, 6)}
    x = np.float64(obs["speed"])
    for i in (0, 1):
        x = np.tanh(x @ dense(params, i)[0] + dense(params, i)[1])
    joined = np.concatenate([np.eye(4)[obs["gear"]], x], -1)  # gear has no head and comes first
    x = np.tanh(joined @ dense(params, 2)[0] + dense(params, 2)[1])
    expected = x @ dense(params, 3)[0] + dense(params, 3)[1]
    np.testing.assert_allclose(outputs(net, params, obs)[0], expected, rtol=1e-4, atol=1e-5)
    assert param_count(params) == (2 * 5 + 5) + (5 * 3 + 3) + (7 * 4 + 4) + (4 * 2 + 2)


def test_a_list_is_for_all_heads():
    spec = MLPNet(encoder_hid_layers=(5,), hid_layers=(4,), head_hid_layers=(3,))
    params = shapes(build(spec, PARTS, (Head(2, "actor"), Head(1, "critic"))), spec)
    encoders, body = (4 * 5 + 5) + (2 * 5 + 5), 10 * 4 + 4
    assert param_count(params) == encoders + body + (4 * 3 + 3 + 3 * 2 + 2) + (4 * 3 + 3 + 3 * 1 + 1)


def test_heads_by_name_are_part_of_the_compile_signature():
    one, same, other = (MLPNet(encoder_hid_layers={"speed": (width,)}) for width in (5, 5, 6))
    assert one == same
    assert jax.tree.structure(one) == jax.tree.structure(same) != jax.tree.structure(other)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(same))


@pytest.mark.parametrize(
    ("space", "asked", "path", "said"),
    [
        (BOX, (5,), "", "expected a Dict observation"),
        (PARTS, {"sped": (5,)}, ".sped", "Did you mean 'speed'"),
        (PARTS, {"speed": (0,)}, ".speed", "integers >= 1"),
    ],
)
def test_heads_that_do_not_fit_are_an_error(space, asked, path, said):
    with pytest.raises(SpecError, match=said) as error:
        build(MLPNet(encoder_hid_layers=asked), space, (Head(1, "critic"),))
    assert error.value.path == f"agent.net.encoder_hid_layers{path}"


# -------------------------------------------------------------------------------------------------------------- norms


def test_layer_norm_standardises_the_features_of_each_hidden_layer():
    spec = MLPNet(hid_layers=(6,), layer_norm=True)
    net = build(spec, BOX, (Head(2, "critic"),))
    params = drawn_params(net, spec)
    x = OBS @ dense(params, 0)[0] + dense(params, 0)[1]
    norm = params["params"]["LayerNorm_0"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]
    expected = np.tanh(x) @ dense(params, 1)[0] + dense(params, 1)[1]
    np.testing.assert_allclose(outputs(net, params, OBS)[0], expected, rtol=1e-4, atol=1e-5)


def effective(layer, kernel, **more):
    """The matrix that a dense layer multiplies by."""
    params = {"params": {"kernel": kernel, "bias": np.zeros(kernel.shape[1], "f"), **more}}
    return np.asarray(layer.apply(params, jnp.eye(kernel.shape[0])))


def test_columns_of_a_weight_norm_layer_have_the_length_that_it_learns():
    layer = layers.Dense(4, jax.nn.initializers.normal(), weight_norm=True)
    kernel, g = RNG.normal(size=(6, 4)).astype("f"), np.float32([0.5, 1.0, 2.0, 7.0])
    matrix = effective(layer, kernel, scale=g)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), g, rtol=1e-5)
    np.testing.assert_allclose(matrix / g, kernel / np.linalg.norm(kernel, axis=0), rtol=1e-4, atol=1e-6)
    assert np.abs(np.linalg.norm(kernel, axis=0) - g).max() > 0.5  # the mutant: the plain layer
    assert np.isfinite(
        jax.grad(lambda k: layer.apply({"params": {"kernel": k, "bias": g, "scale": g}}, k).sum())(jnp.zeros((4, 4)))
    ).all()


def test_a_weight_norm_network_starts_as_the_plain_one():
    plain, normed = (MLPNet(hid_layers=(8, 8), weight_norm=on) for on in (False, True))
    results = []
    for spec in (plain, normed):
        net = build(spec, BOX, (Head(2, "critic"),))
        params = started(net, spec)
        results.append((params, outputs(net, params, OBS)[0]))
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
    assert param_count(results[1][0]) == param_count(results[0][0]) + 8 + 8


@pytest.mark.parametrize("shape", [(4, 64), (64, 64), (256, 32)])
def test_spectral_norm_leaves_no_singular_value_above_one(shape):
    layer = layers.Dense(shape[1], jax.nn.initializers.normal(), spectral_norm=True)
    for scale in (0.01, 30.0):
        kernel = (scale * RNG.normal(size=shape)).astype("f")
        largest = np.linalg.svd(effective(layer, kernel), compute_uv=False)[0]
        assert 0.9999 <= largest <= 1.02


def test_the_gradient_of_the_largest_singular_value_is_that_of_its_vectors():
    u, _, v = np.linalg.svd(RNG.normal(size=(5, 4)), full_matrices=False)
    matrix = (u * [3.0, 1.0, 0.5, 0.1]) @ v
    value, slope = jax.value_and_grad(layers.largest_singular_value)(jnp.float32(matrix))
    np.testing.assert_allclose(value, 3.0, rtol=1e-5)
    np.testing.assert_allclose(slope, np.outer(u[:, 0], v[0]), atol=1e-4)


def test_only_the_last_hidden_layer_is_divided():
    keys = {"hid_layers": (6, 5), "hid_layers_activation": "identity"}
    spec = MLPNet(**keys, spectral_norm=True)
    net = build(spec, BOX, (Head(2, "critic"),))
    params = drawn_params(net, spec)
    (first, b1), (second, b2), (head, b3) = (dense(params, i) for i in range(3))
    divided = second / np.linalg.svd(second, compute_uv=False)[0]
    expected = ((OBS @ first + b1) @ divided + b2) @ head + b3
    np.testing.assert_allclose(outputs(net, params, OBS)[0], expected, rtol=0.02, atol=0.02)
    plain = outputs(build(MLPNet(**keys), BOX, (Head(2, "critic"),)), params, OBS)[0]  # the mutant
    assert np.abs(plain - expected).max() > 0.2


def test_spectral_norm_without_a_hidden_layer_is_an_error():
    with pytest.raises(SpecError) as error:
        build(MLPNet(hid_layers=(), spectral_norm=True), BOX, (Head(1, "critic"),))
    assert error.value.path == "agent.net.spectral_norm"
    build(MLPNet(hid_layers=(), head_hid_layers=(3,), spectral_norm=True), BOX, (Head(1, "critic"),))


# ------------------------------------------------------------------------------------------------------------ dueling

ACTIONS, ATOMS = 3, 4
KEYS = {"fc_hid_layers": (5,), "rnn_hidden_size": 4}
MLPS = ("MLPNet", "DuelingMLPNet")


@cache
def dueling(atoms):
    spec = MLPNet(type="DuelingMLPNet", hid_layers=(6,))
    net = build(spec, BOX, (Head(ACTIONS * atoms, "critic", actions=None if atoms == 1 else ACTIONS),))
    return net, drawn_params(net, spec)


def numpy_duel(value, advantage):
    """`[B, atoms]` and `[B, actions, atoms]`, one number at a time."""
    q = np.empty_like(advantage)
    for b, a, k in np.ndindex(*advantage.shape):
        q[b, a, k] = value[b, k] + advantage[b, a, k] - sum(advantage[b, i, k] for i in range(ACTIONS)) / ACTIONS
    return q


@pytest.mark.parametrize("atoms", [1, ATOMS])
def test_a_dueling_critic_is_a_value_and_centred_advantages(atoms):
    net, params = dueling(atoms)
    x = np.tanh(OBS @ dense(params, 0)[0] + dense(params, 0)[1])
    value, advantage = (x @ dense(params, i)[0] + dense(params, i)[1] for i in (1, 2))
    assert value.shape == (7, atoms)
    expected = numpy_duel(value, advantage.reshape(7, ACTIONS, atoms)).reshape(7, -1)
    np.testing.assert_allclose(outputs(net, params, OBS)[0], expected, rtol=1e-4, atol=1e-5)
    assert param_count(params) == (3 * 6 + 6) + (6 * atoms + atoms) + (6 * ACTIONS * atoms + ACTIONS * atoms)


def moved(params, i, by):
    changed = jax.tree.map(np.array, params)
    changed["params"][f"Dense_{i}"]["bias"] += by
    return changed


@pytest.mark.parametrize("atoms", [1, ATOMS])
def test_a_constant_added_to_all_advantages_changes_nothing(atoms, monkeypatch):
    net, params = dueling(atoms)
    before = outputs(net, params, OBS)[0]
    np.testing.assert_allclose(outputs(net, moved(params, 2, 5.0), OBS)[0], before, atol=1e-4)
    np.testing.assert_allclose(outputs(net, moved(params, 1, 5.0), OBS)[0], before + 5.0, atol=1e-4)
    mutant = lambda v, a, n: (v[..., None, :] + a.reshape(*a.shape[:-1], n, -1)).reshape(a.shape)  # noqa: E731
    monkeypatch.setattr(layers, "duel", mutant)
    assert np.abs(outputs(net, moved(params, 2, 5.0), OBS)[0] - before).max() > 1.0


def test_a_constant_for_one_atom_is_centred_within_that_atom():
    net, params = dueling(ATOMS)
    before = np.asarray(outputs(net, params, OBS)[0]).reshape(7, ACTIONS, ATOMS)
    by = np.zeros((ACTIONS, ATOMS), "f")
    by[1, 2] = 3.0
    after = np.asarray(outputs(net, moved(params, 2, by.reshape(-1)), OBS)[0]).reshape(7, ACTIONS, ATOMS)
    expected = np.zeros((ACTIONS, ATOMS))
    expected[:, 2] = [-1.0, 2.0, -1.0]
    np.testing.assert_allclose(after - before, np.broadcast_to(expected, after.shape), atol=1e-4)


def test_actors_are_no_duels_and_values_of_states_are_refused_one():
    plain, duelling = (
        started(build(spec, BOX, (Head(4, "actor"),)), spec)
        for spec in (MLPNet(hid_layers=(6,), type=name) for name in MLPS)
    )
    assert jax.tree.structure(plain) == jax.tree.structure(duelling)
    jax.tree.map(np.testing.assert_array_equal, plain, duelling)
    for head in (Head(1, "critic"), Head(5, "critic", actions=1)):
        with pytest.raises(SpecError, match="puts out one number") as error:
            build(MLPNet(type="DuelingMLPNet"), BOX, (Head(4, "actor"), head))
        assert error.value.path == "agent.net.type"


@pytest.mark.parametrize("which", ["PPO", "Reinforce", "SARSA"])
def test_an_algorithm_without_action_values_takes_no_dueling_network(which):
    spec = spec_of(which, "CartPole-v1", 1000, net={"type": "DuelingMLPNet"})
    if which == "SARSA":
        make_agent(spec)
    else:
        with pytest.raises(SpecError, match="expected a plain network, got DuelingMLPNet"):
            make_agent(spec)


def test_a_dueling_network_may_remember():
    net = build(RecurrentNet(type="DuelingRecurrentNet", **KEYS), BOX, (Head(ACTIONS, "critic"),), recurrent=True)
    plain = build(RecurrentNet(**KEYS), BOX, (Head(ACTIONS, "critic"),), recurrent=True)
    one, other = (jax.eval_shape(n.init, jax.random.key(0), RecurrentNet(**KEYS)) for n in (net, plain))
    assert param_count(one) - param_count(other) == 4 + 1  # the value of a state from 4 cells


def test_streams_may_have_hidden_layers_of_their_own():
    spec = MLPNet(type="DuelingMLPNet", hid_layers=(), head_hid_layers=(4,), critic_init_std=0.5)
    params = started(build(spec, BOX, (Head(2, "critic"),)), spec)
    assert param_count(params) == (3 * 4 + 4) + (4 * 1 + 1) + (3 * 4 + 4) + (4 * 2 + 2)
    for i in (1, 3):
        np.testing.assert_allclose(np.linalg.svd(dense(params, i)[0], compute_uv=False), 0.5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- batch renormalising


class NumpyRenorm:
    """Algorithm 1 of Ioffe 2017 in float64, one feature at a time."""

    def __init__(self, features, warmup, momentum=0.01, eps=1e-5, r_max=3.0, d_max=5.0):
        self.mean, self.deviation, self.batches = np.zeros(features), np.ones(features), 0
        self.warmup, self.momentum, self.eps, self.r_max, self.d_max = warmup, momentum, eps, r_max, d_max
        self.clipped = set()

    def train(self, x, weight):
        out = np.empty_like(x)
        for j in range(x.shape[1]):
            column = x[weight > 0, j]
            mean = column.sum() / len(column)
            deviation = (((column - mean) ** 2).sum() / len(column) + self.eps) ** 0.5
            r, d = deviation / self.deviation[j], (mean - self.mean[j]) / self.deviation[j]
            self.clipped |= {("r", r > self.r_max, r < 1 / self.r_max), ("d", d > self.d_max, d < -self.d_max)}
            r, d = min(max(r, 1 / self.r_max), self.r_max), min(max(d, -self.d_max), self.d_max)
            r, d = (r, d) if self.batches >= self.warmup else (1.0, 0.0)
            out[:, j] = (x[:, j] - mean) / deviation * r + d
            self.mean[j] += self.momentum * (mean - self.mean[j])
            self.deviation[j] += self.momentum * (deviation - self.deviation[j])
        self.batches += 1
        return out

    def infer(self, x):
        return (x - self.mean) / self.deviation


def batches(count, rows=8):
    """Features whose moments wander so far that r and d are clipped at both ends."""
    scale = np.float64([10.0, 0.05, 1.0, 1.0, 1.0])
    shift = np.float64([0.0, 0.0, 40.0, -40.0, 0.3])
    return [(RNG.normal(size=(rows, 5)) * scale + shift).astype("f") for _ in range(count)]


@pytest.mark.parametrize("masked", [False, True], ids=["all rows", "some rows"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_batch_renorm_is_ioffes_algorithm(warmup, masked):
    module, oracle = BatchRenorm(warmup=warmup), NumpyRenorm(5, warmup)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 5)))
    scale, bias = RNG.normal(size=5).astype("f"), RNG.normal(size=5).astype("f")
    variables = {**variables, "params": {"scale": scale, "bias": bias}}
    train = jax.jit(lambda v, x, w: module.apply(v, x, train=True, weight=w, mutable=["batch_stats"]))
    for x in batches(8):
        weight = (RNG.random(8) < 0.6).astype("f") if masked else np.ones(8, "f")
        weight[0] = 1.0
        infer = module.apply(variables, x)
        np.testing.assert_allclose(infer, scale * oracle.infer(np.float64(x)) + bias, rtol=1e-4, atol=1e-4)
        got, moved_ = train(variables, x.reshape(2, 4, 5), weight.reshape(2, 4))
        expected = scale * oracle.train(np.float64(x), weight) + bias
        np.testing.assert_allclose(got.reshape(8, 5), expected, rtol=1e-3, atol=1e-3)
        variables = {**variables, **moved_}
        stats = variables["batch_stats"]
        np.testing.assert_allclose(stats["mean"], oracle.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["deviation"], oracle.deviation, rtol=1e-4)
        assert stats["batches"] == oracle.batches
    for kind in "rd":  # neither limit was idle
        assert {(kind, True, False), (kind, False, True), (kind, False, False)} <= oracle.clipped


def test_batch_renorm_starts_as_batch_norm_and_ends_as_what_acts():
    x = jnp.float32(0.5 + 1.5 * RNG.normal(size=(64, 3)))
    fresh = BatchRenorm(warmup=5)
    variables = fresh.init(jax.random.key(0), x)
    out, _ = fresh.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(out.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1.0, rtol=1e-4)
    warm, _ = BatchRenorm(warmup=0).apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(warm, fresh.apply(variables, x), rtol=1e-4, atol=1e-5)  # nothing is clipped
    assert np.abs(warm - out).max() > 0.1


def test_a_gradient_takes_the_batch_into_account_and_leaves_the_statistics_alone():
    x = jnp.float32(RNG.normal(size=(16, 2)))
    module = BatchRenorm(warmup=0)
    variables = module.init(jax.random.key(0), x)
    loss = lambda v, x, t: jnp.sum(module.apply(v, x, train=t, mutable=["batch_stats"])[0] ** 3)  # noqa: E731
    for train in (True, False):
        assert all((g == 0).all() for g in jax.tree.leaves(jax.grad(loss)(variables, x, train)["batch_stats"]))
    shift = jax.grad(lambda c: loss(variables, x + c, True))(jnp.zeros(2))
    np.testing.assert_allclose(shift, 0.0, atol=1e-3)  # the mean of the batch moves along
    assert np.abs(jax.grad(lambda c: loss(variables, x + c, False))(jnp.zeros(2))).min() > 0.1


def renormed(warmup=0):
    spec = MLPNet(hid_layers=(6,), batch_renorm=True, batch_renorm_warmup=warmup)
    net = build(spec, BOX, (Head(2, "critic"),), statistics=True)
    return net, jax.tree.map(jnp.asarray, shaken(started(net, spec)))


def test_a_network_learns_its_statistics_and_acts_by_them():
    net, params = renormed()
    learn, data = jax.jit(net.learn), 2.0 + 3.0 * RNG.normal(size=(400, 32, 3)).astype("f")
    for obs in data:
        before, (outs, params) = params, learn(params, obs)
    stats = params["batch_stats"]["BatchRenorm_0"]
    np.testing.assert_allclose(stats["mean"], 2.0, atol=0.3)
    np.testing.assert_allclose(stats["deviation"], 3.0, atol=0.3)
    np.testing.assert_allclose(outs[0], outputs(net, before, data[-1])[0], rtol=1e-2, atol=1e-2)
    jax.tree.map(np.testing.assert_array_equal, before["params"], params["params"])
    again = jax.jit(net.apply)(params, data[0], ())
    jax.tree.map(np.testing.assert_array_equal, again, jax.jit(net.apply)(params, data[0], ()))


def test_convolutions_are_renormalised_by_channel_over_rows_and_pixels():
    spec = ConvNet(conv_hid_layers=((4, 2),), fc_hid_layers=(6,), batch_renorm=True)
    net = build(spec, IMAGE, (Head(2, "critic"),), statistics=True)
    params = started(net, spec)
    obs = RNG.integers(0, 255, (6, 5, 5, 2)).astype("uint8")
    weight = np.float32([1, 0.5, 1, 1, 0, 0])
    odd = obs.copy()
    odd[4:] = 255 - odd[4:]
    (outs, one), (outs_odd, other) = (jax.jit(net.learn)(params, x, weight) for x in (obs, odd))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    np.testing.assert_array_equal(outs[0][:4], outs_odd[0][:4])
    layer = params["params"]["Convolution_0"]
    seen = np.maximum(np.asarray(by_xla(obs / 255.0, layer["kernel"], ConvLayer(4, 2))) + layer["bias"], 0.0)
    mean = np.average(seen.mean((1, 2)), axis=0, weights=weight)
    np.testing.assert_allclose(one["batch_stats"]["BatchRenorm_0"]["mean"], 0.01 * mean, rtol=1e-4)
    assert one["batch_stats"]["BatchRenorm_1"]["mean"].shape == (6,)
    acted = jax.jit(net.apply)(one, obs, ())[0][0]
    assert acted.shape == (6, 2)
    assert np.abs(acted - outs[0]).max() > 0.1  # by the running statistics, which are far behind


def test_rows_without_weight_enter_no_statistic():
    net, params = renormed()
    obs = RNG.normal(size=(8, 3)).astype("f")
    weight = np.float32([1, 1, 1, 1, 0, 0, 0, 0])
    odd = obs.copy()
    odd[4:] = 1e6
    (outs, one), (outs_odd, other) = net.learn(params, obs, weight), net.learn(params, odd, weight)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    np.testing.assert_array_equal(outs[0][:4], outs_odd[0][:4])
    _, idle = net.learn(params, odd, np.zeros(8, "f"))
    for layer, stats in idle["batch_stats"].items():
        np.testing.assert_array_equal(stats["mean"], params["batch_stats"][layer]["mean"])
        np.testing.assert_array_equal(stats["deviation"], params["batch_stats"][layer]["deviation"])


def test_an_optimiser_does_not_touch_the_statistics_that_are_kept():
    net, params = renormed()
    transformation = optimizer(OptimSpec(name="AdamW", lr=0.1, weight_decay=0.5), 1.0)

    def loss(params):
        outs, learned = net.learn(params, OBS)
        return jnp.sum(outs[0] ** 2), learned

    @jax.jit
    def step(params):
        gradient, learned = jax.grad(loss, has_aux=True)(params)
        return gradient, learned, descend(transformation, gradient, transformation.init(params), params)[0]

    gradient, learned, stepped = step(params)
    kept = keep_statistics(stepped, learned)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], learned["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, kept["params"], stepped["params"])
    decayed = stepped["batch_stats"]["BatchRenorm_0"]["deviation"]
    assert np.abs(decayed - learned["batch_stats"]["BatchRenorm_0"]["deviation"]).max() > 0.01  # without keeping them
    assert optax.tree.norm(gradient["params"]) > 0
    plain = {"params": params["params"]}
    assert keep_statistics(plain, plain) is plain


def test_statistics_are_refused_where_nobody_moves_them():
    space, networks = Discrete(2), partial(build_actor_critic, critic=True, recurrent=False)
    for make in (
        lambda spec: build(spec, BOX, (Head(1, "critic"),)),
        lambda spec: networks(spec, BOX, action_head("default", space), space),
    ):
        with pytest.raises(SpecError) as error:
            make(MLPNet(batch_renorm=True))
        assert error.value.path == "agent.net.batch_renorm"
    assert build(MLPNet(), BOX, (Head(1, "critic"),), statistics=True).learn is None
