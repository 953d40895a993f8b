"""A rollout learned from: once as a whole, or in shuffled minibatches, several times over.

Minibatches are of single steps, or of sequences where there is a carry.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slmjax.learners.descent import Learned, Logs
from slmjax.maths.permutation import permutation
from slmjax.types import HP, Array, Key, PyTree, SpecError, VectorEnv


class Plan(NamedTuple):
    """How a rollout `[T, E, ...]` becomes minibatches.

    Attributes:
        horizon: steps `T` of each environment.
        length: steps that stay together: 1, or `T` for a network with a carry or a rollout that is not split.
        sequences: how many such pieces there are, `T x E / length`.
        batch: pieces of one minibatch.
        epochs: passes over the rollout.
    """

    horizon: int
    length: int
    sequences: int
    batch: int
    epochs: int

    @property
    def gradient_steps(self) -> int:
        """Minibatches of one update."""
        return self.epochs * (self.sequences // self.batch)


def whole(hp: HP, env: VectorEnv) -> Plan:
    """One gradient step on all `training_frequency` steps of each environment."""
    horizon = hp.algorithm.training_frequency
    return Plan(horizon, horizon, env.num_envs, env.num_envs, 1)


def plan(hp: HP, env: VectorEnv, recurrent: bool) -> Plan:
    """What `time_horizon`, `minibatch_size` and `training_epoch` ask for.

    A network with a carry learns from whole sequences, one of each environment: its minibatches are the smallest of
    equal size that hold `minibatch_size` steps.

    Raises:
        SpecError: a rollout that does not divide into minibatches.
    """
    alg, size = hp.algorithm, hp.algorithm.time_horizon * env.num_envs
    if size % alg.minibatch_size:
        raise SpecError(
            f"expected a divisor of the rollout, time_horizon {alg.time_horizon} x num_envs {env.num_envs} = {size}, "
            f"got {alg.minibatch_size}.",
            "agent.algorithm.minibatch_size",
        )
    if not recurrent:
        return Plan(alg.time_horizon, 1, size, alg.minibatch_size, alg.training_epoch)
    enough = (n for n in range(1, env.num_envs + 1) if n * alg.time_horizon >= alg.minibatch_size)
    batch = next(n for n in enough if env.num_envs % n == 0)
    return Plan(alg.time_horizon, alg.time_horizon, env.num_envs, batch, alg.training_epoch)


def learn(
    plan: Plan,
    step: Callable[..., tuple[Learned, Logs]],
    learned: Learned,
    batch: PyTree,
    carry: PyTree,
    rng: Key,
) -> tuple[Learned, Logs]:
    """All gradient steps on one rollout, and the means of what they log.

    Args:
        plan: how the rollout is split.
        step: `(learned, batch [L, B, ...], carry [B, ...]) -> (learned, logs)` (`descent`).
        learned: before the first step.
        batch: the rollout, `[T, E, ...]`.
        carry: with which it began, `[E, ...]`.
        rng: key of the shuffling.
    """
    if plan.gradient_steps == 1:  # nothing to shuffle
        return step(learned, batch, carry)
    pieces = split(plan, batch)
    some = lambda learned, index: step(learned, *take(index, pieces, carry))  # noqa: E731
    learned, logs = jax.lax.scan(some, learned, shuffle(plan, rng))
    return learned, jax.tree.map(jnp.mean, logs)


def split(plan: Plan, tree: PyTree) -> PyTree:
    """Arrays `[T, E, ...]` as `[length, sequences, ...]`."""
    return jax.tree.map(lambda x: x.reshape(plan.length, plan.sequences, *x.shape[2:]), tree)


def shuffle(plan: Plan, key: Key) -> Array:
    """Which pieces are in each minibatch, int32 `[gradient_steps, batch]`; each epoch holds every piece once."""
    drawn = jax.vmap(lambda k: permutation(k, plan.sequences))(jax.random.split(key, plan.epochs))
    return drawn.reshape(plan.gradient_steps, plan.batch)


def take(index: Array, tree: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
    """Pieces `index [B]`: of `[length, sequences, ...]`, and of what each of them begins with, `[sequences, ...]`."""
    return jax.tree.map(lambda x: x[:, index], tree), jax.tree.map(lambda x: x[index], carry)
