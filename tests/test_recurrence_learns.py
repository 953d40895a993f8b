"""What needs a memory is learned with a recurrent network, and not without one."""

import numpy as np
import pytest

import slmjax

STEPS = 8  # of an episode of `previous_sign`; the best policy earns one less
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
    "PPO": {"name": "PPO", "time_horizon": 32, "minibatch_size": 64, "gamma": 0.5},
    "ActorCritic": {"name": "ActorCritic", "training_frequency": 16, "gamma": 0.5},
}


def returns(algorithm: str, recurrent: bool) -> np.ndarray:
    """Greedy returns of five sessions."""
    agent = {"algorithm": ALGORITHMS[algorithm], "net": NETS[recurrent]}
    agent |= {"memory": MEMORIES[algorithm]} if algorithm in MEMORIES else {}
    env = {"name": "probes:previous_sign", "num_envs": 8, "max_frame": 60_000}
    spec = slmjax.load_spec({"name": "remembered", "agent": agent, "env": env})
    return slmjax.train(spec, sessions=5).eval_reward


OFTEN = ("DQN", "QRDQN", "PPO")


@pytest.mark.parametrize(
    "algorithm", [a if a in OFTEN else pytest.param(a, marks=pytest.mark.slow) for a in ALGORITHMS]
)
def test_a_carry_tells_what_was_seen_before(algorithm):
    assert (returns(algorithm, True) > STEPS - 2).all()


@pytest.mark.parametrize("algorithm", ["DQN", "PPO"])
def test_without_one_nothing_tells(algorithm):
    assert (returns(algorithm, False) < STEPS / 2).all()
