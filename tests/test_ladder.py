"""The probe ladder: what each algorithm must have found, five seeds each and all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ladder import CONTINUOUS, PROBES, climb, found

from slmjax.algos.c51 import categorical
from slmjax.algos.critics import build_critics
from slmjax.algos.qrdqn import quantiles
from slmjax.algos.value_heads import EXPECTED
from slmjax.nets.build import build
from slmjax.types import Box, Tail

# Frames that each needs; values are read from the critic that acting leaves, or from Q.
CRITICS = {"PPO": 20_000, "ActorCritic": 30_000, "SIL": 30_000, "PPOSIL": 20_000}
SCORES = dict.fromkeys(("DQN", "DoubleDQN", "VanillaDQN", "MunchausenDQN", "SARSA", "PQN"), 12_000)
SCORES |= dict.fromkeys(("C51", "QRDQN", "Combined"), 12_000)
TWINS = [("SoftActorCritic", False), ("SoftActorCritic", True), ("TD3", True), ("DDPG", True)]
ACTORS = {"Reinforce": 20_000, "CrossEntropy": 20_000}


def critic(climbed, policy, learner, obs, hp, action):
    return climbed.agent.act(policy, obs, (), None, hp, True)[2].value


def best_score(climbed, policy, learner, obs, hp, action):
    match hp.algorithm.name:
        case "C51":
            head = categorical(hp.algorithm.n_atoms)
        case "QRDQN":
            head = quantiles(hp.algorithm.n_quantiles)
        case _:
            head = EXPECTED
    net = build(hp.net, Box(-1, 1, (1,)), (Tail(2 * head.width, "critic"),))
    return head.q(net.apply(policy, obs, ())[0][0].reshape(-1, 2, head.width), hp).max(-1)


def twins(climbed, policy, learner, obs, hp, action):
    number = jax.tree.leaves(learner.critics)[0].shape[0]
    critics = build_critics(hp.net, climbed.env.observation_space, climbed.env.action_space, number)
    return critics.pick(critics.apply(learner.critics, obs, critics.unit(action)), action).mean(0)


def nothing(climbed, policy, learner, obs, hp, action):
    return jnp.zeros(obs.shape[0])


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("algorithm", [*CRITICS, *SCORES])
def test_a_value_is_found(algorithm, probe):
    climbed = climb(algorithm, (CRITICS | SCORES)[algorithm])
    assert (climbed.failed < 0).all()
    actions, values = found(climbed, probe, critic if algorithm in CRITICS else best_score)
    expected = np.broadcast_to(PROBES[probe].value, values.shape)
    np.testing.assert_allclose(values, expected, atol=PROBES[probe].tolerance)
    if PROBES[probe].action:
        assert (actions == PROBES[probe].action).all()


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(("algorithm", "continuous"), TWINS)
def test_actor_and_critics_find_both(algorithm, continuous, probe):
    if (algorithm, continuous, probe) == ("SoftActorCritic", True, "matching action"):
        pytest.skip("needs a temperature to explore: tests/test_actor_critics.py")
    climbed, asked = climb(algorithm, 16_000, continuous), (CONTINUOUS if continuous else PROBES)[probe]
    assert (climbed.failed < 0).all()
    actions, values = found(climbed, probe, twins)
    np.testing.assert_allclose(values, np.broadcast_to(asked.value, values.shape), atol=asked.tolerance)
    if asked.action:
        actions = actions[..., 0] if continuous else actions
        np.testing.assert_allclose(actions, np.broadcast_to(asked.action, actions.shape), atol=0.15)


@pytest.mark.parametrize("probe", ["best action", "matching action"])
@pytest.mark.parametrize("algorithm", ACTORS)
def test_an_action_is_found(algorithm, probe):
    actions, _ = found(climb(algorithm, ACTORS[algorithm]), probe, nothing)
    assert (actions == PROBES[probe].action).all()
