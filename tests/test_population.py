"""A population is batches of a fixed width: what a session learns depends on its spec alone, to the last bit.

With the configs of the docs, up to 200 sessions: `benchmarks/widths.py`.
"""

import jax
import numpy as np
import pytest
from agents import spec_of
from jax._src import compilation_cache
from trees import host, unlike

from slmjax.lab.build import make_trial
from slmjax.population import make_population

FRAMES = 1024
CASES = {
    "PPO": {},
    "Reinforce": {},
    "DQN": {"memory": {"max_size": 512}},
}


def trial_of(name: str, sessions: int, **meta):
    meta = {"max_session": sessions, "log_frequency": 256, "eval_episodes": 2} | meta
    return make_trial(spec_of(name, "CartPole-v1", FRAMES, meta=meta, **CASES[name]))


def first_three(name: str, sessions: int, devices: int):
    """Sessions 0 to 2 of a run and their rows."""
    trial = trial_of(name, sessions)
    population = make_population(trial.program, sessions, jax.devices()[:devices])
    keys, hp = population.place(trial.population.gather(trial.keys)), population.repeat(trial.spec.hp)
    ran, rows = population.segment(population.init(keys, hp), hp, 0, FRAMES)
    return host(jax.tree.map(lambda x: x[:3], population.gather(ran))), {k: x[:3] for k, x in rows.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_session_does_not_depend_on_how_many_there_are_nor_on_the_devices(name):
    """SAC is not among them: its bits differ from one device to two (its critics are under a `vmap` of their own)."""
    few = first_three(name, 3, 2)
    assert few[1]["updates"].any()
    for sessions, devices in ((3, 1), (4, 1), (11, 2)):
        assert not unlike(few, first_three(name, sessions, devices)), (sessions, devices)


def test_the_number_of_sessions_compiles_nothing(tmp_path):
    """Only runs that fit fewer devices have a program of their own: no memory is taken where nothing runs."""
    folder = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        compilation_cache.reset_cache()
        programs = {}
        for sessions in (1, 3, 16, 100, 1000):
            trial = trial_of("DQN", sessions)
            trial.population.lower(trial.population.init(trial.keys, trial.hp), trial.hp).compile()
            programs[sessions] = len([*tmp_path.glob("jit_advance-*-cache")])
        assert programs == {1: 1, 3: 2, 16: 2, 100: 2, 1000: 2}
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


class TestLanes:
    def test_what_was_chosen_is_in_the_spec(self):
        assert trial_of("PPO", 3).spec.meta.lanes == 1
        assert trial_of("PPO", 3, lanes=3).spec.meta.lanes == 3

    def test_lanes_that_only_fill_a_batch_are_not_run(self):
        """Two batches of two lanes on each of two devices hold five sessions: the devices of the rest stop at once."""
        trial = trial_of("DQN", 5, lanes=2)
        sessions, _ = trial.population.segment(trial.population.init(trial.keys, trial.hp), trial.hp, 0, FRAMES)
        moved = [np.asarray(batch.stats.age).any(1).tolist() for batch in sessions]
        assert moved == [[True] * 4, [True, True, False, False]]
