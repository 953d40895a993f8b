"""Soft actor-critic against a float64 NumPy oracle: what one update makes of actor, critics, targets, temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_update import IMPORTANCE, ROWS, average, case, close, layers, mlp, moved, slope, unit
from scipy import special, stats

from slmjax.algos import sac
from slmjax.learners import off_policy, temperature
from slmjax.policies import heads
from slmjax.policies.continuous import SquashedNormal
from slmjax.types import Box, Discrete

EPS = np.linspace(-1.5, 1.5, ROWS)[:, None]
ALPHA, ALPHA_LR = 0.3, 0.01


class Fixed(SquashedNormal):
    """Draws that the oracle knows."""

    def sample(self, key):
        return self.loc + self.scale * jnp.asarray(EPS, jnp.float32)


def draw(actions: str, actor: list, obs: np.ndarray):
    """Unit actions, weights and log-probabilities, `[B, K]`."""
    output = mlp(actor, obs)
    if actions == "discrete":
        log_prob = special.log_softmax(output, -1)
        return None, np.exp(log_prob), log_prob
    loc, std = output[:, :1], np.exp(np.clip(output[:, 1:], -5, 2))
    raw = loc + std * EPS
    log_prob = stats.norm.logpdf(raw, loc, std) - np.log(1 - np.tanh(raw) ** 2)
    return np.tanh(raw), np.ones_like(log_prob), log_prob


def score(critic: list, obs: np.ndarray, action: np.ndarray | None) -> np.ndarray:
    return mlp(critic, obs if action is None else np.concatenate([action, obs], -1))


def soft_value(actions: str, actor: list, critics: list, obs: np.ndarray) -> np.ndarray:
    action, weight, log_prob = draw(actions, actor, obs)
    q = np.minimum(*(score(critic, obs, action) for critic in critics))
    return np.sum(weight * (q - ALPHA * log_prob), -1)


def played(critic: list, rows: dict) -> np.ndarray:
    if rows["action"].ndim == 1:
        return score(critic, rows["obs"], None)[np.arange(ROWS), rows["action"]]
    return score(critic, rows["obs"], unit(rows["action"].astype(np.float64)))[:, 0]


def soft_case(actions: str, monkeypatch, **changes):
    monkeypatch.setattr(heads, "SquashedNormal", Fixed)
    algorithm = {"alpha_init": ALPHA, "alpha_lr": ALPHA_LR} | changes.pop("algorithm", {})
    made = case("SoftActorCritic", actions, monkeypatch, algorithm=algorithm, **changes)
    # Targets that are not the critics show which of them a loss has asked.
    targets = jax.tree.map(lambda x: x + 0.1, made.state.learner.targets)
    return made._replace(state=made.state._replace(learner=made.state.learner._replace(targets=targets)))


@pytest.mark.parametrize("actions", ["box", "discrete"])
class TestOneUpdate:
    def test_it_is_what_the_papers_say(self, actions, monkeypatch):
        _, hp, state, rollout, update, rows = soft_case(actions, monkeypatch)
        after, metrics = update(state, rollout, jax.random.key(0), hp)
        old, new = state.learner, after.learner
        actor = layers(state.policy)
        networks = (old.critics.params, old.targets.critics, new.critics.params)
        critics, targets, learned = ([layers(x, i) for i in (0, 1)] for x in networks)

        target = rows["reward"] + rows["discount"] * soft_value(actions, actor, targets, rows["final_obs"])
        losses = [lambda w: average(IMPORTANCE * (target - played(w, rows)) ** 2, rows)] * 2
        for before, now, loss in zip(critics, learned, losses, strict=True):
            assert close(moved(before, now), slope(loss, before))
        errors = np.mean([np.abs(target - played(critic, rows)) for critic in critics], 0)
        np.testing.assert_allclose(after.memory.reward, errors, rtol=1e-4)

        def actor_loss(judges):
            return lambda w: -average(soft_value(actions, w, judges, rows["obs"]), rows)

        gone = moved(actor, layers(after.policy))
        assert close(gone, slope(actor_loss(learned), actor))
        assert not close(gone, slope(actor_loss(critics), actor))  # a mutant: the critics of before

        _, weight, log_prob = draw(actions, actor, rows["obs"])
        entropy = average(-np.sum(weight * log_prob, -1), rows)
        wanted = 0.98 * np.log(3) if actions == "discrete" else -1.0
        rise = new.log_alpha.params - old.log_alpha.params  # the first step of Adam is its rate
        np.testing.assert_allclose(rise, -ALPHA_LR * np.sign(entropy - wanted), rtol=1e-3)
        follow = jax.tree.map(lambda t, c: 0.75 * t + 0.25 * c, old.targets.critics, new.critics.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.targets.critics, follow)

        expected = {
            "critic_loss": sum(loss(critic) for loss, critic in zip(losses, critics, strict=True)),
            "actor_loss": actor_loss(learned)(actor),
            "entropy": entropy,
            "alpha": ALPHA,
            "q_value": average(np.mean([played(critic, rows) for critic in critics], 0), rows),
        }
        expected["loss"] = expected["critic_loss"] + expected["actor_loss"]
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
        assert set(metrics) == {*expected, "grad_norm"}

    def test_several_gradient_steps_of_one_update_are_those_of_several_updates(self, actions, monkeypatch):
        _, hp, state, rollout, update, _ = soft_case(actions, monkeypatch)
        at_once = soft_case(actions, monkeypatch, algorithm={"training_iter": 3})
        together, _ = at_once.update(state, rollout, jax.random.key(0), at_once.hp)
        for i in range(3):
            state, _ = update(state, rollout, jax.random.key(i), hp)
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)  # noqa: E731
        jax.tree.map(near, together, state)


def changed(before, after) -> bool:
    return any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def test_a_delayed_actor_moves_at_every_third_gradient_step_and_its_targets_at_all(monkeypatch):
    _, hp, state, rollout, update, _ = soft_case("box", monkeypatch, algorithm={"policy_delay": 3})
    seen = []
    for i in range(4):
        after, metrics = update(state, rollout, jax.random.key(i), hp._replace(frame=jnp.int32(i * ROWS)))
        parts = [(state.policy, after.policy), (state.learner.log_alpha.params, after.learner.log_alpha.params)]
        parts += [(getattr(state.learner, x), getattr(after.learner, x)) for x in ("critics", "targets")]
        seen.append([changed(*part) for part in parts] + [float(metrics["actor_loss"])])
        state = after
    assert [row[:4] for row in seen] == [[i % 3 == 0, i % 3 == 0, True, True] for i in range(4)]
    assert seen[0][4] == seen[1][4] == seen[2][4] != seen[3][4]  # shown until there is a newer one


def test_a_replaced_target_waits_for_its_frame_and_for_the_end_of_the_update(monkeypatch):
    net = {"update_type": "replace", "update_frequency": 2 * ROWS, "polyak_coef": 0.005}
    made = soft_case("box", monkeypatch, algorithm={"training_iter": 2}, net=net)
    one, _ = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    assert not changed(made.state.learner.targets, one.learner.targets)
    two, _ = made.update(one, made.rollout, jax.random.key(1), made.hp._replace(frame=jnp.int32(ROWS)))
    assert not changed(two.learner.targets.critics, two.learner.critics.params)


def test_a_fixed_temperature_stays_and_a_learned_one_keeps_within_its_limits(monkeypatch):
    made = soft_case("discrete", monkeypatch, algorithm={"fixed_alpha": 0.0, "alpha_lr": None, "alpha_init": 1.0})
    after, metrics = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    assert metrics["alpha"] == 0.0
    assert after.learner.log_alpha.params == made.state.learner.log_alpha.params
    made = soft_case("discrete", monkeypatch, algorithm={"log_alpha_min": -1.0, "log_alpha_max": -0.5, "alpha_lr": 9.0})
    after, _ = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    assert after.learner.log_alpha.params in (-1.0, -0.5)


def test_the_temperature_rises_where_entropy_is_short():
    rng = np.random.default_rng(0)
    log_prob, target = rng.normal(size=100), -1.0
    slope = jax.grad(lambda *args: temperature.loss(*args)[0])
    found = slope(jnp.log(0.2), jnp.float32(np.mean(-log_prob)), target)
    np.testing.assert_allclose(found, -np.mean(log_prob + target), rtol=1e-5)
    assert slope(0.0, -2.0, target) < 0 < slope(0.0, 0.0, target)


def test_log_probabilities_of_unit_actions_are_those_of_tfp():
    from tensorflow_probability.substrates import jax as tfp

    space = Box(np.array([-2.0, 0.0]), np.array([5.0, 0.1]), (2,))
    output = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)) * 1.5, jnp.float32)
    draws = sac.squashed(space).draws(output, jax.random.key(0), None)
    loc, log_std = jnp.split(output, 2, -1)
    normal = tfp.distributions.Normal(loc, jnp.exp(jnp.clip(log_std, -5, 2)))
    reference = tfp.distributions.TransformedDistribution(normal, tfp.bijectors.Tanh())
    inner = np.abs(draws.action).max(-1) < 0.999  # beyond, tfp's inverse of tanh has lost what our raw draw still has
    assert inner.sum() > 30
    expected = reference.log_prob(draws.action).sum(-1)
    np.testing.assert_allclose(draws.log_prob[inner, 0], expected[inner], rtol=2e-3, atol=2e-3)
    assert (draws.weight == 1).all()


def test_expectations_over_discrete_actions_are_exact():
    output = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    draws = sac.categorical(Discrete(3)).draws(jnp.asarray(output), jax.random.key(0), None)
    other = sac.categorical(Discrete(3)).draws(jnp.asarray(output), jax.random.key(1), None)
    p = special.softmax(output.astype(np.float64), -1)
    np.testing.assert_allclose(draws.weight, p, rtol=1e-5)
    np.testing.assert_allclose(off_policy.entropy(draws), -np.sum(p * np.log(p), -1), rtol=1e-5)
    q = np.random.default_rng(1).normal(size=(2, 5, 3))
    expected = np.sum(p * (q.min(0) - 0.5 * np.log(p)), -1)
    found = off_policy.soft_value(jnp.asarray(q, jnp.float32), draws, 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, draws, other)  # nothing is drawn


def test_log_std_is_kept_between_its_bounds():
    output = jnp.asarray([[0.0, -9.0], [0.0, 9.0]])
    space = Box(-1.0, 1.0, (1,))
    entropy = [-sac.squashed(space).draws(output, jax.random.key(i), None).log_prob[:, 0] for i in range(200)]
    narrow, wide = np.mean(entropy, 0)
    # Narrow: tanh is the identity around 0, so the entropy is that of the normal itself.
    np.testing.assert_allclose(narrow, stats.norm(scale=np.exp(-5)).entropy(), atol=0.2)
    raw = stats.norm(scale=np.exp(2)).rvs(200_000, random_state=0)
    expected = stats.norm(scale=np.exp(2)).entropy() + np.mean(2 * (np.log(2) - raw - np.logaddexp(0, -2 * raw)))
    np.testing.assert_allclose(wide, expected, atol=2.0)
