"""What an update reads of a rollout: rows that a suite invented are nothing to it, and its key decides what it draws.

Suites that reset on the *next* step, as EnvPool does, answer the first action after an end with a row of no episode.
Here the same fifty rollouts are told in several ways, and every registered algorithm learns from all of them at once.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import ACTIONS, ALGORITHMS, ENVS

from slmjax import schedules
from slmjax.envs import vectorize
from slmjax.lab.trial import make_agent
from slmjax.memory import replay
from slmjax.types import Box, Env, Rollout

ROLLOUTS, STEPS = 50, 5  # one row of each environment in each rollout is invented
OBS = Box(-1.0, 1.0, (3,))


# ------------------------------------------------------------------------------------------------------- the rollouts


def told() -> Rollout:
    """Rollouts `[N, T, E, ...]` in which each environment ends one episode, resets in the row after, and begins anew.

    What was done, `action`, `extras` and `carry`, is filled in later.
    """
    rng, rows = np.random.default_rng(0), []
    draw = lambda: rng.uniform(-1, 1, 3).astype(np.float32)  # noqa: E731
    now = [draw() for _ in range(ENVS)]
    for _ in range(ROLLOUTS):
        ends = rng.integers(0, STEPS - 1, ENVS)
        for t in range(STEPS):
            for e in range(ENVS):
                valid, end, dead = t != ends[e] + 1, t == ends[e], bool(rng.random() < 0.5)
                after = draw()
                reward = np.float32(rng.normal() if valid else 0.0)
                rows.append((now[e], reward, end and dead, end and not dead, after, valid))
                now[e] = after
    obs, reward, terminated, truncated, final_obs, valid = (
        np.stack(column).reshape(ROLLOUTS, STEPS, ENVS, *np.shape(column[0])) for column in zip(*rows, strict=True)
    )
    return Rollout(obs, (), reward, terminated, truncated, final_obs, valid)


def garbage(rollouts: Rollout) -> Rollout:
    """The same, but the invented rows hold rubbish."""
    rng, keep = np.random.default_rng(1), rollouts.valid[..., None]
    rubbish = rng.uniform(-9, 9, (2, *rollouts.obs.shape)).astype(np.float32)
    obs, final_obs = (np.where(keep, x, r) for x, r in zip((rollouts.obs, rollouts.final_obs), rubbish, strict=True))
    reward = np.where(rollouts.valid, rollouts.reward, np.float32(np.nan))
    return rollouts._replace(obs=obs, final_obs=final_obs, reward=reward)


def in_the_same_step(tree, valid: np.ndarray):
    """`[N, T, E, ...]` without the invented rows, as from a back end that resets in the step that ends an episode."""

    def drop(x):
        moved = np.moveaxis(x, 2, 1)[np.moveaxis(valid, 2, 1)]  # rows of one environment after the other
        return np.moveaxis(moved.reshape(ROLLOUTS, ENVS, STEPS - 1, *x.shape[3:]), 1, 2)

    return jax.tree.map(drop, tree)


# ------------------------------------------------------------------------------------------------------- the learning


def learn(agent, hp, rollouts: Rollout, act_keys, keys):
    """What an agent knows after all rollouts `[N, T, E]` and its metrics `[N]`; it acts with `act_keys [N, T, E]`."""
    frames = rollouts.reward.shape[1] * ENVS

    def play(policy, obs, key, hp):
        one = jax.tree.map(lambda x: x[None], obs)
        return jax.tree.map(lambda x: x[0], agent.act(policy, one, agent.carry(1), key, hp, False)[::2])

    def step(state, now):
        i, rollout, act_key, key = now
        at = schedules.at(hp, i * frames)
        each = jax.vmap(jax.vmap(play, (None, 0, 0, None)), (None, 0, 0, None))
        action, extras = each(state.policy, rollout.obs, act_key, at)
        return agent.update(state, rollout._replace(action=action, extras=extras, carry=agent.carry(ENVS)), key, at)

    state = agent.init(jax.random.key(7), schedules.at(hp, jnp.int32(0)))
    state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
    return jax.lax.scan(step, state, (jnp.arange(ROLLOUTS), rollouts, act_keys, keys))


def agent_of(spec, action: str):
    space = ACTIONS[action]
    return make_agent(spec, vectorize(Env(None, None, OBS, space, max_steps=2 * STEPS), ENVS))


def act_keys() -> np.ndarray:
    return jax.random.split(jax.random.key(1), (ROLLOUTS, STEPS, ENVS))


ON_POLICY = {"time_horizon": STEPS, "minibatch_size": STEPS, "training_frequency": STEPS, "training_start_step": 0}
NORMALISED = {"normalize_obs": True, "normalize_return": True}
RECURRENT = {"type": "RecurrentNet", "fc_hid_layers": [], "rnn_hidden_size": 3}
WINDOWS = {"name": "PrioritizedReplay", "seq_len": 3, "burn_in": 1, "num_step_returns": 2, "max_size": 40}
# What is special about the invented rows of these is not among the defaults.
VARIANTS = {
    "PPO, normalised": ("PPO", NORMALISED, {}, {}),
    "PPO, recurrent": ("PPO", {}, RECURRENT, {}),
    "DQN, prioritized": ("DQN", {}, {}, {"name": "PrioritizedReplay", "num_step_returns": 3, "max_size": 40}),
    "DQN, stacked": ("DQN", {}, {}, {"stack_len": 2, "max_size": 40}),
    "DQN, recurrent": ("DQN", {}, RECURRENT, WINDOWS),
}


class Learned(NamedTuple):
    """What became of each telling: agent states, and metrics `[telling, ROLLOUTS]`."""

    state: object
    metrics: dict


TELLINGS = ("tidy", "garbage", "another key", "believed")


@cache
def learned(which: str) -> Learned:
    """An algorithm, or one of `VARIANTS`, on every telling in one program."""
    algorithm, keys, net, memory = VARIANTS.get(which, (which, {}, {}, {}))
    action = tiny.diagonal(algorithm)
    spec = tiny.spec_of(algorithm, "Box float32", action, net or None, memory, ON_POLICY | keys)
    agent, tidy = agent_of(spec, action), told()
    believed = tidy._replace(valid=np.ones_like(tidy.valid))
    rollouts = jax.tree.map(lambda *x: np.stack(x), tidy, garbage(tidy), tidy, believed)
    keys = jnp.stack([jax.random.split(jax.random.key(seed), ROLLOUTS) for seed in (2, 2, 3, 2)])
    lanes = jax.vmap(lambda rollouts, keys: learn(agent, spec.hp, rollouts, act_keys(), keys))
    return Learned(*jax.tree.map(np.asarray, jax.jit(lanes)(rollouts, keys)))


def remembered(state, telling: int) -> dict[str, np.ndarray]:
    """All that one telling left behind, but for what a memory holds of invented rows and after them."""
    state = jax.tree.map(lambda x: x[telling], state)
    named = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    valid = next((x for name, x in named.items() if name.endswith(".valid")), np.zeros(0))
    newest = (ROLLOUTS * STEPS * ENVS - ENVS + np.arange(ENVS)) % max(len(valid), 1)

    def hide(name, x):
        if not name.startswith(".memory") or not valid.size:
            return x
        whole = valid
        if ".obs" in name and len(x) > len(valid):  # behind the rows of a ring: the successors that lie aside
            whole = np.concatenate([valid, valid[newest], np.ones(len(x) - len(valid) - ENVS, bool)])
        if x.shape[: whole.ndim] != whole.shape:
            return x
        return np.where(whole.reshape(whole.shape + (1,) * (x.ndim - whole.ndim)), x, 0)

    return {name: hide(name, x) for name, x in named.items()}


def differing(state, one: int, other: int) -> list[str]:
    """Names of what two tellings did not leave behind alike."""
    a, b = remembered(state, one), remembered(state, other)
    return [name for name in a if not np.array_equal(a[name], b[name])]


@pytest.mark.parametrize("which", [*ALGORITHMS, *VARIANTS])
class TestRowsThatASuiteInvents:
    def test_change_nothing_whatever_they_hold(self, which):
        state, metrics = learned(which)
        assert not differing(state, 0, 1)
        for name, values in metrics.items():
            np.testing.assert_array_equal(values[0], values[1], err_msg=name)
            assert np.isfinite(values[1]).all(), name

    def test_would_be_seen_by_a_mutant_that_takes_them_for_steps(self, which):
        state, _ = learned(which)
        assert which == "Random" or differing(state._replace(memory=()), 0, 3)


# ------------------------------------------------------------------------------------------- resets, sooner and later

STEEPEST = {"optim_spec": {"name": "SGD", "lr": 0.05}}  # Adam would make a step of a gradient that is rounding
POLYAK = {"update_type": "polyak", "polyak_coef": 0.1}
# Those that draw nothing, or nothing else than an order, where a minibatch is all there is.
ALL_THERE_IS = {
    "ActorCritic": {},
    "PPO": {},
    "PQN": {"explore_var_spec": 0.5},
    "SARSA": {"explore_var_spec": 0.0},
    "Reinforce": {},
    "DQN": {"explore_var_spec": 0.5},
}


def policy_after(algorithm: str, steps: int, rollouts: Rollout, act_keys) -> dict[str, np.ndarray]:
    """What acts after rollouts of so many steps, each learned from whole."""
    size, action = steps * ENVS, tiny.diagonal(algorithm)
    keys = ON_POLICY | {"time_horizon": steps, "minibatch_size": size, "training_frequency": steps}
    replayed = algorithm == "DQN"
    net = tiny.MLP | STEEPEST | (POLYAK if replayed else {})
    memory = {"max_size": 4 * size, "batch_size": 4 * size, "num_step_returns": 3} if replayed else None
    spec = tiny.spec_of(algorithm, "Box float32", action, net, memory, keys | ALL_THERE_IS[algorithm])
    agent, keys = agent_of(spec, action), jax.random.split(jax.random.key(2), ROLLOUTS)
    state, _ = jax.jit(lambda *args: learn(agent, spec.hp, *args))(rollouts, act_keys, keys)
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree_util.tree_leaves_with_path(state.policy)}


@pytest.mark.parametrize("algorithm", ALL_THERE_IS)
def test_a_suite_that_resets_in_the_next_step_teaches_what_one_that_resets_at_once_does(algorithm, monkeypatch):
    everything = lambda spec, rng, batches, *, rows, **_: jnp.tile(jnp.arange(rows), (batches, 1))  # noqa: E731
    monkeypatch.setattr(replay, "sample_indices", everything)
    later, keys = garbage(told()), np.asarray(jax.random.key_data(act_keys()))
    sooner, fewer = in_the_same_step(later, later.valid), in_the_same_step(keys, later.valid)
    assert sooner.valid.all()
    lied = later._replace(valid=np.ones_like(later.valid), reward=told().reward)  # the mutant
    by_next, by_same, by_mutant = (
        policy_after(algorithm, rollouts.valid.shape[1], rollouts, jax.random.wrap_key_data(jnp.asarray(k)))
        for rollouts, k in ((later, keys), (sooner, fewer), (lied, keys))
    )
    for name, value in by_same.items():
        np.testing.assert_allclose(by_next[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    assert max(np.abs(by_mutant[name] - by_same[name]).max() for name in by_same) > 1e-2


# --------------------------------------------------------------------------------------------------------------- keys

WHOLE = ("ActorCritic", "Reinforce", "CrossEntropy", "Random")  # learn from all of a rollout, or not: nothing is drawn


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_decides_which_minibatches_are_drawn(algorithm):
    state, _ = learned(algorithm)
    assert bool(differing(state._replace(memory=()), 0, 2)) == (algorithm not in WHOLE)
