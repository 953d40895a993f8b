"""A policy that is handed out plays as it was evaluated, wherever it goes; what does not fit it is one message."""

import copy
import dataclasses
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import AGENTS, merge, spec_of
from runs import LIMIT, ROOT, environment
from tiny import OBSERVATIONS
from tiny import spec_of as tiny_spec

import slmjax
from slmjax.envs.vector import delivered
from slmjax.lab import policy as policies
from slmjax.lab.fit import check_obs
from slmjax.session import evaluation_key
from slmjax.spaces import zeros

META = {"max_session": 2, "log_frequency": 256, "eval_episodes": 128}
RNN = {"type": "RecurrentNet", "rnn_hidden_size": 8, "fc_hid_layers": [8]}
WINDOWS = {"batch_size": 8, "seq_len": 6, "burn_in": 1, "max_size": 512}
SPECS = {
    "PPO": ("PPO", "CartPole-v1", {}),
    "stacked DQN": ("DQN", "CartPole-v1", {"memory": {"stack_len": 4}}),
    "recurrent PPO": ("PPO", "MemoryChain-bsuite", {"net": RNN}),
    "DRQN": ("DQN", "MemoryChain-bsuite", {"net": RNN, "memory": WINDOWS}),
}


def make_spec(which: str):
    name, env, changes = SPECS[which]
    agent = merge(AGENTS[name], changes)
    if "type" in agent["net"]:
        del agent["net"]["hid_layers"]  # which is an MLP's
    env_spec = {"name": env, "num_envs": 4, "max_frame": 512}
    return slmjax.load_spec({"name": "test", "agent": agent, "env": env_spec, "meta": META})


@pytest.fixture(scope="module", params=SPECS)
def result(request):
    return slmjax.train(make_spec(request.param))


@pytest.fixture(scope="module")
def feed_forward():
    return slmjax.train(make_spec("PPO"))


@pytest.fixture(scope="module")
def recurrent():
    return slmjax.train(make_spec("recurrent PPO"))


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
        assert (returns[0] != returns[1]).any()

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
