"""Lambda-returns against loops in float64 and rlax on 1,000 trajectories that end at random."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from slmjax.maths.returns import discounts, gae, lambda_returns, q_lambda

STEPS, MANY, ACTIONS, GAMMA, LAM = 24, 1000, 3, 0.97, 0.8
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@cache
def data():
    """1,000 random trajectories `[T, 1000]` with none, one or many ends, some with both flags set."""
    rng = np.random.default_rng(7)
    often = rng.choice([0.0, 0.05, 0.3], MANY)
    made = {name: np.float32(rng.normal(size=(STEPS, MANY))) for name in ("r_t", "v_tm1", "v_t")}
    made["q_t"] = np.float32(rng.normal(size=(STEPS, MANY, ACTIONS)))
    made["terminated"], made["truncated"] = (rng.random((STEPS, MANY)) < often for _ in range(2))
    assert (made["terminated"] & made["truncated"]).sum() > 100
    made["ended"] = made["terminated"] | made["truncated"]
    made["discount_t"] = np.float32(discounts(made["terminated"], GAMMA))
    return made


def columns(*names):
    return [data()[name] for name in names]


def loops(one, *names, **options):
    """`one` for each trajectory, in float64: `[T, 1000]`."""
    flat = [np.float64(x) if x.dtype == np.float32 else x for x in columns(*names)]
    return np.stack([one(*(x[:, i] for x in flat), **options) for i in range(MANY)], 1)


def lambda_loop(r_t, v_t, terminated, truncated, *, lam=LAM, crossing=False, death=False):
    """Backwards, one step at a time: the successor's return where there is one, else its value."""
    steps, result = len(r_t), np.zeros(len(r_t))
    for t in reversed(range(steps)):
        alone = t == steps - 1 or ((terminated[t] or truncated[t]) and not crossing)
        after = v_t[t] if alone else (1 - lam) * v_t[t] + lam * result[t + 1]
        result[t] = r_t[t] + (0.0 if terminated[t] or (truncated[t] and death) else GAMMA * after)
    return result


FLAGS = ("terminated", "truncated")


@pytest.mark.parametrize("lam", [0.0, LAM, 1.0])
def test_lambda_returns_equal_a_loop_and_rlax(lam):
    r_t, discount_t, v_t, ended = columns("r_t", "discount_t", "v_t", "ended")
    ours = jax.jit(lambda_returns)(r_t, discount_t, v_t, ended, lam)
    np.testing.assert_allclose(ours, loops(lambda_loop, "r_t", "v_t", *FLAGS, lam=lam), **CLOSE)
    mixing = np.float32(lam * ~ended)  # rlax takes a lambda for each step, and 0 cuts
    theirs = jax.vmap(rlax.lambda_returns, 1, 1)(r_t, discount_t, v_t, mixing)
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_lambda_returns_are_advantages_plus_values():
    r_t, discount_t, v_tm1, v_t, ended = columns("r_t", "discount_t", "v_tm1", "v_t", "ended")
    v_tm1 = np.where(np.roll(ended, 1, 0) | (np.arange(STEPS)[:, None] == 0), v_tm1, np.roll(v_t, 1, 0))  # one V
    advantage = gae(r_t, discount_t, v_tm1, v_t, ended, LAM)
    np.testing.assert_allclose(advantage + v_tm1, lambda_returns(r_t, discount_t, v_t, ended, LAM), **CLOSE)


def test_q_lambda_equals_rlax_and_a_loop_over_the_best_values():
    r_t, discount_t, q_t, ended = columns("r_t", "discount_t", "q_t", "ended")
    ours = q_lambda(r_t, discount_t, q_t, ended, LAM)
    nothing, action = np.zeros((STEPS, MANY, ACTIONS), np.float32), np.zeros((STEPS, MANY), np.int32)
    theirs = jax.vmap(rlax.q_lambda, 1, 1)(nothing, action, r_t, discount_t, q_t, np.float32(LAM * ~ended))
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    best = np.float64(q_t).max(-1)
    by_loop = [lambda_loop(r_t[:, i], best[:, i], *(x[:, i] for x in columns(*FLAGS))) for i in range(0, MANY, 50)]
    np.testing.assert_allclose(ours[:, ::50], np.stack(by_loop, 1), **CLOSE)


MUTANTS = {
    "lambda, crossing": (lambda_loop, ("r_t", "v_t"), {"crossing": True}, "truncated"),
    "lambda, a limit is a death": (lambda_loop, ("r_t", "v_t"), {"death": True}, "truncated"),
    "lambda, forgotten": (lambda_loop, ("r_t", "v_t"), {"lam": 1.0}, None),
}


@pytest.mark.parametrize(("one", "names", "mutation", "where"), MUTANTS.values(), ids=MUTANTS)
def test_mutants_would_be_caught(one, names, mutation, where):
    wrong = np.abs(loops(one, *names, *FLAGS, **mutation) - loops(one, *names, *FLAGS)) > 1e-2
    # In nearly every trajectory where it could matter: with a truncation that is no termination before the last step.
    last = np.arange(STEPS)[:, None] < STEPS - 1
    cut = data()["truncated"] & ~data()["terminated"] & (last | (mutation.get("death") is True))
    assert wrong.any(0)[cut.any(0) if where else slice(None)].mean() > (0.9 if where else 0.6)


def test_a_rollout_of_one_step_is_a_temporal_difference():
    one = jnp.ones((1, 2))
    row = (one, 0.9 * one, 5.0 * one, jnp.zeros((1, 2), bool))
    for made in (lambda_returns(*row, 0.7), q_lambda(one, 0.9 * one, 5 * one[..., None], row[3], 1.0)):
        np.testing.assert_allclose(made, 5.5)


COLUMN, ROW = np.ones((4, 1), np.float32), np.ones(4, np.float32)
MISTAKES = {
    "lambda_returns": lambda: lambda_returns(COLUMN, ROW, COLUMN, COLUMN > 2, 0.9),
    "q_lambda": lambda: q_lambda(COLUMN, COLUMN, np.ones((4, 3)), COLUMN > 2, 0.9),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_shapes_that_would_broadcast_are_refused(mistake):
    with pytest.raises(ValueError, match=r"equal shapes, got.*\(4, 1"):
        mistake()
