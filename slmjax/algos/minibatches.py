"""Shuffled minibatches of a rollout, several times over: of single steps, or of sequences where there is a carry."""

from typing import NamedTuple

import jax

from slmjax.algos.shuffle import permutation
from slmjax.types import HP, Array, Key, PyTree, SpecError, VectorEnv


class Cut(NamedTuple):
    """How a rollout `[T, E, ...]` becomes minibatches.

    Attributes:
        length: steps that stay together: 1, or `T` for a network with a carry.
        sequences: how many such pieces there are, `T x E / length`.
        batch: pieces of one minibatch.
        epochs: passes over the rollout.
    """

    length: int
    sequences: int
    batch: int
    epochs: int

    @property
    def gradient_steps(self) -> int:
        """Minibatches of one update."""
        return self.epochs * (self.sequences // self.batch)


def plan(hp: HP, env: VectorEnv, recurrent: bool) -> Cut:
    """The cut that `time_horizon`, `minibatch_size` and `training_epoch` ask for.

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
    length = alg.time_horizon if recurrent else 1
    if alg.minibatch_size % length:
        raise SpecError(
            f"expected a multiple of time_horizon {length}, for {hp.net.type} learns from sequences, "
            f"got {alg.minibatch_size}.",
            "agent.algorithm.minibatch_size",
        )
    return Cut(length, size // length, alg.minibatch_size // length, alg.training_epoch)


def pieces(cut: Cut, tree: PyTree) -> PyTree:
    """Arrays `[T, E, ...]` as `[length, sequences, ...]`."""
    return jax.tree.map(lambda x: x.reshape(cut.length, cut.sequences, *x.shape[2:]), tree)


def orders(cut: Cut, key: Key) -> Array:
    """Which pieces are in each minibatch, int32 `[gradient_steps, batch]`; each epoch holds every piece once."""
    drawn = jax.vmap(lambda k: permutation(k, cut.sequences))(jax.random.split(key, cut.epochs))
    return drawn.reshape(cut.gradient_steps, cut.batch)


def take(index: Array, tree: PyTree, carry: PyTree) -> tuple[PyTree, PyTree]:
    """Pieces `index [B]`: of `[length, sequences, ...]`, and of what each of them begins with, `[sequences, ...]`."""
    return jax.tree.map(lambda x: x[:, index], tree), jax.tree.map(lambda x: x[index], carry)
