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
ALGORITHMS = {
    "PPO": {"name": "PPO", "time_horizon": 32, "minibatch_size": 64, "gamma": 0.5},
    "ActorCritic": {"name": "ActorCritic", "training_frequency": 16, "gamma": 0.5},
}


def returns(algorithm: str, recurrent: bool) -> np.ndarray:
    """Greedy returns of five sessions."""
    agent = {"algorithm": ALGORITHMS[algorithm], "net": NETS[recurrent]}
    env = {"name": "probes:previous_sign", "num_envs": 8, "max_frame": 60_000}
    spec = slmjax.load_spec({"name": "remembered", "agent": agent, "env": env})
    return slmjax.train(spec, sessions=5).eval_reward


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_carry_tells_what_was_seen_before(algorithm):
    assert (returns(algorithm, True) > STEPS - 2).all()
    assert (returns(algorithm, False) < STEPS / 2).all()
