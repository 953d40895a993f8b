"""slmjax in a notebook: what `train` returns, what it says, what it leaves of the person's machine and settings."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import spec_of
from runs import LIMIT, ROOT

import slmjax
from slmjax.lab import devices, notebook
from slmjax.lab import policy as policies

META = {"max_session": 3, "log_frequency": 128, "eval_episodes": 4}
FRAMES = 512


def one_step(probability: float) -> slmjax.Env:
    """Episodes of one step with reward 1, or NaN with some probability."""

    def reset(key):
        return jax.random.bernoulli(key, probability), jnp.zeros((1,))

    def step(key, poisoned, action):
        reward = jnp.where(poisoned, jnp.nan, 1.0)
        return poisoned, jnp.zeros((1,)), reward, jnp.array(True), jnp.array(False)

    return slmjax.Env(reset, step, slmjax.Box(-1.0, 1.0, (1,)), slmjax.Discrete(2), max_steps=1)


def sometimes_nan() -> slmjax.Env:
    return one_step(1e-3)


def always_nan() -> slmjax.Env:
    return one_step(1.0)


def random_spec(env: str, frames: int = FRAMES, **meta):
    return spec_of("Random", f"test_notebook:{env}", frames, meta=META | meta)


@pytest.fixture(scope="module")
def result():
    """PPO on CartPole."""
    return slmjax.train(spec_of("PPO", "CartPole-v1", FRAMES, meta=META))


@pytest.fixture(scope="module")
def partly_failed():
    return slmjax.train(random_spec("sometimes_nan", max_session=8))


@pytest.fixture(scope="module")
def wholly_failed():
    with pytest.warns(UserWarning, match="every session failed"):
        return slmjax.train(random_spec("always_nan", frames=128))


# ------------------------------------------------------------------------------------------ cores and the cache on disk

HEAD = """
import os
os.sched_getaffinity = lambda pid: {0, 1, 2}  # three cores, whatever this machine has
import jax, slmjax
spec = slmjax.load_spec("configs/ppo_cartpole.yaml")
"""
PROGRAMS = {
    "env_then_train": """
slmjax.make_env(spec.env).reset(slmjax.session_key(0, 0, 0))
assert not jax.config.jax_compilation_cache_dir
import sys, threading; sys.path.insert(0, "tests")
from agents import spec_of
result = slmjax.train(spec_of("Random", "probes:best_action", 64), sessions=6)
names = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("slmjax"))
assert names == ["slmjax-0_0", "slmjax-1_0", "slmjax-2_0"], names
assert os.path.samefile(jax.config.jax_compilation_cache_dir, os.environ["SLMJAX_CACHE"])
assert any("segment" in name for name in os.listdir(os.environ["SLMJAX_CACHE"])), "the programs are there"
""",
    "names": """
for name in slmjax.__all__:
    getattr(slmjax, name)
jax.config.update("jax_num_cpu_devices", 2)  # raises once the backend runs
assert len(jax.devices()) == 2
""",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Name -> a process of its own that runs the program, all at once."""
    drop = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    usual = {name: value for name, value in os.environ.items() if name not in drop}
    usual |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    made = {}
    for name, code in PROGRAMS.items():
        env = usual | {"SLMJAX_CACHE": str(tmp_path_factory.mktemp(name) / "cache")}
        said = subprocess.PIPE
        words = [sys.executable, "-c", HEAD + code]
        made[name] = subprocess.Popen(words, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT, text=True)
    yield made
    for process in made.values():
        process.kill()
        process.communicate()


class TestCores:
    def passes(self, process: subprocess.Popen) -> None:
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, said

    def test_train_uses_every_core_and_caches_its_programs(self, running):
        self.passes(running["env_then_train"])

    def test_fetching_a_name_starts_no_backend(self, running):
        self.passes(running["names"])


class TestCacheFolder:
    @pytest.fixture(autouse=True)
    def unset(self, monkeypatch):
        """No cache is configured, and none will be."""
        said = {"jax_compilation_cache_dir": None, "jax_enable_compilation_cache": True}
        monkeypatch.setattr(devices, "_config", said.get)
        self.set = {}
        monkeypatch.setattr(jax.config, "update", self.set.__setitem__)
        self.said = said

    def mode(self, folder) -> int:
        return stat.S_IMODE(folder.stat().st_mode)

    def test_a_folder_that_was_there_keeps_its_mode(self, tmp_path, monkeypatch):
        tmp_path.chmod(0o755)
        monkeypatch.setenv("SLMJAX_CACHE", str(tmp_path))
        devices.cache_programs()
        assert self.mode(tmp_path) == 0o755
        assert self.set["jax_compilation_cache_dir"] == str(tmp_path)

    def test_a_folder_that_was_made_is_private(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SLMJAX_CACHE", str(tmp_path / "a" / "b"))
        devices.cache_programs()
        assert self.mode(tmp_path / "a" / "b") == 0o700

    def test_a_cache_that_was_turned_off_stays_off(self, tmp_path, monkeypatch):
        self.said["jax_enable_compilation_cache"] = False
        monkeypatch.setenv("SLMJAX_CACHE", str(tmp_path / "cache"))
        devices.cache_programs()
        assert not self.set
        assert not (tmp_path / "cache").exists()


# --------------------------------------------------------------------------------------------------------- the result


class TestRepr:
    def test_a_result_says_in_a_line_what_it_came_to(self, result):
        mean = f"{np.mean(result.returns[:, -1]):.6g}"
        assert repr(result) == f"Result(test: PPO on CartPole-v1, sessions=3, frame=512, mean_return={mean}, failed=0)"

    def test_failures_are_counted_and_not_averaged_in(self, partly_failed, wholly_failed):
        assert f"mean_return=1, failed={len(partly_failed.failed)})" in repr(partly_failed)
        assert "mean_return=nan, failed=3)" in repr(wholly_failed)

    def test_a_policy_says_whose_it_is(self, result):
        assert repr(result.policy(-1)) == "Policy(test: PPO on CartPole-v1, session 2, frame 512)"


class TestWhatIsNoSpec:
    @pytest.mark.parametrize("name", ["train", "make_agent", "make_session", "make_env"])
    def test_it_is_refused_in_words(self, name):
        with pytest.raises(slmjax.UserError, match=r"slmjax\.load_spec\(FILE\).*got 'configs/ppo_cartpole.yaml'"):
            getattr(slmjax, name)("configs/ppo_cartpole.yaml")


class TestFailedSessions:
    def test_their_rows_are_nan_from_the_failure_on(self, partly_failed):
        failed = partly_failed.failed
        assert 0 < len(failed) < 8
        assert max(failed.values()) > 128, "some rows are sound before a failure"
        for session, row in enumerate(partly_failed.returns):
            sound = partly_failed.frames < failed.get(session, np.inf)
            assert (row[sound] == 1.0).all()
            assert np.isnan(row[~sound]).all()
        assert np.nanmean(partly_failed.returns) == 1.0

    def test_their_evaluation_is_nan(self, partly_failed):
        for session in partly_failed.failed:
            assert np.isnan(partly_failed.eval_reward[session])
        assert np.nanmean(partly_failed.eval_reward) == 1.0

    def test_none_of_them_is_the_best(self, partly_failed):
        best = partly_failed.best()
        assert not any(f"session {session}," in repr(best) for session in partly_failed.failed)

    def test_there_is_no_best_of_none(self, wholly_failed):
        with pytest.raises(ValueError, match="all failed, by frame 128"):
            wholly_failed.best()


@pytest.mark.parametrize("sessions", [0, -1, 2.0, True, "2"])
def test_a_wrong_number_of_sessions_is_one_line(sessions):
    with pytest.raises(slmjax.SpecError) as caught:
        slmjax.train(random_spec("sometimes_nan"), sessions=sessions)
    assert str(caught.value) == f"meta.max_session: expected an integer >= 1, got {sessions!r}"
    assert caught.value.path == "meta.max_session"


# --------------------------------------------------------------------------------------------------------- the policy


class TestPolicy:
    OBS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def test_calls_after_the_first_are_fast(self, result):
        policy, key = result.policy(0), jax.random.key(1)
        for words in ((self.OBS,), (self.OBS, key)):
            jax.block_until_ready(policy(*words))
            seconds = []
            for _ in range(20):
                began = time.perf_counter()
                jax.block_until_ready(policy(*words))
                seconds.append(time.perf_counter() - began)
            assert min(seconds) < 2e-3

    def test_policies_of_one_result_share_a_program(self, result):
        result.policy(0)(self.OBS)
        compiled = policies._step._cache_size()
        assert [p(self.OBS).shape for p in result.policies] == [(6,)] * 3
        assert policies._step._cache_size() == compiled

    def test_it_acts_as_the_agent_does(self, result):
        policy, key = result.policy(1), jax.random.key(2)
        act = slmjax.make_agent(result.spec).act
        assert policy(self.OBS).tolist() == act(policy.state, self.OBS, (), key, policy.hp, True)[0].tolist()
        assert policy(self.OBS, key).tolist() == act(policy.state, self.OBS, (), key, policy.hp, False)[0].tolist()

    def test_it_works_under_jit_and_vmap(self, result):
        policy, keys = result.policy(0), jax.random.split(jax.random.key(3), 5)
        greedy = policy(self.OBS).tolist()
        assert jax.jit(policy)(self.OBS).tolist() == greedy
        assert jax.vmap(policy)(self.OBS[None]).tolist() == [greedy]
        sampled = jax.jit(jax.vmap(lambda key: policy(self.OBS, key)))(keys)
        assert sampled.tolist() == [policy(self.OBS, key).tolist() for key in keys]

    def test_it_acts_on_the_device_of_the_observations(self, result):
        for device in jax.devices():
            assert result.policy(0)(jax.device_put(self.OBS, device)).devices() == {device}


# ---------------------------------------------------------------------------------------------------------- Ctrl-C


class TestInterrupt:
    @pytest.fixture
    def strike(self, monkeypatch):
        """A signal at the first visit."""

        def aim(number):
            monkeypatch.setattr(notebook.Progress, "show", lambda progress, run: signal.raise_signal(number))

        return aim

    def test_ctrl_c_returns_the_result_so_far(self, strike):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        strike(signal.SIGINT)
        with pytest.warns(UserWarning, match="interrupted at frame 128 of 4096"):
            result = slmjax.train(random_spec("sometimes_nan", frames=4096))
        assert result.frame == 128
        assert result.returns.shape == (3, 1)
        assert "frame=128 of 4096" in repr(result)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_without_a_last_evaluation_the_best_is_that_of_the_last_return(self, strike):
        strike(signal.SIGINT)
        with pytest.warns(UserWarning, match="interrupted"):
            result = slmjax.train(spec_of("Random", "CartPole-v1", 4096, meta=META))
        assert np.isnan(result.eval_reward).all()
        assert f"session {np.argmax(result.returns[:, -1])}," in repr(result.best())

    def test_before_the_first_row_there_is_a_result_without_rows(self, strike):
        strike(signal.SIGINT)
        with pytest.warns(UserWarning, match="interrupted at frame 128 of 4096"):
            result = slmjax.train(random_spec("sometimes_nan", frames=4096, log_frequency=1024))
        assert "mean_return=nan" in repr(result)
        assert (result.returns.shape, result.frames.shape, len(result.df)) == ((3, 0), (0,), 0)
        assert np.isnan(result.eval_reward).all()
        with pytest.raises(ValueError, match="finished an episode"):
            result.best()

    def test_a_request_to_terminate_is_left_to_the_person(self, strike):
        heard = []
        before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
        try:
            strike(signal.SIGTERM)
            assert slmjax.train(random_spec("sometimes_nan")).frame == FRAMES
        finally:
            signal.signal(signal.SIGTERM, before)
        assert heard

    def test_outside_the_main_thread_training_goes_to_its_end(self):
        kept = []
        thread = threading.Thread(target=lambda: kept.append(slmjax.train(random_spec("sometimes_nan"))))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            thread.start()
            thread.join(60)
        assert kept[0].frame == FRAMES
