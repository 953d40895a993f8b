"""Probes for actors that learn from replay, beyond those of the ladder: all five sessions must find the answer.

What learns its temperature, and CrossQ, whose batch normalisation asks for more frames. Values are those of the critics
at the greedy action. Where actions are discrete and there is but one, its entropy is 0 and a soft value is a plain one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of

import slmjax
from slmjax.memory import replay
from slmjax.nets.critics import build_critics

pytestmark = pytest.mark.usefixtures("optimised")
SESSIONS = 5
SLOW_CROSSQ = pytest.param("CrossQ", marks=pytest.mark.slow)


def learn(name: str, probe: str, frames: int, lr: float = 1e-2, kwargs: dict | None = None, **changes):
    cooling = {"name": "linear_decay", "start_val": lr, "end_val": 1e-4, "end_step": frames}
    changes["net"] = {"optim_spec": {"lr": cooling}} | changes.get("net", {})
    spec = spec_of(name, f"probes:{probe}", frames, kwargs=kwargs, **changes)
    return slmjax.train(spec, sessions=SESSIONS)


def actions(result, obs: list[float]) -> np.ndarray:
    return np.stack([p(jnp.asarray(obs, jnp.float32)[:, None]) for p in result.policies])


def values(result, obs: list[float]) -> np.ndarray:
    """The critics' mean value of the greedy action, `[S, len(obs)]`."""
    env, batch = slmjax.make_env(result.spec.env), jnp.asarray(obs, jnp.float32)[:, None]
    learned = result.sessions.agent.learner.critics.params
    number = jax.tree.leaves(learned)[0].shape[1]
    critics = build_critics(result.spec.agent.net, env.observation_space, env.action_space, number)
    found = []
    for i, action in enumerate(jnp.asarray(actions(result, obs))):
        params = jax.tree.map(lambda x, i=i: np.asarray(x)[i], learned)
        scores = critics.apply(params, batch, critics.unit(action))
        found.append(critics.pick(scores, action).mean(0))
    return np.stack(found)


# A deterministic actor that runs into a bound early stays there, so critics first see 1000 frames of random actions.
CALM = {"algorithm": {"training_start_step": 1024, "training_iter": 16}, "kwargs": {"continuous": True}}


# With 64 transitions a batch, eight seeds of CrossQ in twenty miss by more than is allowed here; with 256 none, by 0.06
# at most.
LARGE = {"memory": {"batch_size": 256}}


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "changes"), [("SoftActorCritic", {}), ("CrossQ", LARGE)])
def test_the_best_action_may_depend_on_the_observation(algorithm, changes):
    result = learn(algorithm, "matching_action", 8000, **CALM, **changes)
    found = actions(result, [-1.0, 1.0])[..., 0]
    np.testing.assert_allclose(found, np.broadcast_to([0.3, 2.7], found.shape), atol=0.15)


# Whether the probe gets an action between two bounds, or has the only one of a discrete space.
BOXED = {"TD3": True, "CrossQ": False}


def valued(name: str, probe: str, frames: int, algorithm: dict, obs: list[float], lr: float = 1e-2, **changes):
    env, kwargs = ("boxed", {"probe": probe}) if BOXED[name] else (probe, None)
    return values(learn(name, env, frames, lr, kwargs, algorithm=algorithm, **changes), obs)


def time_limit_values(which: str) -> np.ndarray:
    net = {} if which == "CrossQ" else {"polyak_coef": 0.1}
    return valued(which, "time_limit", 30_000, {"gamma": 0.98}, [0.0], 2e-2, net=net)


@pytest.mark.parametrize("which", ["TD3", SLOW_CROSSQ])
def test_a_limit_is_bootstrapped_through(which):
    np.testing.assert_allclose(time_limit_values(which), 50.0, atol=1.0)


def test_a_mutant_that_takes_a_limit_for_a_death_is_far_off(monkeypatch):
    real = replay.gather

    def deadly(spec, ring, *args, **kwargs):
        return real(spec, ring._replace(terminated=ring.terminated | ring.truncated), *args, **kwargs)

    monkeypatch.setattr(replay, "gather", deadly)
    assert (np.abs(time_limit_values("TD3") - 50.0) > 1.0).all()
