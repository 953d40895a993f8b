"""The probe ladder: what each algorithm must have found, five seeds each and all of them."""

import numpy as np
import pytest
from ladder import PROBES, climb, found

from slmjax.nets.build import build
from slmjax.types import Box, Tail

# Frames that each needs; values are read from the critic that acting leaves, or from Q.
CRITICS = {"PPO": 20_000}
SCORES = {"DQN": 12_000, "DoubleDQN": 12_000}


def critic(agent, policy, obs, hp):
    return agent.act(policy, obs, (), None, hp, True)[2].value


def best_score(agent, policy, obs, hp):
    net = build(hp.net, Box(-1, 1, (1,)), (Tail(2, "critic"),))
    return net.apply(policy, obs, ())[0][0].max(-1)


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
