"""Recurrent networks: cells against NumPy, a carry that is real, resets where episodes end, gradients through time."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import far_reset
from trees import param_count

from slmjax import schedules
from slmjax import session as sessions
from slmjax.envs import make_env, vectorize
from slmjax.lab.trial import make_agent
from slmjax.learners import minibatches
from slmjax.nets.actor_critic import build_actor_critic
from slmjax.nets.conv import ConvNet
from slmjax.nets.mlp import MLPNet
from slmjax.nets.network import build
from slmjax.nets.recurrent import RecurrentNet
from slmjax.nets.unroll import unroll, unroll_transitions
from slmjax.policies.heads import action_head
from slmjax.spec import load_spec
from slmjax.spec.sections import EnvSpec
from slmjax.types import HP, Agent, AgentState, Box, Discrete, Head, SpecError

BOX = Box(-1, 1, (3,))
T, E, H = 9, 4, 5
RNG = np.random.default_rng(0)
OBS = RNG.normal(size=(T, E, 3)).astype("f")
ENDED = RNG.random((T, E)) < 0.3
HEADS = (Head(2, "actor"), Head(1, "critic"))
CELLS = ("RNN", "GRU", "LSTM")
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@cache
def made(cell, num_layers=1, encoder=(), heads=HEADS, space=BOX, **keys):
    keys = {"rnn_hidden_size": H, "rnn_num_layers": num_layers, "fc_hid_layers": encoder, **keys}
    spec = RecurrentNet(cell_type=cell, **keys)
    net = build(spec, space, heads, recurrent=True)
    return net, random_params(net, spec)


def random_params(net, spec):
    """Parameters of the right shapes with nothing at its initial value; nothing is compiled."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), spec)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype("f"), shapes)


# -------------------------------------------------------------------------------------------------------------- cells


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def numpy_step(cell, p, x, state):
    """One step of one layer by the textbook, gate by gate, float64."""
    kernel, bias, recurrent = p["Dense_0"]["kernel"], p["Dense_0"]["bias"], p["recurrent_kernel"]
    w, b, u = (np.split(a, GATES[cell], -1) for a in (kernel, bias, recurrent))
    h = state[0]
    if cell == "RNN":
        return (np.tanh(x @ w[0] + b[0] + h @ u[0]),)
    if cell == "GRU":
        r = sigmoid(x @ w[0] + b[0] + h @ u[0])
        z = sigmoid(x @ w[1] + b[1] + h @ u[1])
        n = np.tanh(x @ w[2] + b[2] + r * (h @ u[2] + p["recurrent_bias"]))
        return ((1 - z) * n + z * h,)
    i, f, g, o = (x @ w[k] + b[k] + h @ u[k] for k in range(4))
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def numpy_unroll(cell, params, obs, ended, num_layers, resets=True):
    """Every output `[T, E, width]` of every head, one environment and one step at a time."""
    p = jax.tree.map(np.float64, params["params"])
    outs = [np.empty((*obs.shape[:2], head.width)) for head in HEADS]
    carries = np.empty((num_layers, STATES[cell], obs.shape[1], H))
    for e in range(obs.shape[1]):
        carry = [tuple(np.zeros(H) for _ in range(STATES[cell])) for _ in range(num_layers)]
        for t in range(obs.shape[0]):
            x = np.float64(obs[t, e])
            for k in range(num_layers):
                carry[k] = numpy_step(cell, p[f"Cells_{k}"], x, carry[k])
                x = carry[k][0]
            for i, out in enumerate(outs):
                out[t, e] = x @ p[f"Dense_{i}"]["kernel"] + p[f"Dense_{i}"]["bias"]
            if ended[t, e] and resets:
                carry = [tuple(np.zeros(H) for _ in layer) for layer in carry]
        carries[:, :, e] = carry
    return outs, carries


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_those_of_the_textbook_and_forget_at_the_end_of_an_episode(cell, num_layers):
    net, params = made(cell, num_layers)
    assert ENDED.any()
    assert not ENDED.all()
    outs, carry = jax.jit(partial(unroll, net))(params, OBS, net.carry(E), ENDED)
    expected, carries = numpy_unroll(cell, params, OBS, ENDED, num_layers)
    for got, wanted in zip(outs, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.asarray(carry), carries, rtol=1e-3, atol=1e-4)
    forgetful, _ = numpy_unroll(cell, params, OBS, ENDED, num_layers, resets=False)  # the mutant
    assert np.abs(forgetful[0] - outs[0]).max() > 0.05


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_of_a_recurrent_network_are_counted_by_hand(cell):
    _, params = made(cell, 2, encoder=(7,))
    layer = lambda n: GATES[cell] * (n * H + H + H * H) + (H if cell == "GRU" else 0)  # noqa: E731
    assert param_count(params) == (3 * 7 + 7) + layer(7) + layer(H) + (H * 2 + 2) + (H + 1)


def test_recurrent_weights_start_orthogonal_and_the_lstm_remembers_at_first():
    spec = RecurrentNet(cell_type="LSTM", rnn_hidden_size=6, fc_hid_layers=())
    net = build(spec, BOX, HEADS, recurrent=True)
    cells = jax.jit(net.init)(jax.random.key(0), spec)["params"]["Cells_0"]
    squares = np.split(np.asarray(cells["recurrent_kernel"]), 4, -1)
    for square in squares:
        np.testing.assert_allclose(square.T @ square, np.eye(6), atol=1e-5)
    assert np.abs(squares[0] - squares[1]).max() > 0.1
    np.testing.assert_array_equal(cells["Dense_0"]["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], 6))


@pytest.mark.parametrize("cell", CELLS)
def test_a_fresh_carry_is_zero_for_each_environment(cell):
    carry = made(cell, 2)[0].carry(3)
    assert len(carry) == 2
    for layer in carry:
        assert [x.shape for x in layer] == [(3, H)] * STATES[cell]
    assert all((x == 0).all() for x in jax.tree.leaves(carry))


# ------------------------------------------------------------------------------------------------------------- unroll


def one_by_one(net, params, obs, carry, ended, resets=True):
    """What a session does: apply, then a fresh carry where an episode ended."""
    outs, fresh = [], net.carry(ended.shape[1])
    apply = jax.jit(net.apply)
    for t in range(len(ended)):
        out, carry = apply(params, jax.tree.map(lambda x, t=t: x[t], obs), carry)
        outs.append(out)
        if resets:
            carry = jax.tree.map(lambda c, f, t=t: jnp.where(ended[t][:, None], f, c), carry, fresh)
    return jax.tree.map(lambda *x: np.stack(x), *outs), carry


def close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)


def apart(one, other):
    return max(
        np.abs(np.asarray(a) - b).max() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", ["all at once", "scanned"])
def test_unrolling_is_stepping_one_by_one(cell, way):
    net, params = made(cell, 2, encoder=(6,), head_hid_layers=(4,))
    own = net if way == "all at once" else net._replace(unroll=None)
    start = jax.tree.map(lambda x: x + 0.5, net.carry(E))  # the middle of an episode
    got = jax.jit(partial(unroll, own))(params, OBS, start, ENDED)
    close(got, one_by_one(net, params, OBS, start, ENDED))
    assert apart(got, one_by_one(net, params, OBS, start, ENDED, resets=False)) > 0.05
    assert apart(got[0], jax.jit(partial(unroll, own))(params, OBS, net.carry(E), ENDED)[0]) > 0.01


@pytest.mark.parametrize("way", ["all at once", "scanned"])
def test_a_successor_is_seen_with_the_carry_that_its_step_left(way):
    net, params = made("LSTM", 2, encoder=(6,))
    own = net if way == "all at once" else net._replace(unroll=None)
    final = np.concatenate([OBS[1:], OBS[:1]]) + 10.0 * ENDED[..., None]
    final = final.astype("f")
    outs, successors, carry = jax.jit(partial(unroll_transitions, own))(params, OBS, final, net.carry(E), ENDED)
    close((outs, carry), jax.jit(partial(unroll, net))(params, OBS, net.carry(E), ENDED))
    within = ~ENDED[:-1]
    for now, then in zip(
        outs, successors, strict=True
    ):  # inside of an episode the next output is that of the successor
        np.testing.assert_allclose(np.asarray(then)[:-1][within], np.asarray(now)[1:][within], rtol=1e-4, atol=1e-5)
    state, apply = net.carry(E), jax.jit(net.apply)
    for t in range(T):  # and at its end, that of the successor with nothing forgotten
        _, left = apply(params, OBS[t], state)
        close(apply(params, final[t], left)[0], jax.tree.map(lambda x, t=t: x[t], successors))
        state = jax.tree.map(lambda c, t=t: jnp.where(ENDED[t][:, None], 0.0, c), left)


def test_a_feed_forward_network_is_applied_to_all_steps_at_once():
    spec = MLPNet(hid_layers=(6,))
    net = build(spec, BOX, HEADS)
    params = jax.jit(net.init)(jax.random.key(0), spec)
    outs, carry = unroll(net, params, OBS, (), ENDED)
    close(outs, net.apply(params, OBS, ())[0])
    assert carry == ()
    _, successors, carry = unroll_transitions(net, params, OBS, OBS + 1.0, (), ENDED)
    close(successors, net.apply(params, OBS + 1.0, ())[0])
    assert carry == ()


@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_flows_back_through_time_but_not_beyond_an_episode(cell):
    net, params = made(cell)
    ended = np.zeros((T, E), bool)
    ended[4, 0] = True

    def last(obs):
        return unroll(net, params, obs, net.carry(E), ended)[0][0][-1].sum()

    slope = np.abs(jax.jit(jax.grad(last))(OBS)).max(-1)
    assert (slope[:5, 0] == 0).all()
    assert (slope[5:, 0] > 0).all()
    assert (slope[:, 1:] > 0).all()


def test_images_may_be_convolved_before_the_cells():
    space = Box(0, 255, (5, 5, 1), jnp.uint8)
    net, params = made("GRU", space=space, conv_hid_layers=((2, 3),), encoder=(4,))
    obs = RNG.integers(0, 256, (T, E, 5, 5, 1), dtype=np.uint8)
    got = jax.jit(partial(unroll, net))(params, obs, net.carry(E), ENDED)
    close(got, one_by_one(net, params, obs, net.carry(E), ENDED))
    gru = 3 * (4 * H + H + H * H) + H
    assert param_count(params) == (9 * 2 + 2) + (18 * 4 + 4) + gru + (H * 2 + 2) + (H + 1)
    with pytest.raises(SpecError, match="expected an observation with an image"):
        build(RecurrentNet(conv_hid_layers="nature"), BOX, HEADS, recurrent=True)


# ------------------------------------------------------------------------------------------------------- actor-critics


@cache
def actor_critic(shared, net_type=RecurrentNet):
    keys = {"hid_layers": (6,)} if net_type is MLPNet else {"fc_hid_layers": (6,), "rnn_hidden_size": H}
    spec = net_type(shared=shared, **keys)
    net = build_actor_critic(spec, BOX, action_head("default", Discrete(3)), Discrete(3), critic=True, recurrent=True)
    return net, random_params(net, spec)


@pytest.mark.parametrize("net_type", [RecurrentNet, MLPNet])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_an_actor_critic_over_time_is_its_steps(shared, net_type):
    net, params = actor_critic(shared, net_type)
    fresh = net.carry(E)
    if net_type is MLPNet:
        assert fresh == ()
    else:
        assert set(fresh) == ({"actor"} if shared else {"actor", "critic"})
    policy, value, carry = jax.jit(net.unroll)(params, OBS, fresh, ENDED)
    assert policy.logits.shape == (T, E, 3)
    assert value.shape == (T, E)
    step, state, steps = jax.jit(net.step), fresh, []
    for t in range(T):
        pi, v, state = step(params, OBS[t], state)
        steps.append((pi.logits, v))
        state = jax.tree.map(lambda c, f, t=t: jnp.where(ENDED[t][:, None], f, c), state, fresh)
    close((policy.logits, value), jax.tree.map(lambda *x: np.stack(x), *steps))
    close(carry, state)
    close(jax.jit(net.values)(params, OBS, OBS, fresh, ENDED)[0], value)


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_an_actor_critic_bootstraps_with_what_it_remembers(shared):
    net, params = actor_critic(shared)
    final = np.concatenate([OBS[1:], OBS[:1]])
    v_tm1, v_t = jax.jit(net.values)(params, OBS, final, net.carry(E), ENDED)
    within = ~ENDED[:-1]
    np.testing.assert_allclose(np.asarray(v_t)[:-1][within], np.asarray(v_tm1)[1:][within], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(v_t)[:-1] - np.asarray(v_tm1)[1:])[~within].max() > 1e-3  # the reset forgot, this did not


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_every_parameter_of_an_actor_critic_feels_a_loss_over_time(shared):
    net, params = actor_critic(shared)

    def loss(params):
        policy, value, _ = net.unroll(params, OBS, net.carry(E), ENDED)
        return (policy.entropy() * value).sum() + (value**2).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_a_network_with_a_carry_is_refused_where_nobody_hands_it_on():
    space = Discrete(2)
    networks = partial(build_actor_critic, RecurrentNet(), BOX, action_head("default", space), space, critic=True)
    for make in (lambda: build(RecurrentNet(), BOX, HEADS), lambda: networks(recurrent=False)):
        with pytest.raises(SpecError, match="RecurrentNet") as error:
            make()
        assert error.value.path == "agent.net.type"


def test_a_network_without_keys_of_a_critic_may_be_shared():
    spec = ConvNet(conv_hid_layers=((2, 2),), fc_hid_layers=(4,), shared=True)
    space, image = Discrete(2), Box(0, 1, (3, 3, 1))
    net = build_actor_critic(spec, image, action_head("default", space), space, critic=True, recurrent=False)
    assert set(jax.eval_shape(net.init, jax.random.key(0), spec)) == {"actor"}


# ------------------------------------------------------------------------------------------------------------ sessions


def test_what_a_session_saw_is_what_learning_sees():
    """Two rollouts of a real session: values of acting are those of unrolling from the carry that it kept."""
    env = vectorize(far_reset(3), 4)
    spec = RecurrentNet(fc_hid_layers=(), rnn_hidden_size=H)
    obs, actions = env.observation_space, env.action_space
    net = build_actor_critic(spec, obs, action_head("default", actions), actions, critic=True, recurrent=True)

    def act(params, obs, carry, key, hp, greedy):
        policy, value, carry = net.step(params, obs, carry)
        return policy.sample(key), carry, value

    agent = Agent(
        lambda key, hp: AgentState(net.init(key, spec)), act, lambda *a: (a[0], {}), horizon=7, carry=net.carry
    )
    program = sessions.make_program(agent, env, env, 28)
    session = jax.jit(program.init)(jax.random.key(0), HP((), (), spec))
    collect = jax.jit(lambda s, k: sessions.collect(agent, env, s, HP((), (), spec), k))
    for i in range(2):
        session, rollout, _ = collect(session, jax.random.key(i))
        ended = rollout.terminated | rollout.truncated
        assert ended.any()
        _, value, carry = jax.jit(net.unroll)(session.agent.policy, rollout.obs, rollout.carry, ended)
        np.testing.assert_allclose(value, rollout.extras, rtol=1e-4, atol=1e-6)
        close(carry, session.carry)
        never = jnp.zeros_like(ended)  # the mutant: nobody forgets
        assert apart(net.unroll(session.agent.policy, rollout.obs, rollout.carry, never)[1], value) > 1e-3


# -------------------------------------------------------------------------------------------------------------- specs

CONFIGS = Path(__file__).parent.parent / "configs"
ABLE = ("PPO", "ActorCritic", "Reinforce", "CrossEntropy", "SARSA", "PQN", "DQN", "DoubleDQN", "VanillaDQN", "C51")
ABLE += ("QRDQN", "MunchausenDQN")
FORWARD = {"MLPNet": "RecurrentNet", "DuelingMLPNet": "DuelingRecurrentNet"}


def of_config(name, *changes):
    return load_spec(CONFIGS / name, overrides=[*changes, *["env=Breakout-MinAtar"] * ("minatar" in name)])


def swappable(path):
    spec = of_config(path.name)
    return spec.hp.algorithm.name in ABLE and spec.hp.net.type in FORWARD


@pytest.mark.parametrize("config", sorted(p.name for p in CONFIGS.glob("*.yaml") if swappable(p)))
def test_a_config_learns_with_a_carry_when_the_network_has_another_type_and_nothing_else(config):
    plain = of_config(config)
    spec = of_config(config, f"agent.net.type={FORWARD[plain.hp.net.type]}")
    agent = make_agent(spec)
    assert jax.tree.leaves(agent.carry(spec.env.num_envs))
    hp = schedules.at(spec.hp, jnp.int32(0))
    policy = jax.eval_shape(agent.init, jax.random.key(0), hp).policy
    widths = {x.shape[-1] for x in jax.tree.leaves(policy) if x.ndim}
    assert set(plain.hp.net.hid_layers) <= widths


def test_dense_layers_have_one_of_their_two_names():
    with pytest.raises(SpecError, match="got both") as error:
        build(RecurrentNet(hid_layers=(4,), fc_hid_layers=(4,)), BOX, HEADS, recurrent=True)
    assert error.value.path == "agent.net.hid_layers"
    sizes = [
        param_count(jax.eval_shape(build(s, BOX, HEADS, recurrent=True).init, jax.random.key(0), s))
        for s in (RecurrentNet(), RecurrentNet(hid_layers=(64,)), RecurrentNet(fc_hid_layers=(64,)))
    ]
    assert len(set(sizes)) == 1


@pytest.mark.parametrize(
    ("horizon", "envs", "size", "batch"),
    [(128, 4, 64, 1), (128, 4, 128, 1), (128, 4, 256, 2), (64, 4, 192, 4), (32, 6, 64, 2), (8, 8, 64, 8)],
)
def test_minibatches_of_sequences_are_whole_and_hold_what_is_asked(horizon, envs, size, batch):
    hp = load_spec(
        {
            "agent": {
                "algorithm": {"name": "PPO", "time_horizon": horizon, "minibatch_size": size, "training_epoch": 3},
                "net": {"type": "RecurrentNet"},
            },
            "env": {"name": "CartPole-v1", "num_envs": envs, "max_frame": 1000},
        }
    ).hp
    env = make_env(EnvSpec(name="CartPole-v1", num_envs=envs, max_frame=1000))
    if horizon * envs % size:
        with pytest.raises(SpecError, match="divisor"):
            minibatches.plan(hp, env, True)
        return
    plan = minibatches.plan(hp, env, True)
    assert plan == (horizon, horizon, envs, batch, 3)
    assert plan.gradient_steps == 3 * envs // batch
