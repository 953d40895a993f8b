"""Returns, losses, shuffling and normalisation against loops in float64, rlax and SciPy; and mutants that must fail."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from slmjax.algos import ppo
from slmjax.envs import make_env
from slmjax.learners import minibatches
from slmjax.learners.targets import after_step, after_update
from slmjax.learners.value_heads import greedy_policy
from slmjax.maths import moments as statistics
from slmjax.maths.losses import (
    ELEMENTWISE,
    clipped_surrogate,
    clipped_value,
    huber,
    q_target,
    standardize,
    td_error,
    weighted_mean,
)
from slmjax.maths.permutation import permutation
from slmjax.maths.returns import discounts, gae
from slmjax.nets.mlp import MLPNet
from slmjax.spec.sections import EnvSpec
from slmjax.types import HP, SpecError

FAIR, ABSURD = 1e-3, 1e-9

# -------------------------------------------------------------------------------------------------- returns: GAE

STEPS, MANY, GAMMA, LAM = 24, 1000, 0.97, 0.9


def gae_loop(
    reward, v_tm1, v_t, terminated, truncated, *, gamma=GAMMA, lam=LAM, crossing=False, time_limit_is_death=False
):
    """Schulman et al. 2016, equation 16, one trajectory at a time, float64. `v_t` are values of true successors."""
    steps = len(reward)
    advantage = np.zeros(steps)
    later = 0.0
    for t in reversed(range(steps)):
        dead = terminated[t] or (truncated[t] and time_limit_is_death)
        over = (terminated[t] or truncated[t]) and not crossing
        delta = float(reward[t]) + (0.0 if dead else gamma * float(v_t[t])) - float(v_tm1[t])
        later = delta + (0.0 if over else gamma * lam * later)
        advantage[t] = later
    return advantage


@cache
def trajectories():
    """1,000 random trajectories, `[T, 1000]`: none, one or many ends, some with both flags set."""
    rng = np.random.default_rng(0)
    often = rng.choice([0.0, 0.05, 0.3], MANY)
    reward, v_tm1, v_t = (np.float32(rng.normal(size=(STEPS, MANY))) for _ in range(3))
    terminated, truncated = (rng.random((STEPS, MANY)) < often for _ in range(2))
    return reward, v_tm1, v_t, terminated, truncated


@jax.jit
def our_gae(reward, v_tm1, v_t, terminated, truncated, lam=LAM):
    return gae(reward, discounts(terminated, GAMMA), v_tm1, v_t, terminated | truncated, lam)


def by_loop(**mutation):
    return np.stack([gae_loop(*(x[:, i] for x in trajectories()), **mutation) for i in range(MANY)], 1)


def test_gae_equals_a_loop_on_a_thousand_trajectories():
    assert (trajectories()[3] & trajectories()[4]).sum() > 100  # both flags at once: termination wins
    np.testing.assert_allclose(our_gae(*trajectories()), by_loop(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mutation", ["crossing", "time_limit_is_death"])
def test_gae_mutants_would_be_caught(mutation):
    wrong = np.abs(np.asarray(our_gae(*trajectories())) - by_loop(**{mutation: True})) > 1e-2
    ended = trajectories()[4].any(0)
    assert wrong.any(0)[ended].mean() > 0.9  # in nearly every trajectory where it could matter


def test_gae_bootstraps_from_a_truncated_step_and_not_from_a_terminated_one():
    one = np.ones((2, 1), np.float32)
    flags = {"none": (0, 0), "terminated": (1, 0), "truncated": (0, 1), "both": (1, 1)}
    got = {}
    for name, (terminated, truncated) in flags.items():
        ends = [np.array([[flag], [0]], bool) for flag in (terminated, truncated)]
        got[name] = float(our_gae(one, 2 * one, 10 * one, *ends)[0, 0])
    delta = 1 + GAMMA * 10 - 2
    assert got["none"] == pytest.approx(delta + GAMMA * LAM * delta, rel=1e-5)
    assert got["truncated"] == pytest.approx(delta, rel=1e-5)
    assert got["terminated"] == got["both"] == pytest.approx(1 - 2)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gae_equals_rlax_where_nothing_is_truncated(lam):
    reward, value, _, terminated, _ = trajectories()
    values = np.concatenate(
        [value, value[:1] + 1]
    )  # v_t is the value at the next step; terminal ones are discounted away
    theirs = jax.jit(jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1))(
        reward, np.float32(GAMMA * (1 - terminated)), lam, values
    )
    ours = our_gae(reward, values[:-1], values[1:], terminated, np.zeros_like(terminated), lam)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    reward, v_tm1, v_t, *_ = trajectories()
    never = np.zeros((STEPS, MANY), bool)
    chained = np.concatenate([v_tm1[1:], v_t[-1:]])
    expected = sum(GAMMA**k * np.float64(reward[k]) for k in range(STEPS)) + GAMMA**STEPS * v_t[-1] - v_tm1[0]
    np.testing.assert_allclose(our_gae(reward, v_tm1, chained, never, never, 1.0)[0], expected, rtol=1e-4, atol=1e-4)


def test_discounts_are_gamma_or_zero():
    np.testing.assert_array_equal(discounts(jnp.array([False, True]), 0.9), np.float32([0.9, 0.0]))


# -------------------------------------------------------------------------------------------------------------- losses

B, A = 64, 5


@cache
def batch():
    rng = np.random.default_rng(1)
    q_tm1, q_t, selector = (np.float32(rng.normal(size=(B, A))) for _ in range(3))
    return q_tm1, np.int32(rng.integers(0, A, B)), np.float32(rng.normal(size=B)), q_t, selector


DISCOUNT = np.float32(0.9 * (np.arange(B) % 3 > 0))


def test_td_errors_equal_rlax():
    q_tm1, a_tm1, r_t, q_t, selector = batch()
    ours = td_error(q_tm1, a_tm1, q_target(r_t, DISCOUNT, q_t, greedy_policy(q_t)))
    theirs = jax.vmap(rlax.q_learning)(q_tm1, a_tm1, r_t, DISCOUNT, q_t)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    double = td_error(q_tm1, a_tm1, q_target(r_t, DISCOUNT, q_t, greedy_policy(selector)))
    theirs = jax.vmap(rlax.double_q_learning)(q_tm1, a_tm1, r_t, DISCOUNT, q_t, selector)
    np.testing.assert_allclose(double, theirs, rtol=1e-5, atol=1e-6)


def test_dqn_and_double_dqn_differ_exactly_where_their_choices_do():
    _, _, r_t, q_t, selector = batch()
    dqn, double = (np.asarray(q_target(r_t, DISCOUNT, q_t, greedy_policy(by))) for by in (q_t, selector))
    elsewhere = (q_t.argmax(-1) != selector.argmax(-1)) & (DISCOUNT > 0)
    assert 0 < elsewhere.sum() < B
    np.testing.assert_array_equal(dqn != double, elsewhere)
    assert (dqn >= double).all()  # the maximum over-estimates
    by_hand = [r_t[i] + DISCOUNT[i] * q_t[i, selector[i].argmax()] for i in range(B)]
    np.testing.assert_allclose(double, by_hand, rtol=1e-6)


def test_a_replaced_target_is_set_once_a_multiple_of_its_frames_was_passed():
    old, new = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    hp = lambda net, frame: HP((), (), net, jnp.int32(frame))  # noqa: E731
    moved = lambda net, frame: after_update(old, new, hp(net, frame), 4)["w"].tolist()  # noqa: E731
    for frame in (0, 4, 992, 1000, 1992):
        assert moved(MLPNet(), frame) == [0.0] * 3
        assert moved(MLPNet(update_frequency=1), frame) == [1.0] * 3
        assert after_step(old, new, hp(MLPNet(), frame)) is old, "replace does not look at gradient steps"
    for frame in (996, 1996, 2996):
        assert moved(MLPNet(), frame) == [1.0] * 3


def test_polyak_moves_a_target_at_every_gradient_step_that_is_due():
    old, new = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    hp = HP((), (), MLPNet(update_type="polyak", polyak_coef=0.25), 0)
    assert after_step(old, new, hp)["w"].tolist() == [0.25] * 3
    assert after_step(old, new, hp, jnp.bool_(False))["w"].tolist() == [0.0] * 3
    assert after_update(old, new, hp, 10_000) is old, "polyak does not look at frames"


def test_ppo_refuses_minibatches_of_one_whose_advantages_would_all_be_zero():
    assert standardize(jnp.array([3.7]), jnp.ones(1)).tolist() == [0.0]
    env = make_env(EnvSpec(name="CartPole-v1", num_envs=2, max_frame=100))
    keys = partial(ppo.PPOKeys, time_horizon=8)
    with pytest.raises(SpecError, match=r"at least 2 transitions .* normalize_advantages.*got 1") as error:
        ppo.make(HP(keys(minibatch_size=1), (), MLPNet()), env)
    assert error.value.path == "agent.algorithm.minibatch_size"
    ppo.make(HP(keys(minibatch_size=1, normalize_advantages=False), (), MLPNet()), env)
    ppo.make(HP(keys(minibatch_size=2), (), MLPNet()), env)


def test_no_gradient_flows_through_a_target():
    q_tm1, a_tm1, r_t, q_t, _ = batch()

    def loss(q_tm1, q_t, stopped=True):
        target = q_target(r_t, DISCOUNT, q_t, greedy_policy(q_t))
        if stopped:
            return jnp.sum(td_error(q_tm1, a_tm1, target) ** 2)
        return jnp.sum((target - jnp.take_along_axis(q_tm1, a_tm1[:, None], -1)[:, 0]) ** 2)

    online, target = jax.grad(loss, (0, 1))(q_tm1, q_t)
    assert (target == 0).all()
    chosen = np.eye(A)[a_tm1] > 0
    assert (online[chosen] != 0).all()
    assert (online[~chosen] == 0).all()
    assert (jax.grad(loss, 1)(q_tm1, q_t, False) != 0).any()  # the mutant without stop_gradient


@pytest.mark.parametrize("epsilon", [0.1, 0.2])
def test_the_clipped_surrogate_equals_rlax(epsilon):
    rng = np.random.default_rng(2)
    log_ratio, advantage = np.float32(rng.normal(0, 0.3, 500)), np.float32(rng.normal(size=500))
    ours = clipped_surrogate(log_ratio, advantage, epsilon)
    theirs = [rlax.clipped_surrogate_pg_loss(np.exp(log_ratio), advantage, epsilon)]
    np.testing.assert_allclose(ours.mean(), theirs[0], rtol=1e-5)
    each = jax.vmap(lambda r, a: rlax.clipped_surrogate_pg_loss(r[None], a[None], epsilon))(
        np.exp(log_ratio), advantage
    )
    np.testing.assert_allclose(ours, each, rtol=1e-5, atol=1e-6)


SURROGATE = [  # ratio, advantage, loss at epsilon 0.2, whether a gradient is left
    (1.0, 2.0, -2.0, True),
    (1.5, 2.0, -2.4, False),
    (0.5, 2.0, -1.0, True),
    (1.5, -2.0, 3.0, True),
    (0.5, -2.0, 1.6, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "expected", "moves"), SURROGATE)
def test_the_clipped_surrogate_is_pessimistic(ratio, advantage, expected, moves):
    loss = lambda log_ratio: clipped_surrogate(log_ratio, jnp.float32(advantage), 0.2)  # noqa: E731
    value, slope = jax.value_and_grad(loss)(jnp.log(jnp.float32(ratio)))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(slope) == pytest.approx(-ratio * advantage if moves else 0.0, rel=1e-5)


def test_huber_equals_rlax_and_its_slope_is_bounded():
    error = np.linspace(-5, 5, 101, dtype=np.float32)
    for delta in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(huber(error, delta), rlax.huber_loss(error, delta), rtol=1e-5, atol=1e-6)
        by_hand = np.where(abs(error) <= delta, error**2 / 2, delta * (abs(error) - delta / 2))
        np.testing.assert_allclose(huber(error, delta), by_hand, rtol=1e-5, atol=1e-6)
    slope = jax.vmap(jax.grad(huber))(error)
    np.testing.assert_allclose(slope, np.clip(error, -1, 1), atol=1e-6)


def test_losses_by_name():
    error = jnp.array([-3.0, 0.5])
    expected = {"MSELoss": [9, 0.25], "L1Loss": [3, 0.5], "SmoothL1Loss": [2.5, 0.125], "HuberLoss": [2.5, 0.125]}
    assert set(ELEMENTWISE) == set(expected)
    for name, punish in ELEMENTWISE.items():
        np.testing.assert_allclose(punish(error), expected[name])


VALUE_LOSSES = [  # value, old value, target, loss at epsilon 0.5 of the squared error
    (1.2, 1.0, 2.0, 0.64),  # moved less than epsilon: the plain loss
    (3.0, 1.0, 2.0, 1.0),  # moved by 2: plain 1.0, clipped (1.5 - 2)^2 = 0.25; the worse
    (2.0, 1.0, 2.0, 0.25),  # plain 0, clipped (1.5 - 2)^2
    (-1.0, 1.0, 0.0, 1.0),  # plain 1.0, clipped (0.5 - 0)^2 = 0.25
]


@pytest.mark.parametrize(("value", "old", "target", "expected"), VALUE_LOSSES)
def test_the_clipped_value_loss_is_the_worse_of_two(value, old, target, expected):
    got = clipped_value(jnp.float32(value), jnp.float32(old), jnp.float32(target), 0.5, jnp.square)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_a_weighted_mean_ignores_rows_without_weight():
    x, weight = jnp.array([1.0, 5.0, 1e9, 3.0]), jnp.array([1.0, 1.0, 0.0, 1.0])
    assert float(weighted_mean(x, weight)) == 3.0
    assert float(weighted_mean(x, jnp.zeros(4))) == 0.0
    for junk in (jnp.nan, jnp.inf):
        assert float(weighted_mean(x.at[2].set(junk), weight)) == 3.0
        assert not np.isfinite(weighted_mean(x.at[1].set(junk), weight))  # but one that counts is not hidden
    slope = jax.grad(lambda x: weighted_mean(x, weight))(x.at[2].set(jnp.nan))
    np.testing.assert_allclose(slope, [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    assert float(weighted_mean(jnp.array([1.0, 3.0]), jnp.array([0.5, 1.5]))) == 2.5


ROW, COLUMN = np.ones(4, np.float32), np.ones((4, 1), np.float32)
MISTAKES = {
    "td_error": lambda: td_error(np.ones((4, 3), np.float32), np.zeros(4, np.int32), COLUMN),
    "q_target, reward": lambda: q_target(COLUMN, ROW, np.ones((4, 3)), np.ones((4, 3))),
    "q_target, discount": lambda: q_target(ROW, COLUMN, np.ones((4, 3)), np.ones((4, 3))),
    "clipped_surrogate": lambda: clipped_surrogate(ROW, COLUMN, 0.2),
    "clipped_value": lambda: clipped_value(ROW, ROW, COLUMN, 0.2, jnp.square),
    "weighted_mean": lambda: weighted_mean(ROW, COLUMN),
    "gae, values of one environment": lambda: gae(COLUMN, COLUMN, COLUMN[..., None], COLUMN, COLUMN > 2, 0.9),
    "gae, flags": lambda: gae(COLUMN, COLUMN, COLUMN, COLUMN, ROW > 2, 0.9),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_shapes_that_would_broadcast_are_refused(mistake):
    with pytest.raises(ValueError, match=r"equal shapes, got.*\(4, 1"):
        mistake()
    assert (ROW - COLUMN).shape == (4, 4)  # what would have happened


# ------------------------------------------------------------------------------------------------------------- shuffle

KEYS = 40_000


@cache
def shuffles(n, keys=KEYS):
    return np.asarray(jax.jit(jax.vmap(lambda k: permutation(k, n)))(jax.random.split(jax.random.key(n), keys)))


@pytest.mark.parametrize("sizes", [range(1, 41), (100, 128, 1000, 4096, 5000)], ids=str)
def test_a_permutation_holds_every_index_once(sizes):
    keys = jax.random.split(jax.random.key(0), 8)
    shuffle = lambda keys: [jax.vmap(lambda k: permutation(k, n))(keys) for n in sizes]  # noqa: B023, E731
    made = jax.jit(shuffle)(keys)
    for n, lanes in zip(sizes, made, strict=True):
        assert lanes.shape == (8, n)
        assert lanes.dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(lanes, 1), np.tile(np.arange(n), (8, 1)))
        if n >= 16:
            assert len({lane.tobytes() for lane in np.asarray(lanes)}) == 8
            assert (np.asarray(lanes) != np.arange(n)).any(1).all()


def test_one_key_gives_one_permutation_alone_or_with_others():
    alone = jax.jit(permutation, static_argnums=1)
    keys = jax.random.split(jax.random.key(12), KEYS)
    for i in (0, 7):
        np.testing.assert_array_equal(alone(keys[i], 12), shuffles(12)[i])


def pair_statistic(first, second, n):
    """Chi-square per degree of freedom of two places holding any pair of different indices equally often: then 1."""
    counts = np.zeros((n, n))
    np.add.at(counts, (first, second), 1)
    off = counts[~np.eye(n, dtype=bool)]
    return stats.chisquare(off).statistic / (off.size - 1)


@pytest.mark.parametrize("n", [3, 5, 8, 12, 100])
def test_every_place_holds_every_index_equally_often(n):
    made = shuffles(n)
    for place in {0, 1, n // 2, n - 1}:
        assert stats.chisquare(np.bincount(made[:, place], minlength=n)).pvalue > FAIR
        assert stats.chisquare(np.bincount(np.argmax(made == place, 1), minlength=n)).pvalue > FAIR


@pytest.mark.parametrize("n", [5, 8, 12])
def test_pairs_of_places_are_uniform(n):
    made = shuffles(n)
    for first in range(n):
        for second in {(first + 1) % n, (first + n // 2) % n} - {first}:
            assert pair_statistic(made[:, first], made[:, second], n) < 1.8
    assert pair_statistic(made[:, 0], (made[:, 0] + 1) % n, n) > 100  # the mutant: neighbours at a fixed distance


@pytest.mark.parametrize("n", [100, 128])
def test_neighbours_of_a_large_permutation_keep_no_distance(n):
    made = shuffles(n)
    for first, second in ((0, 1), (n // 2, n // 2 + 1), (0, n // 2), (n // 4, 3 * n // 4), (0, n - 1)):
        distance = (made[:, second] - made[:, first]) % n
        counts = np.bincount(distance, minlength=n)
        assert counts[0] == 0
        assert stats.chisquare(counts[1:]).pvalue > FAIR


def test_an_affine_shuffle_would_be_seen():
    """The mutant: one round, `a i + b`, a permutation whose neighbours always keep one distance."""
    rng = np.random.default_rng(0)
    a, b = 2 * rng.integers(0, 64, (KEYS, 1)) + 1, rng.integers(0, 128, (KEYS, 1))
    mutant = (a * np.arange(128) + b) % 128
    assert (np.sort(mutant[:50], 1) == np.arange(128)).all()
    assert stats.chisquare(np.bincount(mutant[:, 0], minlength=128)).pvalue > FAIR  # uniform place by place
    distance = np.bincount((mutant[:, 64] - mutant[:, 0]) % 128, minlength=128)[1:]
    assert stats.chisquare(distance).pvalue < ABSURD


def test_two_shuffles_of_one_rollout_are_unrelated():
    lanes = shuffles(100, 400)
    matches = (lanes[::2] == lanes[1::2]).sum(1)  # a random permutation has one fixed point on average
    assert matches.mean() == pytest.approx(1.0, abs=0.3)
    assert matches.max() < 10


def test_every_pass_over_every_rollout_has_an_order_of_its_own():
    plan = minibatches.Plan(horizon=16, length=1, sequences=64, batch=16, epochs=3)
    orders = np.stack([minibatches.shuffle(plan, jax.random.key(k)) for k in (0, 1)])
    assert orders.shape == (2, 12, 16)
    passes = orders.reshape(6, 64)
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(64), (6, 1)))
    assert len(np.unique(passes, axis=0)) == 6


# ----------------------------------------------------------------------------------------------------------- normalise

SIZES = (3, 5)
see = jax.jit(statistics.update)


def batches(seed, number, junk=None):
    """Batches of unequal sizes, weights, and scales; `junk` is written where the weight is 0."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        size = SIZES[i % 2]
        x = np.float32(rng.normal(rng.normal() * 3, rng.uniform(0.1, 4), (size, 2, 3)))
        weight = np.float32(rng.random(size) < 0.7)
        if junk is not None:
            x[weight == 0] = junk
        yield x, weight


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_moments_equal_numpy_over_everything_seen(seed, number):
    moments, seen = statistics.init(np.zeros((2, 3))), []
    for x, weight in batches(seed, number):
        moments = see(moments, x, weight)
        seen.append(np.float64(x[weight > 0]))
    seen = np.concatenate(seen)
    assert float(moments.count) == len(seen)
    if len(seen):
        np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(moments.var, seen.var(0), rtol=1e-3, atol=1e-4)


def test_moments_do_not_depend_on_how_the_data_was_cut():
    x = np.float32(np.random.default_rng(0).normal(2, 3, (64, 3)))
    whole = see(statistics.init(np.zeros(3)), x, np.ones(64, np.float32))
    parts = statistics.init(np.zeros(3))
    for part in np.split(x, 16):
        parts = see(parts, part, np.ones(4, np.float32))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), whole, parts)
    means = np.stack([part.var(0) for part in np.split(x, 16)]).mean(0)  # the mutant: averages of variances
    assert (np.abs(means - parts.var) > 0.1).all()


@pytest.mark.parametrize("junk", [1e9, np.nan, np.inf], ids=str)
def test_rows_without_weight_leave_no_trace(junk):
    clean, dirty = statistics.init(np.zeros((2, 3))), statistics.init(np.zeros((2, 3)))
    for (x, weight), (y, _) in zip(batches(3, 6), batches(3, 6, junk), strict=True):
        clean, dirty = see(clean, x, weight), see(dirty, y, weight)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    untouched = see(clean, np.full((3, 2, 3), junk, np.float32), np.zeros(3, np.float32))
    jax.tree.map(np.testing.assert_array_equal, clean, untouched)


def test_a_nan_that_counts_is_not_hidden():
    x = np.float32([[1.0], [np.nan]])
    assert np.isnan(see(statistics.init(np.zeros(1)), x, np.ones(2, np.float32)).mean)


def test_moments_of_a_tree_are_those_of_its_leaves():
    x = {"a": np.float32([[1.0], [3.0]]), "b": np.float32([2.0, 6.0])}
    moments = see(statistics.init({"a": np.zeros(1), "b": np.zeros(())}), x, np.ones(2, np.float32))
    assert (float(moments.mean["a"][0]), float(moments.var["a"][0])) == (2.0, 1.0)
    assert (float(moments.mean["b"]), float(moments.var["b"])) == (4.0, 4.0)
    normal = statistics.normalize(moments, x)
    np.testing.assert_allclose(normal["a"], [[-1.0], [1.0]], rtol=1e-5)
    np.testing.assert_allclose(normal["b"], [-1.0, 1.0], rtol=1e-5)


def test_before_anything_was_seen_nothing_changes():
    moments = statistics.init(np.zeros(3))
    assert float(moments.count) == 0.0
    x = np.float32([[0.5, -2.0, 3.0]])
    np.testing.assert_allclose(statistics.normalize(moments, x), x, rtol=1e-6)
    np.testing.assert_allclose(statistics.scale(statistics.init(np.zeros(())), x), x, rtol=1e-6)


def test_apply_standardises_and_scale_keeps_sign_and_zero():
    moments = statistics.Moments(jnp.float32(9), jnp.float32(2.0), jnp.float32(4.0))
    x = jnp.array([2.0, 6.0, 0.0, -98.0, 1e6])
    np.testing.assert_allclose(statistics.normalize(moments, x), [0, 2, -1, -10, 10], atol=1e-5)
    np.testing.assert_allclose(statistics.scale(moments, x), [1, 3, 0, -10, 10], atol=1e-5)
    np.testing.assert_allclose(statistics.normalize(moments, x, 1.5), [0, 1.5, -1, -1.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(statistics.scale(moments, x, 2.0), [1, 2, 0, -2, 2], atol=1e-5)


def test_a_constant_is_normalised_to_something_finite():
    moments = see(statistics.init(np.zeros(1)), np.full((4, 1), 7.0, np.float32), np.ones(4, np.float32))
    assert float(moments.var[0]) == 0.0
    assert float(statistics.normalize(moments, np.float32([[7.0]]))[0, 0]) == 0.0
    assert np.isfinite(statistics.normalize(moments, np.float32([[8.0]]))).all()
