"""Masks of valid actions: nothing forbidden is played, explored, or bootstrapped from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import slow_ones, spec_of
from ladder import cooling
from scipy import special, stats

import slmjax
from slmjax.envs import vectorize
from slmjax.envs.check import check_env
from slmjax.learners import off_policy, q_learning, q_rollouts
from slmjax.learners.value_heads import greedy_policy
from slmjax.maths.losses import q_target
from slmjax.nets import actor_critic
from slmjax.nets.network import build
from slmjax.policies.discrete import Categorical, GumbelSoftmax, MultiCategorical
from slmjax.policies.exploration import POLICIES, epsilon_greedy
from slmjax.policies.masks import masked, masking, offered
from slmjax.types import Box, Dict, Discrete, Env, Head, MultiBinary, SpecError

FAIR = 1e-3  # p-value (keys are fixed) above which nothing contradicts a claim
SESSIONS = 5
rng = np.random.default_rng(0)
CASES = [rng.random((200, 6)) < share for share in (0.2, 0.5, 0.9)]
MASKS = np.concatenate([case[case.any(1)] for case in CASES])  # every row has a valid action, many have one alone
SCORES = (3 * rng.normal(size=MASKS.shape)).astype(np.float32)


def test_one_valid_action_alone_is_among_the_cases():
    assert (MASKS.sum(1) == 1).sum() > 50


# ------------------------------------------------------------------------------------------------------ distributions


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32, np.uint8])
def test_a_masked_distribution_is_the_renormalised_one(kind):
    pd = Categorical(masked(jnp.array(SCORES), jnp.array(MASKS.astype(kind))))
    p = special.softmax(np.where(MASKS, np.float64(SCORES), -np.inf), -1)
    log_prob = jax.vmap(pd.log_prob, 1, 1)(jnp.tile(jnp.arange(6), (len(MASKS), 1)))
    np.testing.assert_allclose(np.exp(np.float64(log_prob)), p, rtol=1e-4)
    assert (np.isneginf(log_prob) == ~MASKS).all()
    np.testing.assert_allclose(pd.entropy(), stats.entropy(p, axis=-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(pd.mode(), p.argmax(-1))


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("kind", [Categorical, GumbelSoftmax, lambda logits: MultiCategorical(logits, (4, 2))])
def test_slopes_are_finite_and_none_reaches_a_forbidden_action(kind, size):
    choices = (4, 2) if kind(jnp.zeros(6)).sample(jax.random.key(0)).shape == (2,) else None

    @jax.jit
    def slope(scores):
        def said(scores):
            pd = kind(masked(scores, jnp.array(MASKS), choices))
            raw = pd.sample(jax.random.key(1))
            return jnp.sum(pd.log_prob(raw) + pd.entropy())

        return jax.value_and_grad(said)(scores)

    value, slopes = slope(size * SCORES)
    assert np.isfinite(value)
    assert np.isfinite(slopes).all()
    free = MASKS.copy()
    if choices:  # a choice of which nothing is valid keeps its scores
        free[:, :4] |= ~MASKS[:, :4].any(1, keepdims=True)
        free[:, 4:] |= ~MASKS[:, 4:].any(1, keepdims=True)
    assert (slopes[~free] == 0).all()
    assert np.abs(slopes[free]).max() > 0 or size > 1  # where everything is sure, nothing has a slope
    if choices is None:
        assert (np.abs(slopes[MASKS.sum(1) == 1]) < 1e-6).all()  # nothing to choose, nothing to learn


@pytest.mark.parametrize("kind", [Categorical, GumbelSoftmax])
def test_no_draw_is_ever_forbidden(kind):
    pd = kind(masked(jnp.array(SCORES), jnp.array(MASKS)))
    draw = jax.jit(jax.vmap(lambda k: pd.action(pd.sample(k))))
    actions = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))
    assert MASKS[np.arange(len(MASKS)), actions].all()
    assert MASKS[np.arange(len(MASKS)), pd.action(pd.mode())].all()
    free = np.asarray(kind(jnp.array(SCORES)).action(kind(jnp.array(SCORES)).sample(jax.random.key(0))))
    assert not MASKS[np.arange(len(MASKS)), free].all()  # what a forgotten mask looks like


def test_every_choice_of_several_has_a_mask_of_its_own():
    mask = jnp.array([[True, False, True, False, True], [False, False, False, True, True]])
    scores = masked(jnp.zeros((2, 5)), mask, (3, 2))
    np.testing.assert_array_equal(np.isneginf(scores), [[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    draws = np.asarray(MultiCategorical(jnp.tile(scores[0], (9000, 1)), (3, 2)).sample(jax.random.key(0)))
    assert set(draws[:, 0]) == {0, 2}
    assert set(draws[:, 1]) == {1}
    np.testing.assert_allclose(MultiCategorical(scores, (3, 2)).entropy(), np.log([2, 6]), rtol=1e-5)
    np.testing.assert_allclose(
        MultiCategorical(scores, (3, 2)).log_prob(jnp.array([[0, 1], [0, 1]])), -np.log([2, 6]), rtol=1e-5
    )


def test_where_nothing_is_valid_nothing_is_masked():
    scores = jnp.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(masked(scores, jnp.zeros((1, 3), bool)), scores)


# -------------------------------------------------------------------------------------------------------- exploration


def explored(name, variable, draws=100):
    scores = masked(jnp.array(SCORES), jnp.array(MASKS))
    keys = jax.random.split(jax.random.key(3), draws)
    return np.asarray(jax.jit(jax.vmap(lambda k: POLICIES[name](scores, variable, k)))(keys))


@pytest.mark.parametrize("variable", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_policy_ever_explores_a_forbidden_action(name, variable):
    actions = explored(name, variable)
    assert MASKS[np.arange(len(MASKS)), actions].all()
    alone = MASKS.sum(1) == 1
    assert (actions[:, alone] == MASKS[alone].argmax(1)).all()


PROBABILITIES = {  # of the actions [0, x, 2, x, 4], scores 1, -, 3, -, 2
    "default": (None, [0, 0, 1, 0, 0]),
    "random": (None, [1 / 3, 0, 1 / 3, 0, 1 / 3]),
    "epsilon_greedy": (0.3, [0.1, 0, 0.8, 0, 0.1]),
    "boltzmann": (2.0, special.softmax([0.5, -np.inf, 1.5, -np.inf, 1.0])),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_exploration_is_uniform_over_valid_actions(name):
    variable, p = PROBABILITIES[name]
    scores = masked(jnp.array([1.0, 9.0, 3.0, 8.0, 2.0]), jnp.array([1, 0, 1, 0, 1]))
    draws = POLICIES[name](jnp.tile(scores, (30_000, 1)), variable, jax.random.key(4))
    counts = np.bincount(np.asarray(draws), minlength=5)
    possible = np.array(p) > 0
    assert counts[~possible].sum() == 0
    assert possible.sum() == 1 or stats.chisquare(counts[possible], 30_000 * np.array(p)[possible]).pvalue > FAIR


def test_a_policy_that_counts_all_actions_would_be_seen():
    """The mutant: a random action among all `A`, forbidden ones included."""
    scores = masked(jnp.tile(jnp.array([1.0, 9.0, 3.0]), (2000, 1)), jnp.array([1, 0, 1]))
    mutant = epsilon_greedy(jnp.where(jnp.isneginf(scores), -1e9, scores), 0.5, jax.random.key(0))
    assert (mutant == 1).any()
    assert not (epsilon_greedy(scores, 0.5, jax.random.key(0)) == 1).any()


# -------------------------------------------------------------------------------------------------- reading, targets


SPACE = Dict({"x": Box(-1, 1, (2,)), "action_mask": MultiBinary(3)})


def test_a_mask_is_read_where_the_observation_has_one():
    obs = {"x": jnp.zeros((1, 2)), "action_mask": jnp.array([[1, 0, 1]])}
    scores = jnp.array([[1.0, 2.0, 3.0]])
    assert masking(SPACE, (3,))(scores, obs).tolist() == [[1.0, -np.inf, 3.0]]
    assert offered(SPACE)
    for space in (Box(-1, 1, (2,)), Dict({"mask": MultiBinary(3)}), Discrete(3)):
        assert masking(space, (3,))(scores, obs) is scores
        assert not offered(space)


@pytest.mark.parametrize(
    ("mask", "choices", "said"),
    [
        (MultiBinary(4), (3,), r"expected an 'action_mask' of shape \(3,\), got MultiBinary\(4\)"),
        (Box(0, 1, (1, 3)), (3,), r"shape \(3,\), got Box\(shape=\(1, 3\)"),
        (Discrete(3), (3,), r"shape \(3,\), got Discrete\(3\)"),
        (Dict({"a": MultiBinary(3)}), (3,), r"got Dict"),
        (MultiBinary(2), (2, 3), r"shape \(5,\)"),
        (MultiBinary(2), (), "only Discrete and MultiDiscrete actions can be masked"),
    ],
)
def test_a_mask_that_does_not_fit_says_why(mask, choices, said):
    with pytest.raises(SpecError, match=said) as error:
        masking(Dict({"x": Box(-1, 1), "action_mask": mask}), choices)
    assert error.value.path == "env.name"


@pytest.mark.parametrize(
    ("space", "dtype"), [(MultiBinary(3), bool), (MultiBinary(3), np.int8), (Box(0, 1, (3,)), bool)]
)
def test_an_environment_may_give_its_mask_as_bools_or_numbers(space, dtype):
    mask = jnp.array([True, False, True]).astype(dtype)
    env = Env(
        lambda key: ((), {"action_mask": mask}),
        lambda key, state, action: (state, {"action_mask": mask}, 0.0, jnp.array(True), jnp.array(False)),
        Dict({"action_mask": space}),
        Discrete(3),
    )
    check_env(env)
    env = vectorize(env, 2)
    _, obs = env.reset(jax.random.key(0))
    scores = masking(env.observation_space, (3,))(jnp.zeros((2, 3)), obs)
    np.testing.assert_array_equal(scores, [[0, -np.inf, 0]] * 2)


def test_the_best_of_the_next_state_is_a_valid_action():
    q_t, selector = jnp.array([[-1.0, 5.0, -2.0]]), jnp.array([[-4.0, 7.0, -3.0]])
    mask = jnp.array([[1, 0, 1]])
    one, half = jnp.ones(1), jnp.full(1, 0.5)
    best = lambda scores, mask=mask: greedy_policy(masked(scores, mask))  # noqa: E731
    plain, double = (q_target(one, half, masked(q_t, mask), best(scores)) for scores in (q_t, selector))
    assert (plain.item(), double.item()) == (1 - 0.5, 1 - 0.5 * 2)
    assert q_target(one, half, q_t, greedy_policy(q_t)).item() == 1 + 0.5 * 5
    over = q_target(one, jnp.zeros(1), masked(q_t, 0 * mask), best(q_t, 0 * mask))
    assert over.item() == 1.0  # at the end of an episode nothing is valid, and nothing must be NaN


# ----------------------------------------------------------------------------------------------------------- learning

ALGORITHMS = ("PPO", "DoubleDQN", "SARSA", "PQN", "SoftActorCritic")  # DQN is DoubleDQN with another picker
LIKE_DQN = ("SARSA", "PQN")  # in `pytest -m slow`
OBS = {"x": jnp.array([[0.0], [1.0], [-1.0]]), "action_mask": jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 0]])}


def learn(name, frames=20_000):
    spec = spec_of(name, "probes:forbidden_action", frames, algorithm={"gamma": 0.5}, net=cooling(frames))
    return slmjax.train(spec, sessions=SESSIONS)


def values(result):
    if result.spec.agent.algorithm.name == "PPO":
        act = lambda p: p.agent.act(p.state, OBS, (), jax.random.key(0), p.hp, True)[2].value  # noqa: E731
        return np.stack([act(p) for p in result.policies])
    env = slmjax.make_env(result.spec.env)
    net = build(result.spec.agent.net, env.observation_space, (Head(3, "critic"),))
    scores = lambda p: masked(net.apply(p.state, OBS, ())[0][0], OBS["action_mask"]).max(-1)  # noqa: E731
    return np.stack([scores(p) for p in result.policies])


@pytest.mark.parametrize("name", slow_ones(ALGORITHMS, (*LIKE_DQN, "SoftActorCritic")))
def test_the_best_valid_action_is_learned_and_no_forbidden_one_ever_taken(name):
    result = learn(name)
    assert not result.failed  # one forbidden action would have been a NaN for good
    assert (np.stack([p(OBS) for p in result.policies])[:, 1:] == [2, 1]).all()
    assert ((result.eval_reward >= -2) & (result.eval_reward <= -1)).all()
    if name != "SoftActorCritic":  # what acts has no values there
        np.testing.assert_allclose(values(result), np.broadcast_to([-0.75, -1.0, -2.0], (SESSIONS, 3)), atol=0.1)


@pytest.mark.parametrize("name", ["DoubleDQN", pytest.param("PPO", marks=pytest.mark.slow)])
def test_a_mutant_without_masks_is_poisoned(name, monkeypatch):
    for module in (q_learning, q_rollouts, off_policy, actor_critic):
        monkeypatch.setattr(module, "masking", lambda space, choices: lambda scores, obs: scores)
    with pytest.warns(UserWarning, match="every session failed"):
        assert len(learn(name, 2000).failed) == SESSIONS


def test_a_mutant_that_masks_when_it_acts_alone_bootstraps_from_forbidden_actions(monkeypatch):
    def acting_alone(space, choices):
        mask = masking(space, choices)
        return lambda scores, obs: mask(scores, obs) if len(scores) == 4 else scores

    monkeypatch.setattr(q_learning, "masking", acting_alone)
    result = learn("DoubleDQN")
    assert not result.failed
    assert (np.abs(values(result)[:, 0] + 0.75) > 0.1).all()


def test_random_actions_are_valid_ones():
    agent = slmjax.make_agent(spec_of("Random", "probes:forbidden_action", 4000))
    obs = jax.tree.map(lambda x: jnp.repeat(x[1:], 3000, 0), OBS)
    actions = np.asarray(agent.act((), obs, (), jax.random.key(0), None, False)[0]).reshape(2, 3000)
    assert stats.chisquare(np.bincount(actions[0], minlength=3)).pvalue > FAIR
    assert stats.chisquare(np.bincount(actions[1], minlength=3)[:2]).pvalue > FAIR
    assert actions[1].max() == 1
