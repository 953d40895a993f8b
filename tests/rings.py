"""Random rollouts for the tests of memories, and environments that have shapes and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.envs import vectorize
from slmjax.types import Box, Discrete, Env, Rollout

BYTES = Box(0, 255, (2, 3), jnp.uint8)
FLOATS = Box(-1.0, 1.0, (2,))


def shapes_only(num_envs: int, space=FLOATS, max_steps=1):
    """A vector environment for `make` functions, which read spaces and numbers of it.

    The rollouts below are truncated after any number of steps, so by default a ring has room for all of them.
    """
    env = Env(lambda key: None, lambda key, state, action: None, space, Discrete(3), max_steps)
    return vectorize(env, num_envs)


class Stream:
    """Rollouts `[T, E]` in which one follows from the other: an observation is the successor of the one before it.

    Observations are drawn at random, a new one after each end; `invalid` makes a row that ended be followed by one
    that a suite invented, as suites that reset themselves on the next step do. `frames` holds every row, by number.
    """

    def __init__(self, seed, steps, envs, space=FLOATS, p_end=0.2, invalid=False):
        self.rng, self.steps, self.envs, self.space = np.random.default_rng(seed), steps, envs, space
        self.p_end, self.invalid = p_end, invalid
        self.now = [self.observe() for _ in range(envs)]
        self.void = [False] * envs
        self.frames = []

    def observe(self):
        low, high = (0, 256) if self.space.dtype == jnp.uint8 else (-100, 101)
        return self.rng.integers(low, high, self.space.shape).astype(self.space.dtype)

    def step(self, e):
        """One row of environment `e`."""
        final, valid = self.observe(), not self.void[e]
        kind = self.rng.choice(["on", "dead", "cut"], p=[1 - self.p_end, self.p_end / 2, self.p_end / 2])
        kind = kind if valid else "on"
        row = {
            "obs": self.now[e],
            "action": self.rng.integers(3),
            "reward": np.float32(self.rng.normal() if valid else 0.0),
            "terminated": kind == "dead",
            "truncated": kind == "cut",
            "final_obs": final,
            "valid": valid,
        }
        ended = kind != "on"
        self.void[e] = ended and self.invalid
        self.now[e] = self.observe() if ended and not self.invalid else final
        return row

    def rollout(self):
        rows = [[self.step(e) for e in range(self.envs)] for _ in range(self.steps)]
        self.frames += [row for step in rows for row in step]
        stack = lambda name: np.stack([np.stack([row[name] for row in step]) for step in rows])  # noqa: E731
        return jax.tree.map(jnp.asarray, Rollout(*(stack(name) for name in Rollout._fields[:7])))


def ends(row) -> bool:
    return bool(row["terminated"] or row["truncated"] or not row["valid"])
