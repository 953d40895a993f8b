"""What `test_ladder.py` cannot hold in one program: continuous actions, the time limit and its mutants, normalisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of

import slmjax
from slmjax import schedules
from slmjax.learners import on_policy
from slmjax.maths.moments import Moments
from slmjax.memory import replay
from slmjax.nets.network import build
from slmjax.types import Box, Head

SESSIONS = 5
FRAMES = {"PPO": 20_000, "DQN": 12_000}
COOLING = {"net": {"optim_spec": {"lr": {"name": "linear_decay", "start_val": 1e-2, "end_val": 1e-4}}}}


def learn(name: str, probe: str, frames: int | None = None, **changes):
    budget = frames or FRAMES[name]
    cooling = {"net": {"optim_spec": {"lr": {**COOLING["net"]["optim_spec"]["lr"], "end_step": budget}}}}
    spec = spec_of(name, f"probes:{probe}", budget, **{**cooling, **changes})
    return slmjax.train(spec, sessions=SESSIONS)


def values(result, obs: list[float]) -> np.ndarray:
    """State values of every session at scalar observations, `[S, len(obs)]`: V, or the best Q."""
    batch = jnp.asarray(obs, jnp.float32)[:, None]
    if result.spec.agent.algorithm.name == "PPO":
        act = lambda p: p.agent.act(p.state, batch, (), jax.random.key(0), p.hp, True)[2].value  # noqa: E731
        return np.stack([act(p) for p in result.policies])
    actions = slmjax.make_env(result.spec.env).action_space.n
    net = build(result.spec.agent.net, Box(-1, 1, (1,)), (Head(actions, "critic"),))
    score = lambda p: net.apply(p.state, batch, ())[0][0].max(-1)  # noqa: E731
    return np.stack([score(p) for p in result.policies])


def actions(result, obs: list[float]) -> np.ndarray:
    return np.stack([p(jnp.asarray(obs, jnp.float32)[:, None]) for p in result.policies])


class TestContinuous:
    @pytest.mark.parametrize("pdtype", ["Normal", "SquashedNormal"])
    def test_the_best_action_lies_inside_an_asymmetric_box(self, pdtype):
        changes = {"action_pdtype": pdtype}
        result = slmjax.train(continuous("best_action", changes), sessions=SESSIONS)
        np.testing.assert_allclose(actions(result, [0.0]), 0.3, atol=0.05)

    def test_the_best_action_may_depend_on_the_observation(self):
        result = slmjax.train(continuous("matching_action", {}), sessions=SESSIONS)
        found = actions(result, [-1.0, 1.0])[..., 0]
        np.testing.assert_allclose(found, np.broadcast_to([0.3, 2.7], found.shape), atol=0.1)


def continuous(probe: str, algorithm: dict):
    agent = spec_of("PPO", "x:y", 60_000).agent
    return slmjax.load_spec(
        {
            "name": "continuous",
            "agent": {
                "algorithm": {"name": agent.algorithm.name, "time_horizon": 32, "minibatch_size": 128, **algorithm},
                "net": {
                    "hid_layers": [32],
                    "log_std_init": -0.5,
                    "optim_spec": {"lr": {"start_val": 3e-3, "end_val": 1e-4, "end_step": 60_000}},
                },
            },
            "env": {
                "name": f"probes:{probe}",
                "kwargs": {"continuous": True},
                "num_envs": 8,
                "max_frame": 60_000,
            },
        }
    )


# A time limit is not a death. Reward 1 for ever is worth 1 / (1 - 0.98) = 50, however often somebody stops watching.
LIMIT = {
    "PPO": {"frames": 120_000, "algorithm": {"gamma": 0.98, "training_epoch": 4}},
    "DQN": {"frames": 60_000, "algorithm": {"gamma": 0.98}},
}


def time_limit_values(algorithm: str) -> np.ndarray:
    setting = dict(LIMIT[algorithm])
    net = {"loss_spec": {"name": "MSELoss"}} | ({} if algorithm == "PPO" else {"polyak_coef": 0.2})
    frames = setting.pop("frames")
    lr = {"lr": {"name": "linear_decay", "start_val": 2e-2, "end_val": 1e-4, "end_step": frames}}
    return values(learn(algorithm, "time_limit", frames, net=net | {"optim_spec": lr}, **setting), [0.0])


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
class TestTimeLimit:
    def test_a_limit_is_bootstrapped_through(self, algorithm):
        np.testing.assert_allclose(time_limit_values(algorithm), 50.0, atol=1.0)

    def test_a_mutant_that_takes_a_limit_for_a_death_is_far_off(self, algorithm, monkeypatch):
        real_gae, real_gather = on_policy.gae, replay.gather

        def deadly_gae(r_t, discount_t, v_tm1, v_t, ended, lam):
            return real_gae(r_t, discount_t * (1.0 - ended), v_tm1, v_t, ended, lam)

        def deadly_gather(spec, ring, *args, **kwargs):
            return real_gather(spec, ring._replace(terminated=ring.terminated | ring.truncated), *args, **kwargs)

        monkeypatch.setattr(on_policy, "gae", deadly_gae)
        monkeypatch.setattr(replay, "gather", deadly_gather)
        assert (np.abs(time_limit_values(algorithm) - 50.0) > 1.0).all()


class TestNormalisation:
    def test_observations_are_standardised_by_statistics_that_travel_with_the_learner(self):
        result = learn("PPO", "matching_action", algorithm={"normalize_obs": True, "normalize_return": True})
        moments = result.policy(0).state.obs_moments
        np.testing.assert_allclose(moments.mean, 0.0, atol=0.05)
        np.testing.assert_allclose(moments.var, 1.0, atol=0.05)
        assert moments.count == result.frame
        assert (actions(result, [-1.0, 1.0]) == [0, 1]).all()

    @pytest.mark.parametrize("greedy", [False, True])
    def test_acting_sees_by_them_as_they_are_whoever_acts_beside(self, greedy):
        spec = spec_of("PPO", "probes:best_action", 100, algorithm={"normalize_obs": True})
        agent, hp = slmjax.make_agent(spec), schedules.at(spec.hp, 0)
        policy = agent.init(jax.random.key(0), hp).policy
        known = policy._replace(obs_moments=Moments(jnp.float32(9), jnp.array([2.0]), jnp.array([16.0])))
        value = lambda policy, *x: agent.act(policy, jnp.array(x)[:, None], (), jax.random.key(1), hp, greedy)[2].value  # noqa: E731
        np.testing.assert_allclose(value(known, 5.0), value(policy, 0.75), rtol=1e-5)
        np.testing.assert_allclose(value(known, 5.0, 90.0, -70.0)[0], value(policy, 0.75)[0], rtol=1e-5)

    def test_evaluation_leaves_them_alone_and_reports_raw_returns(self):
        result = learn("PPO", "best_action", algorithm={"normalize_return": True})
        assert (result.eval_reward == 1.0).all()
        assert result.returns[:, -1].max() <= 1.0

    def test_a_policy_needs_no_memory(self):
        result = learn("DQN", "best_action", 2000)
        policy, ring = result.policy(0), max(x[0].size for x in jax.tree.leaves(result.sessions.agent.memory))
        assert sum(x.size for x in jax.tree.leaves(policy.state)) < ring
        assert policy(jnp.zeros((3, 1))).shape == (3,)
