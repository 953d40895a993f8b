"""Value methods: heads and targets against loops and rlax, and what sets each method apart, on probe environments.

Their ladder of probes is in `tests/test_ladder.py`.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import rlax
from agents import spec_of

import slmjax
from slmjax import registry
from slmjax.algos import c51, munchausen, sarsa
from slmjax.algos.c51 import categorical
from slmjax.algos.qrdqn import quantiles
from slmjax.learners import q_learning
from slmjax.learners.value_heads import EXPECTED, greedy_policy
from slmjax.maths.losses import q_target, td_error
from slmjax.maths.value_distributions import cross_entropy, entropy, midpoints, project, quantile_huber, support
from slmjax.memory import names, replay
from slmjax.nets.network import build
from slmjax.types import HP, Head

pytestmark = pytest.mark.usefixtures("optimised")
B, A, N = 64, 4, 11
V_MIN, V_MAX = -3.0, 2.0


@cache
def batch():
    """Transitions of every kind: rewards beyond the support, terminal ones, n-step discounts."""
    rng = np.random.default_rng(5)
    output_tm1, output_t, selector = (np.float32(rng.normal(size=(B, A, N))) for _ in range(3))
    r_t = np.float32(rng.normal(0, 2, B))
    discount_t = np.float32(rng.choice([0.0, 0.9, 0.9**3], B))
    return output_tm1, np.int32(rng.integers(0, A, B)), r_t, discount_t, output_t, selector


def hp_of(**keys):
    """Hyperparameters with the keys that a test is about."""
    net = type("Net", (), {"loss_spec": type("Loss", (), {"name": "MSELoss"})})
    return HP(type("Keys", (), keys), (), net)


# ------------------------------------------------------------------------------------------------------- categorical


def project_loop(values, probs, atoms):
    """Bellemare et al. 2017, algorithm 1, in float64: each value between two atoms, or on one."""
    result, delta = np.zeros(len(atoms)), atoms[1] - atoms[0]
    for value, prob in zip(values, probs, strict=True):
        place = (np.clip(value, atoms[0], atoms[-1]) - atoms[0]) / delta
        low = int(np.floor(place))
        if low >= len(atoms) - 1:
            result[-1] += prob
        else:
            result[low] += prob * (low + 1 - place)
            result[low + 1] += prob * (place - low)
    return result


def some_distributions(number=1000):
    rng = np.random.default_rng(8)
    probs = np.float32(rng.dirichlet(np.full(N, 0.3), number))
    atoms = np.linspace(V_MIN, V_MAX, N)
    values = rng.normal(0, 1, (number, 1)) + rng.choice([0.0, 0.5, 0.9, 1.0], (number, 1)) * atoms
    values[:100] = atoms  # unchanged: every value on an atom
    values[100:120] = rng.normal(0, 9, (20, 1))  # a terminal step: one value
    return np.float32(values), probs, np.float32(atoms)


def test_the_projection_equals_a_loop_and_rlax():
    values, probs, atoms = some_distributions()
    ours = np.asarray(jax.jit(project)(values, probs, atoms))
    by_loop = np.stack([project_loop(v, p, np.linspace(V_MIN, V_MAX, N)) for v, p in zip(values, probs, strict=True)])
    np.testing.assert_allclose(ours, by_loop, atol=1e-5)
    theirs = jax.vmap(rlax.categorical_l2_project, (0, 0, None))(values, probs, atoms)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_projection_keeps_probability_and_the_mean_within_the_support():
    values, probs, atoms = some_distributions()
    made = project(values, probs, atoms)
    assert (made >= 0).all()
    np.testing.assert_allclose(made.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(made[:100], probs[:100], atol=1e-6)
    inside = (values >= V_MIN).all(-1) & (values <= V_MAX).all(-1)
    assert 200 < inside.sum() < 900
    mean = (made * atoms).sum(-1)
    np.testing.assert_allclose(mean[inside], (values * probs).sum(-1)[inside], atol=1e-4)
    np.testing.assert_allclose(mean, (np.clip(values, V_MIN, V_MAX) * probs).sum(-1), atol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_the_categorical_loss_equals_rlax(double):
    output_tm1, a_tm1, r_t, discount_t, output_t, selector = batch()
    hp, head = hp_of(v_min=V_MIN, v_max=V_MAX), categorical(N)
    by = head.q(selector if double else output_t, hp)
    loss, error = head.loss(output_tm1, a_tm1, r_t, discount_t, output_t, greedy_policy(by), hp)
    atoms = support(V_MIN, V_MAX, N)
    theirs = jax.jit(jax.vmap(rlax.categorical_double_q_learning, (None, 0, 0, 0, 0, None, 0, 0)))(
        atoms, output_tm1, a_tm1, r_t, discount_t, atoms, output_t, by
    )
    np.testing.assert_allclose(loss, theirs, rtol=1e-4, atol=1e-5)
    if not double:
        theirs = jax.jit(jax.vmap(rlax.categorical_q_learning, (None, 0, 0, 0, 0, None, 0)))(
            atoms, output_tm1, a_tm1, r_t, discount_t, atoms, output_t
        )
        np.testing.assert_allclose(loss, theirs, rtol=1e-4, atol=1e-5)
    assert (error > 0).all()  # a divergence
    assert (loss > error).any()


def test_the_priority_of_a_perfect_categorical_prediction_is_zero():
    output_tm1, a_tm1, *_ = batch()
    hp, none = hp_of(v_min=V_MIN, v_max=V_MAX), np.zeros(B, np.float32)
    loss, error = categorical(N).loss(output_tm1, a_tm1, none, none + 1, output_tm1, jax.nn.one_hot(a_tm1, A), hp)
    np.testing.assert_allclose(error, 0.0, atol=1e-5)
    assert (loss > 0.5).all()  # what is left is the entropy of the target


def test_cross_entropy_and_entropy_by_hand():
    probs = np.float32([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    logits = np.log(np.float32([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]))
    np.testing.assert_allclose(cross_entropy(probs, logits), [np.log(8) / 2, -np.log(0.8)], rtol=1e-5)
    np.testing.assert_allclose(entropy(probs), [np.log(2), 0.0], atol=1e-6)


def test_an_empty_support_is_refused_where_it_is_written():
    for keys in ({"v_min": 5.0, "v_max": 5.0}, {"v_min": 11.0}):
        with pytest.raises(slmjax.SpecError, match="expected a v_max above v_min"):
            slmjax.load_spec(
                {
                    "name": "x",
                    "agent": {"algorithm": {"name": "C51", **keys}},
                    "env": {"name": "CartPole-v1", "max_frame": 9},
                }
            )


# --------------------------------------------------------------------------------------------------------- quantiles


def quantile_loop(made, levels, targets, kappa):
    """Dabney et al. 2018, equation 10, for one transition in float64; kappa 0 is the quantile regression loss."""
    total = 0.0
    for i, quantile in enumerate(np.float64(made)):
        for target in np.float64(targets):
            u = target - quantile
            size = abs(u) if kappa == 0 else (u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)) / kappa
            total += abs(levels[i] - (u < 0)) * size / len(targets)
    return total


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 3.0])
def test_the_quantile_loss_equals_a_loop_and_rlax(kappa):
    output_tm1, a_tm1, r_t, discount_t, output_t, selector = batch()
    hp, head = hp_of(kappa=kappa), quantiles(N)
    loss, error = head.loss(output_tm1, a_tm1, r_t, discount_t, output_t, greedy_policy(head.q(selector, hp)), hp)
    chosen = np.float64(selector).mean(-1).argmax(-1)
    levels = (np.arange(N) + 0.5) / N
    by_loop = [
        quantile_loop(output_tm1[b, a_tm1[b]], levels, r_t[b] + discount_t[b] * output_t[b, chosen[b]], kappa)
        for b in range(B)
    ]
    np.testing.assert_allclose(loss, by_loop, rtol=1e-4, atol=1e-5)
    swap = lambda x: np.swapaxes(x, 1, 2)  # noqa: E731
    theirs = jax.vmap(rlax.quantile_q_learning, (0, None, 0, 0, 0, 0, 0, None))(
        swap(output_tm1), np.float32(levels), a_tm1, r_t, discount_t, swap(selector), swap(output_t), kappa
    )
    # rlax does not divide by kappa.
    np.testing.assert_allclose(loss * (kappa or 1.0), theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(loss, error)


def test_the_minimum_of_the_quantile_loss_is_at_the_quantiles():
    """Many samples, levels at the midpoints: descending finds NumPy's quantiles."""
    samples = np.float32(np.random.default_rng(1).exponential(1.0, 2000))
    levels = midpoints(5)
    np.testing.assert_allclose(levels, [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda made: quantile_huber(made[None], levels, samples[None], 0.0)[0]))
    made = jnp.zeros(5)
    for step in range(600):
        made = made - 2.0 / (1 + step / 20) * slope(made)
    np.testing.assert_allclose(made, np.quantile(samples, levels), atol=0.03)


def test_no_gradient_reaches_what_is_bootstrapped_from():
    output_tm1, a_tm1, r_t, discount_t, output_t, _ = batch()
    hp = hp_of(kappa=1.0, v_min=V_MIN, v_max=V_MAX)
    for head in (EXPECTED, categorical(N), quantiles(N)):
        now, later = (x[..., : head.width] for x in (output_tm1, output_t))

        def loss(now, later, head=head):
            return head.loss(now, a_tm1, r_t, discount_t, later, greedy_policy(head.q(later, hp)), hp)[0].sum()

        online, target = jax.jit(jax.grad(loss, (0, 1)))(now, later)
        assert (target == 0).all()
        taken = np.eye(A)[a_tm1] > 0
        assert np.abs(online).sum(-1)[taken].all()
        assert (np.asarray(online)[~taken] == 0).all()


# ----------------------------------------------------------------------------------------------------------- targets


def rule_of(name, **keys):
    """The rule by which an algorithm was made, called on tables instead of networks: `(r_t, policy_t)`."""
    rng = np.random.default_rng(9)
    tables = {net: {when: np.float32(rng.normal(size=(B, A))) for when in ("tm1", "t")} for net in ("online", "target")}
    look = lambda net: q_learning.QValues(tables[net]["tm1"], tables[net]["t"])  # noqa: E731
    _, a_tm1, r_t, discount_t, *_ = batch()
    one = replay.Batch((), a_tm1, r_t, discount_t, (), np.ones(B))
    return tables, one, name(look("online"), look("target"), one, hp_of(**keys))


def test_rules_choose_by_the_network_that_they_name():
    tables, one, (r_t, policy_t) = rule_of(q_learning.q_learning)
    np.testing.assert_array_equal(policy_t.argmax(-1), tables["target"]["t"].argmax(-1))
    np.testing.assert_array_equal(r_t, one.r_t)
    tables, _, (_, policy_t) = rule_of(q_learning.double_q_learning)
    np.testing.assert_array_equal(policy_t.argmax(-1), tables["online"]["t"].argmax(-1))
    assert (tables["online"]["t"].argmax(-1) != tables["target"]["t"].argmax(-1)).any()
    np.testing.assert_array_equal(policy_t.sum(-1), 1.0)


@pytest.mark.parametrize(("alpha", "tau", "clip"), [(0.9, 0.03, -1.0), (0.5, 1.0, -0.7), (0.0, 0.1, -1.0)])
def test_the_munchausen_target_equals_a_loop(alpha, tau, clip):
    keys = {"munchausen_alpha": alpha, "tau": tau, "clip": clip}
    tables, one, (r_t, policy_t) = rule_of(munchausen.munchausen, **keys)
    ours = q_target(r_t, one.discount_t, tables["target"]["t"], policy_t)
    assert not (np.asarray(ours) == 0).any()
    for b in range(B):  # Vieillard et al. 2020, section 3, word by word
        now, after = (np.float64(tables["target"][when][b]) for when in ("tm1", "t"))
        log_pi = lambda q: q / tau - np.log(np.exp((q - q.max()) / tau).sum()) - q.max() / tau  # noqa: E731
        bonus = alpha * min(0.0, max(clip, tau * log_pi(now)[one.action[b]]))
        soft = sum(np.exp(log_pi(after)[a]) * (after[a] - tau * log_pi(after)[a]) for a in range(A))
        np.testing.assert_allclose(ours[b], one.r_t[b] + bonus + one.discount_t[b] * soft, rtol=1e-4, atol=1e-5)


def test_at_a_low_temperature_and_without_bonus_munchausen_is_dqn():
    tables, one, (r_t, policy_t) = rule_of(munchausen.munchausen, munchausen_alpha=0.0, tau=1e-4, clip=-1.0)
    np.testing.assert_allclose(r_t, one.r_t, atol=1e-5)
    np.testing.assert_allclose(policy_t, greedy_policy(tables["target"]["t"]), atol=1e-5)


def test_a_score_of_minus_infinity_is_an_action_that_is_never_bootstrapped_from():
    q_t = np.float32([[1.0, -np.inf, 3.0]])
    one = np.ones(1, np.float32)
    assert float(q_target(one, one, q_t, greedy_policy(q_t))[0]) == 4.0
    batch_of_one = replay.Batch(0, np.array([0]), one, one, 0, one)
    keys = hp_of(munchausen_alpha=0.9, tau=1.0, clip=-1.0)
    r_t, policy_t = munchausen.munchausen(None, q_learning.QValues(q_t, q_t), batch_of_one, keys)
    assert np.isfinite(q_target(r_t, one, q_t, policy_t)).all()


def test_sarsa_errors_equal_rlax():
    rng = np.random.default_rng(4)
    q_tm1, q_t = (np.float32(rng.normal(size=(B, A))) for _ in range(2))
    _, a_tm1, r_t, discount_t, *_ = batch()
    a_t = np.int32(rng.integers(0, A, B))
    ours = td_error(q_tm1, a_tm1, q_target(r_t, discount_t, q_t, jax.nn.one_hot(a_t, A)))
    np.testing.assert_allclose(
        ours, jax.vmap(rlax.sarsa)(q_tm1, a_tm1, r_t, discount_t, q_t, a_t), rtol=1e-5, atol=1e-6
    )


def test_the_next_action_is_that_of_the_next_row_unless_it_belongs_to_another_episode():
    rng = np.random.default_rng(3)
    action, drawn = rng.integers(0, 50, (6, 8)), rng.integers(50, 99, (6, 8))
    ended = rng.random((6, 8)) < 0.3
    made = np.asarray(sarsa.next_actions(action, drawn, ended))
    for t in range(6):
        for e in range(8):
            assert made[t, e] == (drawn[t, e] if ended[t, e] or t == 5 else action[t + 1, e])


@pytest.mark.parametrize("head", [EXPECTED, categorical(N), quantiles(N)], ids=["expected", "categorical", "quantiles"])
def test_the_value_of_an_action_is_the_mean_of_what_is_predicted(head):
    output = batch()[0][..., : head.width]
    q = head.q(output, hp_of(v_min=V_MIN, v_max=V_MAX))
    assert q.shape == (B, A)
    for b in range(8):
        for a in range(A):
            row = np.float64(output[b, a])
            atoms, probs = row, np.full(head.width, 1 / head.width)
            if head.width == N and head.loss.__module__ == c51.__name__:
                atoms, probs = np.linspace(V_MIN, V_MAX, N), np.exp(row) / np.exp(row).sum()
            np.testing.assert_allclose(q[b, a], (atoms * probs).sum(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ probes

SESSIONS = 5


def learn(name: str, probe: str, frames: int = 12_000, lr: float = 1e-2, **changes):
    cooling = {"name": "linear_decay", "start_val": lr, "end_val": 1e-4, "end_step": frames}
    spec = spec_of(name, f"probes:{probe}", frames, net={"optim_spec": {"lr": cooling}}, **changes)
    return slmjax.train(spec, sessions=SESSIONS)


def head_of(spec):
    match spec.agent.algorithm.name:
        case "C51":
            return categorical(spec.agent.algorithm.n_atoms)
        case "QRDQN":
            return quantiles(spec.agent.algorithm.n_quantiles)
    return EXPECTED


def outputs(result, obs: list[float]) -> np.ndarray:
    """What every session predicts at scalar observations, `[S, len(obs), A, N]`."""
    env, width = slmjax.make_env(result.spec.env), head_of(result.spec).width
    net = build(result.spec.agent.net, env.observation_space, (Head(env.action_space.n * width, "critic"),))
    batch = jnp.asarray(obs, jnp.float32)[:, None]
    made = [net.apply(policy.state, batch, ())[0][0] for policy in result.policies]
    return np.stack(made).reshape(SESSIONS, len(obs), env.action_space.n, width)


def action_values(result, obs: list[float]) -> np.ndarray:
    """`[S, len(obs), A]`."""
    return np.asarray(head_of(result.spec).q(outputs(result, obs), result.spec.hp))


def values(result, obs: list[float]) -> np.ndarray:
    """`[S, len(obs)]`: the best action's."""
    return action_values(result, obs).max(-1)


def actions(result, obs: list[float]) -> np.ndarray:
    return np.stack([p(jnp.asarray(obs, jnp.float32)[:, None]) for p in result.policies])


def deadly(algorithm):
    """The algorithm, but every time limit that it sees is a death."""

    def make(hp, env):
        agent = algorithm.make(hp, env)
        kill = lambda rollout: rollout._replace(terminated=rollout.terminated | rollout.truncated)  # noqa: E731
        return agent._replace(
            update=lambda state, rollout, key, hp: agent.update(state, kill(rollout), key, hp),
            observe=lambda state, rollout, key, hp: agent.observe(state, kill(rollout), key, hp),
        )

    return algorithm._replace(make=make)


@pytest.mark.parametrize("algorithm", ["SARSA", pytest.param("PQN", marks=pytest.mark.slow)])
def test_a_mutant_that_takes_a_limit_for_a_death_is_far_off(algorithm, monkeypatch):
    """The value is 5 at gamma 0.8 (`tests/test_ladder.py`)."""
    module, attribute = registry.TABLES["algorithm"][algorithm].split(":")
    monkeypatch.setattr(f"{module}.{attribute}", deadly(registry.resolve("algorithm", algorithm)))
    found = values(learn(algorithm, "time_limit", algorithm={"gamma": 0.8}), [0.0])
    np.testing.assert_allclose(found, 1 / (1 - 0.8 * 7 / 8), atol=0.5)


# --------------------------------------------------------------------------------------------- what each is about


EDGE = {"epsilon": 0.4, "gamma": 0.9}


def on_the_edge(algorithm: str):
    changes = {"gamma": EDGE["gamma"], "explore_var_spec": EDGE["epsilon"]}
    return learn(algorithm, "cliff_edge", 40_000, algorithm=changes)


def test_sarsa_values_the_policy_that_explores():
    result, miss = on_the_edge("SARSA"), EDGE["epsilon"] / 2
    found = action_values(result, [-1.0, 1.0])
    careful = EDGE["gamma"] * ((1 - miss) * 1.0 + miss * probes.FALL)
    expected = [[0.5, careful], [probes.FALL, 1.0]]
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=0.1)
    assert (actions(result, [-1.0]) == 0).all()  # keeps away from the edge


def test_q_learning_values_the_greedy_policy_and_would_fail_as_sarsa():
    found = action_values(result := on_the_edge("DQN"), [-1.0, 1.0])
    expected = [[0.5, EDGE["gamma"]], [probes.FALL, 1.0]]
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=0.1)
    assert (actions(result, [-1.0]) == 1).all()


def habits() -> np.ndarray:
    keys = {"gamma": 0.9, "explore_var_spec": 0.2, "training_frequency": 8}
    return action_values(learn("SARSA", "two_habits", 60_000, algorithm=keys), [1.0])[:, 0, 1]


def test_after_a_truncated_step_sarsa_draws_an_action_of_its_own():
    np.testing.assert_allclose(habits(), 8.2, atol=0.4)


def test_a_sarsa_that_takes_the_next_episodes_first_action_would_be_caught(monkeypatch):
    crossing = lambda action, drawn, ended: jnp.concatenate([action[1:], drawn[-1:]])  # noqa: E731
    monkeypatch.setattr(sarsa, "next_actions", crossing)
    assert (habits() < 7.0).all()


COIN = {
    "algorithm": {"gamma": 0.5, "n_atoms": 17, "v_min": -2.0, "v_max": 2.0}
}  # atoms a quarter apart: +-1 and +-gamma are among them


def test_c51_finds_both_returns_of_a_coin_and_their_probabilities():
    result = learn("C51", "coin_at_the_end", 40_000, **COIN)
    probs = np.asarray(jax.nn.softmax(outputs(result, [0.0, 1.0])))[:, :, 0]
    atoms = np.linspace(-2.0, 2.0, 17)
    for row, returns in ((0, 0.5), (1, 1.0)):
        for sign in (-1, 1):
            here = np.isclose(atoms, sign * returns)
            np.testing.assert_allclose(probs[:, row, here][:, 0], 0.5, atol=0.1)
        elsewhere = ~np.isclose(np.abs(atoms), returns)
        assert (probs[:, row][:, elsewhere].sum(-1) < 0.05).all()
    np.testing.assert_allclose(action_values(result, [0.0, 1.0]), 0.0, atol=0.1)


def test_quantiles_find_both_returns_of_a_coin():
    result = learn("QRDQN", "coin_at_the_end", 40_000, algorithm={"gamma": 0.5, "n_quantiles": 8, "kappa": 0.0})
    made = np.sort(outputs(result, [0.0, 1.0])[:, :, 0])
    for row, returns in ((0, 0.5), (1, 1.0)):
        np.testing.assert_allclose(made[:, row, :4], -returns, atol=0.15)
        np.testing.assert_allclose(made[:, row, 4:], returns, atol=0.15)


def test_munchausen_adds_what_its_formula_says():
    """One step: the target of an action is its reward plus alpha [tau log pi]; at the fixed point of two actions with
    rewards 1 and -1 and temperature 1, q_a = r_a + alpha max(clip, log softmax(q)_a).
    """
    keys = {"munchausen_alpha": 0.5, "tau": 1.0, "clip": -10.0, "explore_var_spec": 1.0}
    found = action_values(learn("MunchausenDQN", "best_action", 40_000, algorithm=keys), [0.0])
    q = np.array([-1.0, 1.0])
    for _ in range(200):
        q = [-1.0, 1.0] + 0.5 * (q - np.log(np.exp(q).sum()))
    np.testing.assert_allclose(found, np.broadcast_to(q, found.shape), atol=0.05)
    assert np.abs(q - [-1.0, 1.0]).max() > 1.0  # a DQN would find the rewards


# -------------------------------------------------------------------------------------------------------- combinations


@pytest.mark.parametrize("name", ["C51", "QRDQN"])
def test_double_is_a_key_of_the_distributional_methods(name, monkeypatch):
    used, real = [], q_learning.make
    listen = lambda *args, rule, head: used.append(rule) or real(*args, rule=rule, head=head)  # noqa: E731
    monkeypatch.setattr(q_learning, "make", listen)
    for double in (False, True):
        slmjax.make_agent(spec_of(name, "probes:best_action", 100, algorithm={"double": double}))
    assert used == [q_learning.q_learning, q_learning.double_q_learning]


HEADS = ("DQN", "MunchausenDQN", "C51", "QRDQN")


def listening(monkeypatch) -> list:
    """A replay memory that weighs every sample with 0 and notes the shapes of the picks and errors that it is told."""
    heard, real = [], names.REPLAY.make

    def make(spec, env, size):
        store = real(spec, env, size)

        def gather(*args):
            return store.gather(*args)._replace(importance=jnp.zeros(spec.batch_size))

        def rate(spec, ring, picks, error):
            heard.append((picks.shape, error.shape))
            return ring

        return store._replace(gather=gather, rate=rate)

    monkeypatch.setattr(names, "REPLAY", names.REPLAY._replace(make=make))
    return heard


@pytest.mark.parametrize("name", HEADS)
def test_a_memory_hears_an_error_for_each_pick(name, monkeypatch):
    heard = listening(monkeypatch)
    spec = spec_of(name, "probes:best_action", 2000, algorithm={"training_batch_iter": 2})
    program = slmjax.make_session(spec)
    jax.eval_shape(program.init, jax.eval_shape(lambda: slmjax.session_key(0, 0, 0)), spec.hp)
    assert set(heard) == {((4, 64), (4, 64))}


def test_the_weights_of_a_memory_reach_the_loss(monkeypatch):
    listening(monkeypatch)
    columns = slmjax.train(spec_of("C51", "probes:best_action", 2000), sessions=2).history.columns
    assert (columns["loss"] == 0).all()
    assert (columns["grad_norm"] == 0).all()


def test_the_keys_of_a_target_network_are_refused_where_there_is_none():
    for name in ("VanillaDQN", "SARSA", "PQN"):
        with pytest.raises(slmjax.SpecError, match=f"{name} has no use for it"):
            slmjax.make_agent(spec_of(name, "probes:best_action", 100, net={"polyak_coef": 0.1}))


def test_pqn_refuses_minibatches_that_leave_a_rest():
    with pytest.raises(slmjax.SpecError, match=r"16 x num_envs 4 = 64, got 48"):
        slmjax.make_agent(spec_of("PQN", "probes:best_action", 100, algorithm={"minibatch_size": 48}))
