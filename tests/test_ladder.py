"""The probe ladder: what each algorithm must have found, five seeds each and all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import merge, slow_ones, spec_of
from ladder import BOXED, PROBES, ascend, climb, cooling, found

from slmjax.algos.c51 import categorical
from slmjax.algos.qrdqn import quantiles
from slmjax.learners.value_heads import EXPECTED
from slmjax.nets.critics import build_critics
from slmjax.nets.network import build
from slmjax.types import Box, Discrete, Head

pytestmark = pytest.mark.usefixtures("optimised")
OBS, ACTION = Box(-1, 1, (1,)), BOXED["best action"].env.action_space

# Frames that each needs; values are read from the critic that acting leaves, or from Q.
CRITICS = {"PPO": 20_000, "ActorCritic": 30_000, "SIL": 30_000, "PPOSIL": 20_000}
SCORES = dict.fromkeys(("DQN", "DoubleDQN", "VanillaDQN", "MunchausenDQN", "SARSA", "PQN"), 12_000)
SCORES |= dict.fromkeys(("C51", "QRDQN", "Combined"), 12_000)
ACTORS = {"Reinforce": 20_000, "CrossEntropy": 20_000}


def critic(agent, state, obs, hp):
    return agent.act(state.policy, obs, (), None, hp, True)[2].value


def best_score(agent, state, obs, hp):
    match hp.algorithm.name:
        case "C51":
            head = categorical(hp.algorithm.n_atoms)
        case "QRDQN":
            head = quantiles(hp.algorithm.n_quantiles)
        case _:
            head = EXPECTED
    net = build(hp.net, OBS, (Head(2 * head.width, "critic"),))
    return head.q(net.apply(state.policy, obs, ())[0][0].reshape(-1, 2, head.width), hp).max(-1)


def critics_of(space):
    """What the critics beside an actor say of its greedy action, on average."""

    def value(agent, state, obs, hp):
        number = jax.tree.leaves(state.learner.critics.params)[0].shape[0]
        critics = build_critics(hp.net, OBS, space, number)
        action = agent.act(state.policy, obs, agent.carry(len(obs)), None, hp, True)[0]
        scores = critics.apply(state.learner.critics.params, obs, critics.unit(action))
        return critics.pick(scores, action).mean(0)

    return value


def nothing(agent, state, obs, hp):
    return jnp.zeros(obs.shape[0])


def check(climbed, probe, values, *, tolerance: float = 1.0, action: float = 0.0):
    """What was found is what there is; tolerances of values are `tolerance` times the probe's own."""
    assert (climbed.failed < 0).all()
    actions, value = found(climbed, probe, values)
    answer = climbed.probes[probe]
    np.testing.assert_allclose(value, np.broadcast_to(answer.value, value.shape), atol=tolerance * answer.tolerance)
    if answer.action:
        best = np.array(answer.action).reshape(1, -1, *[1] * (actions.ndim - 2))
        np.testing.assert_allclose(actions, np.broadcast_to(best, actions.shape), atol=action)


# Made of the parts of others that run by default; `test_values.py` holds the losses of QR-DQN and Munchausen.
ALIKE = ("PPOSIL", "DoubleDQN", "VanillaDQN", "MunchausenDQN", "QRDQN", "Combined", "DDPG")


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("algorithm", slow_ones([*CRITICS, *SCORES], ALIKE))
def test_a_value_is_found(algorithm, probe):
    check(climb(algorithm, (CRITICS | SCORES)[algorithm]), probe, critic if algorithm in CRITICS else best_score)


@pytest.mark.parametrize("probe", ["best action", "matching action"])
@pytest.mark.parametrize("algorithm", ACTORS)
def test_an_action_is_found(algorithm, probe):
    actions, _ = found(climb(algorithm, ACTORS[algorithm]), probe, nothing)
    assert (actions == PROBES[probe].action).all()


# ---------------------------------------------------------------------------------- actors that learn from replay


def fading(end: int) -> dict:
    """Their entropy has no price in the end, so that values are plain ones."""
    price = {"name": "linear_decay", "start_val": 0.2, "end_val": 0.0, "end_step": end}
    return {"fixed_alpha": price, "alpha_lr": None}


SOFT = {"algorithm": fading(8000) | {"training_iter": 8}}
# A deterministic actor that runs into a bound early stays there: critics first see 1000 frames of random actions.
CALM = {"algorithm": {"training_start_step": 1024, "training_iter": 16}}
# What batches say of the mean is noise: with 128 transitions one seed in twenty misses by more than `NOISY` allows.
LARGE = {"memory": {"batch_size": 256}}
# With the momentum of CrossQ's paper none of twelve seeds misses the constant reward of a box; with Adam's own two in
# twenty do.
LIGHT = {"net": {"optim_spec": {"b1": 0.5}}}
REPLAYED = {"SoftActorCritic": SOFT, "CrossQ": SOFT | LARGE | LIGHT, "TD3": CALM, "DDPG": CALM}
FRAMES = 16_000
# Two actions are learned in a quarter of the updates.
QUICKLY = {("CrossQ", False): (LARGE | {"algorithm": fading(5000) | {"training_iter": 4}}, FRAMES // 2)}


@functools.cache
def climb_with(algorithm, boxed):
    changes, frames = QUICKLY.get((algorithm, boxed), (REPLAYED[algorithm], FRAMES))
    spec = spec_of(algorithm, "probes:best_action", frames, **merge(changes, {"net": cooling(frames)}))
    return ascend(spec, BOXED, ACTION) if boxed else ascend(spec, PROBES, Discrete(2))


# What an actor that a batch normalises sees of an observation that never changes is nothing.
BLIND = {("CrossQ", "best action")}
# Statistics of batches are noise in what a critic says.
NOISY = {"CrossQ": 2.0}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("algorithm", ["SoftActorCritic", "CrossQ"])
def test_a_value_is_found_from_replay(algorithm, probe):
    check(climb_with(algorithm, False), probe, critics_of(Discrete(2)), tolerance=NOISY.get(algorithm, 1.0))


@pytest.mark.parametrize("probe", BOXED)
@pytest.mark.parametrize("algorithm", slow_ones(REPLAYED, (*ALIKE, "CrossQ")))
def test_a_value_is_found_in_a_box(algorithm, probe):
    if (algorithm, probe) not in BLIND:
        check(climb_with(algorithm, True), probe, critics_of(ACTION), tolerance=NOISY.get(algorithm, 1.0), action=0.15)
