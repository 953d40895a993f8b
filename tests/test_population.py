"""A population is batches of a fixed width: what a session learns depends on its spec alone, to the last bit.

With the configs of the docs, up to 200 sessions: `benchmarks/widths.py`.
"""

import threading
import time

import jax
import pytest
import tiny
from agents import spec_of
from jax._src import compilation_cache
from trees import host, unlike

from slmjax.batches import in_threads
from slmjax.lab.trial import make_trial
from slmjax.population import make_population

FRAMES = 512
CASES = {
    "PPO": ("CartPole-v1", {}),
    "Reinforce": ("CartPole-v1", {}),
    "DQN": ("CartPole-v1", {"memory": {"max_size": 512}}),
    "SoftActorCritic": ("Pendulum-v1", {"memory": {"max_size": 512}}),
}


def trial_of(name: str, sessions: int, **meta):
    meta = {"max_session": sessions, "log_frequency": 256, "eval_episodes": 2} | meta
    env, changes = CASES[name]
    return make_trial(spec_of(name, env, FRAMES, meta=meta, **changes))


def first_three(trial, sessions: int, devices: int, threads: int):
    """Sessions 0 to 2 of a run and their rows."""
    population = make_population(trial.program, sessions, jax.devices()[:devices], trial.population.lanes, threads)
    keys, hp = population.place(tiny.keys(sessions)), population.repeat(trial.spec.hp)
    ran, rows = population.segment(population.init(keys, hp), hp, 0, FRAMES)
    return host(jax.tree.map(lambda x: x[:3], population.gather(ran))), {k: x[:3] for k, x in rows.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_session_does_not_depend_on_how_many_there_are_nor_on_devices_nor_on_threads(name):
    trial = trial_of(name, 1)
    few = first_three(trial, 3, devices=1, threads=1)
    assert few[1]["updates"].any()
    for sessions, devices, threads in ((4, 2, 2), (11, 1, 3)):
        assert not unlike(few, first_three(trial, sessions, devices, threads)), (sessions, devices, threads)


def test_the_number_of_sessions_compiles_nothing(tmp_path):
    folder = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        compilation_cache.reset_cache()
        programs = {}
        for sessions in (1, 3, 16, 100, 1000):
            trial = trial_of("DQN", sessions)
            trial.population.lower(trial.population.init(trial.keys, trial.hp), trial.hp).compile()
            programs[sessions] = len([*tmp_path.glob("jit_segment-*-cache")])
        assert programs == {1: 1, 3: 1, 16: 1, 100: 1, 1000: 1}
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


class TestLanes:
    def test_what_was_chosen_is_in_the_spec(self):
        assert trial_of("PPO", 1).spec.meta.lanes == 2
        assert trial_of("PPO", 3, lanes=3).spec.meta.lanes == 3

    def test_many_environments_and_images_run_alone(self):
        def lanes(env: str, num_envs: int) -> int:
            return make_trial(spec_of("ActorCritic", env, FRAMES, num_envs=num_envs)).population.lanes

        assert lanes("CartPole-v1", 7) == 2
        assert lanes("CartPole-v1", 8) == 1
        assert lanes("Breakout-MinAtar", 4) == 1


class TestThreads:
    def test_each_does_its_share_in_turn_and_results_keep_their_order(self):
        seen = {}

        def work(i):
            seen.setdefault(threading.current_thread().name, []).append(i)
            time.sleep(0.01)
            return i * i

        assert in_threads(work, 7, 3) == [i * i for i in range(7)]
        assert sorted(seen.values()) == [[0, 3, 6], [1, 4], [2, 5]]

    def test_they_work_at_once(self):
        both = threading.Barrier(2, timeout=60)
        assert in_threads(lambda _: both.wait() >= 0, 2, 2) == [True, True]

    def test_what_fails_is_raised_and_ends_the_others(self):
        begun = []

        def work(i):
            begun.append(i)
            if i == 1:
                raise ValueError("lost")
            time.sleep(0.05)

        with pytest.raises(ValueError, match="lost"):
            in_threads(work, 1000, 2)
        time.sleep(0.2)
        assert len(begun) < 100

    def test_a_context_of_jax_reaches_them(self):
        """Threads do not inherit it, so they may not trace."""
        with jax.enable_x64(True):
            trial = trial_of("PPO", 5)
            ran, _ = trial.population.segment(trial.population.init(trial.keys, trial.hp), trial.hp, 0, FRAMES)
            assert {str(x.dtype) for x in jax.tree.leaves(ran[0].agent.policy)} == {"float64"}
