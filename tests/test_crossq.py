"""CrossQ against a float64 NumPy oracle: the joint pass, the statistics that it moves, the actor's frozen critics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from one_update import IMPORTANCE, ROWS, average, case, close, slope, unit
from test_sac import ALPHA, ALPHA_LR, EPS, Fixed

from slmjax import schedules
from slmjax.algos.crossq import joint_td_loss
from slmjax.learners.off_policy import Draws
from slmjax.memory.replay import Batch
from slmjax.nets.batch_renorm import STATISTICS
from slmjax.nets.critics import build_critics
from slmjax.policies import heads
from slmjax.types import Box, SpecError

MOMENTUM, VARIANCE_EPS = 0.01, 1e-5


def parts(params, index: int | None = None) -> tuple[list, list]:
    """Trained weights and running statistics of a normalised MLP in the order of its layers, float64."""
    take = lambda x: np.asarray(x if index is None else x[index], np.float64)  # noqa: E731
    trained, statistics = params["params"], params[STATISTICS]
    norms, denses = ([n for n in trained if n.startswith(kind)] for kind in ("BatchRenorm_", "Dense_"))
    weights, running = [], []
    for i in range(len(norms)):  # a norm comes before each dense layer
        norm, dense = trained[f"BatchRenorm_{i}"], trained[f"Dense_{i}"]
        weights += [take(x) for x in (norm["scale"], norm["bias"], dense["kernel"], dense["bias"])]
        running.append([take(statistics[f"BatchRenorm_{i}"][x]) for x in ("mean", "deviation")])
    assert len(norms) == len(denses) == 2
    return weights, running


def forward(weights: list, running: list, x: np.ndarray, rows: np.ndarray | None = None):
    """The output, and the statistics after it; by the batch where `rows` says whom it counts, else by `running`."""
    after = []
    for i, (mean, deviation) in enumerate(running):
        if rows is not None:
            counted = x[rows > 0]
            m, s = counted.mean(0), np.sqrt(counted.var(0) + VARIANCE_EPS)
            after.append([mean + MOMENTUM * (m - mean), deviation + MOMENTUM * (s - deviation)])
            mean, deviation = m, s
        scale, bias, kernel, shift = weights[4 * i : 4 * i + 4]
        x = (scale * (x - mean) / deviation + bias) @ kernel + shift
        x = np.tanh(x) if i + 1 < len(running) else x
    return x, after


def draw(actions: str, output: np.ndarray):
    if actions == "discrete":
        log_prob = output - np.log(np.exp(output).sum(-1, keepdims=True))
        return None, np.exp(log_prob), log_prob
    loc, std = output[:, :1], np.exp(np.clip(output[:, 1:], -5, 2))
    raw = loc + std * EPS
    log_prob = -0.5 * EPS**2 - np.log(std) - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(raw) ** 2)
    return np.tanh(raw), np.ones_like(log_prob), log_prob


def beside(obs: np.ndarray, action: np.ndarray | None) -> np.ndarray:
    return obs if action is None else np.concatenate([action, obs], -1)


@pytest.mark.parametrize("actions", ["box", "discrete"])
def test_one_update_is_what_the_paper_says(actions, monkeypatch):
    monkeypatch.setattr(heads, "SquashedNormal", Fixed)
    algorithm = {"alpha_init": ALPHA, "alpha_lr": ALPHA_LR, "policy_delay": 1}
    made = case("CrossQ", actions, monkeypatch, algorithm=algorithm, net={"batch_renorm": True})
    _, hp, state, rollout, update, rows = made
    after, metrics = update(state, rollout, jax.random.key(0), hp)
    actor, actor_running = parts(state.policy)
    twice = np.concatenate([rows["valid"], rows["valid"] * (rows["discount"] > 0)])  # terminal successors are not kept
    a_t, weight_t, log_prob_t = draw(actions, forward(actor, actor_running, rows["final_obs"])[0])
    a_tm1 = unit(rows["action"].astype(np.float64)) if actions == "box" else None
    now, later = beside(rows["obs"], a_tm1), beside(rows["final_obs"], a_t)
    index = rows["action"] if actions == "discrete" else np.zeros(ROWS, int)
    critics = [parts(state.learner.critics.params, i) for i in (0, 1)]

    def scores(weights, running, jointly=True):
        if jointly:
            return np.split(forward(weights, running, np.concatenate([now, later]), twice)[0], 2)
        return [forward(weights, running, x, rows["valid"])[0] for x in (now, later)]

    def target(jointly):
        q_t = np.minimum(*(scores(*critic, jointly)[1] for critic in critics))
        return rows["reward"] + rows["discount"] * np.sum(weight_t * (q_t - ALPHA * log_prob_t), -1)

    def loss(running, jointly=True):
        aim = target(jointly)  # no gradient goes through it
        played = lambda w: scores(w, running, jointly)[0][np.arange(ROWS), index]  # noqa: E731
        return lambda w: average(IMPORTANCE * (aim - played(w)) ** 2, rows)

    new = [parts(after.learner.critics.params, i) for i in (0, 1)]
    for (weights, running), (learned, moved_to) in zip(critics, new, strict=True):
        gone = [b - a for b, a in zip(weights, learned, strict=True)]
        assert close(gone, slope(loss(running), weights))
        assert not close(gone, slope(loss(running, jointly=False), weights))  # a mutant: two passes
        expected = forward(weights, running, np.concatenate([now, later]), twice)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), moved_to, expected)
    assert after.learner.targets.critics == ()

    def actor_loss(w):
        output, _ = forward(w, actor_running, rows["obs"], rows["valid"])
        action, weight, log_prob = draw(actions, output)
        q = np.minimum(*(forward(*critic, beside(rows["obs"], action))[0] for critic in new))
        return average(np.sum(weight * (ALPHA * log_prob - q), -1), rows)

    learned, moved_to = parts(after.policy)
    gone = [b - a for b, a in zip(actor, learned, strict=True)]
    assert close(gone, slope(actor_loss, actor))
    expected = forward(actor, actor_running, rows["obs"], rows["valid"])[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), moved_to, expected)
    np.testing.assert_allclose(metrics["critic_loss"], sum(loss(r)(w) for w, r in critics), rtol=1e-4)
    np.testing.assert_allclose(metrics["actor_loss"], actor_loss(actor), rtol=1e-4)


def test_weight_decay_does_not_reach_the_statistics(monkeypatch):
    decay = {"optim_spec": {"name": "AdamW", "lr": 0.1, "weight_decay": 0.5}, "batch_renorm": True}
    made = case("CrossQ", "box", monkeypatch, net=decay)
    after, _ = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    for before, now in (
        (made.state.policy, after.policy),
        (made.state.learner.critics.params, after.learner.critics.params),
    ):
        for name, running in before[STATISTICS].items():
            assert (now[STATISTICS][name]["batches"] == 1).all()
            # At most 1 % of the way to a batch's deviation; 5 % less if it had decayed.
            assert (np.asarray(now[STATISTICS][name]["deviation"]) > 0.985 * np.asarray(running["deviation"])).all()


@pytest.mark.parametrize("name", ["SoftActorCritic", "TD3"])
def test_batch_renormalisation_works_with_target_networks_too(name, monkeypatch):
    made = case(name, "box", monkeypatch, net={"batch_renorm": True})
    after, _ = made.update(made.state, made.rollout, jax.random.key(0), made.hp)
    assert all((x["batches"] == 1).all() for x in after.learner.critics.params[STATISTICS].values())
    assert all((x["batches"] == 1).all() for x in after.policy[STATISTICS].values())


def test_critics_that_no_batch_normalises_are_refused(monkeypatch):
    with pytest.raises(SpecError, match="without target networks") as error:
        case("CrossQ", "box", monkeypatch, net={"batch_renorm": False})
    assert error.value.path == "agent.net.batch_renorm"


def test_a_successor_that_a_ring_does_not_keep_enters_no_statistic():
    spec = spec_of("CrossQ", "Pendulum-v1", 512, net={"batch_renorm": True})
    hp, rng = schedules.at(spec.hp, jnp.int32(0)), np.random.default_rng(0)
    critics = build_critics(hp.net, Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (1,)), 2)
    params = critics.init(jax.random.key(0), hp.net)
    obs, final_obs = rng.uniform(-1, 1, (2, 8, 3)).astype(np.float32)
    action, later = rng.uniform(-1, 1, (2, 8, 1)).astype(np.float32)
    discount = np.where(np.arange(8) == 3, 0.0, 0.9).astype(np.float32)  # row 3 ended its episode
    draws = Draws(later, np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32))

    def learned(final_obs):
        batch = Batch(obs, action, np.ones(8, np.float32), discount, final_obs, np.ones(8, np.float32))
        value, (_, params_after) = joint_td_loss(critics, params, (), draws, 0.1, batch, hp)
        return value, params_after[STATISTICS]

    elsewhere = final_obs.copy()
    elsewhere[3] += 5.0
    (loss, moved), (other_loss, otherwise) = jax.jit(learned)(final_obs), jax.jit(learned)(elsewhere)
    assert all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (moved, otherwise)), strict=True))
    assert float(loss) == float(other_loss)
    beside = final_obs + np.where(np.arange(8) == 2, 5.0, 0.0)[:, None].astype(np.float32)  # one that goes on
    assert float(jax.jit(learned)(beside)[0]) != float(loss)
