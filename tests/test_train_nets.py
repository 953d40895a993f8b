"""Agents with each feed-forward network: they run, and they find answers that a probe has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import slow_ones, spec_of
from ladder import cooling

import slmjax
from slmjax.batches import stack
from slmjax.nets.keys import NetKeys
from slmjax.nets.network import build
from slmjax.spec import schema
from slmjax.spec.dump import to_dict
from slmjax.types import Box, Dict, Discrete, Env, Head

SESSIONS = 5


def spot() -> Env:
    """An image 5 x 5 with one bright column, on the left or on the right; +1 for naming the side, else -1."""

    def draw(key):
        right = jax.random.bernoulli(key)
        return right, (jnp.zeros((5, 5, 1), jnp.uint8).at[:, jnp.where(right, 4, 0)].set(255))

    def step(key, right, action):
        after, image = draw(key)
        reward = jnp.where(action == right, 1.0, -1.0)
        return after, image, reward, jnp.array(True), jnp.array(False)

    return Env(draw, step, Box(0, 255, (5, 5, 1), jnp.uint8), Discrete(2), max_steps=1)


def clues() -> Env:
    """Two bits in a dict; +1 for their exclusive or, else -1."""
    space = Dict({"one": Discrete(2), "two": Discrete(2)})

    def reset(key):
        bits = jax.random.bernoulli(key, shape=(2,)).astype(jnp.int32)
        return bits, {"one": bits[0], "two": bits[1]}

    def step(key, bits, action):
        after, obs = reset(key)
        reward = jnp.where(action == (bits[0] ^ bits[1]), 1.0, -1.0)
        return after, obs, reward, jnp.array(True), jnp.array(False)

    return Env(reset, step, space, Discrete(2), max_steps=1)


CONV = {"conv_hid_layers": [[4, 3, 2, "SAME"]], "fc_hid_layers": [16]}
NETS = {
    "dueling": ("CartPole-v1", {"type": "DuelingMLPNet", "hid_layers": [16]}),
    "norms": (
        "CartPole-v1",
        {"hid_layers": [16, 16], "layer_norm": True, "weight_norm": True, "spectral_norm": True},
    ),
    "encoders": ("test_train_nets:clues", {"encoder_hid_layers": {"one": [8]}, "hid_layers": [16]}),
    "conv": ("test_train_nets:spot", {"type": "ConvNet", **CONV}),
    "dueling conv": ("test_train_nets:spot", {"type": "DuelingConvNet", **CONV, "head_hid_layers": [8]}),
}


def spec_with(which, env, net, frames, **changes):
    """As `agents.spec_of`, with another network than an MLP."""
    spec = to_dict(spec_of(which, env, frames, **changes))
    kept = {name: value for name, value in spec["agent"]["net"].items() if name in schema.hints(NetKeys)}
    spec["agent"]["net"] = kept | net
    return slmjax.load_spec({"name": "test", **spec})


# Of PPO there is nothing that could duel.
PAIRS = [("DQN", name) for name in NETS] + [("PPO", name) for name in NETS if "dueling" not in name]
AGAIN = [("DQN", "conv"), ("DQN", "encoders"), ("PPO", "norms")]  # parts that others have too


@pytest.mark.parametrize(("algorithm", "name"), slow_ones(PAIRS, AGAIN))
def test_an_agent_learns_two_segments_with_it(algorithm, name):
    env, net = NETS[name]
    spec = spec_with(algorithm, env, net, 512)
    program = slmjax.make_session(spec)
    hp = stack([spec.hp] * 2)
    keys = jax.vmap(lambda i: slmjax.session_key(0, 0, i))(jnp.arange(2))
    sessions = jax.jit(jax.vmap(program.init))(keys, hp)
    before = jax.tree.map(np.asarray, sessions.agent.policy)
    segment = jax.jit(jax.vmap(program.segment, (0, 0, None, None)))
    for frame in (0, 256):
        sessions, rows = segment(sessions, hp, frame, frame + 256)
    assert np.isfinite(rows["loss"]).all()
    assert (np.asarray(sessions.failed) == -1).all()
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(sessions.agent.policy), strict=True):
        assert (old != np.asarray(new)).any()
        assert (np.asarray(new)[0] != np.asarray(new)[1]).any()


def test_a_dueling_dqn_plays_what_pays():
    net = {"type": "DuelingMLPNet", "hid_layers": [32], "head_hid_layers": [16], **cooling(12_000)}
    result = slmjax.train(spec_with("DQN", "probes:matching_action", net, 12_000), sessions=SESSIONS)
    obs = jnp.float32([[-1.0], [1.0]])
    assert (np.stack([policy(obs) for policy in result.policies]) == [0, 1]).all()
    built = build(result.spec.agent.net, Box(-1, 1, (1,)), (Head(2, "critic"),))
    q = np.stack([built.apply(policy.state, obs, ())[0][0] for policy in result.policies])
    np.testing.assert_allclose(q, np.broadcast_to([[1.0, -1.0], [-1.0, 1.0]], q.shape), atol=0.1)


@pytest.mark.parametrize(("algorithm", "net", "key"), [
    ("SoftActorCritic", {"type": "RecurrentNet"}, "type"),
    ("PPOSIL", {"type": "RecurrentNet"}, "type"),
    ("DQN", {"batch_renorm": True}, "batch_renorm"),
    ("PPO", {"batch_renorm": True}, "batch_renorm"),
])  # fmt: skip
def test_what_an_algorithm_cannot_use_is_refused(algorithm, net, key):
    with pytest.raises(slmjax.SpecError, match=rf"agent\.net\.{key}: expected"):
        slmjax.train(spec_with(algorithm, "CartPole-v1", net, 512), sessions=1)


def test_a_spec_with_every_new_key_reads_back_as_it_was():
    for env, net in NETS.values():
        spec = spec_with("PPO", env, net, 512)
        again = slmjax.load_spec({"name": "test", **to_dict(spec)})
        assert again == spec
        assert jax.tree.structure(again.hp) == jax.tree.structure(spec.hp)
