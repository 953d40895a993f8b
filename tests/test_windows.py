"""Whole episodes out of rollouts, against loops that know no scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from trees import same

import slmjax
from slmjax.lab.trial import make_trial
from slmjax.maths.episodes import Window, append, elite_floor, empty, episodes
from slmjax.types import Rollout, SpecError


def trajectory(rng: np.random.Generator, steps: int, envs: int) -> Window:
    return Window(
        obs=rng.normal(size=(steps, envs, 2)).astype(np.float32),
        raw=rng.integers(0, 2, (steps, envs)),
        reward=rng.normal(size=(steps, envs)).astype(np.float32),
        ended=rng.random((steps, envs)) < 0.2,
        valid=rng.random((steps, envs)) < 0.9,
    )


def oracle(window: Window, newest: int, gamma: float) -> dict[str, np.ndarray]:
    """The same in float64, episode by episode."""
    steps, envs = window.reward.shape
    found = {name: np.zeros((steps, envs)) for name in ("to_go", "total", "last", "done")}
    for e in range(envs):
        begin = 0
        for t in range(steps):
            if not window.ended[t, e]:
                continue
            if t >= steps - newest:
                rewards = [float(window.reward[k, e]) * bool(window.valid[k, e]) for k in range(begin, t + 1)]
                found["last"][t, e] = 1
                for k in range(begin, t + 1):
                    rest = rewards[k - begin :]
                    found["to_go"][k, e] = sum(r * gamma**i for i, r in enumerate(rest))
                    found["total"][k, e] = sum(rewards)
                    found["done"][k, e] = 1
            begin = t + 1
    return found


@pytest.mark.parametrize("newest", [1, 5, 24])
def test_returns_are_those_of_the_episodes_that_ended_in_the_newest_steps(newest):
    rng, found_of = np.random.default_rng(newest), jax.jit(episodes, static_argnums=1)
    for gamma in (1.0, 0.9, 0.0):
        for _ in range(30):
            window = trajectory(rng, 24, 3)
            found, expected = found_of(window, newest, gamma), oracle(window, newest, gamma)
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(found, name), value, atol=1e-5, err_msg=name)


def test_the_elite_are_the_best_share_of_the_episodes_and_at_least_one():
    rng, found_of = np.random.default_rng(0), jax.jit(episodes, static_argnums=1)
    for share in (0.01, 0.2, 0.5, 1.0):
        for _ in range(20):
            found = found_of(trajectory(rng, 40, 3), 40, 1.0)
            totals = np.sort(np.asarray(found.total)[np.asarray(found.last)])[::-1]
            kept = max(int(np.round(share * len(totals))), 1)
            assert float(elite_floor(found, share)) == pytest.approx(totals[kept - 1])


def test_no_episode_no_elite():
    window = trajectory(np.random.default_rng(0), 8, 2)
    found = episodes(window._replace(ended=np.zeros((8, 2), bool)), 8, 1.0)
    assert not (np.asarray(found.total) >= float(elite_floor(found, 0.5))).any()


def test_a_window_keeps_the_newest_steps_in_their_order():
    rng = np.random.default_rng(1)
    window = empty(10, jnp.zeros((3, 2)), jnp.zeros(3, jnp.int32))
    assert not np.asarray(window.valid).any()
    seen = []
    for _ in range(5):
        part = trajectory(rng, 4, 3)
        seen.append(part.reward)
        no = np.zeros_like(part.ended)
        rollout = Rollout(part.obs, part.raw, part.reward, part.ended, no, part.obs, part.valid)
        window = append(window, rollout, part.raw)
    np.testing.assert_array_equal(window.reward, np.concatenate(seen)[-10:])
    assert window.obs.shape == (10, 3, 2)


class TestReinforce:
    def test_nothing_moves_while_no_episode_ends(self):
        spec = spec_of("Reinforce", "CartPole-v1", 16, algorithm={"training_frequency": 4}, meta={"max_session": 1})
        trial = make_trial(spec)
        batches = trial.population.init(trial.keys, trial.hp)
        before = trial.population.gather(batches).agent
        batches, rows = trial.population.segment(batches, trial.hp, 0, 16)  # no pole falls within four steps
        assert (rows["episodes"] == 0).all()
        after = trial.population.gather(batches).agent
        assert same(before._replace(memory=()), after._replace(memory=()))

    def test_an_environment_without_a_limit_is_refused(self):
        with pytest.raises(SpecError, match=r"env\.max_t"):
            slmjax.train(spec_of("Reinforce", "probes:nan_reward", 64), sessions=1)

    def test_the_first_steps_of_a_long_episode_are_learned_from(self):
        # One pole episode spans many rollouts of 4 steps: its whole return must reach its first step.
        spec = spec_of("Reinforce", "CartPole-v1", 4000, algorithm={"training_frequency": 4, "gamma": 1.0})
        result = slmjax.train(spec, sessions=2)
        assert result.df.episodes.sum() > 0
        assert np.isfinite(result.returns[:, -1]).all()
