"""A session is a function of its seed alone: the same bits again and however it is cut, whatever runs beside it.

Every registered algorithm, eight small sessions each, on every observation space at once (`tests/tiny.py`).
"""

from functools import cache

import jax
import numpy as np
import pytest
import tiny
from agents import slow_ones
from tiny import ALGORITHMS, EVERYTHING, diagonal, lab, population, run, spec_of
from trees import host, unlike

SESSIONS, LANE = 8, 3


@cache
def after(algorithm: str, updates: int):
    """Eight sessions after so many updates, and their rows."""
    made = population(algorithm)
    return run(made, tiny.keys(SESSIONS), made.first + (updates - 1) * made.frames)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEveryAlgorithm:
    def test_two_updates_are_finite_where_every_observation_space_is_seen(self, algorithm):
        tiny.assert_finite(*after(algorithm, 2))

    def test_the_same_spec_gives_the_same_bits_however_the_run_is_cut(self, algorithm):
        made, whole = population(algorithm), after(algorithm, 4)
        end = made.first + 3 * made.frames
        assert not unlike(whole, run(made, tiny.keys(SESSIONS), end))
        assert not unlike(whole, run(made, tiny.keys(SESSIONS), made.frames, made.first, end))

    def test_a_session_does_not_depend_on_its_neighbours(self, algorithm):
        made, order = population(algorithm), np.array([2, 0, 3, 1, 7, 7, 7, 4])
        straight = after(algorithm, 4)
        mixed = run(made, tiny.keys(SESSIONS)[order], made.first + 3 * made.frames)
        assert not unlike(jax.tree.map(lambda x: x[order], straight), mixed)

    def test_sessions_differ_in_everything_random(self, algorithm):
        sessions = host(after(algorithm, 1)[0])
        learned = [name for name in sessions if name.startswith(".agent.policy") and "kernel" in name]
        assert bool(learned) == (algorithm != "Random")
        number = lambda name: len({x.tobytes() for x in sessions[name]})  # noqa: E731
        assert all(number(name) == SESSIONS for name in (".env.start", *learned))  # episodes begin, parameters
        assert number(".env.trail") >= SESSIONS - 2  # what was done: a few actions may be the same by chance


# Compiled once more for each, so by default for one of a kind.
KINDS = ("PPO", "DQN")


@pytest.mark.parametrize("algorithm", slow_ones(ALGORITHMS, {*ALGORITHMS} - {*KINDS}))
def test_a_session_alone_is_the_same_session_after_its_first_update(algorithm):
    spec = spec_of(algorithm, EVERYTHING, diagonal(algorithm))
    one = lab(spec, 0)
    sessions, _ = one.segment(one.init(tiny.keys(SESSIONS)[LANE]), 0, one.first)
    alone, beside = host(sessions), host(after(algorithm, 1)[0])
    close = lambda lane: all(np.allclose(beside[k][lane], x, rtol=1e-4, atol=1e-6) for k, x in alone.items())  # noqa: E731
    assert [lane for lane in range(SESSIONS) if close(lane)] == [LANE]
