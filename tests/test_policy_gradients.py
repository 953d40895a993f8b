"""PPO, A2C, REINFORCE and self-imitation against a NumPy oracle in float64: what one update makes of the weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from one_update import NET, average, close, layers, mlp, moved, slope
from scipy import special, stats

from slmjax import schedules
from slmjax.envs import vectorize
from slmjax.lab.trial import make_agent
from slmjax.learners.on_policy import Extras
from slmjax.memory import replay
from slmjax.types import Box, Discrete, Env, Rollout

STEPS, ENVS = 6, 3
GAMMA, LAM, BONUS, VALUE_COEF, CLIP = 0.9, 0.8, 0.3, 0.7, 0.2
SPACES = {"box": Box(-2.0, 5.0, (2,)), "discrete": Discrete(3)}
WHOLE = {"time_horizon": STEPS, "minibatch_size": STEPS * ENVS, "training_epoch": 1, "clip_eps_spec": CLIP, "lam": LAM}
KEYS = {
    "PPO": WHOLE | {"val_loss_coef": VALUE_COEF},
    "ActorCritic": {"training_frequency": STEPS, "lam": LAM, "val_loss_coef": VALUE_COEF},
    "Reinforce": {"training_frequency": STEPS},
}
KEYS["SIL"] = KEYS["ActorCritic"] | {"training_iter": 1, "sil_policy_loss_coef": 0.8, "sil_val_loss_coef": 0.6}
# One episode dies, one is cut and followed by a row that a suite invented, one dies with the last row.
DEAD, CUT, INVENTED = ((2, 0), (5, 2)), (3, 1), (4, 1)


class Case(NamedTuple):
    """An agent and a rollout that it might have played. `rows` are those of the rollout in float64, `[T, E, ...]`."""

    hp: Any
    state: Any
    rollout: Rollout
    update: Any
    rows: dict[str, np.ndarray]


def case(name: str, actions: str, memory: dict | None = None, **algorithm) -> Case:
    """The log-probabilities and values of acting differ from those of the network, as in a later epoch."""
    keys = KEYS[name] | {"gamma": GAMMA, "entropy_coef_spec": BONUS} | algorithm
    changes = {"net": NET} | ({"memory": memory} if memory else {})
    spec = spec_of(name, "CartPole-v1", 1000, num_envs=ENVS, algorithm=keys, **changes)
    env = Env(None, None, Box(-1.0, 1.0, (2,)), SPACES[actions], max_steps=STEPS)
    agent = make_agent(spec, vectorize(env, ENVS))
    hp = schedules.at(spec.hp, jnp.int32(0))
    state = jax.jit(agent.init)(jax.random.key(3), hp)
    rng = np.random.default_rng(0)
    obs, final_obs = rng.uniform(-1, 1, (2, STEPS, ENVS, 2)).astype(np.float32)
    raw = rng.normal(size=(STEPS, ENVS, 2)) if actions == "box" else rng.integers(0, 3, (STEPS, ENVS))
    flags = np.zeros((3, STEPS, ENVS), bool)
    for kind, places in enumerate((DEAD, (CUT,), (INVENTED,))):
        for place in places:
            flags[(kind, *place)] = True
    rows = {"obs": obs, "final_obs": final_obs, "reward": rng.normal(size=(STEPS, ENVS)).astype(np.float32)}
    rows = {field: x.astype(np.float64) for field, x in rows.items()}
    rows |= {"raw": raw, "terminated": flags[0], "truncated": flags[1], "valid": ~flags[2]}
    extras = jnp.asarray(raw, jnp.float32 if actions == "box" else jnp.int32)
    if name != "Reinforce":
        params = state.policy.params
        rows["log_prob"] = policy(split(params), rows)[0] + rng.normal(0, 0.3, (STEPS, ENVS))
        rows["value"] = value(split(params), rows["obs"])
        # A critic of its own is asked anew, whatever was said while acting.
        said = rows["value"] + rng.normal(0, 0.3, (STEPS, ENVS))
        extras = Extras(extras, *(jnp.asarray(x, jnp.float32) for x in (rows["log_prob"], said)))
    rollout = Rollout(obs, None, jnp.asarray(rows["reward"], jnp.float32), *flags[:2], final_obs, ~flags[2], extras)
    return Case(hp, state, rollout, jax.jit(agent.update), rows)


def split(params) -> list[np.ndarray]:
    """Weights of the actor (four arrays), of the critic if there is one (four), and the log std if there is one."""
    weights = [*layers(params["actor"]), *(layers(params["critic"]) if "critic" in params else [])]
    return [*weights, *([np.asarray(params["log_std"], np.float64)] if "log_std" in params else [])]


def policy(weights: list, rows: dict) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the raw draws, and entropies, `[T, E]`."""
    output = mlp(weights[:4], rows["obs"])
    if rows["raw"].ndim == 2:
        log_prob = special.log_softmax(output, -1)
        taken = np.take_along_axis(log_prob, rows["raw"][..., None], -1)[..., 0]
        return taken, -np.sum(np.exp(log_prob) * log_prob, -1)
    std = np.exp(weights[-1])
    entropy = np.full(output.shape[:2], stats.norm(scale=std).entropy().sum())
    return stats.norm.logpdf(rows["raw"], output, std).sum(-1), entropy


def value(weights: list, obs: np.ndarray) -> np.ndarray:
    return mlp(weights[4:8], obs)[..., 0]


def advantages(weights: list, rows: dict) -> np.ndarray:
    """Schulman et al. 2016, equation 16: one row after the other, from the last."""
    v_t, found, later = value(weights, rows["final_obs"]), np.zeros((STEPS, ENVS)), np.zeros(ENVS)
    for t in reversed(range(STEPS)):
        discount = GAMMA * ~rows["terminated"][t]
        delta = rows["reward"][t] + discount * v_t[t] - rows["value"][t]
        later = delta + discount * LAM * later * ~(rows["terminated"][t] | rows["truncated"][t])
        found[t] = later
    return found


def critic_loss(name: str, weights: list, rows: dict):
    """All parts of the loss of an algorithm with a critic, as functions of weights."""
    gained = advantages(weights, rows)
    target, mean = gained + rows["value"], lambda x: average(x, rows)
    if name == "PPO":
        gained = (gained - mean(gained)) / np.sqrt(mean((gained - mean(gained)) ** 2))

    def parts(w: list) -> dict[str, float]:
        log_prob, entropy = policy(w, rows)
        surrogate = log_prob * gained
        if name == "PPO":
            ratio = np.exp(log_prob - rows["log_prob"])
            surrogate = np.minimum(ratio * gained, np.clip(ratio, 1 - CLIP, 1 + CLIP) * gained)
        found = {"policy_loss": -mean(surrogate), "value_loss": mean((value(w, rows["obs"]) - target) ** 2)}
        found |= {"entropy": mean(entropy)}
        total = found["policy_loss"] + VALUE_COEF * found["value_loss"] - BONUS * found["entropy"]
        return found | {"loss": total}

    return parts


@pytest.mark.parametrize(("name", "actions"), [("PPO", "box"), ("ActorCritic", "discrete")])
def test_one_update_is_what_the_papers_say(name, actions):
    hp, state, rollout, update, rows = case(name, actions)
    after, metrics = update(state, rollout, jax.random.key(0), hp)
    before = split(state.policy.params)
    parts = critic_loss(name, before, rows)
    gone = moved(before, split(after.policy.params))
    assert close(gone, slope(lambda w: parts(w)["loss"], before))
    assert all(np.abs(x).max() > 1e-3 for x in gone)
    for part, expected in parts(before).items():
        np.testing.assert_allclose(metrics[part], expected, rtol=1e-4, err_msg=part)
    if name == "PPO":
        log_ratio = policy(before, rows)[0] - rows["log_prob"]
        clipped = np.abs(np.exp(log_ratio) - 1) > CLIP
        assert 0 < clipped.mean() < 1
        np.testing.assert_allclose(metrics["clip_fraction"], average(clipped, rows), rtol=1e-5)
        np.testing.assert_allclose(metrics["approx_kl"], average(np.expm1(log_ratio) - log_ratio, rows), rtol=1e-4)


def returns_to_go(rows: dict, beyond: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns to the end of the episode, and which rows lie in an episode that ended, `[T, E]`.

    `beyond [T, E]` is what each row would be worth after it, had a limit cut it.
    """
    paid = rows["reward"] * rows["valid"] + GAMMA * beyond * rows["truncated"]
    found, done = np.zeros((STEPS, ENVS)), np.zeros((STEPS, ENVS), bool)
    ended = rows["terminated"] | rows["truncated"]
    for t in reversed(range(STEPS)):
        later = t + 1 < STEPS
        done[t] = ended[t] | (later and done[t + 1])
        found[t] = paid[t] + (GAMMA * found[t + 1] * ~ended[t] if later else 0.0)
    return found, done


def test_one_update_of_reinforce_is_what_the_paper_says():
    hp, state, rollout, update, rows = case("Reinforce", "discrete")
    after, metrics = update(state, rollout, jax.random.key(0), hp)
    before, (gained, done) = split(state.policy), returns_to_go(rows)
    finished = rows | {"valid": rows["valid"] & done}
    assert 3 < finished["valid"].sum() < rows["valid"].sum()
    gained = gained - average(gained, finished)

    def loss(weights: list) -> float:
        log_prob, entropy = policy(weights, rows)
        return average(-log_prob * gained - BONUS * entropy, finished)

    gone = moved(before, split(after.policy))
    assert close(gone, slope(loss, before))
    assert all(np.abs(x).max() > 1e-3 for x in gone)
    np.testing.assert_allclose(metrics["loss"], loss(before), rtol=1e-4)


def test_self_imitation_adds_a_step_towards_what_was_better_than_thought():
    ring = {"max_size": STEPS * ENVS, "batch_size": 2 * STEPS * ENVS // 3}
    hp, state, rollout, update, rows = case("SIL", "discrete", ring)
    after, metrics = update(state, rollout, jax.random.key(0), hp)
    # It imitates where A2C has arrived; returns were cut where A2C began.
    *_, alone, _ = case("ActorCritic", "discrete")
    began, arrived = (split(x.policy.params) for x in (state, alone(state, rollout, jax.random.key(0), hp)[0]))
    gained, done = returns_to_go(rows, value(began, rows["final_obs"]))
    known = (done & rows["valid"]).reshape(-1)
    draw = {"rows": STEPS * ENVS, "num_envs": ENVS, "frame": STEPS * ENVS, "lag": 0}
    pick = np.asarray(replay.sample_indices(hp.memory, jax.random.split(jax.random.key(0), 3)[1], 1, **draw))[0]
    pick = pick[known[pick]]
    better = lambda w: np.maximum(gained - value(w, rows["obs"]), 0.0)  # noqa: E731
    assert 0 < (better(arrived).reshape(-1)[pick] > 0).mean() < 1

    def loss(weights: list) -> float:
        each = -0.8 * policy(weights, rows)[0] * better(arrived) + 0.6 * better(weights) ** 2 / 2
        return each.reshape(-1)[pick].mean()

    assert close(moved(arrived, split(after.policy.params)), slope(loss, arrived))
    np.testing.assert_allclose(metrics["sil_loss"], loss(arrived), rtol=1e-4)
    np.testing.assert_allclose(metrics["sil_share"], (better(arrived).reshape(-1)[pick] > 0).mean(), rtol=1e-5)


def test_every_update_of_ppo_has_an_order_of_its_own():
    hp, state, rollout, update, _ = case("PPO", "discrete", minibatch_size=STEPS * ENVS // 3)
    one, again, other = (split(update(state, rollout, jax.random.key(k), hp)[0].policy.params) for k in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(np.allclose(a, b, rtol=1e-3) for a, b in zip(one, other, strict=True))


def test_a_probability_that_became_impossible_leaves_a_gradient():
    hp, state, rollout, update, _ = case("PPO", "discrete")
    before = rollout.extras._replace(log_prob=rollout.extras.log_prob.at[0].add(-200.0))  # a ratio of e^200
    after, metrics = update(state, rollout._replace(extras=before), jax.random.key(0), hp)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.policy, metrics)))
