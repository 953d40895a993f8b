"""P13: what needs a memory is learned with a recurrent network, and not without one.

All probes of an algorithm are one program (`tests/ladder.py`), and an answer is right where it is for every session.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import merge, slow_ones
from ladder import SEEDS, Probe, ascend
from probes import cue_then_answer, previous_sign

import slmjax
from slmjax.types import Discrete

pytestmark = pytest.mark.usefixtures("optimised")
STEPS = 8  # of an episode of `previous_sign`
OPTIM = {"clip_grad_val": 0.5, "optim_spec": {"lr": {"start_val": 5e-3, "end_val": 1e-4, "end_step": 60_000}}}
NETS = {
    True: {"type": "RecurrentNet", "rnn_hidden_size": 16, "fc_hid_layers": [16]} | OPTIM,
    False: {"type": "MLPNet", "hid_layers": [16]} | OPTIM,
}
REPLAYED = {"training_frequency": 4, "training_iter": 4, "gamma": 0.5}
REPLAYED |= {"explore_var_spec": {"start_val": 1.0, "end_val": 0.1, "end_step": 30_000}}
ON_POLICY = {"gamma": 0.5, "explore_var_spec": REPLAYED["explore_var_spec"]}
MEMORIES = {
    "DQN": {"name": "Replay", "batch_size": 16, "seq_len": 8, "burn_in": 1, "num_step_returns": 2},
    "QRDQN": {"name": "PrioritizedReplay", "batch_size": 16, "seq_len": 8, "burn_in": 1, "use_cer": True},
}
ALGORITHMS = {
    "DQN": {"name": "DQN", **REPLAYED},
    "QRDQN": {"name": "QRDQN", "double": True, "n_quantiles": 8, **REPLAYED},
    "SARSA": {"name": "SARSA", "training_frequency": 16, **ON_POLICY},
    "PQN": {"name": "PQN", "time_horizon": 16, "minibatch_size": 32, **ON_POLICY},
    "Reinforce": {"name": "Reinforce", "training_frequency": 16, "gamma": 0.5, "entropy_coef_spec": 0.01},
    "PPO": {"name": "PPO", "time_horizon": 32, "minibatch_size": 64, "gamma": 0.5, "entropy_coef_spec": 0.05},
    "ActorCritic": {"name": "ActorCritic", "training_frequency": 16, "gamma": 0.5},
}


PROBES = {
    "the sign before": Probe(previous_sign(STEPS), 0.5, (), (), 0.0),
    "a cue 1 step ago": Probe(cue_then_answer(1), 0.9, (), (), 0.0),
    "a cue 5 steps ago": Probe(cue_then_answer(5), 0.9, (), (), 0.0),
}
LONG = {"a cue 20 steps ago": Probe(cue_then_answer(20), 0.97, (), (), 0.0)}
WINDOW = 42  # two episodes of `LONG`: no gradient goes further back than a rollout or a window
FAR = {
    "DQN": {"memory": {"seq_len": WINDOW, "burn_in": 0}},
    "SARSA": {"algorithm": {"training_frequency": WINDOW}},
    "PQN": {"algorithm": {"time_horizon": WINDOW, "minibatch_size": 2 * WINDOW, "lam": 0.95}},
    "PPO": {"algorithm": {"time_horizon": WINDOW, "minibatch_size": 2 * WINDOW}},
    "ActorCritic": {"algorithm": {"training_frequency": WINDOW, "entropy_coef_spec": 0.1, "lam": 0.95}},
}


def learn(algorithm: str, recurrent: bool, probes: dict, frames: int, changes: dict | None = None):
    agent = {"algorithm": ALGORITHMS[algorithm], "net": NETS[recurrent]}
    agent |= {"memory": MEMORIES[algorithm]} if algorithm in MEMORIES else {}
    agent = merge(agent, changes or {})
    env = {"name": "probes:previous_sign", "num_envs": 8, "max_frame": frames}
    climbed = ascend(slmjax.load_spec({"name": "remembered", "agent": agent, "env": env}), probes, Discrete(2))
    assert (climbed.failed < 0).all()
    return climbed


@cache
def climb(algorithm: str, recurrent: bool):
    return learn(algorithm, recurrent, PROBES, 60_000 if recurrent else 10_000)


def script(probe: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations `[T, B, 1]` of some episodes, the right actions `[T, B]`, and where there is one."""
    if probe == "the sign before":
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (STEPS, 64, 1))
        before = np.roll(signs, 1, 0)[..., 0]
        return signs, before > 0, np.broadcast_to(np.arange(STEPS)[:, None] > 0, before.shape)
    delay = int(probe.split()[2])
    obs = np.zeros((delay + 1, 2, 1))
    obs[0, :, 0], obs[-1] = [-1.0, 1.0], 0.5
    asked = np.broadcast_to(np.arange(delay + 1)[:, None] == delay, obs.shape[:2])
    return obs, np.broadcast_to([False, True], asked.shape), asked


def right(climbed, probe: str) -> np.ndarray:
    """The share of right answers that each session gives, acting greedily."""
    place = list(climbed.probes).index(probe)
    lanes = jnp.arange(place * SEEDS, (place + 1) * SEEDS)
    obs, answers, asked = script(probe)
    policies, hps = jax.tree.map(lambda x: jnp.asarray(np.asarray(x))[lanes], (climbed.state.policy, climbed.hp))

    def play(policy, hp):
        def step(carry, seen):
            action, carry, _ = climbed.agent.act(policy, seen, carry, jax.random.key(0), hp, True)
            return carry, action

        return jax.lax.scan(step, climbed.agent.carry(obs.shape[1]), jnp.asarray(obs, jnp.float32))[1]

    actions = np.asarray(jax.jit(jax.vmap(play))(policies, hps))
    return ((actions == answers) & asked).sum((1, 2)) / asked.sum()


OFTEN = ("DQN", "PPO")  # what differs in kind


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("algorithm", slow_ones(ALGORITHMS, {*ALGORITHMS} - {*OFTEN}))
def test_a_carry_tells_what_was_seen_before(algorithm, probe):
    assert (right(climb(algorithm, True), probe) >= 0.98).all()


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("algorithm", slow_ones(OFTEN, {"DQN"}))
def test_without_a_carry_nobody_can_tell(algorithm, probe):
    assert (right(climb(algorithm, False), probe) <= 0.6).all()


FRAMES, PATIENT = 200_000, ("ActorCritic",)  # these need twice as many: one step a rollout


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", FAR)
def test_a_carry_reaches_far_back(algorithm):
    frames = FRAMES * (1 + (algorithm in PATIENT))
    rate = {"net": {"optim_spec": {"lr": {"end_step": frames}}}}
    climbed = learn(algorithm, True, LONG, frames, merge(rate, FAR[algorithm]))
    assert (right(climbed, next(iter(LONG))) >= 0.98).all()
