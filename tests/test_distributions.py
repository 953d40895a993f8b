"""Every action distribution against SciPy in float64, distrax and TensorFlow Probability, and at its extremes."""

from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from tensorflow_probability.substrates import jax as tfp

from slmjax.policies.continuous import Beta, LogNormal, MultivariateNormal, Normal, SquashedNormal
from slmjax.policies.discrete import Bernoulli, GumbelSoftmax, MultiCategorical
from slmjax.policies.heads import LOG_STD, PDTYPES, STATE_LOG_STD, action_head, squashed_head
from slmjax.types import Box, Discrete, MultiBinary, MultiDiscrete, SpecError

FAIR, ABSURD = (
    1e-3,
    1e-9,
)  # p-values (keys are fixed): above FAIR nothing contradicts a claim, below ABSURD it is refuted
INF = np.inf
NVEC = (3, 2, 4)
LEADS = [(), (5,), (2, 3)]
SHAPES = [(), (3,), (2, 2)]


class Answers(NamedTuple):
    raw: Any
    action: Any
    log_prob: Any
    entropy: Any
    mode: Any


def ask(make, *inputs, raw=None, key=1):
    """All that `make(*inputs)` says in float64, as NumPy, in one compiled program: of `raw`, or of a draw."""

    def run(inputs, raw):
        pd = make(*inputs)
        raw = pd.sample(jax.random.key(key)) if raw is None else raw
        return Answers(raw, pd.action(raw), pd.log_prob(raw), pd.entropy(), pd.mode())

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(run)(inputs, raw))


def total(x, event):
    return x.sum(tuple(range(x.ndim - event, x.ndim)))


def close(ours, theirs, rtol=1e-9):
    assert ours.dtype == np.float64
    assert ours.shape == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


def chi_square(draws, probabilities):
    counts = np.bincount(np.asarray(draws).ravel(), minlength=len(probabilities))
    return stats.chisquare(counts, counts.sum() * np.asarray(probabilities)).pvalue


def independent(a, b):
    return stats.contingency.chi2_contingency(stats.contingency.crosstab(np.asarray(a), np.asarray(b)).count).pvalue


# -------------------------------------------------------------------------------------------- several discrete choices


def split(x):
    return np.split(x, np.cumsum(NVEC)[:-1], -1)


@pytest.mark.parametrize("lead", LEADS)
def test_multi_categorical_is_the_sum_of_its_choices(lead):
    logits = 2 * np.random.default_rng(0).normal(size=(*lead, sum(NVEC)))
    said = ask(lambda x: MultiCategorical(x, NVEC), logits)
    assert said.raw.shape == said.action.shape == said.mode.shape == (*lead, 3)
    assert said.raw.dtype == said.action.dtype == said.mode.dtype == np.int32
    log_p = [special.log_softmax(part, -1) for part in split(logits)]
    picked = [np.take_along_axis(p, said.raw[..., i, None], -1)[..., 0] for i, p in enumerate(log_p)]
    close(said.log_prob, np.sum(picked, 0))
    close(said.entropy, sum(stats.entropy(np.exp(p), axis=-1) for p in log_p))
    np.testing.assert_array_equal(said.mode, np.stack([p.argmax(-1) for p in log_p], -1))


def test_multi_categorical_draws_each_choice_with_its_probabilities_and_apart():
    logits = np.float32([2.0, -1.0, 0.5, 0.3, -0.3, 0.0, 1.0, -1.0, 0.2])
    draws = np.asarray(MultiCategorical(jnp.tile(logits, (20_000, 1)), NVEC).sample(jax.random.key(0)))
    for i, part in enumerate(split(logits)):
        assert chi_square(draws[:, i], special.softmax(np.float64(part))) > FAIR
        assert chi_square(draws[:, i], np.full(len(part), 1 / len(part))) < ABSURD
    assert min(independent(draws[:, i], draws[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))) > FAIR


def test_one_choice_alone_is_categorical():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    ours = ask(lambda x: MultiCategorical(x, (4,)), logits)
    theirs = distrax.Categorical(logits=np.float32(logits))
    np.testing.assert_allclose(ours.log_prob, theirs.log_prob(ours.raw[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(ours.entropy, theirs.entropy(), rtol=1e-5)


@pytest.mark.parametrize("lead", LEADS)
def test_bernoulli_equals_scipy(lead):
    logits = 3 * np.random.default_rng(1).normal(size=(*lead, 4))
    said = ask(Bernoulli, logits)
    assert said.raw.shape == said.mode.shape == (*lead, 4)
    assert said.raw.dtype == said.action.dtype == said.mode.dtype == np.int32
    p = special.expit(logits)
    close(said.log_prob, stats.bernoulli.logpmf(said.raw, p).sum(-1))
    close(said.entropy, stats.bernoulli.entropy(p).sum(-1))
    np.testing.assert_array_equal(said.mode, p > 0.5)


def test_bernoulli_draws_each_bit_with_its_probability_and_apart():
    logits = np.float32([-2.0, 0.0, 0.7])
    draws = np.asarray(Bernoulli(jnp.tile(logits, (20_000, 1))).sample(jax.random.key(2)))
    for i, p in enumerate(special.expit(np.float64(logits))):
        assert chi_square(draws[:, i], [1 - p, p]) > FAIR
    assert chi_square(draws[:, 2], [0.5, 0.5]) < ABSURD
    assert min(independent(draws[:, i], draws[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))) > FAIR


def test_bernoulli_keeps_its_digits_where_a_bit_is_nearly_sure():
    logits = np.float32([-60.0, -20.0, 17.0, 60.0])
    entropy = np.array([Bernoulli(jnp.array([x])).entropy() for x in logits])
    p = special.expit(-np.abs(np.float64(logits)))
    np.testing.assert_allclose(entropy, -p * np.log(p) - (1 - p) * np.log1p(-p), rtol=1e-5)
    naive = jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)  # the textbook form cancels
    assert not np.allclose(naive, entropy, rtol=1e-2)


# ------------------------------------------------------------------------------------------------------ Gumbel-softmax


@pytest.mark.parametrize("lead", LEADS)
def test_gumbel_softmax_says_of_its_action_what_categorical_says(lead):
    logits = 2 * np.random.default_rng(2).normal(size=(*lead, 4))
    said = ask(GumbelSoftmax, logits)
    assert said.raw.shape == said.mode.shape == (*lead, 4)
    assert said.action.shape == lead
    assert said.action.dtype == np.int32
    np.testing.assert_array_equal(np.eye(4)[said.action], said.raw)  # one-hot, exactly
    log_p = special.log_softmax(logits, -1)
    close(said.log_prob, np.take_along_axis(log_p, said.action[..., None], -1)[..., 0])
    close(said.entropy, stats.entropy(np.exp(log_p), axis=-1))
    np.testing.assert_array_equal(said.mode, np.eye(4)[logits.argmax(-1)])


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_gumbel_softmax_plays_with_the_probabilities_of_its_logits_at_any_temperature(temperature):
    logits = np.float32([2.0, -1.0, 0.5, 0.0])
    pd = GumbelSoftmax(jnp.tile(logits, (20_000, 1)), temperature)
    assert chi_square(pd.action(pd.sample(jax.random.key(3))), special.softmax(np.float64(logits))) > FAIR


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_relaxed_draw_has_the_concrete_distribution(temperature):
    logits = np.float32([0.8, -0.4])
    relaxed = GumbelSoftmax(jnp.tile(logits, (20_000, 1)), temperature).relaxed(jax.random.key(4))
    np.testing.assert_allclose(relaxed.sum(-1), 1.0, rtol=1e-5)
    # Of two, the logit of the first is a logistic variable (Maddison et al. 2017, section 3.1).
    logit = np.log(np.float64(relaxed[:, 0])) - np.log(np.float64(relaxed[:, 1]))
    logit = logit[np.isfinite(logit)]
    assert len(logit) > 19_990
    assert stats.kstest(logit, stats.logistic(1.2 / temperature, 1 / temperature).cdf).pvalue > FAIR
    assert stats.kstest(logit, stats.logistic(1.2, 1.0).cdf).pvalue < ABSURD  # the mutant: temperature forgotten
    tfd = tfp.distributions
    theirs = tfd.RelaxedOneHotCategorical(temperature, logits=np.float32([0.8, -0.4, 0.1]))
    ours = GumbelSoftmax(jnp.tile(np.float32([0.8, -0.4, 0.1]), (20_000, 1)), temperature).relaxed(jax.random.key(5))
    assert stats.ks_2samp(ours[:, 2], theirs.sample(20_000, seed=jax.random.key(6))[:, 2]).pvalue > FAIR


def test_a_straight_through_draw_has_the_slope_of_the_relaxed_one():
    worth, key = jnp.array([1.0, -2.0, 0.5]), jax.random.key(7)
    logits = jnp.array([0.3, 0.1, -0.5])
    rounded = jax.grad(lambda x: GumbelSoftmax(x, 0.7).sample(key) @ worth)(logits)
    relaxed = jax.grad(lambda x: GumbelSoftmax(x, 0.7).relaxed(key) @ worth)(logits)
    np.testing.assert_allclose(rounded, relaxed, rtol=1e-6)
    assert np.abs(rounded).max() > 1e-3
    # log_prob is linear in the draw: differentiated through it, it is the entropy's gradient in disguise
    slope = jax.grad(lambda raw: GumbelSoftmax(logits).log_prob(raw))(GumbelSoftmax(logits).sample(key))
    np.testing.assert_allclose(slope, jax.nn.log_softmax(logits), rtol=1e-6)


def test_reparameterised_gradients_find_the_best_action():
    worth = jnp.array([0.0, 0.4, 1.0, 0.6])

    def learn(key):
        def step(logits, key):
            return logits + 0.5 * jax.grad(lambda x: GumbelSoftmax(x).sample(key) @ worth)(logits), None

        return jax.lax.scan(step, jnp.zeros(4), jax.random.split(key, 400))[0]

    learned = jax.jit(jax.vmap(learn))(jax.random.split(jax.random.key(8), 5))
    assert (jax.nn.softmax(learned)[:, 2] > 0.9).all()


# ---------------------------------------------------------------------------------------------------------- continuous


def parameters(lead, shape, seed=0):
    rng = np.random.default_rng(seed)
    loc, scale = rng.normal(size=(*lead, *shape)), rng.uniform(0.2, 2.0, (*lead, *shape))
    return loc, scale, loc + 1.5 * scale * rng.normal(size=loc.shape)


def unit_box(kind, shape):
    return lambda a, b: kind(a, b, -np.ones(shape), np.ones(shape), len(shape))


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_beta_equals_scipy(shape, lead):
    rng = np.random.default_rng(3)
    a, b = 1 + rng.gamma(1.5, 3.0, (2, *lead, *shape))
    raw = rng.beta(a, b)
    said, event = ask(unit_box(Beta, shape), a, b, raw=raw), len(shape)
    close(said.log_prob, total(stats.beta.logpdf(raw, a, b), event), rtol=1e-5)  # betaln has 6 digits in jax
    close(said.entropy, total(stats.beta.entropy(a, b), event), rtol=1e-5)
    np.testing.assert_allclose(said.mode, (a - 1) / (a + b - 2))
    theirs = tfp.distributions.Beta(np.float32(a), np.float32(b))
    np.testing.assert_allclose(said.mode, theirs.mode(), rtol=1e-4)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_log_normal_equals_scipy(shape, lead):
    loc, scale, raw = parameters(lead, shape)
    said, event = ask(unit_box(LogNormal, shape), loc, scale, raw=raw), len(shape)
    theirs = stats.lognorm(scale, scale=np.exp(loc))
    close(said.log_prob, total(theirs.logpdf(np.exp(raw)), event))
    close(said.entropy, total(theirs.entropy(), event))
    np.testing.assert_allclose(
        np.exp(said.mode), tfp.distributions.LogNormal(np.float32(loc), np.float32(scale)).mode(), rtol=1e-4
    )


def factor(rng, lead, n):
    tril = np.tril(rng.normal(size=(*lead, n, n)), -1)
    return tril + np.eye(n) * rng.uniform(0.3, 1.5, (*lead, n, 1))


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("shape", SHAPES)
def test_multivariate_normal_equals_scipy_and_distrax(shape, lead):
    rng, n = np.random.default_rng(4), int(np.prod(shape))
    loc, tril = rng.normal(size=(*lead, *shape)), factor(rng, lead, n)
    said = ask(unit_box(MultivariateNormal, shape), loc, tril)
    assert said.raw.shape == said.action.shape == loc.shape
    flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in (loc.reshape(*lead, n), tril, said.raw.reshape(*lead, n))]
    theirs = [stats.multivariate_normal(m, t @ t.T) for m, t in zip(*flat[:2], strict=True)]
    log_prob = [pd.logpdf(x) for pd, x in zip(theirs, flat[2], strict=True)]
    close(said.log_prob, np.reshape(log_prob, lead), rtol=1e-8)
    close(said.entropy, np.reshape([pd.entropy() for pd in theirs], lead))
    np.testing.assert_array_equal(said.mode, loc)
    other = distrax.MultivariateNormalTri(np.float32(flat[0]), np.float32(flat[1]))
    np.testing.assert_allclose(said.log_prob.reshape(-1), other.log_prob(np.float32(flat[2])), rtol=1e-3, atol=1e-3)


def test_beta_and_log_normal_draws_pass_a_kolmogorov_smirnov_test():
    n, one = 20_000, np.float32(1)
    a, b = 1.4, 5.0
    draws = Beta(jnp.full(n, a), jnp.full(n, b), -one, one, 0).sample(jax.random.key(0))
    assert stats.kstest(np.float64(draws), stats.beta(a, b).cdf).pvalue > FAIR
    assert stats.kstest(np.float64(draws), stats.beta(b, a).cdf).pvalue < ABSURD
    pd = LogNormal(jnp.full(n, 0.3), jnp.full(n, 0.8), np.float32(0.5), np.float32(INF), 0)
    excess = np.float64(pd.action(pd.sample(jax.random.key(1)))) - 0.5
    assert stats.kstest(excess, stats.lognorm(0.8, scale=np.exp(0.3)).cdf).pvalue > FAIR
    assert stats.kstest(excess, stats.lognorm(0.8, scale=1.0).cdf).pvalue < ABSURD


def test_multivariate_normal_draws_have_the_whole_covariance():
    tril = np.array([[0.8, 0, 0], [-0.9, 0.5, 0], [0.4, 0.7, 0.3]])
    loc = np.array([1.0, -2.0, 0.5])
    said = ask(
        lambda x, t: unit_box(MultivariateNormal, (3,))(x, t), np.tile(loc, (20_000, 1)), np.tile(tril, (20_000, 1, 1))
    )
    z = np.linalg.solve(tril, (said.raw - loc).T)
    assert all(stats.kstest(row, stats.norm.cdf).pvalue > FAIR for row in z)
    assert stats.kstest((z**2).sum(0), stats.chi2(3).cdf).pvalue > FAIR
    diagonal = ((said.raw - loc) ** 2 / np.diag(tril @ tril.T)).sum(1)  # the mutant: the correlations forgotten
    assert stats.kstest(diagonal, stats.chi2(3).cdf).pvalue < ABSURD
    np.testing.assert_allclose(np.cov(said.raw.T), tril @ tril.T, atol=0.03)
    # ... and their density knows it: -E[log p] is the entropy
    assert -said.log_prob.mean() == pytest.approx(said.entropy[0], abs=0.05)


REPARAMETERISED = {
    "Normal": (unit_box(Normal, (3,)), "scale"),
    "SquashedNormal": (unit_box(SquashedNormal, (3,)), "scale"),
    "LogNormal": (unit_box(LogNormal, (3,)), "scale"),
    "Beta": (lambda loc, scale: unit_box(Beta, (3,))(1 + loc**2, 1 + scale), "scale"),
    "MultivariateNormal": (lambda loc, t: unit_box(MultivariateNormal, (3,))(loc, jnp.tril(t)), "factor"),
}


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_a_draw_and_its_log_density_have_the_right_slopes(name):
    make, second = REPARAMETERISED[name]
    rng, key = np.random.default_rng(5), jax.random.key(9)
    loc, scale, _ = parameters((4,), (3,), seed=5)
    scale = factor(rng, (4,), 3) if second == "factor" else scale
    weight = rng.normal(size=4)

    def value(loc, scale):
        pd = make(loc, scale)
        raw = pd.sample(key)
        return (weight * pd.log_prob(raw)).sum() + jnp.sin(raw).sum()

    with jax.enable_x64(True):
        at, direction = (loc, scale), (rng.normal(size=loc.shape), rng.normal(size=scale.shape))
        slopes, run = jax.jit(jax.grad(value, (0, 1)))(*at), jax.jit(value)
        ahead, behind = (float(run(*(x + h * d for x, d in zip(at, direction, strict=True)))) for h in (1e-5, -1e-5))
    along = float(sum((g * d).sum() for g, d in zip(slopes, direction, strict=True)))
    assert np.isfinite(along)
    if name != "Beta":  # whose draws come from an acceptance test: see below
        assert along == pytest.approx((ahead - behind) / 2e-5, rel=1e-4)


def test_the_slope_of_a_beta_draw_is_implicit():
    """`d raw / d alpha = -(d CDF / d alpha) / density` (Figurnov et al. 2018)."""
    alpha, beta, step = 2.5, 4.0, 1e-4
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 2000)
        draw = lambda a, k: Beta(jnp.float64(a), jnp.float64(beta), -1.0, 1.0, 0).sample(k)  # noqa: E731
        raw = np.asarray(jax.vmap(draw, (None, 0))(alpha, keys))
        slope = np.asarray(jax.vmap(jax.grad(draw), (None, 0))(alpha, keys))
    cdf = (stats.beta.cdf(raw, alpha + step, beta) - stats.beta.cdf(raw, alpha - step, beta)) / (2 * step)
    # Two Gamma draws make one Beta draw, so the slope is a random one whose mean over draws of a function is exact.
    expected = -(cdf / stats.beta.pdf(raw, alpha, beta))
    assert slope.mean() == pytest.approx(expected.mean(), abs=4 * slope.std() / np.sqrt(2000))
    assert slope.mean() == pytest.approx(beta / (alpha + beta) ** 2, abs=4 * slope.std() / np.sqrt(2000))  # of the mean


# --------------------------------------------------------------------------------------------------------------- heads

LOPSIDED = Box([-2.0, 0.0, -9.0], [5.0, 1.0, -8.0], (3,))
HALF = Box([-2.0, 0.0, 3.0], INF, (3,))
UPPER = Box(-INF, [-2.0, 0.0, 3.0], (3,))
HEADS = {
    "Categorical": (Discrete(4), 4, False, (4,)),
    "GumbelSoftmax": (Discrete(4), 4, False, (4,)),
    "MultiCategorical": (MultiDiscrete(NVEC), 9, False, NVEC),
    "Bernoulli": (MultiBinary(5), 5, False, ()),
    "Normal": (LOPSIDED, 3, True, ()),
    "SquashedNormal": (LOPSIDED, 3, True, ()),
    "MultivariateNormal": (LOPSIDED, 9, True, ()),
    "Beta": (LOPSIDED, 6, False, ()),
    "LogNormal": (LOPSIDED, 3, True, ()),
}
CONTINUOUS = ("Normal", "SquashedNormal", "LogNormal", "MultivariateNormal", "Beta")


def head_of(name, space=None):
    return action_head(name, HEADS[name][0] if space is None else space)


def test_every_distribution_is_here_and_every_space_has_a_default():
    assert {name for names in PDTYPES.values() for name in names} == {*HEADS}
    for space, name in (
        (Discrete(3), "Categorical"),
        (MultiDiscrete((2, 3)), "MultiCategorical"),
        (MultiBinary(3), "Bernoulli"),
        (Box(0, 1, (2,)), "Normal"),
    ):
        head = action_head("default", space)
        assert type(head.distribution(jnp.zeros(head.width), jnp.zeros(space.shape))).__name__ == name


@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_makes_its_distribution_of_an_output(name, lead):
    space, width, log_std, choices = HEADS[name]
    head = head_of(name)
    assert (head.width, head.log_std, head.choices) == (width, log_std, choices)
    output = np.random.default_rng(0).normal(size=(*lead, width))
    said = ask(head.distribution, output, np.full(space.shape, -0.5))
    assert said.action.shape == (*lead, *space.shape)
    assert said.raw.shape == (*lead, *head.raw.shape)
    assert said.raw.dtype.kind == np.dtype(head.raw.dtype).kind
    assert said.log_prob.shape == said.entropy.shape == lead
    assert type(head.distribution(jnp.array(output), jnp.zeros(space.shape))).__name__ == name


def test_a_network_may_put_out_the_standard_deviation():
    head = squashed_head(LOPSIDED)
    assert (head.width, head.log_std) == (6, False)
    output = 0.5 * np.random.default_rng(1).normal(size=(7, 6)).astype(np.float32)
    pd = head.distribution(jnp.array(output), None)
    np.testing.assert_array_equal(pd.loc, output[:, :3])
    np.testing.assert_allclose(pd.scale, np.exp(output[:, 3:]), rtol=1e-5)
    wild = head.distribution(jnp.full((2, 6), 50.0).at[1].set(-50.0), None)
    np.testing.assert_allclose(wild.scale, np.exp(np.array(STATE_LOG_STD)[::-1, None]) * np.ones(3), rtol=1e-5)
    free = head_of("SquashedNormal").distribution(jnp.zeros((1, 3)), jnp.full(3, -50.0))
    np.testing.assert_allclose(free.scale, np.exp(LOG_STD[0]), rtol=1e-5)


def test_the_factor_of_a_multivariate_head_is_lower_triangular_and_any_covariance_can_be_had():
    head = head_of("MultivariateNormal")
    rng = np.random.default_rng(2)
    wanted = factor(rng, (), 3)
    output = np.concatenate(
        [rng.normal(size=3), np.log(np.diag(wanted)), (wanted / np.diag(wanted)[:, None])[np.tril_indices(3, -1)]]
    )
    pd = head.distribution(jnp.array(output, jnp.float32), jnp.zeros(3))
    np.testing.assert_allclose(pd.tril, wanted, rtol=1e-5, atol=1e-6)
    wider = head.distribution(jnp.array(output, jnp.float32), jnp.full(3, 0.7))
    np.testing.assert_allclose(wider.tril, wanted * np.exp(0.7), rtol=1e-5, atol=1e-6)


BOXES = {"lopsided": LOPSIDED, "bounded below": HALF, "bounded above": UPPER, "unbounded": Box(-INF, INF, (3,))}
TAKES = {
    "Normal": set(BOXES),
    "MultivariateNormal": set(BOXES),
    "SquashedNormal": {"lopsided"},
    "Beta": {"lopsided"},
    "LogNormal": {"lopsided", "bounded below"},
}


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", TAKES)
def test_actions_lie_in_the_space_or_the_space_is_refused(name, box):
    space = BOXES[box]
    if box not in TAKES[name]:
        with pytest.raises(SpecError, match=rf"{name}.*bounds.*Box\(shape=\(3,\).*Normal takes any") as error:
            head_of(name, space)
        assert error.value.path == "agent.algorithm.action_pdtype"
        return
    head = head_of(name, space)
    rng = np.random.default_rng(3)
    output = (rng.normal(size=(500, head.width)) * 10.0 ** rng.uniform(-1, 4, (500, 1))).astype(np.float32)

    @jax.jit
    def act(output, log_std):
        pd = head.distribution(output, log_std)
        return pd.action(pd.sample(jax.random.key(0))), pd.action(pd.mode())

    for log_std in (-30.0, 0.0, 30.0):
        drawn, best = act(output, np.full(3, log_std, np.float32))
        for action in (drawn, best):
            assert np.isfinite(action).all()
            assert ((action >= space.low) & (action <= space.high)).all()
        assert len(np.unique(drawn[:, 0])) > 5


def test_beta_is_stretched_and_log_normal_shifted_to_the_space():
    raw = jnp.array([[0.25, 0.5, 1.0]])
    beta = Beta(jnp.ones_like(raw), jnp.ones_like(raw), LOPSIDED.low, LOPSIDED.high, 1)
    np.testing.assert_allclose(beta.action(raw), [[-0.25, 0.5, -8.0]], atol=1e-6)
    positive = LogNormal(raw, raw, HALF.low, HALF.high, 1)
    np.testing.assert_allclose(positive.action(raw), HALF.low + np.exp(raw), rtol=1e-6)
    clipped = LogNormal(raw, raw, LOPSIDED.low, LOPSIDED.high, 1)
    np.testing.assert_allclose(clipped.action(raw), [[-2 + np.exp(0.25), 1.0, -8.0]], rtol=1e-6)


@pytest.mark.parametrize("name", [*HEADS, "by the state"])
def test_values_and_slopes_are_finite_at_the_extremes(name):
    space, head = (LOPSIDED, squashed_head(LOPSIDED)) if name == "by the state" else (HEADS[name][0], head_of(name))
    signs = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], (200, head.width))
    far = np.full((200, *space.shape), 0.5, np.float32)  # from a mean that the standard deviation cannot bridge

    def said(output, log_std):
        pd = head.distribution(output, log_std)
        raw = pd.sample(jax.random.key(0))
        if not isinstance(space, Box):
            return (pd.log_prob(raw) + pd.entropy()).sum()
        stopped = pd.log_prob(jax.lax.stop_gradient(raw))
        return (pd.log_prob(raw) + stopped + pd.log_prob(far) + pd.entropy()).sum() + pd.action(raw).sum()

    slope = jax.jit(jax.value_and_grad(said, (0, 1)))
    # 1e4 standard deviations of e^-20, times factors of 1e4, overflow when squared
    for size in (30.0,) if name == "MultivariateNormal" else (30.0, 1e4):
        for log_std in (-size, size):
            value, slopes = slope(np.float32(size * signs), np.full(space.shape, log_std, np.float32))
            assert np.isfinite(value)
            assert all(np.isfinite(x).all() for x in slopes)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_distribution_far_from_what_was_drawn_still_has_a_slope_towards_it(name):
    head, space = head_of(name), HEADS[name][0]
    raw = jnp.full(space.shape, 0.9)
    output = jnp.zeros(head.width)
    slope = jax.grad(lambda x: head.distribution(x, jnp.full(space.shape, -1.0)).log_prob(raw))(output)
    better = head.distribution(output + 1e-3 * slope, jnp.full(space.shape, -1.0)).log_prob(raw)
    assert better > head.distribution(output, jnp.full(space.shape, -1.0)).log_prob(raw)


@pytest.mark.parametrize("name", HEADS)
def test_the_score_function_has_mean_zero(name):
    """`E[grad log p] = 0` for whatever is drawn: sampling and density belong together."""
    head, space = head_of(name), HEADS[name][0]
    output = 0.5 * jax.random.normal(jax.random.key(0), (head.width,))

    @jax.jit
    def scores(keys):
        log_std = jnp.full(space.shape, -0.3)
        raw = jax.vmap(head.distribution(output, log_std).sample)(keys)
        return jax.vmap(lambda r: jax.grad(lambda x: head.distribution(x, log_std).log_prob(r))(output))(raw)

    score = np.float64(scores(jax.random.split(jax.random.key(1), 20_000)))
    t = score.mean(0) / (score.std(0) / np.sqrt(len(score)) + 1e-12)
    assert np.abs(t).max() < 4.5
    assert score.std(0).min() > 1e-3
