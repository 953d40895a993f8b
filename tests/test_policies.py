"""What a network's output becomes: distributions over actions, and exploration on top of scores."""

from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from slmjax.algos import ppo
from slmjax.envs import make_env
from slmjax.nets.mlp import MLPNet
from slmjax.policies.continuous import Normal, SquashedNormal
from slmjax.policies.discrete import Categorical
from slmjax.policies.exploration import POLICIES, boltzmann, epsilon_greedy
from slmjax.policies.heads import LOG_STD, action_head
from slmjax.spec.sections import EnvSpec
from slmjax.types import HP, Box, Dict, Discrete, MultiBinary, MultiDiscrete, SpecError

FAIR, ABSURD = (
    1e-3,
    1e-9,
)  # p-values (keys are fixed): above FAIR nothing contradicts a claim, below ABSURD it is refuted
INF = np.inf


def chi_square(draws, probabilities):
    """p-value of integer draws under probabilities, cells that cannot occur included."""
    counts = np.bincount(np.asarray(draws).ravel(), minlength=len(probabilities))
    possible = np.asarray(probabilities) > 0
    if counts[~possible].sum():
        return 0.0
    return (
        1.0 if possible.sum() == 1 else stats.chisquare(counts[possible], counts.sum() * probabilities[possible]).pvalue
    )


def independent(a, b):
    """p-value of two sequences of integers being independent."""
    return stats.contingency.chi2_contingency(stats.contingency.crosstab(np.asarray(a), np.asarray(b)).count).pvalue


class Answers(NamedTuple):
    raw: Any
    action: Any
    log_prob: Any
    entropy: Any
    mode: Any


def ask(make, *inputs, raw=None):
    """All that `make(*inputs)` says, in one compiled program: of `raw`, or of a draw."""

    @jax.jit
    def run(inputs, raw):
        pd = make(*inputs)
        raw = pd.sample(jax.random.key(1)) if raw is None else raw
        return Answers(raw, pd.action(raw), pd.log_prob(raw), pd.entropy(), pd.mode())

    return run(inputs, raw)


# ------------------------------------------------------------------------------------------------------- categorical

LOGITS = {
    "flat": [0.0, 0.0, 0.0],
    "skewed": [2.0, -1.0, 0.5, 0.0],
    "shifted far": [1000.0, 1001.0, 999.0],
    "masked": [0.3, -INF, 1.1, -INF],
    "one left": [-INF, 4.0, -INF],
    "nearly sure": [200.0, 0.0],
}


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_categorical_equals_scipy_and_distrax(logits):
    p = special.softmax(np.float64(logits))
    actions = np.arange(len(logits))
    rows = np.float32(np.tile(logits, (len(logits), 1)))
    theirs = jax.jit(lambda x, a: distrax.Categorical(logits=x).log_prob(a))(rows, actions)
    ours = ask(Categorical, rows, raw=actions)
    np.testing.assert_allclose(ours.log_prob, special.log_softmax(np.float64(logits)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.log_prob, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.entropy, np.full(len(p), stats.entropy(p)), rtol=1e-5, atol=1e-6)
    assert set(np.asarray(ours.mode)) == {np.argmax(p)}
    np.testing.assert_array_equal(ours.action, actions)


@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_categorical_draws_with_its_probabilities(logits):
    draws = Categorical(jnp.tile(jnp.array(logits), (20_000, 1))).sample(jax.random.key(1))
    p = special.softmax(np.float64(logits))
    assert draws.dtype == jnp.int32
    assert chi_square(draws, p) > FAIR
    if (p > 0).sum() > 1 and logits != LOGITS["flat"] and p.min() != 0 and p.max() < 0.999:
        assert chi_square(draws, np.full(len(p), 1 / len(p))) < ABSURD


def test_categorical_gradients_are_those_of_the_formula_and_survive_a_mask():
    logits = jnp.array(LOGITS["skewed"])
    p = special.softmax(np.float64(LOGITS["skewed"]))
    np.testing.assert_allclose(
        jax.grad(lambda x: Categorical(x).log_prob(jnp.int32(2)))(logits), np.eye(4)[2] - p, atol=1e-6
    )
    by_hand = -p * (np.log(p) - np.sum(p * np.log(p)))
    np.testing.assert_allclose(jax.grad(lambda x: Categorical(x).entropy())(logits), by_hand, atol=1e-6)
    masked = jnp.array(LOGITS["masked"])
    assert np.isfinite(jax.grad(lambda x: Categorical(x).entropy())(masked)).all()
    assert np.isfinite(jax.grad(lambda x: Categorical(x).log_prob(jnp.int32(0)))(masked)).all()
    # a mask inside the sum alone would not do: 0 * inf is NaN on the way back
    mutant = lambda x: -jnp.sum(jnp.where(jnp.isneginf(x), 0.0, jnp.exp(jax.nn.log_softmax(x)) * jax.nn.log_softmax(x)))  # noqa: E731
    assert np.isnan(jax.grad(mutant)(masked)).any()


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)])
def test_discrete_distributions_give_one_number_for_each_environment(lead):
    scores = jax.random.normal(jax.random.key(0), (*lead, 4))
    said = ask(Categorical, scores)
    assert {x.shape for x in said} == {lead}
    assert said.raw.dtype == said.action.dtype == said.mode.dtype == jnp.int32


# ------------------------------------------------------------------------------------------------------------ normal


def continuous(kind, event, lead=(6,), seed=0, limit=INF):
    rng = np.random.default_rng(seed)
    shape = (2, 3, 4)[:event]
    loc, scale = rng.normal(size=(*lead, *shape)), rng.uniform(0.2, 2.0, (*lead, *shape))
    raw = np.clip(loc + 2.0 * scale * rng.normal(size=loc.shape), -limit, limit)
    make = lambda loc, scale: kind(loc, scale, -np.ones(shape), np.ones(shape), event)  # noqa: E731
    return ask(make, np.float32(loc), np.float32(scale), raw=np.float32(raw)), loc, scale, raw


def total(x, event):
    return x.sum(tuple(range(x.ndim - event, x.ndim)))


@pytest.mark.parametrize("lead", [(), (6,), (3, 6)])
@pytest.mark.parametrize("event", [0, 1, 2])
def test_normal_equals_scipy_over_every_event(event, lead):
    said, loc, scale, raw = continuous(Normal, event, lead)
    expected = total(stats.norm.logpdf(raw, loc, scale), event)
    assert said.log_prob.shape == said.entropy.shape == expected.shape == lead
    np.testing.assert_allclose(said.log_prob, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(said.entropy, total(stats.norm.entropy(loc, scale), event), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(said.mode, np.float32(loc))


@pytest.mark.parametrize("kind", [Normal, SquashedNormal])
def test_normal_entropy_counts_every_environment_where_the_scale_is_shared(kind):
    said = ask(lambda loc: kind(loc, jnp.full((3,), 0.5), -np.ones(3), np.ones(3), 1), np.zeros((5, 3), np.float32))
    each = stats.norm.entropy(scale=0.5) if kind is Normal else squashed_entropy(0.0, 0.5)
    np.testing.assert_allclose(said.entropy, np.full(5, 3 * each), rtol=1e-5)
    assert said.log_prob.shape == (5,)


def test_normal_log_prob_is_of_the_raw_value_not_of_the_clipped_one():
    pd = Normal(jnp.zeros(1), jnp.ones(1), np.array([-1.0]), np.array([1.0]), 1)
    raw = jnp.array([2.5])
    np.testing.assert_allclose(pd.log_prob(raw), stats.norm.logpdf(2.5), rtol=1e-6)
    assert abs(pd.log_prob(raw) - pd.log_prob(pd.action(raw))) > 2.0  # the mutant: the density of what was executed


@pytest.mark.parametrize("kind", [Normal, SquashedNormal])
def test_normal_draws_are_normal_and_their_gradient_goes_through(kind):
    def draw(loc, scale):
        shape = (20_000,)
        return kind(jnp.full(shape, loc), jnp.full(shape, scale), np.float32(-1), np.float32(1), 0)

    raw = np.asarray(draw(0.7, 1.3).sample(jax.random.key(3)), np.float64)
    assert stats.kstest(raw, stats.norm(0.7, 1.3).cdf).pvalue > FAIR
    assert stats.kstest(raw, stats.norm(0.7, 1.5).cdf).pvalue < ABSURD
    slope = jax.grad(lambda loc, scale: draw(loc, scale).sample(jax.random.key(3)).mean(), (0, 1))(0.7, 1.3)
    np.testing.assert_allclose(slope, [1.0, ((raw - 0.7) / 1.3).mean()], atol=1e-4)


def test_normal_gradients_are_those_of_the_formula():
    loc, scale, x = 0.3, 0.8, 1.9

    def log_prob(loc, scale):
        return Normal(jnp.array(loc), jnp.array(scale), np.float32(-1), np.float32(1), 0).log_prob(jnp.array(x))

    by_hand = [(x - loc) / scale**2, (x - loc) ** 2 / scale**3 - 1 / scale]
    np.testing.assert_allclose(jax.grad(log_prob, (0, 1))(loc, scale), by_hand, rtol=1e-5)


MAPPINGS = {  # space, raw, what Normal executes, what SquashedNormal executes (None: it refuses the space)
    "symmetric": (Box(-2.0, 2.0), [-9.0, -1.0, 0.25, 1.0, 9.0], [-2, -2, 0.5, 2, 2], 2 * np.tanh([-9, -1, 0.25, 1, 9])),
    "asymmetric": (
        Box(-2.0, 5.0),
        [-1.0, 0.0, 0.5, 3.0],
        [-2, 1.5, 3.25, 5],
        1.5 + 3.5 * np.tanh([-1, 0, 0.5, 3]),
    ),
    "all positive": (Box(1.0, 3.0), [-1.0, 0.0, 1.0], [1, 2, 3], 2 + np.tanh([-1, 0, 1])),
    "unbounded": (Box(-INF, INF), [-7.0, 0.5, 7.0], [-7, 0.5, 7], None),
    "bounded below": (Box(0.0, INF), [-7.0, 0.5, 7.0], [0, 0.5, 7], None),
    "bounded above": (Box(-INF, 2.0), [-7.0, 0.5, 7.0], [-7, 0.5, 2], None),
}


@pytest.mark.parametrize("case", MAPPINGS.values(), ids=MAPPINGS)
def test_raw_values_become_actions_of_the_space(case):
    space, raw, clipped, squashed = case
    raw = jnp.array(raw)
    for kind, expected in ((Normal, clipped), (SquashedNormal, squashed)):
        if expected is not None:
            pd = kind(jnp.zeros_like(raw), jnp.ones_like(raw), space.low, space.high, 0)
            np.testing.assert_allclose(pd.action(raw), expected, rtol=1e-5, atol=1e-6)


def test_every_dimension_has_bounds_of_its_own():
    space = Box([-2.0, 0.0, -INF], [5.0, 1.0, INF], (3,))
    raw = jnp.array([[0.0, 0.0, 4.0], [2.0, -0.5, -4.0]])
    pd = Normal(raw, jnp.ones_like(raw), space.low, space.high, 1)
    np.testing.assert_allclose(pd.action(raw), [[1.5, 0.5, 4.0], [5.0, 0.25, -4.0]])


@pytest.mark.parametrize("kind", [Normal, SquashedNormal])
def test_actions_never_leave_the_space(kind):
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-3, 6, 5000)
    low = np.float32(size * rng.normal(size=5000))
    high = np.maximum(np.float32(low + size * rng.uniform(size=5000)), low)
    raw = jnp.array([-1e30, -50.0, -1.0, -0.9999999, 0.0, 0.3, 0.9999999, 1.0, 50.0, 1e30])[:, None]
    raw = jnp.broadcast_to(raw, (10, 5000))
    action = np.asarray(jax.jit(lambda r: kind(r, jnp.ones_like(r), low, high, 0).action(r))(raw))
    assert ((action >= low) & (action <= high)).all()
    unit = np.float32(np.asarray(jnp.tanh(raw) if kind is SquashedNormal else jnp.clip(raw, -1, 1)))
    mutant = low + np.float32(0.5) * (unit + np.float32(1)) * (high - low)  # without the last clip, rounding steps out
    assert not ((mutant >= low) & (mutant <= high)).all()


# --------------------------------------------------------------------------------------------------- squashed normal


@pytest.mark.parametrize("event", [0, 1, 2])
def test_squashed_normal_equals_distrax(event):
    said, loc, scale, raw = continuous(SquashedNormal, event, limit=3.0)  # distrax inverts tanh: fewer digits beyond
    theirs = distrax.Transformed(distrax.Normal(np.float32(loc), np.float32(scale)), distrax.Tanh())
    expected = np.asarray(jax.jit(lambda x: theirs.log_prob(jnp.tanh(x)))(np.float32(raw)))
    np.testing.assert_allclose(said.log_prob, total(expected, event), rtol=2e-3, atol=2e-3)
    by_hand = stats.norm.logpdf(raw, loc, scale) - np.log(1 - np.tanh(raw) ** 2)
    np.testing.assert_allclose(said.log_prob, total(by_hand, event), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.7, 0.3), (-1.0, 2.0)])
def test_squashed_normal_is_a_density_over_the_interval(loc, scale):
    raw = np.linspace(-15, 15, 60_001)
    pd = SquashedNormal(jnp.float32(loc), jnp.float32(scale), np.float32(-1), np.float32(1), 0)
    slope = 1.0 / np.cosh(raw) ** 2  # d tanh / d raw
    density = np.exp(np.asarray(pd.log_prob(jnp.float32(raw)), np.float64))
    assert np.trapezoid(density * slope, raw) == pytest.approx(1.0, abs=1e-4)
    mutant = stats.norm.pdf(raw, loc, scale)  # the log-determinant forgotten
    assert abs(np.trapezoid(mutant * slope, raw) - 1.0) > 0.1


def test_squashed_normal_does_not_overflow_far_out():
    raw = jnp.linspace(-50.0, 50.0, 2001)

    def log_prob(raw):
        return SquashedNormal(jnp.zeros_like(raw), jnp.ones_like(raw), np.float32(-1), np.float32(1), 0).log_prob(raw)

    x = np.asarray(raw, np.float64)
    by_hand = stats.norm.logpdf(x) - 2 * (np.log(2) - np.logaddexp(x, -x))  # log sech^2
    np.testing.assert_allclose(log_prob(raw), by_hand, rtol=1e-5, atol=1e-4)
    assert np.isfinite(jax.grad(lambda r: log_prob(r).sum())(raw)).all()
    assert not np.isfinite(stats.norm.logpdf(x) - np.asarray(jnp.log(1 - jnp.tanh(raw) ** 2))).all()  # the naive form


def squashed_entropy(loc: float, scale: float) -> float:
    """That of `tanh(x)`: of the normal, plus the mean logarithm of the slope, by adaptive quadrature."""

    def slope(z):
        x = loc + scale * z
        return stats.norm.pdf(z) * 2 * (np.log(2) - x - np.logaddexp(0, -2 * x))

    steep = [-loc / scale] if abs(loc / scale) < 9 else None  # where the slope has its peak
    return integrate.quad(slope, -9, 9, limit=400, points=steep)[0] + stats.norm(loc, scale).entropy()


def test_squashed_normal_entropy_and_its_slopes_are_those_of_what_is_played():
    def entropy(loc, log_scale):
        return SquashedNormal(loc, jnp.exp(log_scale), np.float32(-1), np.float32(1), 0).entropy()

    widest = np.exp(LOG_STD[1])
    loc, scale = (x.ravel() for x in np.meshgrid([0.0, 0.7, -2.0, 6.0], [1e-3, 0.3, 1.0, 3.0, widest]))
    lanes = jnp.float32(loc), jnp.float32(np.log(scale))
    np.testing.assert_allclose(jax.vmap(entropy)(*lanes), np.vectorize(squashed_entropy)(loc, scale), atol=5e-4)
    by_loc, by_log_scale = jax.vmap(jax.grad(entropy, (0, 1)))(*lanes)
    h = 1e-4
    wider, narrower = (np.vectorize(squashed_entropy)(loc, scale * np.exp(x)) for x in (h, -h))
    right, left = (np.vectorize(squashed_entropy)(loc + x, scale) for x in (h, -h))
    np.testing.assert_allclose(by_log_scale, (wider - narrower) / (2 * h), atol=5e-3)
    np.testing.assert_allclose(by_loc, (right - left) / (2 * h), atol=5e-3)
    # The mutant, the entropy of the normal, always rises with its width; that of what is played does not.
    assert (by_log_scale[(scale > 0.9) & (loc == 0.0)] < -0.1).all()


def test_squashed_normal_entropy_is_minus_the_mean_of_its_log_probability():
    loc, scale = jnp.array([[0.3, -1.0], [0.0, 2.0]]), jnp.array([[0.5, 1.0], [2.0, 0.2]])
    pd = SquashedNormal(loc, scale, np.float32(-1), np.float32(1), 2)
    keys = jax.random.split(jax.random.key(0), 50_000)
    estimate = -jax.vmap(lambda k: pd.log_prob(pd.sample(k)))(keys)
    assert float(pd.entropy()) == pytest.approx(float(estimate.mean()), abs=5 * float(estimate.std()) / np.sqrt(50_000))


# ------------------------------------------------------------------------------------------------------- action head

HEADS = {
    ("default", "Discrete"): (Discrete(4), Categorical, 4, False),
    ("Categorical", "Discrete"): (Discrete(4), Categorical, 4, False),
    ("default", "Box"): (Box(-2.0, 5.0, (1,)), Normal, 1, True),
    ("Normal", "scalar Box"): (Box(-1.0, 1.0), Normal, 1, True),
    ("Normal", "unbounded Box"): (Box(-INF, INF, (2,)), Normal, 2, True),
    ("SquashedNormal", "matrix Box"): (Box(0.0, 1.0, (2, 3)), SquashedNormal, 6, True),
}


@pytest.mark.parametrize(("pdtype", "space"), HEADS)
def test_a_head_fits_its_space(pdtype, space):
    space, kind, width, log_std = HEADS[pdtype, space]
    head = action_head(pdtype, space)
    assert (head.width, head.log_std) == (width, log_std)
    output = np.random.default_rng(0).normal(size=(7, 5, width)).astype(np.float32)
    pd = head.distribution(output, jnp.full(space.shape, -0.5))
    assert type(pd) is kind
    said = ask(head.distribution, output, np.full(space.shape, -0.5, np.float32))
    assert said.raw.shape == said.action.shape == said.mode.shape == (7, 5, *space.shape)
    assert said.log_prob.shape == said.entropy.shape == (7, 5)
    if log_std:
        np.testing.assert_allclose(pd.scale, np.full(said.raw.shape, np.exp(-0.5)), rtol=1e-6)
        np.testing.assert_array_equal(said.mode, output.reshape(7, 5, *space.shape))
        wild = head.distribution(output, jnp.full(space.shape, 100.0)).scale
        np.testing.assert_allclose(wild, np.exp(2.0), rtol=1e-6)


REFUSALS = [
    ("categorical", Discrete(4), "'Categorical'"),
    ("Normal", Discrete(4), "Discrete(4)"),
    ("Categorical", Box(-1.0, 1.0, (2,)), "Box(shape=(2,), dtype=float32)"),
    ("SquashedNorml", Box(-1.0, 1.0), "'SquashedNormal'"),
    ("SquashedNormal", Box(0.0, INF), "finite bounds"),
    ("LogNormal", Box(-INF, 0.0), "finite lower bounds"),
    ("Normal", Box(0, 5, (2,), jnp.int32), "needs real actions"),
    ("Categorical", MultiDiscrete((2, 3)), "the action space MultiDiscrete([2, 3]). Did you mean 'MultiCategorical'?"),
    (
        "Bernouli",
        MultiBinary(3),
        "the action space MultiBinary(3). Did you mean 'Bernoulli'? It takes: default, Bernoulli.",
    ),
    ("Gumbel", Discrete(3), "'GumbelSoftmax'"),
    ("default", Dict({"a": Discrete(2)}), "none yet"),
    ("Normal", Dict({"a": Discrete(2)}), "Dict(a: Discrete(2))"),
]


@pytest.mark.parametrize(("pdtype", "space", "said"), REFUSALS)
def test_a_head_that_does_not_fit_says_why(pdtype, space, said):
    with pytest.raises(SpecError) as error:
        action_head(pdtype, space)
    assert said in str(error.value)
    assert repr(pdtype) in str(error.value)


def test_a_policy_gradient_is_refused_a_distribution_that_it_cannot_learn():
    env = make_env(EnvSpec(name="CartPole-v1", num_envs=2, max_frame=100))
    with pytest.raises(
        SpecError, match=r"'Argmax' does not fit .* It takes: default, Categorical, GumbelSoftmax"
    ) as error:
        ppo.make(HP(ppo.PPOKeys(action_pdtype="Argmax"), (), MLPNet()), env)
    assert error.value.path == "agent.algorithm.action_pdtype"
    for name in ("default", "Categorical"):
        ppo.make(HP(ppo.PPOKeys(action_pdtype=name), (), MLPNet()), env)


@pytest.mark.parametrize(("pdtype", "space"), HEADS)
def test_the_log_probabilities_of_every_distribution_have_a_gradient(pdtype, space):
    space, _, width, _ = HEADS[pdtype, space]
    output = np.random.default_rng(0).normal(size=width).astype(np.float32)
    distribution = lambda x: action_head(pdtype, space).distribution(x[None], jnp.zeros(space.shape))  # noqa: E731
    raw = jnp.zeros_like(distribution(output).mode())
    slope = jax.grad(lambda x: jnp.nan_to_num(distribution(x).log_prob(raw))[0])(output)
    assert slope.any()


# ------------------------------------------------------------------------------------------------------- exploration

SCORES = jnp.array([0.1, -2.0, 3.0, 0.5, 3.0])  # the best is a tie of 2 and 4
GREEDY = 2


def one_draw_for_all(scores, epsilon, key):
    """The mutant: SLM Lab's, one coin for the whole vector of environments."""
    coin, pick = jax.random.split(key)
    random = jax.random.randint(pick, scores.shape[:-1], 0, scores.shape[-1])
    return jnp.where(jax.random.uniform(coin) < epsilon, random, jnp.argmax(scores, -1))


def same_action_for_all(scores, epsilon, key):
    """The mutant: a coin for each environment, one random action for all of them."""
    coin, pick = jax.random.split(key)
    random = jax.random.randint(pick, (), 0, scores.shape[-1])
    return jnp.where(jax.random.uniform(coin, scores.shape[:-1]) < epsilon, random, jnp.argmax(scores, -1))


def coin_reused(scores, epsilon, key):
    """The mutant: the draw that decided to explore also picks, without being rescaled."""
    draw = jax.random.uniform(key, scores.shape[:-1])
    return jnp.where(draw < epsilon, (draw * scores.shape[-1]).astype(jnp.int32), jnp.argmax(scores, -1))


@jax.jit
def explored(epsilon, key):
    return epsilon_greedy(jnp.broadcast_to(SCORES, (50_000, 5)), epsilon, key)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.5, 1.0])
def test_epsilon_greedy_explores_as_often_as_epsilon_says(epsilon):
    p = np.full(5, epsilon / 5)
    p[GREEDY] += 1 - epsilon
    assert chi_square(explored(epsilon, jax.random.key(2)), p) > FAIR
    if epsilon not in (0.0, 1.0):
        mutant = coin_reused(jnp.broadcast_to(SCORES, (50_000, 5)), epsilon, jax.random.key(2))
        assert chi_square(mutant, p) < ABSURD


@pytest.mark.parametrize(("epsilon", "meant"), [(1.5, 1.0), (40.0, 1.0), (-0.5, 0.0)])
def test_an_epsilon_beyond_its_limits_is_the_nearer_of_them(epsilon, meant):
    draws = explored(epsilon, jax.random.key(3))
    np.testing.assert_array_equal(draws, explored(meant, jax.random.key(3)))
    assert chi_square(draws, np.eye(5)[GREEDY] if meant == 0 else np.full(5, 0.2)) > FAIR
    if meant:  # the mutant: a draw divided by an epsilon above 1 never reaches the last actions
        draw = np.asarray(jax.random.uniform(jax.random.key(3), (50_000,)))
        assert chi_square(np.int32(draw / epsilon * 5), np.full(5, 0.2)) < ABSURD


@pytest.mark.parametrize("actions", [2, 3, 7, 18])
def test_a_random_action_is_uniform_over_all_actions(actions):
    scores = jnp.zeros((20_000, actions)).at[:, 1].set(1.0)
    draws = np.asarray(epsilon_greedy(scores, 0.3, jax.random.key(actions)))
    given_explored = draws[draws != 1]
    assert set(given_explored) == set(range(actions)) - {1}
    uniform = np.full(actions, 1 / (actions - 1))
    uniform[1] = 0
    assert chi_square(given_explored, uniform) > FAIR


def draws_of_two_environments(policy):
    keys = jax.random.split(jax.random.key(5), 4000)
    run = jax.jit(jax.vmap(lambda k: policy(jnp.broadcast_to(SCORES, (2, 5)), 0.5, k)))
    return np.asarray(run(keys))


def test_epsilon_greedy_draws_for_each_environment():
    first, second = draws_of_two_environments(epsilon_greedy).T
    assert independent(first != GREEDY, second != GREEDY) > FAIR
    assert independent(first, second) > FAIR
    first, second = draws_of_two_environments(one_draw_for_all).T
    assert independent(first != GREEDY, second != GREEDY) < ABSURD
    first, second = draws_of_two_environments(same_action_for_all).T
    assert independent(first, second) < ABSURD


@pytest.mark.parametrize("name", ["random", "boltzmann"])
def test_the_other_policies_draw_for_each_environment_too(name):
    assert independent(*draws_of_two_environments(POLICIES[name]).T) > FAIR


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_boltzmann_is_the_softmax_of_scores_over_the_temperature(temperature):
    draws = boltzmann(jnp.broadcast_to(SCORES, (50_000, 5)), temperature, jax.random.key(4))
    assert chi_square(draws, special.softmax(np.float64(SCORES) / temperature)) > FAIR
    assert chi_square(draws, special.softmax(np.float64(SCORES) / (2.0 * temperature))) < ABSURD


def test_boltzmann_without_temperature_is_greedy():
    scores = jax.random.normal(jax.random.key(0), (500, 6))
    np.testing.assert_array_equal(boltzmann(scores, 0.0, jax.random.key(1)), np.argmax(scores, -1))


def test_random_ignores_the_scores_and_default_takes_the_best():
    scores = jnp.broadcast_to(SCORES, (20_000, 5))
    assert chi_square(POLICIES["random"](scores, None, jax.random.key(3)), np.full(5, 0.2)) > FAIR
    assert set(np.asarray(POLICIES["default"](scores, None, jax.random.key(3)))) == {GREEDY}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_batched_int32_traced_and_repeatable(name):
    policy = jax.jit(POLICIES[name])
    for lead in ((8,), (3, 8)):
        scores = jax.random.normal(jax.random.key(0), (*lead, 5))
        action = policy(scores, jnp.float32(0.5), jax.random.key(1))
        assert action.shape == lead
        assert action.dtype == jnp.int32
        assert ((action >= 0) & (action < 5)).all()
        np.testing.assert_array_equal(action, policy(scores, jnp.float32(0.5), jax.random.key(1)))
    if name != "default":
        assert (action != policy(scores, jnp.float32(0.5), jax.random.key(2))).any()
