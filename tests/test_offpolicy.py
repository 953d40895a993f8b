"""Parts that actors with replay share: unit actions, exploration, warm-up; and which specs are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slmjax import schedules
from slmjax.envs import vectorize
from slmjax.lab.trial import make_agent
from slmjax.policies.continuous import from_unit, to_unit
from slmjax.policies.noise import Noise, next_noise, no_noise
from slmjax.types import Box, Dict, Discrete, Env, Rollout, SpecError

ACTORS = ("SoftActorCritic", "TD3", "DDPG", "CrossQ")
LOPSIDED = Box(np.array([-2.0, 0.0, 3.0]), np.array([5.0, 0.01, 3.0]), (3,))


def test_an_algorithm_gives_its_network_the_defaults_of_its_paper():
    net = lambda name, **net: spec_of("", "Pendulum-v1", 512, algorithm={"name": name}, net=net).agent.net  # noqa: E731
    assert [net(name).update_type for name in ("SoftActorCritic", "TD3", "DDPG", "DQN")] == ["polyak"] * 3 + ["replace"]
    assert (net("PQN").layer_norm, net("CrossQ").batch_renorm, net("PPO").layer_norm) == (True, True, False)
    assert not net("PQN", layer_norm=False).layer_norm, "what is written wins"


@pytest.mark.parametrize(
    ("name", "env", "kind", "key", "value"),
    [
        ("TD3", "Pendulum-v1", "replace", "polyak_coef", 0.5),
        ("TD3", "Pendulum-v1", "polyak", "update_frequency", 16),
        ("DQN", "CartPole-v1", "polyak", "update_frequency", 16),
    ],
)
def test_a_key_of_the_other_way_to_follow_is_refused(name, env, kind, key, value):
    spec = spec_of(name, env, 512, net={"update_type": kind, key: value})
    with pytest.raises(SpecError, match=f"it is for update_type: (?!{kind})") as error:
        make_agent(spec)
    assert error.value.path == f"agent.net.{key}"


def env_of(action_space, num_envs: int = 4, seen=Box(-1.0, 1.0, (2,))):  # noqa: B008  a Box is frozen
    return vectorize(Env(None, None, seen, action_space), num_envs)


def agent_of(name: str, action_space=LOPSIDED, num_envs: int = 4, seen=Box(-1.0, 1.0, (2,)), **changes):  # noqa: B008
    spec = spec_of(name, "CartPole-v1", 10_000, num_envs=num_envs, **changes)
    agent = make_agent(spec, env_of(action_space, num_envs, seen))
    return agent, lambda frame: schedules.at(spec.hp, jnp.int32(frame))


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.floats(2.0**-6, 1e3, width=32), st.floats(-1, 1, width=32))
def test_unit_actions_go_to_the_space_and_back(low, span, unit):
    space = Box(low, np.float32(low) + np.float32(span), (1,))
    action = from_unit(jnp.full((1,), unit), space.low, space.high)
    exact = np.float64(space.low) + (np.float64(unit) + 1) / 2 * (np.float64(space.high) - np.float64(space.low))
    np.testing.assert_allclose(action, exact, atol=1e-6 * (abs(low) + span))
    assert space.low <= action <= space.high
    np.testing.assert_allclose(to_unit(action, space.low, space.high), unit, atol=1e-6 * (1 + (abs(low) + span) / span))


def test_the_bounds_are_minus_one_and_one():
    assert to_unit(jnp.asarray(LOPSIDED.low), LOPSIDED.low, LOPSIDED.high)[:2].tolist() == [-1, -1]
    assert to_unit(jnp.asarray(LOPSIDED.high), LOPSIDED.low, LOPSIDED.high)[:2].tolist() == [1, 1]
    assert from_unit(jnp.ones(3), LOPSIDED.low, LOPSIDED.high).tolist() == LOPSIDED.high.tolist()
    assert from_unit(-jnp.ones(3), LOPSIDED.low, LOPSIDED.high).tolist() == LOPSIDED.low.tolist()
    assert np.isfinite(
        to_unit(jnp.asarray(LOPSIDED.low), LOPSIDED.low, LOPSIDED.high)
    ).all()  # its last entry has one value alone


class TestNoise:
    def walk(self, correlation: float, steps: int = 4000) -> np.ndarray:
        def step(carry, key):
            carry = next_noise(carry, key, correlation)
            return carry, carry.value

        start = no_noise(Box(-1.0, 1.0, (2,)), 8)
        return np.asarray(jax.lax.scan(step, start, jax.random.split(jax.random.key(0), steps))[1])

    def test_every_value_is_standard_normal_however_correlated(self):
        for correlation in (0.0, 0.9):
            noise = self.walk(correlation)
            assert stats.kstest(noise[::100].ravel(), "norm").pvalue > 1e-3
            assert stats.kstest(noise[0].ravel(), "norm").pvalue > 1e-3  # the first of an episode as well
            for lag in (1, 2):
                found = np.mean(noise[lag:] * noise[:-lag])
                assert found == pytest.approx(correlation**lag, abs=0.05)

    def test_environments_and_dimensions_have_their_own(self):
        noise = self.walk(0.5).reshape(4000, -1)
        assert np.abs(np.corrcoef(noise.T) - np.eye(16)).max() < 0.1

    def test_a_new_episode_forgets(self):
        old = Noise(jnp.full((2, 1), 50.0), jnp.array([True, False]))
        now = next_noise(old, jax.random.key(0), 0.99)
        assert now.value[0, 0] > 40
        assert abs(now.value[1, 0]) < 5
        assert now.begun.all()


@pytest.mark.parametrize("name", ACTORS)
def test_actions_are_uniform_before_training_starts_and_the_policys_after(name):
    agent, hp = agent_of(name, num_envs=2000, algorithm={"training_start_step": 8000}, memory={"max_size": 20_000})
    policy = jax.jit(agent.init)(jax.random.key(0), hp(0)).policy
    obs = jnp.zeros((2000, 2))
    act = jax.jit(agent.act, static_argnums=5)
    for frame, uniform in ((0, True), (7999, True), (8000, False)):
        played, carry, _ = act(policy, obs, agent.carry(2000), jax.random.key(1), hp(frame), False)
        found = np.asarray(to_unit(played, LOPSIDED.low, LOPSIDED.high))[:, 0]
        assert (stats.kstest(found, "uniform", (-1, 2)).pvalue > 1e-3) == uniform
        assert (played >= LOPSIDED.low).all()
        assert (played <= LOPSIDED.high).all()
    greedy = act(policy, obs, carry, jax.random.key(1), hp(0), True)[0]
    assert (greedy == greedy[0]).all()


@pytest.mark.parametrize("name", ["SoftActorCritic", "CrossQ"])
def test_discrete_actions_are_uniform_before_training_starts(name):
    agent, hp = agent_of(name, Discrete(3), 3000, memory={"max_size": 24_000})
    policy = jax.jit(agent.init)(jax.random.key(0), hp(0)).policy
    sure = policy | {"params": jax.tree.map(lambda x: x * 0.0, policy["params"])}
    sure["params"]["Dense_1"]["bias"] = jnp.array([0.0, 0.0, 50.0])
    act = jax.jit(agent.act, static_argnums=5)
    early, late = (act(sure, jnp.zeros((3000, 2)), (), jax.random.key(1), hp(frame), False)[0] for frame in (0, 9000))
    assert stats.chisquare(np.bincount(early, minlength=3)).pvalue > 1e-3
    assert (late == 2).all()


@pytest.mark.parametrize("name", ACTORS)
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_actions_of_any_shape_are_acted_and_learned_with(name, shape):
    agent, hp = agent_of(name, Box(0.0, 2.0, shape), algorithm={"training_frequency": 1})
    state = jax.eval_shape(agent.init, jax.random.key(0), hp(0))
    obs = jnp.zeros((4, 2))
    action, _, _ = jax.eval_shape(
        lambda policy: agent.act(policy, obs, agent.carry(4), jax.random.key(0), hp(0), False), state.policy
    )
    assert action.shape == (4, *shape)
    flag = jnp.zeros((1, 4), bool)
    rollout = Rollout(obs[None], jnp.zeros((1, 4, *shape)), jnp.zeros((1, 4)), flag, flag, obs[None], ~flag)
    after, metrics = jax.eval_shape(agent.update, state, rollout, jax.random.key(0), hp(200))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(x.shape == () and x.dtype == jnp.float32 for x in metrics.values())


@pytest.mark.parametrize("name", ACTORS)
def test_actions_without_finite_bounds_are_refused(name):
    for space in (Box(-np.inf, 1.0, (1,)), Box(0, 3, (1,), jnp.int32)):
        with pytest.raises(SpecError, match="real actions between finite bounds") as error:
            agent_of(name, space)
        assert error.value.path == "agent.algorithm.name"


@pytest.mark.parametrize("name", ["TD3", "DDPG"])
def test_deterministic_actors_have_no_discrete_actions(name):
    with pytest.raises(SpecError, match=f"{name} cannot act in .*SoftActorCritic"):
        agent_of(name, Discrete(3))


@pytest.mark.parametrize("name", ACTORS)
def test_keys_that_nothing_reads_and_warm_ups_that_do_not_fit_are_refused(name):
    unread = {"shared": True, "log_std_init": -1.0}
    unread |= {"update_type": "polyak", "polyak_coef": 0.1} if name == "CrossQ" else {}
    for field, value in unread.items():
        net = {field: value} | ({"update_type": "replace"} if name == "CrossQ" and field == "polyak_coef" else {})
        with pytest.raises(SpecError, match="has no use for it") as error:
            agent_of(name, net=net)
        assert error.value.path == f"agent.net.{field}"
    with pytest.raises(SpecError, match="at most 2048 frames") as error:
        agent_of(name, algorithm={"training_start_step": 4096})
    assert error.value.path == "agent.algorithm.training_start_step"


UNREAD = [
    ("SoftActorCritic", Discrete(3), "algorithm", {"noise_correlation": 0.5}),
    ("SoftActorCritic", LOPSIDED, "algorithm", {"target_entropy_ratio": 0.5}),
    ("SIL", Discrete(3), "algorithm", {"sil_beta": 0.5}),
    ("SoftActorCritic", Discrete(3), "algorithm", {"alpha_lr": 0.1, "fixed_alpha": 0.2}),
    ("CrossQ", LOPSIDED, "algorithm", {"target_entropy": -2.0, "fixed_alpha": 0.2, "alpha_lr": None}),
    ("SoftActorCritic", Discrete(3), "algorithm", {"target_entropy_ratio": 0.5, "target_entropy": 0.3}),
    ("Reinforce", Discrete(3), "algorithm", {"center_return": False, "normalize_advantages": True}),
]


@pytest.mark.parametrize(("name", "actions", "section", "keys"), UNREAD)
def test_keys_that_nothing_reads_here_are_refused(name, actions, section, keys):
    with pytest.raises(SpecError, match="nothing reads it") as error:
        agent_of(name, actions, **{section: keys})
    assert error.value.path == f"agent.{section}.{next(iter(keys))}"


@pytest.mark.parametrize("name", ACTORS)
def test_a_critic_may_have_layers_and_an_optimiser_of_its_own(name):
    own = {"critic_hid_layers": [7], "critic_optim_spec": {"name": "SGD", "lr": 0.1}}
    agent, hp = agent_of(name, net=own)
    state = jax.eval_shape(agent.init, jax.random.key(0), hp(0))
    shapes = lambda tree: {x.shape for x in jax.tree.leaves(tree)}  # noqa: E731
    twins = 1 if name == "DDPG" else 2
    assert (twins, 5, 7) in shapes(state.learner.critics.params)  # three numbers of the action, two of the observation
    assert (2, 32) in shapes(state.policy)
    agent, hp = agent_of(name, net={"critic_optim_spec": {"name": "Adim"}})
    with pytest.raises(SpecError) as error:
        jax.eval_shape(agent.init, jax.random.key(0), hp(0))
    assert error.value.path == "agent.net.critic_optim_spec.name"


@pytest.mark.parametrize("name", ["SoftActorCritic", "TD3"])
def test_parts_of_an_observation_have_heads_by_name_in_actor_and_critics(name):
    space = Dict({"cam": Box(-1.0, 1.0, (5,)), "pos": Box(-1.0, 1.0, (3,))})
    agent, hp = agent_of(name, seen=space, net={"encoder_hid_layers": {"cam": [7]}, "hid_layers": [4]})
    state = jax.eval_shape(agent.init, jax.random.key(0), hp(0))
    kernels = lambda tree: {x.shape for x in jax.tree.leaves(tree) if x.ndim > 1}  # noqa: E731
    actions = int(np.prod(LOPSIDED.shape))
    assert {(5, 7), (7 + 3, 4)} < kernels(state.policy)
    assert {(2, 5, 7), (2, 7 + 3 + actions, 4)} < kernels(state.learner.critics.params)
    named = Dict({"action": Box(-1.0, 1.0, (5,))})  # the environment's own name for what it shows
    agent, hp = agent_of(name, seen=named)
    state = jax.eval_shape(agent.init, jax.random.key(0), hp(0))
    assert (2, 5 + actions, 32) in kernels(state.learner.critics.params)


def test_limits_of_alpha_leave_something_between_them():
    with pytest.raises(SpecError, match="expected a log_alpha_max of at least log_alpha_min 1, got -1"):
        agent_of("SoftActorCritic", algorithm={"log_alpha_min": 1.0, "log_alpha_max": -1.0})
