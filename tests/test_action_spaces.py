"""PPO learns with every distribution: probes with a known best action, five sessions each, and all must find it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import MATCHES, POSITIVE, TARGET, VALLEY, VALLEY_CENTRE

import slmjax

SESSIONS = 5


def learn(probe, pdtype, frames, lr=3e-3, kwargs=None, log_std_init=-0.5, **algorithm):
    keys = {"action_pdtype": pdtype, "time_horizon": 32, "minibatch_size": 128, "entropy_coef_spec": 0.0}
    rate = {"lr": {"start_val": lr, "end_val": 1e-4, "end_step": frames}}
    spec = {
        "name": "spaces",
        "agent": {
            "algorithm": {"name": "PPO", **keys, **algorithm},
            "net": {"hid_layers": [32], "log_std_init": log_std_init, "optim_spec": rate},
        },
        "env": {"name": f"probes:{probe}", "num_envs": 8, "max_frame": frames, "kwargs": kwargs or {}},
    }
    result = slmjax.train(slmjax.load_spec(spec), sessions=SESSIONS)
    assert not result.failed
    return result


def actions(result, obs):
    return np.stack([p(jnp.asarray(obs, jnp.float32)[:, None]) for p in result.policies])


@pytest.mark.parametrize(
    "binary", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["MultiDiscrete", "MultiBinary"]
)
def test_every_part_of_an_action_is_learned(binary):
    result = learn("matching_parts", "default", 10_000, 1e-2, {"binary": binary})
    assert (actions(result, [1.0, -1.0]) == np.array(MATCHES[binary])).all()
    assert (result.eval_reward == 1.0).all()


@pytest.mark.slow
def test_gumbel_softmax_learns_as_categorical_does():
    result = learn("matching_action", "GumbelSoftmax", 8_000, 1e-2)
    assert (actions(result, [-1.0, 1.0]) == [0, 1]).all()


def test_beta_finds_the_best_action_of_an_asymmetric_box():
    result = learn("best_action", "Beta", 40_000, 1e-2, {"continuous": True})
    np.testing.assert_allclose(actions(result, [0.0]), TARGET, atol=0.05)


@pytest.mark.slow
def test_log_normal_finds_the_best_action_of_a_half_infinite_box():
    result = learn("positive_action", "LogNormal", 40_000)
    np.testing.assert_allclose(actions(result, [0.0]), POSITIVE, atol=0.1)


def test_multivariate_normal_learns_how_the_entries_of_an_action_hang_together():
    result = learn("valley", "MultivariateNormal", 40_000, entropy_coef_spec=0.02, normalize_advantages=False)
    found = actions(result, [0.0])[:, 0]
    np.testing.assert_allclose(found, np.broadcast_to(VALLEY_CENTRE, found.shape), atol=0.15)
    for policy in result.policies:
        drawn = np.asarray(policy(jnp.zeros((20_000, 1)), jax.random.key(0)))
        assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(VALLEY, abs=0.1)
