"""P10, the random walk of Sutton & Barto (example 6.2): returns whose fixed point is known, in a table and in networks.

From state i of 0 to 4 an unbiased walk ends on the right with probability (i + 1) / 6.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from ladder import SEEDS, cooling
from probes import WALK

import slmjax
from slmjax.maths.returns import gae, lambda_returns, q_lambda
from slmjax.nets.network import build
from slmjax.types import Discrete, Head

pytestmark = pytest.mark.usefixtures("optimised")
STEPS, ENVS, RIGHT = 32, 8192, 0.7  # the walker that is watched goes to the right more often than the one asked about


@cache
def walks(right: float):
    """Rows `[T, E]` of walks, a new one after each end, some of them stopped by a time limit."""
    rng = np.random.default_rng(1)
    state, rows = rng.integers(0, 5, ENVS), []
    for _ in range(STEPS):
        to_right = rng.random(ENVS) < right
        after = state + np.where(to_right, 1, -1)
        terminated, truncated = (after < 0) | (after > 4), rng.random(ENVS) < 0.05
        rows.append((state, to_right, after == 5, terminated, truncated & ~terminated, np.clip(after, 0, 4)))
        state = np.where(terminated | truncated, 2, after)
    state, to_right, reward, terminated, truncated, after = (np.stack(x) for x in zip(*rows, strict=True))
    flags = {"discount": np.float32(~terminated), "ended": terminated | truncated}
    return {"state": state, "right": to_right, "reward": np.float32(reward), "after": after} | flags


def settle(target, size: int, index: np.ndarray) -> np.ndarray:
    """Where a table `[size]` comes to rest that is moved to the mean of its targets: `target(table) -> [T, E]`."""
    visits = np.bincount(index.reshape(-1), minlength=size)

    def move(_, table):
        error = target(table) - table[index]
        return table + jax.ops.segment_sum(error.reshape(-1), index.reshape(-1), size) / visits

    return np.asarray(jax.jit(lambda: jax.lax.fori_loop(0, 200, move, jnp.zeros(size)))())


def values_of(right: float, estimate) -> np.ndarray:
    """State values by `estimate(rows, v_tm1, v_t) -> targets`."""
    rows = walks(right)
    return settle(lambda v: estimate(rows, v[rows["state"]], v[rows["after"]]), 5, rows["state"])


def chances(right: float) -> np.ndarray:
    """Of a walk to end on the right, from each state: the gambler's ruin."""
    if right == 0.5:
        return np.array(WALK)
    odds = (1 - right) / right
    return (1 - odds ** np.arange(1, 6)) / (1 - odds**6)


FLAGS = ("reward", "discount", "ended")
ON_POLICY = {
    "TD(0.8)": lambda rows, v_tm1, v_t: lambda_returns(*_see(rows, v_t), 0.8),
    "GAE": lambda rows, v_tm1, v_t: v_tm1 + gae(rows["reward"], rows["discount"], v_tm1, v_t, rows["ended"], 0.8),
    "Q(0.8) with one action": lambda rows, v_tm1, v_t: q_lambda(*_see(rows, v_t[..., None]), 0.8),
}


def _see(rows, v_t):
    return rows["reward"], rows["discount"], v_t, rows["ended"]


@pytest.mark.parametrize("right", [0.5, RIGHT])
@pytest.mark.parametrize("method", ON_POLICY)
def test_on_policy_returns_settle_at_the_values_of_the_walk(method, right):
    np.testing.assert_allclose(values_of(right, ON_POLICY[method]), chances(right), atol=0.02)


# ------------------------------------------------------------------------------------------------------------- agents

AGENTS = {
    "ActorCritic": {"training_frequency": 16, "lam": 0.9},
    "SARSA": {"training_frequency": 16},
    "PQN": {},
    "DQN": {},
}
FRAMES = 40_000


def learned_values(algorithm: str) -> np.ndarray:
    """Values of the five states, `[S, 5]`: V, or Q of the only action."""
    keys = AGENTS[algorithm] | {"gamma": 1.0}
    spec = spec_of(algorithm, "probes:random_walk", FRAMES, num_envs=16, algorithm=keys, net=cooling(FRAMES, 5e-3))
    result, obs = slmjax.train(spec, sessions=SEEDS), jnp.arange(5)
    if algorithm == "ActorCritic":
        return np.stack(
            [p.agent.act(p.state, obs, (), jax.random.key(0), p.hp, True)[2].value for p in result.policies]
        )
    net = build(spec.agent.net, Discrete(5), (Head(1, "critic"),))
    return np.stack([net.apply(p.state, obs, ())[0][0][:, 0] for p in result.policies])


@pytest.mark.parametrize("algorithm", AGENTS)
def test_agents_find_the_values_of_the_walk(algorithm):
    found = learned_values(algorithm)
    np.testing.assert_allclose(found, np.broadcast_to(WALK, found.shape), atol=0.05)
