"""The one loop of everything that learns from a memory: remember a rollout, draw batches, descend on each of them.

every `T` steps: add them to the memory; then for each of `batches` draws
    gather what was drawn, one gradient step on it (or several)
update the priorities with the errors of the predictions
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from slmjax import registry
from slmjax.learners.descent import Logs
from slmjax.memory.replay import Batch
from slmjax.types import HP, Agent, AgentState, Array, Key, Memory, PyTree, Rollout, SpecError, Store, VectorEnv

State = TypeVar("State")

# `(state, batch, key, i) -> (state, logs, error [B])`: the gradient step `i` of an update, and how wrong each
# prediction was.
Step = Callable[[State, Batch, Key, Array], tuple[State, Logs, Array]]


def make_store(hp: HP, env: VectorEnv, *, rollout_size: int, windows: bool = False) -> Store:
    """The memory that a spec describes, for rollouts of `rollout_size = T x E` transitions.

    It gives `windows` of steps to a recurrent network.

    Raises:
        SpecError: it cannot hold a batch, a rollout, or what the warm-up remembers; or it has no windows.
    """
    memory: Memory = registry.resolve("memory", hp.memory.name)
    make = memory.sequences if windows else memory.make
    if make is None:
        raise SpecError(
            f"expected one that gives windows of steps, which {hp.net.type} learns from, got {hp.memory.name}.",
            "agent.memory.name",
        )
    store: Store = make(hp.memory, env, rollout_size)
    start = getattr(hp.algorithm, "training_start_step", 0)
    if start > store.capacity:
        raise SpecError(
            f"expected at most {store.capacity} frames, the size of the memory, got {start}.",
            "agent.algorithm.training_start_step",
        )
    return store


def remembers(agent: Agent, store: Store) -> Agent:
    """The agent with a memory in its state, which also takes in what is only observed, before learning begins."""

    def init(rng: Key, hp: HP) -> AgentState:
        return agent.init(rng, hp)._replace(memory=store.init())

    def observe(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> AgentState:
        del rng
        return state._replace(memory=store.add(state.memory, rollout, hp.algorithm.gamma, hp.frame))

    return agent._replace(init=init, observe=observe)


def replay(
    store: Store,
    ring: PyTree,
    rollout: Rollout,
    state: State,
    step: Step[State],
    hp: HP,
    *,
    batches: int,
    sample_key: Key,
    step_key: Key | None = None,
    passes: int = 1,
) -> tuple[State, PyTree, Logs]:
    """One update: the state after all gradient steps, the ring, and the mean of each log.

    Args:
        store: the memory.
        ring: what it holds.
        rollout: the newest steps.
        state: what `step` changes.
        step: one gradient step.
        hp: the current hyperparameters.
        batches: how many are drawn.
        sample_key: which.
        step_key: split for the steps, where they draw anything.
        passes: gradient steps on each batch; the memory is told of the errors of the last.
    """
    gamma = hp.algorithm.gamma
    ring = store.add(ring, rollout, gamma, hp.frame)
    written, count = hp.frame + rollout.reward.size, batches * passes
    picks = store.sample(hp.memory, ring, sample_key, batches, written)

    def learn(state: State, now: tuple[PyTree, Any, Array]) -> tuple[State, tuple[Logs, Array]]:
        pick, key, i = now
        batch: Batch = store.gather(hp.memory, ring, pick, gamma, written)
        state, logs, error = step(state, batch, key, i)
        return state, (logs, error)

    repeated = jax.tree.map(lambda x: jnp.repeat(x, passes, 0), picks) if passes > 1 else picks
    keys: Any = () if step_key is None else jax.random.split(step_key, count)
    state, (logs, error) = jax.lax.scan(learn, state, (repeated, keys, jnp.arange(count)))
    ring = store.rate(hp.memory, ring, picks, error[passes - 1 :: passes])
    return state, ring, jax.tree.map(jnp.mean, logs)
