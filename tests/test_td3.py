"""TD3 and DDPG against a NumPy oracle in float64: what one update makes of actor, critics and targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_update import IMPORTANCE, ROWS, average, case, close, layers, mlp, moved, slope, unit

from slmjax.algos.td3 import smooth
from slmjax.schedules import at

CRITICS = {"TD3": 2, "DDPG": 1}


def play(actor: list, obs: np.ndarray) -> np.ndarray:
    return np.tanh(mlp(actor, obs))


def score(critic: list, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    return mlp(critic, np.concatenate([action, obs], -1))[:, 0]


def deterministic(name: str, monkeypatch, **changes):
    """A case whose targets are not what is learned, and whose target actions have no noise."""
    algorithm = ({"target_noise": 0.0} if name == "TD3" else {}) | changes.pop("algorithm", {})
    made = case(name, "box", monkeypatch, algorithm=algorithm, **changes)
    targets = jax.tree.map(lambda x: x + 0.1, made.state.learner.targets)
    return made._replace(state=made.state._replace(learner=made.state.learner._replace(targets=targets)))


@pytest.mark.parametrize("name", ["TD3", "DDPG"])
def test_one_update_is_what_the_papers_say(name, monkeypatch):
    _, hp, state, rollout, update, rows = deterministic(name, monkeypatch)
    after, metrics = update(state, rollout, jax.random.key(0), hp)
    old, new = state.learner, after.learner
    actor, far = layers(state.policy), layers(old.targets.actor)
    several = range(CRITICS[name])
    critics, learned = ([layers(x.params, i) for i in several] for x in (old.critics, new.critics))
    targets = [layers(old.targets.critics, i) for i in several]

    later = play(far, rows["final_obs"])
    q_t = np.min([score(critic, rows["final_obs"], later) for critic in targets], 0)
    target = rows["reward"] + rows["discount"] * q_t
    action = unit(rows["action"].astype(np.float64))
    loss = lambda w: average(IMPORTANCE * (target - score(w, rows["obs"], action)) ** 2, rows)  # noqa: E731
    for before, now in zip(critics, learned, strict=True):
        assert close(moved(before, now), slope(loss, before))
    errors = np.mean([np.abs(target - score(critic, rows["obs"], action)) for critic in critics], 0)
    np.testing.assert_allclose(after.memory.reward, errors, rtol=1e-4)

    actor_loss = lambda judge: lambda w: -average(score(judge, rows["obs"], play(w, rows["obs"])), rows)  # noqa: E731
    gone = moved(actor, layers(after.policy))
    assert close(gone, slope(actor_loss(learned[0]), actor))
    assert not close(gone, slope(actor_loss(critics[0]), actor))  # a mutant: the critic of before
    online = type(old.targets)(after.policy, new.critics.params)
    follow = jax.tree.map(lambda t, c: 0.75 * t + 0.25 * c, old.targets, online)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.targets, follow)
    expected = {"critic_loss": sum(map(loss, critics)), "actor_loss": actor_loss(learned[0])(actor)}
    q = np.mean([score(critic, rows["obs"], action) for critic in critics], 0)
    expected |= {"q_value": average(q, rows), "loss": expected["critic_loss"] + expected["actor_loss"]}
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-4, err_msg=key)
    assert set(metrics) == {*expected, "grad_norm"}


def test_actor_and_targets_move_at_every_second_gradient_step(monkeypatch):
    _, hp, state, rollout, update, _ = deterministic("TD3", monkeypatch)
    moves = []
    for i in range(3):
        after, _ = update(state, rollout, jax.random.key(i), hp._replace(frame=jnp.int32(i * ROWS)))
        pairs = [(state.policy, after.policy)]
        pairs += [(getattr(state.learner, x), getattr(after.learner, x)) for x in ("targets", "critics")]
        changed = [
            any((a != b).any() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)) for x, y in pairs
        ]
        moves.append(changed)
        state = after
    assert moves == [[True, True, True], [False, False, True], [True, True, True]]


def test_gradients_are_clipped_by_the_norm_of_each_network(monkeypatch):
    made = deterministic("TD3", monkeypatch, net={"clip_grad_val": 1e-3})
    after, metrics = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    for before, now in ((made.state.policy, after.policy),):
        assert np.sqrt(sum((x**2).sum() for x in moved(layers(before), layers(now)))) == pytest.approx(1e-3, rel=1e-2)
    for i in (0, 1):
        gone = moved(layers(made.state.learner.critics.params, i), layers(after.learner.critics.params, i))
        assert np.sqrt(sum((x**2).sum() for x in gone)) == pytest.approx(1e-3, rel=1e-2)
    assert metrics["grad_norm"] > 1e-2  # that before the clip


class TestSmoothing:
    def keys(self, monkeypatch, **values):
        return case("TD3", "box", monkeypatch, algorithm=values).hp

    def test_noise_is_clipped_and_then_the_action(self, monkeypatch):
        hp = self.keys(monkeypatch, target_noise=0.4, target_noise_clip=0.5)
        unit_action = jnp.linspace(-1, 1, 2000)[:, None]
        noise = 0.4 * np.asarray(jax.random.normal(jax.random.key(0), (2000, 1)), np.float64)
        expected = np.clip(np.asarray(unit_action, np.float64) + np.clip(noise, -0.5, 0.5), -1, 1)
        found = smooth(unit_action, jax.random.key(0), hp)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        shift = np.abs(found - unit_action)
        assert shift.max() == pytest.approx(0.5)
        assert (np.abs(noise) > 0.5).mean() > 0.1

    def test_it_changes_the_target(self, monkeypatch):
        still = deterministic("TD3", monkeypatch)
        noisy = deterministic("TD3", monkeypatch, algorithm={"target_noise": 0.3})
        one, two = (x.update(x.state, x.rollout, jax.random.key(0), x.hp)[0].memory.reward for x in (still, noisy))
        assert (one[:2] != two[:2]).all()
        assert one[2] == two[2]  # terminated: no target action is asked for

    def test_it_has_noise_for_every_dimension_and_row(self, monkeypatch):
        hp = at(self.keys(monkeypatch), jnp.int32(0))
        found = np.asarray(smooth(jnp.zeros((50, 3)), jax.random.key(0), hp))
        assert len(np.unique(found[np.abs(found) < 0.5])) > 140
