"""Networks as pure functions: initialisers, optimisers, inputs of every space, separate and shared actor-critics."""

import os
import subprocess
import sys
import textwrap
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import LIMIT
from scipy import stats
from trees import descend, param_count

from slmjax.nets import inputs
from slmjax.nets.actor_critic import actor_critic_optimizer, build_actor_critic
from slmjax.nets.initializers import activation, initializer, orthogonal
from slmjax.nets.mlp import MLPNet
from slmjax.nets.network import build
from slmjax.nets.optim import OptimSpec, optimizer
from slmjax.policies.heads import action_head
from slmjax.types import Box, Dict, Discrete, Head, MultiBinary, MultiDiscrete, SpecError

FAIR, ABSURD = 1e-3, 1e-9

# ------------------------------------------------------------------------------------------------------- initialisers

SHAPES = {"tall": (64, 8), "wide": (8, 64), "square": (16, 16), "one output": (64, 1), "conv": (3, 3, 4, 32)}


@cache
def orthogonals():
    """Every shape for several gains, in one program: `[gain, *shape]` by name."""
    key = jax.random.key(0)
    every = jax.jit(jax.vmap(lambda gain: {name: orthogonal(gain)(key, shape) for name, shape in SHAPES.items()}))
    return every(jnp.array(GAINS))


GAINS = (1.0, 2.0**0.5, 0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_orthogonal_is_orthogonal_up_to_its_gain(name):
    shape = SHAPES[name]
    for gain, made in zip(GAINS, orthogonals()[name], strict=True):
        assert made.shape == shape
        assert made.dtype == jnp.float32
        q = np.asarray(made, np.float64).reshape(-1, shape[-1]) / gain
        thin = q if q.shape[0] >= q.shape[1] else q.T
        np.testing.assert_allclose(thin.T @ thin, np.eye(thin.shape[1]), atol=1e-5)
        np.testing.assert_allclose(np.linalg.svd(q, compute_uv=False), 1.0, atol=1e-5)


def numpy_haar(rng, many, n):
    """`many` matrices from the Haar measure by LAPACK's QR with the signs of R made positive (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(many, n, n)))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def test_orthogonal_is_distributed_as_haar():
    n, many = 4, 4000
    ours = np.asarray(jax.jit(jax.vmap(lambda k: orthogonal()(k, (n, n))))(jax.random.split(jax.random.key(1), many)))
    theirs = numpy_haar(np.random.default_rng(0), many, n)
    error = 4 / np.sqrt(many)  # four deviations of a mean, at most
    np.testing.assert_allclose(ours.mean(0), 0.0, atol=error / np.sqrt(n))
    np.testing.assert_allclose((ours**2).mean(0), 1 / n, atol=error / n)
    np.testing.assert_allclose((ours**4).mean(), 3 / (n * (n + 2)), atol=2e-3)  # fourth moment of Haar
    assert stats.ks_2samp(np.trace(ours, axis1=1, axis2=2), np.trace(theirs, axis1=1, axis2=2)).pvalue > FAIR
    for i, j in ((0, 0), (1, 2), (3, 3)):
        assert stats.ks_2samp(ours[:, i, j], theirs[:, i, j]).pvalue > FAIR
    assert abs((np.linalg.det(ours) > 0).mean() - 0.5) < error
    raw = np.linalg.qr(np.random.default_rng(0).normal(size=(many, n, n)))[0]  # the mutant: LAPACK's signs, not Haar
    assert stats.ks_2samp(np.trace(raw, axis1=1, axis2=2), np.trace(theirs, axis1=1, axis2=2)).pvalue < ABSURD


DEADLOCK = """
    import jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    from jax.sharding import AxisType, Mesh, PartitionSpec
    from slmjax.nets.mlp import MLPNet, build
    from slmjax.types import Box, Head

    assert len(jax.devices()) == 2
    spec = MLPNet(init_fn="orthogonal", actor_init_std=0.01, critic_init_std=1.0)
    net = build(spec, Box(-1, 1, (4,)), (Head(2, "actor"), Head(1, "critic")))
    mesh = Mesh(np.array(jax.devices()), ("session",), axis_types=(AxisType.Auto,))
    each = PartitionSpec("session")
    init = jax.vmap(lambda k: net.init(k, spec))
    init = jax.jit(jax.shard_map(init, mesh=mesh, in_specs=each, out_specs=each, check_vma=False))
    for sessions in (2, 8):
        params = jax.block_until_ready(init(jax.random.split(jax.random.key(0), sessions)))
        kernel = np.asarray(params["params"]["Dense_1"]["kernel"])
        assert np.allclose(np.einsum("sij,sik->sjk", kernel, kernel), 2 * np.eye(64), atol=1e-4)
        assert len({k.tobytes() for k in kernel}) == sessions
    print("finished")
"""


def test_orthogonal_sessions_on_two_cpu_devices_do_not_deadlock():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(DEADLOCK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, env=environment)
    assert done.stdout == "finished\n", done.stderr


INITIALIZERS = """orthogonal glorot_normal glorot_uniform he_normal he_uniform kaiming_normal kaiming_uniform
    lecun_normal lecun_uniform normal truncated_normal uniform variance_scaling xavier_normal
    xavier_uniform ones zeros""".split()


def test_every_initialiser_works():
    def kernels(key):
        return [initializer(name, 1.0)(key, (32, 16), jnp.float32) for name in (*INITIALIZERS, None)]

    made = dict(zip((*INITIALIZERS, None), jax.jit(kernels)(jax.random.key(0)), strict=True))
    for name, kernel in made.items():
        assert kernel.shape == (32, 16)
        assert np.isfinite(kernel).all()
        assert (np.std(kernel) > 0) == (name not in ("ones", "zeros"))
    assert (made["ones"] == 1).all()
    assert (made["zeros"] == 0).all()
    np.testing.assert_array_equal(made[None], made["lecun_normal"])


ACTIVATIONS = {  # name -> its value at -1 and at 2, by hand where a line suffices
    "relu": (0, 2),
    "tanh": (np.tanh(-1), np.tanh(2)),
    "identity": (-1, 2),
    None: (-1, 2),
    "sigmoid": (1 / (1 + np.e), 1 / (1 + np.exp(-2))),
    "silu": (-1 / (1 + np.e), 2 / (1 + np.exp(-2))),
    "swish": (-1 / (1 + np.e), 2 / (1 + np.exp(-2))),
    "elu": (np.exp(-1) - 1, 2),
    "celu": (np.exp(-1) - 1, 2),
    "leaky_relu": (-0.01, 2),
    "relu6": (0, 2),
    "softplus": (np.log1p(np.exp(-1)), np.log1p(np.exp(2))),
    "log_sigmoid": (-np.log1p(np.e), -np.log1p(np.exp(-2))),
    "soft_sign": (-0.5, 2 / 3),
    "hard_tanh": (-1, 1),
    "squareplus": ((-1 + 5**0.5) / 2, (2 + 8**0.5) / 2),
    "hard_sigmoid": (1 / 3, 5 / 6),
    "hard_silu": (-1 / 3, 5 / 3),
    "hard_swish": (-1 / 3, 5 / 3),
    "selu": (1.0507 * 1.67326 * (np.exp(-1) - 1), 1.0507 * 2),
    "mish": (-np.tanh(np.log1p(np.exp(-1))), 2 * np.tanh(np.log1p(np.exp(2)))),
    "gelu": (-0.1588, 1.9546),
}


def test_every_activation_is_what_its_name_says():
    values = jax.jit(lambda x: [activation(name)(x) for name in ACTIVATIONS])(jnp.array([-1.0, 2.0]))
    for name, got in zip(ACTIVATIONS, values, strict=True):
        np.testing.assert_allclose(got, ACTIVATIONS[name], rtol=1e-3, err_msg=str(name))


UNKNOWN = [
    (lambda: initializer("orthogonl", 1.0), "'orthogonal'"),
    (lambda: initializer("xavier_unifrm", 1.0), "'xavier_uniform'"),
    (lambda: activation("rleu"), "'relu'"),
    (lambda: activation("Tanh"), "'tanh'"),
    (lambda: optimizer(OptimSpec(name="Adm")), "'adam'"),
    (lambda: optimizer(OptimSpec(name="rmspropp")), "'rmsprop'"),
    (lambda: build(MLPNet(hid_layers_activation="softpls"), Discrete(2), (Head(1, "critic"),)), "'softplus'"),
    (lambda: build(MLPNet(init_fn="zeroes"), Discrete(2), (Head(1, "critic"),)), "'zeros'"),
]


@pytest.mark.parametrize(("make", "nearest"), UNKNOWN)
def test_an_unknown_name_is_an_error_that_says_the_nearest(make, nearest):
    with pytest.raises(SpecError, match=f"Did you mean {nearest}"):
        make()


# --------------------------------------------------------------------------------------------------------- optimisers

OPTIMIZERS = """AdaBelief Adadelta AdaGrad Adam AdaMax AdaMaxW AdamW AMSGrad LAMB Lion NAdam NAdamW NovoGrad
    RAdam RMSprop SGD sm3 Yogi""".split()
PARAMS = {"w": np.float32([[1.0, -2.0], [0.5, 3.0]]), "b": np.float32([0.1, -0.2])}
GRADIENT = {"w": np.float32([[30.0, -0.4], [0.0, 5.0]]), "b": np.float32([-12.0, 0.3])}


def after(transformation, steps=1):
    @jax.jit
    def walk():
        params, state = jax.tree.map(jnp.array, PARAMS), transformation.init(PARAMS)
        for _ in range(steps):
            params, state = descend(transformation, GRADIENT, state, params)
        return params

    return walk()


@cache
def walks():
    """Parameters after two steps of every optimiser with a small and a large rate, in one program."""
    walk = lambda lr: {name: after(optimizer(OptimSpec(name=name, lr=lr)), steps=2) for name in OPTIMIZERS}  # noqa: E731
    return jax.jit(jax.vmap(walk))(jnp.array([1e-3, 1e-1]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_moves_every_parameter_with_its_learning_rate(name):
    for leaf in ("w", "b"):
        moved = np.asarray(walks()[name][leaf]) - PARAMS[leaf]
        assert np.isfinite(moved).all()
        assert (moved[0] != 0).any()
        assert np.abs(moved[1]).max() > 10 * np.abs(moved[0]).max()


def test_sgd_and_adam_take_the_step_of_their_papers():
    plain = after(optimizer(OptimSpec(name="SGD", lr=0.1)))
    jax.tree.map(lambda got, p, g: np.testing.assert_allclose(got, p - 0.1 * g, rtol=1e-6), plain, PARAMS, GRADIENT)
    heavy = after(optimizer(OptimSpec(name="sgd", lr=0.1, momentum=0.5)), steps=2)
    jax.tree.map(
        lambda got, p, g: np.testing.assert_allclose(got, p - 0.1 * 2.5 * g, rtol=1e-6), heavy, PARAMS, GRADIENT
    )
    adam = after(optimizer(OptimSpec(name="Adam", lr=0.1, b1=0.8, b2=0.9, eps=1e-2)))
    by_hand = lambda p, g: p - 0.1 * g / (abs(g) + 1e-2)  # noqa: E731 the first step, bias corrected
    jax.tree.map(lambda got, p, g: np.testing.assert_allclose(got, by_hand(p, g), rtol=1e-5), adam, PARAMS, GRADIENT)


@pytest.mark.parametrize(
    ("name", "key"),
    [("Adam", "momentum"), ("SGD", "b1"), ("Adam", "weight_decay"), ("Adagrad", "decay"), ("RMSprop", "b2")],
)
def test_a_key_that_an_optimiser_does_not_take_is_an_error(name, key):
    with pytest.raises(SpecError, match=f"{name}.*'{key}'"):
        optimizer(OptimSpec(name=name, **{key: 0.5}))


def test_a_gradient_is_clipped_by_its_global_norm():
    norm = np.sqrt(sum(float((np.float64(g) ** 2).sum()) for g in GRADIENT.values()))
    assert norm > 0.5
    clipped = after(optimizer(OptimSpec(name="SGD", lr=1.0), 0.5))
    for leaf in PARAMS:
        expected = np.asarray(PARAMS[leaf]) - np.asarray(GRADIENT[leaf]) * 0.5 / norm
        np.testing.assert_allclose(clipped[leaf], expected, rtol=1e-5, atol=1e-6)
    elementwise = after(optax.chain(optax.clip(0.5), optax.sgd(1.0)))  # the mutants
    each_leaf = after(optax.chain(optax.clip_by_block_rms(0.5), optax.sgd(1.0)))
    for mutant in (elementwise, each_leaf):
        assert any(np.abs(mutant[leaf] - clipped[leaf]).max() > 0.01 for leaf in PARAMS)
    whole = after(optimizer(OptimSpec(name="SGD", lr=1.0), 2 * norm))
    unclipped = after(optimizer(OptimSpec(name="SGD", lr=1.0)))
    jax.tree.map(np.testing.assert_array_equal, whole, unclipped)


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD"])
def test_sessions_with_different_learning_rates_share_a_program(name):
    rates = np.float32([1e-3, 1e-2, 0.0])
    step = jax.jit(jax.vmap(lambda lr, clip: after(optimizer(OptimSpec(name=name, lr=lr), clip))))
    moved = step(rates, jnp.full(3, 100.0))["w"] - PARAMS["w"]
    assert np.abs(moved[0]).max() > 0
    np.testing.assert_allclose(moved[1], 10 * moved[0], rtol=1e-2, atol=1e-5)
    assert (moved[2] == 0).all()


# ------------------------------------------------------------------------------------------------------------- inputs

SPACES = {  # space, value, what a dense layer reads
    "discrete": (Discrete(4), 2, [0, 0, 1, 0]),
    "box": (Box(-9, 9, (2, 2)), [[1, 2], [3, -4]], [1, 2, 3, -4]),
    "box scalar": (Box(-9, 9), 7.5, [7.5]),
    "image": (Box(0, 255, (1, 2, 2), jnp.uint8), np.uint8([[[0, 255], [51, 102]]]), [0, 1, 0.2, 0.4]),
    "image, dtype in words": (Box(0, 255, (2,), "uint8"), np.uint8([51, 255]), [0.2, 1]),
    "integers that are no bytes": (Box(0, 255, (2,), jnp.int32), np.int32([51, 255]), [51, 255]),
    "multi-discrete": (MultiDiscrete((2, 3)), [1, 0], [0, 1, 1, 0, 0]),
    "multi-binary": (MultiBinary(3), [1, 0, 1], [1, 0, 1]),
    "dict": (Dict({"b": Discrete(2), "a": Box(-9, 9, (1,))}), {"a": [0.5], "b": 1}, [0.5, 0, 1]),
    "nested": (
        Dict({"z": Discrete(2), "in": Dict({"y": MultiBinary(2), "x": Box(0, 255, (1,), jnp.uint8)})}),
        {"z": 0, "in": {"y": [0, 1], "x": np.uint8([255])}},
        [1, 0, 1, 1, 0],
    ),
}


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("case", SPACES.values(), ids=SPACES)
def test_an_observation_of_any_space_becomes_one_vector(case, lead):
    space, value, expected = case
    batched = jax.tree.map(
        lambda x: np.broadcast_to(x, (*lead, *np.shape(x))),
        jax.tree.map(np.asarray, value, is_leaf=lambda x: isinstance(x, list)),
    )
    flat = inputs.flatten(space, batched)
    assert flat.shape == (*lead, inputs.size(space))
    assert flat.dtype == jnp.float32
    np.testing.assert_allclose(flat, np.broadcast_to(expected, flat.shape), rtol=1e-6)


def test_rows_of_a_batch_are_not_mixed():
    obs = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    flat = inputs.flatten(Box(-99, 99, (3,)), obs)
    np.testing.assert_array_equal(flat, obs)
    np.testing.assert_array_equal(inputs.flatten(Box(-99, 99, (2, 3)), obs), obs.reshape(4, 6))


# ------------------------------------------------------------------------------------------------------------ networks

BOX = Box(-1, 1, (3,))


def tree_shapes(params):
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def start(net, spec, seed=0):
    return jax.tree.map(np.asarray, jax.jit(net.init)(jax.random.key(seed), spec))


def started(shared, continuous=False, **keys):
    spec = MLPNet(hid_layers=(8,), shared=shared, **keys)
    return start(actor_critic(shared, continuous, **keys), spec)


def dense(params, name):
    return params["params"][name]["kernel"], params["params"][name]["bias"]


def test_a_network_is_the_chain_of_its_layers():
    spec = MLPNet(hid_layers=(5, 4))
    net = build(spec, BOX, (Head(2, "actor"), Head(1, "critic")))
    params = jax.tree.map(lambda x: x + 0.1, start(net, spec))  # biases are zero at first
    obs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    (policy, value), carry = jax.jit(net.apply)(params, obs, ())
    x = obs
    for layer in ("Dense_0", "Dense_1"):
        kernel, bias = dense(params, layer)
        x = np.tanh(x @ kernel + bias)
    np.testing.assert_allclose(
        policy, x @ dense(params, "Dense_2")[0] + dense(params, "Dense_2")[1], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        value, x @ dense(params, "Dense_3")[0] + dense(params, "Dense_3")[1], rtol=1e-4, atol=1e-5
    )
    assert carry == net.carry(6) == ()
    assert param_count(params) == (3 * 5 + 5) + (5 * 4 + 4) + (4 * 2 + 2) + (4 * 1 + 1)


def test_tails_have_gains_and_activations_of_their_own():
    spec = MLPNet(
        hid_layers=(16,), init_fn="orthogonal", init_gain=3.0, actor_init_std=0.01, out_layer_activation="sigmoid"
    )
    net = build(spec, BOX, (Head(4, "actor"), Head(2, "critic")))
    params = start(net, spec)
    gains = [np.linalg.svd(dense(params, f"Dense_{i}")[0], compute_uv=False) for i in range(3)]
    for singular, gain in zip(gains, (3.0, 0.01, 3.0), strict=True):
        np.testing.assert_allclose(singular, gain, rtol=1e-4)
    (a, b), _ = jax.jit(net.apply)(params, np.ones((1, 3), np.float32), ())
    assert ((a > 0) & (a < 1)).all()
    assert ((b > 0) & (b < 1)).all()


def test_two_keys_give_two_networks():
    spec = MLPNet(hid_layers=(4,))
    net = build(spec, BOX, (Head(1, "critic"),))
    one, again, other = (start(net, spec, k) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (dense(one, "Dense_0")[0] != dense(other, "Dense_0")[0]).any()


@cache
def actor_critic(shared, continuous=False, **keys):
    action = Box(-2, 5, (2,)) if continuous else Discrete(4)
    head = action_head("default", action)
    spec = MLPNet(hid_layers=(8,), shared=shared, **keys)
    return build_actor_critic(spec, BOX, head, action, critic=True, recurrent=False)


OBS = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)


@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_an_actor_critic_gives_a_policy_and_a_value(shared, continuous):
    net = actor_critic(shared, continuous, log_std_init=-0.7)
    params = started(shared, continuous, log_std_init=-0.7)
    assert set(params) == {"actor"} | ({"critic"} if not shared else set()) | ({"log_std"} if continuous else set())
    policy, value, carry = jax.jit(lambda p: net.step(p, OBS, ()))(params)
    assert value.shape == (7,)
    assert carry == net.carry(7) == ()
    if continuous:
        assert params["log_std"].shape == (2,)
        np.testing.assert_allclose(policy.scale, np.full((7, 2), np.exp(-0.7)), rtol=1e-6)


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_only_shared_layers_feel_both_losses(shared):
    net = actor_critic(shared)
    params = started(shared)
    slope = jax.jit(jax.grad(lambda p: net.step(p, OBS, ())[1].sum()))(params)
    assert np.abs(dense(slope["actor"], "Dense_0")[0]).max() > 0 or not shared
    if not shared:
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope["actor"]))
        assert np.abs(dense(slope["critic"], "Dense_0")[0]).max() > 0
    else:
        assert (dense(slope["actor"], "Dense_1")[0] == 0).all()  # the policy's head


def test_separate_networks_start_apart_and_may_differ_in_width():
    params = started(False)
    assert (dense(params["actor"], "Dense_0")[0] != dense(params["critic"], "Dense_0")[0]).any()
    wider = started(False, critic_hid_layers=(5, 6))
    assert dense(wider["actor"], "Dense_0")[0].shape == (3, 8)
    assert [dense(wider["critic"], f"Dense_{i}")[0].shape for i in range(3)] == [(3, 5), (5, 6), (6, 1)]
    linear = started(False, critic_hid_layers=())
    assert tree_shapes(linear["critic"]) == {
        "['params']['Dense_0']['bias']": (1,),
        "['params']['Dense_0']['kernel']": (3, 1),
    }


@pytest.mark.parametrize(("key", "value"), [("critic_hid_layers", (4,)), ("critic_optim_spec", OptimSpec())])
def test_a_shared_critic_has_no_keys_of_its_own(key, value):
    with pytest.raises(SpecError) as error:
        actor_critic(True, **{key: value})
    assert error.value.path == f"agent.net.{key}"


def test_a_critic_with_an_optimiser_of_its_own_uses_it():
    spec = MLPNet(optim_spec=OptimSpec(name="SGD", lr=0.1), critic_optim_spec=OptimSpec(name="SGD", lr=0.003))
    params = {"actor": jnp.ones(3), "critic": jnp.ones(3), "log_std": jnp.ones(2)}
    ones = jax.tree.map(jnp.ones_like, params)

    def step(spec):
        transformation = actor_critic_optimizer(spec)
        return descend(transformation, ones, transformation.init(params), params)[0]

    moved = jax.jit(step)(spec)
    for name, lr in (("actor", 0.1), ("log_std", 0.1), ("critic", 0.003)):
        np.testing.assert_allclose(moved[name], 1 - lr, rtol=1e-6)
    one = jax.jit(step)(MLPNet(optim_spec=OptimSpec(name="SGD", lr=0.1)))
    np.testing.assert_allclose(one["critic"], 0.9, rtol=1e-6)
    clipped = jax.jit(step)(MLPNet(optim_spec=OptimSpec(name="SGD", lr=0.1), clip_grad_val=0.5))
    np.testing.assert_allclose(clipped["critic"], 1 - 0.1 * 0.5 / np.sqrt(8), rtol=1e-6)  # one norm over everything


def test_flax_orthogonal_and_ours_agree_on_what_they_promise():
    theirs = np.asarray(nn.initializers.orthogonal(1.5)(jax.random.key(0), (12, 5)))
    ours = np.asarray(orthogonal(1.5)(jax.random.key(0), (12, 5)))
    np.testing.assert_allclose(ours.T @ ours, theirs.T @ theirs, atol=1e-5)
