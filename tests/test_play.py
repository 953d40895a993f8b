"""A policy that is handed out plays as it was evaluated, wherever it goes; what does not fit it is one message."""

import copy
import dataclasses
import functools
import json
import pickle
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import AGENTS, merge, spec_of
from runs import LIMIT, environment
from tiny import OBSERVATIONS
from trees import same

import slmjax
from slmjax.envs.vector import delivered
from slmjax.lab import policy as policies
from slmjax.lab.fit import check_obs
from slmjax.lab.loop import learn, start
from slmjax.lab.notebook import result_of
from slmjax.lab.trial import make_trial
from slmjax.play import evaluation_key
from slmjax.spaces import zeros
from slmjax.types import UserError

META = {"max_session": 2, "log_frequency": 256, "eval_episodes": 128}
RNN = {"type": "RecurrentNet", "rnn_hidden_size": 8, "fc_hid_layers": [8]}
WINDOWS = {"batch_size": 8, "seq_len": 6, "burn_in": 1, "max_size": 512}
SPECS = {
    "PPO": ("PPO", "CartPole-v1", {}),
    "stacked DQN": ("DQN", "CartPole-v1", {"memory": {"stack_len": 4}}),
    "recurrent PPO": ("PPO", "MemoryChain-bsuite", {"net": RNN}),
    "DRQN": ("DQN", "MemoryChain-bsuite", {"net": RNN, "memory": WINDOWS}),
}
NOISY = {"DDPG": ("DDPG", "Pendulum-v1", {})}


def make_spec(which: str):
    name, env, changes = (SPECS | NOISY)[which]
    agent = merge(AGENTS[name], changes)
    if "type" in agent["net"]:
        del agent["net"]["hid_layers"]  # which is an MLP's
    env_spec = {"name": env, "num_envs": 4, "max_frame": 512}
    return slmjax.load_spec({"name": "test", "agent": agent, "env": env_spec, "meta": META})


@functools.cache
def trained(which: str):
    return slmjax.train(make_spec(which))


@pytest.fixture(params=SPECS)
def result(request):
    return trained(request.param)


def evaluated(result) -> np.ndarray:
    """Returns `[S, episodes]` of the final evaluation, by the program itself, session by session."""
    evaluate = jax.jit(slmjax.make_session(result.spec).evaluate)
    lanes = [jax.tree.map(lambda x, i=i: x[i], result.sessions) for i in range(result.history.size)]
    hp = jax.tree.map(np.float32, result.spec.hp)
    return np.array([evaluate(lane, hp, np.int32(result.frame)) for lane in lanes])


def played(result) -> np.ndarray:
    return np.array([policy.play() for policy in result.policies])


def by_hand(policy, carry_on: bool = True) -> np.ndarray:
    """The episodes of the evaluation, played with `step` by the keys of the evaluation."""
    env = slmjax.make_env(dataclasses.replace(policy.spec.env, num_envs=policy.spec.meta.eval_episodes))
    reset_key, step_key = jax.random.split(evaluation_key(policy._learned["key"], policy.frame))
    state, obs = jax.jit(env.reset)(reset_key)
    env_step, act = jax.jit(env.step), jax.jit(policy.step)
    carry, ended = policy.start(env.num_envs), np.zeros(env.num_envs, bool)
    total, going = np.zeros(env.num_envs, np.float32), np.ones(env.num_envs, bool)
    for t in range(env.max_steps):
        env_key = jax.random.split(jax.random.fold_in(step_key, t))[1]
        action, carry = act(obs, carry if carry_on else policy.start(env.num_envs), ended)
        state, out = env_step(env_key, state, action)
        total += np.where(going, out.reward, 0.0).astype(np.float32)
        obs, ended = out.obs, np.asarray(out.terminated | out.truncated)
        going &= ~ended
        if not going.any():
            break
    return total


class TestItPlaysAsItWasEvaluated:
    def test_play_gives_the_numbers_of_the_final_evaluation(self, result):
        returns = played(result)
        assert returns.shape == (2, 128)
        assert returns.tobytes() == evaluated(result).tobytes()
        assert returns.mean(1).tolist() == result.eval_reward.tolist()

    def test_so_do_steps_by_hand(self, result):
        for policy in result.policies:
            assert by_hand(policy).tobytes() == np.asarray(policy.play()).tobytes()

    def test_a_policy_that_was_saved_copied_or_pickled_plays_the_same(self, result, tmp_path):
        result.policy(1).save(tmp_path / "policy")
        result.save(tmp_path / "result")
        want = np.asarray(result.policy(1).play()).tobytes()
        loaded = slmjax.load_result(tmp_path / "result")
        for policy in (slmjax.load_policy(tmp_path / "policy"), pickle.loads(pickle.dumps(result)).policy(1)):
            assert np.asarray(policy.play()).tobytes() == want
        assert [p.tobytes() for p in loaded.arrays.values()] == [p.tobytes() for p in result.arrays.values()]
        assert repr(loaded) == repr(result)


class TestCarry:
    def test_without_it_what_was_learned_is_lost(self):
        policy = trained("DRQN").policy(0)
        assert np.mean(policy.play()) == 1.0, "it has learned to remember"
        assert np.mean(by_hand(policy, carry_on=False)) < 0.5

    @pytest.mark.parametrize("which", [name for name in SPECS if name != "PPO"])
    def test_where_there_is_one_the_short_call_is_refused(self, which):
        policy = trained(which).policy(0)
        obs = zeros(policy.kit.env.observation_space, 3)
        with pytest.raises(slmjax.UserError, match=r"policy\.start\(num_envs\).*policy\.step\(.*policy\.play\(\)"):
            policy(obs)

    def test_where_only_exploration_has_one_the_short_call_plays_greedily(self):
        policy = trained("DDPG").policy(0)
        obs = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
        noise = jax.tree.map(lambda c: c + 1, policy.start(3))
        assert jax.tree.leaves(noise)
        assert policy(obs).tolist() == policy.step(obs, noise)[0].tolist()
        with pytest.raises(slmjax.UserError, match=r"explores by noise that goes on: carry = policy\.start"):
            policy(obs, jax.random.key(0))

    @pytest.mark.parametrize("which", ["stacked DQN", "recurrent PPO"])
    def test_it_begins_anew_where_an_episode_ended_and_only_there(self, which):
        policy = trained(which).policy(0)
        obs = np.random.default_rng(0).normal(size=(2, 3, *policy.kit.env.observation_space.shape)).astype(np.float32)
        _, used = policy.step(obs[0], policy.start(3))
        cut, fresh, whole = (
            policy.step(obs[1], carry, ended)[1]
            for carry, ended in ((used, np.array([True, False, True])), (policy.start(3), None), (used, None))
        )
        for c, f, w in zip(*map(jax.tree.leaves, (cut, fresh, whole)), strict=True):
            assert c[::2].tolist() == f[::2].tolist()
            assert c[1].tolist() == w[1].tolist() != f[1].tolist()

    def test_another_is_refused(self):
        policy = trained("recurrent PPO").policy(0)
        obs = zeros(policy.kit.env.observation_space, 3)
        other = trained("stacked DQN").policy(0).start(3)
        for carry in ((), None, policy.start(4), other, jax.tree.map(lambda c: c[0], policy.start(3))):
            with pytest.raises(slmjax.UserError, match=r"expected the carry of 3 environments.*policy\.start\(3\)"):
                policy.step(obs, carry)
        for ended in (np.zeros(3), np.zeros(4, bool), True, [True] * 3):
            with pytest.raises(slmjax.UserError, match=r"expected ended as bool\[3\]"):
                policy.step(obs, policy.start(3), ended)
        for number in (0, -1, 2.0, "2", True):
            with pytest.raises(slmjax.UserError, match="number of environments"):
                policy.start(number)


def copies_of(policy, folder) -> dict:
    policy.save(folder / "policy")
    return {
        "saved": slmjax.load_policy(folder / "policy"),
        "pickled": pickle.loads(pickle.dumps(policy)),
        "copied": copy.copy(policy),
        "copied deeply": copy.deepcopy(policy),
    }


class TestStep:
    def test_it_is_pure_under_jit_vmap_and_scan_whoever_asks_first(self, tmp_path):
        policy = trained("recurrent PPO").policy(0)
        obs = np.random.default_rng(0).normal(size=(5, 3, *policy.kit.env.observation_space.shape)).astype(np.float32)
        carry, actions = policy.start(3), []
        for now in obs:
            action, carry = policy.step(now, carry)
            actions.append(action.tolist())
        for name, fresh in copies_of(policy, tmp_path).items():  # nothing of it is made yet, and nothing may leak

            @jax.jit
            def roll(obs, fresh=fresh):
                return jax.lax.scan(lambda c, o: fresh.step(o, c)[::-1], fresh.start(3), obs)[1]

            assert roll(obs).tolist() == actions, name
            assert fresh.step(obs[0], fresh.start(3))[0].tolist() == actions[0], name
        many = jax.vmap(policy.step)(obs, jax.tree.map(lambda c: jnp.stack([c] * 5), policy.start(3)))[0]
        assert many.tolist() == [policy.step(now, policy.start(3))[0].tolist() for now in obs]

    def test_with_a_key_it_explores(self):
        policy = trained("PPO").policy(0)
        obs = np.zeros((512, 4), np.float32)
        assert len(set(policy(obs).tolist())) == 1
        assert len(set(policy(obs, jax.random.key(0)).tolist())) == 2


class TestPlay:
    def test_another_key_or_number_gives_other_episodes_of_the_same_environment(self):
        policy, key = trained("PPO").policy(0), jax.random.key(5)
        assert policy.play(episodes=3).shape == (3,)
        assert (policy.play(key=key) != policy.play()).any()
        env = slmjax.make_env(dataclasses.replace(policy.spec.env, num_envs=128))
        assert policy.play(env, key=key).tolist() == policy.play(key=key).tolist()
        assert jax.jit(lambda key: policy.play(env, key=key))(key).tolist() == policy.play(key=key).tolist()

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"episodes": 0}, "expected a number of episodes, at least 1, got 0"),
            ({"episodes": 2.5}, "at least 1, got 2.5"),
            ({"episodes": "3"}, "at least 1, got '3'"),
            ({"key": 0}, "expected a key, such as jax.random.key(0), got 0"),
            ({"key": np.zeros(3)}, "got float64[3]"),
        ],
    )
    def test_what_is_no_number_and_no_key_is_refused(self, given, said):
        with pytest.raises(UserError, match=re.escape(said)):
            trained("PPO").policy(0).play(**given)

    def test_one_that_draws_also_when_greedy_asks_for_a_key(self):
        policy = slmjax.train(spec_of("Random", "CartPole-v1", 512, meta=META)).policy(0)
        obs, carry = np.zeros((64, 4), np.float32), policy.start(64)
        with pytest.raises(UserError, match="draws its actions, also greedy ones: give step a `key`"):
            policy.step(obs, carry)
        one, other = (policy.step(obs, carry, key=jax.random.key(seed))[0] for seed in (0, 1))
        assert (one != other).any()

    def test_the_best_one_plays_as_it_would_have_been_evaluated_at_the_end_of_its_row(self):
        """A run of the budget that ends with the best row evaluates that policy."""
        sarsa = {"net": {"optim_spec": {"name": "Adam", "lr": 2e-2}}}
        trial = make_trial(spec_of("SARSA", "CartPole-v1", 8192, meta=META | {"max_session": 8}, **sarsa))
        run = learn(trial, start(trial), lambda run: True)
        result = result_of(trial, run)
        best = [result.policy(i, best=True) for i in range(8)]
        earlier = [i for i, policy in enumerate(best) if policy.frame < run.frame]
        assert earlier
        for i in earlier[:2]:
            frame, begun = best[i].frame, start(trial)
            sessions, _ = trial.population.segment(begun.sessions, trial.hp, 0, frame)
            np.testing.assert_array_equal(best[i].play(), trial.population.evaluate(sessions, trial.hp, frame)[i])

    def test_what_it_cannot_play_in_is_refused(self):
        policy = trained("PPO").policy(0)
        env = slmjax.make_env(policy.spec.env)
        wrong = {
            "slmjax.make_env": ("CartPole-v1", None),
            "expected episodes=4": (env, 5),
            "expected obs": (slmjax.make_env(spec_of("PPO", "Acrobot-v1", 64).env), None),
            "acts in Discrete": (env._replace(action_space=slmjax.Discrete(3)), None),
        }
        for says, (given, episodes) in wrong.items():
            with pytest.raises(slmjax.UserError, match=says):
                policy.play(given, episodes)

    def test_policies_of_one_result_and_their_copies_in_it_compile_once(self):
        result = trained("PPO")
        obs = np.zeros((7, 4), np.float32)
        result.policy(0)(obs), result.policy(0).play()
        before = policies._step._cache_size(), policies._play._cache_size()
        for policy in [*result.policies, result.best(), copy.deepcopy(result.policy(1))]:
            policy(obs), policy.play()
        assert (policies._step._cache_size(), policies._play._cache_size()) == before
        kept = pickle.loads(pickle.dumps(result.policies))
        assert kept[0].kit is kept[1].kit


WRONG = {
    "no batch axis": (np.zeros(4, np.float32), r"float32\[E, 4\], got float32\[4\].*add an axis: obs\[None\]"),
    "too narrow": (np.zeros((2, 3), np.float32), r"float32\[E, 4\], got float32\[2, 3\]\.$"),
    "an axis too many": (np.zeros((2, 2, 4), np.float32), r"got float32\[2, 2, 4\]"),
    "a number": (0.5, r"got 0\.5"),
    "integers": (np.zeros((2, 4), np.int32), r"got int32\[2, 4\]"),
    "flags": (np.zeros((2, 4), bool), r"got bool\[2, 4\]"),
    "a list": ([[0.0] * 4], "got a list: numpy.asarray"),
    "a dict": ({"obs": np.zeros((2, 4), np.float32)}, "got a mapping"),
    "nothing": (None, "got null"),
}


class TestObservationsThatDoNotFit:
    @pytest.mark.parametrize("which", WRONG)
    def test_they_are_one_message_also_under_jit(self, which):
        obs, says = WRONG[which]
        policy = trained("PPO").policy(0)
        with pytest.raises(slmjax.UserError, match=says) as caught:
            policy(obs)
        assert "\n" not in str(caught.value)
        with pytest.raises(slmjax.UserError):
            jax.jit(policy)(obs)

    def test_numbers_of_another_width_are_those_of_the_space(self):
        policy = trained("PPO").policy(0)
        obs = np.random.default_rng(0).normal(size=(32, 4))
        assert policy(obs).tolist() == policy(obs.astype(np.float32)).tolist()

    @pytest.mark.parametrize("which", OBSERVATIONS)
    def test_of_every_space_what_environments_show_fits_and_what_they_do_not_is_refused(self, which):
        space = delivered(OBSERVATIONS[which])
        good = zeros(space, 3)
        assert check_obs(space, good) == 3
        for spoil in (
            lambda x: x[0],
            lambda x: x[None],
            lambda x: x.astype(bool),
            lambda x: x.astype(jnp.float32 if x.dtype == jnp.uint8 or jnp.issubdtype(x.dtype, jnp.integer) else int),
        ):
            with pytest.raises(slmjax.UserError):
                check_obs(space, jax.tree.map(spoil, good))

    def test_of_a_dict_every_part_must_be_there_and_of_the_same_environments(self):
        space = delivered(OBSERVATIONS["nested Dict"])
        good = zeros(space, 3)
        for wrong in ({}, {"a": good["a"]}, good | {"x": good["a"]}, good | {"b": good["a"]}, good["a"]):
            with pytest.raises(slmjax.UserError, match="with the keys"):
                check_obs(space, wrong)
        with pytest.raises(slmjax.UserError, match="one number of environments"):
            check_obs(space, good | {"a": good["a"][:2]})


class TestSaved:
    def test_another_process_plays_the_same(self, tmp_path):
        policy = trained("recurrent PPO").policy(1)
        policy.save(tmp_path / "policy")
        (tmp_path / "policy.pickle").write_bytes(pickle.dumps(policy))
        code = (
            "import sys, pickle, slmjax, numpy as np\n"
            "for p in (slmjax.load_policy('policy'), pickle.load(open('policy.pickle', 'rb'))):\n"
            "    print(np.asarray(p.play()).tobytes().hex())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=LIMIT
        )
        assert done.stdout.split() == [np.asarray(policy.play()).tobytes().hex()] * 2, done.stderr

    def test_a_result_comes_back_whole(self, tmp_path):
        result = trained("PPO")
        result.save(tmp_path / "result")
        for other in (
            slmjax.load_result(tmp_path / "result"),
            pickle.loads(pickle.dumps(result)),
            copy.deepcopy(result),
        ):
            assert other.spec == result.spec
            assert other.df.equals(result.df)
            assert same(other.sessions, result.sessions)
            assert other.sessions.key.dtype == result.sessions.key.dtype
            assert repr(other.best()) == repr(result.best())
            assert same(other.policy(0, best=True).state, result.policy(0, best=True).state)

    def test_what_is_not_what_was_asked_for_is_one_message(self, tmp_path):
        result = trained("PPO")
        result.save(tmp_path / "result")
        result.policy(0).save(tmp_path / "policy")
        with pytest.raises(slmjax.UserError, match="holds a result, no policy"):
            slmjax.load_policy(tmp_path / "result")
        with pytest.raises(slmjax.UserError, match="holds a policy, no result"):
            slmjax.load_result(tmp_path / "policy")
        with pytest.raises(slmjax.UserError, match=r"about\.json: No such file"):
            slmjax.load_policy(tmp_path)
        about = tmp_path / "policy" / "about.json"
        text = about.read_text()
        for spoil, says in (
            (lambda a: a["spec"]["agent"]["net"].update(hid_layers=[3]), "does not fit its spec"),
            (lambda a: a["spec"]["agent"]["net"].update(hid_layers=[32, 32]), "is not in both"),
            (lambda a: a["spec"]["agent"]["algorithm"].update(name="PPOX"), "PPOX"),
            (lambda a: a.pop("label"), "label is missing"),
        ):
            found = json.loads(text)
            spoil(found["about"])
            about.write_text(json.dumps(found))
            with pytest.raises(slmjax.UserError, match=says):
                slmjax.load_policy(tmp_path / "policy")

    def test_where_nothing_can_be_written_is_one_message(self, tmp_path):
        (tmp_path / "file").write_text("")
        policy = trained("PPO").policy(0)
        with pytest.raises(slmjax.UserError, match="holds something else"):
            policy.save(tmp_path / "file")
        with pytest.raises(slmjax.UserError, match="cannot write"):
            policy.save(tmp_path / "file" / "policy")
