"""Lambda-, n-step and off-policy returns against loops in float64 and rlax on 1,000 trajectories that end at random."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from slmjax.algos.returns import discounts, gae, lambda_returns, n_step_returns, q_lambda, retrace, vtrace

STEPS, MANY, ACTIONS, GAMMA, LAM = 24, 1000, 3, 0.97, 0.8
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@cache
def data():
    """1,000 random trajectories `[T, 1000]` with none, one or many ends, some with both flags set."""
    rng = np.random.default_rng(7)
    often = rng.choice([0.0, 0.05, 0.3], MANY)
    made = {name: np.float32(rng.normal(size=(STEPS, MANY))) for name in ("r_t", "v_tm1", "v_t", "q_tm1")}
    made["q_t"] = np.float32(rng.normal(size=(STEPS, MANY, ACTIONS)))
    made["rho"] = np.float32(np.exp(rng.normal(0, 0.7, (STEPS, MANY))))
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


def n_step_loop(r_t, v_t, terminated, truncated, *, n, crossing=False, death=False):
    """Forwards: up to `n` rewards, then the value of where that led."""
    steps, result = len(r_t), np.zeros(len(r_t))
    for t in range(steps):
        factor = 1.0
        for k in range(t, min(t + n, steps)):
            result[t] += factor * r_t[k]
            factor *= 0.0 if terminated[k] or (truncated[k] and death) else GAMMA
            if (terminated[k] or truncated[k]) and not crossing:
                break
        result[t] += factor * v_t[k]
    return result


def vtrace_loop(r_t, v_tm1, v_t, rho, terminated, truncated, *, lam=LAM, clip_rho=1.0, clip_c=1.0, crossing=False):
    """The sum of Espeholt et al. 2018, equation 1, written out: every difference with the product of traces before."""
    steps, result = len(r_t), np.zeros(len(r_t))
    for s in range(steps):
        trace = 1.0
        for t in range(s, steps):
            gone = terminated[t]
            delta = min(clip_rho, rho[t]) * (r_t[t] + (0.0 if gone else GAMMA * v_t[t]) - v_tm1[t])
            result[s] += trace * delta
            if gone or (truncated[t] and not crossing):
                break
            trace *= GAMMA * lam * min(clip_c, rho[t])
    return result


def retrace_loop(r_t, q_tm1, v_t, rho, terminated, truncated, *, lam=LAM, crossing=False):
    """Munos et al. 2016, equation 3: Q plus the differences, each with the product of traces after the first action."""
    steps, result = len(r_t), np.zeros(len(r_t))
    for s in range(steps):
        result[s], trace = q_tm1[s], 1.0
        for t in range(s, steps):
            gone = terminated[t]
            result[s] += trace * (r_t[t] + (0.0 if gone else GAMMA * v_t[t]) - q_tm1[t])
            if gone or (truncated[t] and not crossing) or t == steps - 1:
                break
            trace *= GAMMA * lam * min(1.0, rho[t + 1])
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


@pytest.mark.parametrize("n", [1, 2, 5, STEPS, 10 * STEPS])
def test_n_step_returns_equal_a_loop_and_rlax(n):
    r_t, discount_t, v_t, ended = columns("r_t", "discount_t", "v_t", "ended")
    ours = jax.jit(n_step_returns, static_argnums=4)(r_t, discount_t, v_t, ended, n)
    np.testing.assert_allclose(ours, loops(n_step_loop, "r_t", "v_t", *FLAGS, n=n), **CLOSE)
    if n <= STEPS:
        theirs = jax.vmap(rlax.n_step_bootstrapped_returns, (1, 1, 1, None, 1), 1)
        np.testing.assert_allclose(ours, theirs(r_t, discount_t, v_t, n, np.float32(~ended)), **CLOSE)


def test_n_step_returns_are_lambda_returns_at_both_ends():
    row = columns("r_t", "discount_t", "v_t", "ended")
    np.testing.assert_allclose(n_step_returns(*row, 1), lambda_returns(*row, 0.0), **CLOSE)
    np.testing.assert_allclose(n_step_returns(*row, STEPS), lambda_returns(*row, 1.0), **CLOSE)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        n_step_returns(*row, 0)


@pytest.mark.parametrize(("clip_rho", "clip_c"), [(1.0, 1.0), (3.0, 1.0), (1.5, 0.7), (1e9, 1e9)])
def test_vtrace_equals_a_loop(clip_rho, clip_c):
    row = columns("r_t", "discount_t", "v_tm1", "v_t", "ended", "rho")
    options = {"lam": LAM, "clip_rho": clip_rho, "clip_c": clip_c}
    by_loop = loops(vtrace_loop, "r_t", "v_tm1", "v_t", "rho", *FLAGS, **options)
    np.testing.assert_allclose(vtrace(*row, **options), by_loop, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(by_loop).max()))


def test_vtrace_equals_rlax():
    r_t, discount_t, v_tm1, v_t, ended, rho = columns("r_t", "discount_t", "v_tm1", "v_t", "ended", "rho")
    theirs = jax.vmap(rlax.vtrace, 1, 1)(v_tm1, v_t, r_t, discount_t, rho, np.float32(LAM * ~ended))
    np.testing.assert_allclose(vtrace(r_t, discount_t, v_tm1, v_t, ended, rho, lam=LAM), theirs, **CLOSE)


def test_on_policy_vtrace_is_gae():
    row = columns("r_t", "discount_t", "v_tm1", "v_t", "ended")
    ones = np.ones((STEPS, MANY), np.float32)
    np.testing.assert_allclose(vtrace(*row, ones, lam=LAM), gae(*row, LAM), **CLOSE)


def test_retrace_equals_a_loop_and_rlax():
    r_t, discount_t, q_tm1, v_t, ended, rho = columns("r_t", "discount_t", "q_tm1", "v_t", "ended", "rho")
    ours = retrace(r_t, discount_t, q_tm1, v_t, ended, rho, lam=LAM)
    np.testing.assert_allclose(ours, loops(retrace_loop, "r_t", "q_tm1", "v_t", "rho", *FLAGS), **CLOSE)
    c_t = np.float32(LAM * np.minimum(1.0, rho[1:]) * ~ended[:-1])
    theirs = jax.vmap(rlax.general_off_policy_returns_from_q_and_v, 1, 1)(q_tm1[1:], v_t, r_t, discount_t, c_t)
    np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_retrace_of_one_action_is_the_lambda_return():
    """pi = mu and one action: Q = V, and what is left of the correction is lambda."""
    r_t, discount_t, v_t, ended = columns("r_t", "discount_t", "v_t", "ended")
    q_tm1 = np.concatenate([v_t[:1], v_t[:-1]])
    ones = np.ones((STEPS, MANY), np.float32)
    ours = retrace(r_t, discount_t, q_tm1, v_t, ended, ones, lam=LAM)
    np.testing.assert_allclose(ours, lambda_returns(r_t, discount_t, v_t, ended, LAM), **CLOSE)


MUTANTS = {
    "lambda, crossing": (lambda_loop, ("r_t", "v_t"), {"crossing": True}, "truncated"),
    "lambda, a limit is a death": (lambda_loop, ("r_t", "v_t"), {"death": True}, "truncated"),
    "lambda, forgotten": (lambda_loop, ("r_t", "v_t"), {"lam": 1.0}, None),
    "n-step, crossing": (n_step_loop, ("r_t", "v_t"), {"n": 5, "crossing": True}, "truncated"),
    "n-step, a limit is a death": (n_step_loop, ("r_t", "v_t"), {"n": 5, "death": True}, "truncated"),
    "n-step, one more": (n_step_loop, ("r_t", "v_t"), {"n": 6}, None),
    "v-trace, crossing": (vtrace_loop, ("r_t", "v_tm1", "v_t", "rho"), {"crossing": True}, "truncated"),
    "v-trace, no clipping": (vtrace_loop, ("r_t", "v_tm1", "v_t", "rho"), {"clip_rho": 9.0, "clip_c": 9.0}, None),
    "retrace, crossing": (retrace_loop, ("r_t", "q_tm1", "v_t", "rho"), {"crossing": True}, "truncated"),
}


@pytest.mark.parametrize(("one", "names", "mutation", "where"), MUTANTS.values(), ids=MUTANTS)
def test_mutants_would_be_caught(one, names, mutation, where):
    right = {key: value for key, value in mutation.items() if key == "n"} and {"n": 5}
    wrong = np.abs(loops(one, *names, *FLAGS, **mutation) - loops(one, *names, *FLAGS, **right)) > 1e-2
    # In nearly every trajectory where it could matter: with a truncation that is no termination before the last step.
    last = np.arange(STEPS)[:, None] < STEPS - 1
    cut = data()["truncated"] & ~data()["terminated"] & (last | (mutation.get("death") is True))
    assert wrong.any(0)[cut.any(0) if where else slice(None)].mean() > (0.9 if where else 0.6)


def test_a_rollout_of_one_step_is_a_temporal_difference():
    one = jnp.ones((1, 2))
    row = (one, 0.9 * one, 5.0 * one, jnp.zeros((1, 2), bool))
    for made in (
        lambda_returns(*row, 0.7),
        n_step_returns(*row, 3),
        q_lambda(one, 0.9 * one, 5 * one[..., None], row[3], 1.0),
    ):
        np.testing.assert_allclose(made, 5.5)


COLUMN, ROW = np.ones((4, 1), np.float32), np.ones(4, np.float32)
MISTAKES = {
    "lambda_returns": lambda: lambda_returns(COLUMN, ROW, COLUMN, COLUMN > 2, 0.9),
    "n_step_returns": lambda: n_step_returns(COLUMN, COLUMN, ROW, COLUMN > 2, 2),
    "q_lambda": lambda: q_lambda(COLUMN, COLUMN, np.ones((4, 3)), COLUMN > 2, 0.9),
    "vtrace": lambda: vtrace(COLUMN, COLUMN, COLUMN, COLUMN, COLUMN > 2, ROW),
    "retrace": lambda: retrace(COLUMN, COLUMN, ROW, COLUMN, COLUMN > 2, COLUMN),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_shapes_that_would_broadcast_are_refused(mistake):
    with pytest.raises(ValueError, match=r"equal shapes, got.*\(4, 1"):
        mistake()
