"""DQN and its kin against a NumPy oracle in float64: what one update makes of the network and of its target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_update import IMPORTANCE, ROWS, average, case, close, layers, mlp, moved, slope


def replayed(name: str, monkeypatch, **net):
    """A case whose target network, where there is one, is not the online one."""
    made = case(name, "discrete", monkeypatch, net=net)
    learner = made.state.learner
    learner = learner._replace(target=jax.tree.map(lambda x: -0.7 * x + 0.1, learner.target))
    return made._replace(state=made.state._replace(learner=learner))


@pytest.mark.parametrize("name", ["DQN", "DoubleDQN", "VanillaDQN"])
def test_one_update_is_what_the_papers_say(name, monkeypatch):
    _, hp, state, rollout, update, rows = replayed(name, monkeypatch)
    after, metrics = update(state, rollout, jax.random.key(0), hp)
    online = layers(state.policy)
    far = online if name == "VanillaDQN" else layers(state.learner.target)

    each = np.arange(ROWS)
    later, chosen = mlp(far, rows["final_obs"]), mlp(far, rows["final_obs"]).argmax(-1)
    liked = mlp(online, rows["final_obs"]).argmax(-1)
    assert name == "VanillaDQN" or (chosen != liked).any()
    target = rows["reward"] + rows["discount"] * later[each, liked if name == "DoubleDQN" else chosen]
    error = lambda w: target - mlp(w, rows["obs"])[each, rows["action"]]  # noqa: E731
    loss = lambda w: average(IMPORTANCE * error(w) ** 2, rows)  # noqa: E731
    assert close(moved(online, layers(after.policy)), slope(loss, online))
    np.testing.assert_allclose(after.memory.reward, error(online) * rows["valid"], rtol=1e-4, atol=1e-6)

    follow = jax.tree.map(
        lambda t, c: 0.75 * t + 0.25 * c, state.learner.target, () if name == "VanillaDQN" else after.policy
    )
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(near, after.learner.target, follow)
    np.testing.assert_allclose(metrics["loss"], loss(online), rtol=1e-4)
    np.testing.assert_allclose(metrics["q_value"], average(mlp(online, rows["obs"]).max(-1), rows), rtol=1e-4)


def test_a_replaced_target_waits_for_its_frame(monkeypatch):
    made = replayed("DQN", monkeypatch, update_type="replace", update_frequency=2 * ROWS, polyak_coef=0.005)
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))  # noqa: E731
    one, _ = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    assert same(one.learner.target, made.state.learner.target)
    two, _ = made.update(one, made.rollout, jax.random.key(1), made.hp._replace(frame=jnp.int32(ROWS)))
    assert same(two.learner.target, two.policy)
