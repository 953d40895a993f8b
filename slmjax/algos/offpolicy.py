"""What actors that learn from replay share: keys, the replayed updates, targets that follow, exploration noise.

until `training_start_step`: act uniformly at random, remember
every `training_frequency` steps: remember them; then `training_iter` times
    sample a batch from the memory, one gradient step of the critics
    at every `policy_delay`-th of these, one of the actor
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from slmjax import registry
from slmjax.algos.critics import from_unit
from slmjax.memory.replay import Batch
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, AgentState, Array, Box, Key, Memory, PyTree, Rollout, SpecError, Store, VectorEnv

State = TypeVar("State")


@hyper
class ReplayKeys:
    """Keys of `agent.algorithm` that all of these have."""

    name: str = key(default="", doc="name of the algorithm")
    action_pdtype: str = key(default="default", doc="distribution over actions: the algorithm's", choices=("default",))
    action_policy: str = key(default="default", doc="how it is explored: sampled", choices=("default",))
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    training_frequency: int = key(default=1, doc="steps of each environment between two training events", low=1)
    training_iter: int = key(default=1, doc="gradient steps of one training event, each on a batch of its own", low=1)
    training_start_step: int = key(default=1000, doc="frames of uniformly random actions before training", low=0)
    policy_delay: int = key(default=1, doc="gradient steps of the critics for each one of the actor", low=1)
    noise_correlation: float = key(
        default=0.0, doc="correlation of a continuous action's noise from step to step; 0 is white", low=0, high=1
    )


class Tick(NamedTuple):
    """Where in time a gradient step is; numbers that all sessions share, so that a condition on them stays a branch.

    Attributes:
        steps: how many were taken before it.
        last: it is the last one of its update.
    """

    steps: Array
    last: Array


def make_store(hp: HP, env: VectorEnv, windows: bool = False) -> Store:
    """The memory that a spec describes; it gives `windows` of steps to a recurrent network.

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
    store: Store = make(hp.memory, env, rollout_size(hp, env))
    if hp.algorithm.training_start_step > store.capacity:
        raise SpecError(
            f"expected at most {store.capacity} frames, the size of the memory, got "
            f"{hp.algorithm.training_start_step}.",
            "agent.algorithm.training_start_step",
        )
    return store


def remembering(store: Store) -> Callable[[AgentState, Rollout, Key, HP], AgentState]:
    """`Agent.observe` of an agent that learns from a store: what is seen before training is remembered."""

    def observe(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> AgentState:
        del rng
        return state._replace(memory=store.add(state.memory, rollout, hp.frame))

    return observe


def rollout_size(hp: HP, env: VectorEnv) -> int:
    """Frames between two training events."""
    return int(hp.algorithm.training_frequency * env.num_envs)


def replay(
    store: Store, size: int, ring: PyTree, rollout: Rollout, rng: Key, hp: HP, state: State, step: Callable[..., Any]
) -> tuple[State, PyTree, dict[str, Array]]:
    """Remembers a rollout of `size` frames, then takes `training_iter` gradient steps, each on a batch of its own.

    Args:
        store: the memory.
        size: frames of the rollout.
        ring: what the memory holds.
        rollout: the newest steps.
        rng: key.
        hp: hyperparameters of the moment.
        state: what `step` changes.
        step: `(state, batch, key, tick) -> (state, logs, error [B])`.

    Returns:
        The state, the ring (told of the errors), and the mean of each log.
    """
    ring = store.add(ring, rollout, hp.frame)
    written, iterations = hp.frame + size, hp.algorithm.training_iter
    sample_key, step_key = jax.random.split(rng)
    picks = store.sample(hp.memory, ring, sample_key, iterations, written)
    warmup = -(-hp.algorithm.training_start_step // size)
    before = (hp.frame // size - warmup) * iterations

    def learn(state: State, now: tuple[PyTree, Key, Array]) -> tuple[State, tuple[dict[str, Array], Array]]:
        pick, step_key, i = now
        batch: Batch = store.gather(hp.memory, ring, pick, hp.algorithm.gamma, written)
        state, logs, error = step(state, batch, step_key, Tick(before + i, i == iterations - 1))
        return state, (logs, error)

    steps = (picks, jax.random.split(step_key, iterations), jnp.arange(iterations))
    state, (logs, error) = jax.lax.scan(learn, state, steps)
    return state, store.rate(hp.memory, ring, picks, error), jax.tree.map(jnp.mean, logs)


def every(period: int, tick: Tick, step: Callable[[State], State], state: State) -> State:
    """`step(state)` at the first of every `period` gradient steps, else `state`."""
    if period == 1:
        return step(state)
    return jax.lax.cond(tick.steps % period == 0, step, lambda same: same, state)


class Noise(NamedTuple):
    """A recurrent carry: the noise of the step before, `[E, ...]`, and whether the episode had one, `[E]`."""

    value: Array
    begun: Array


def no_noise(space: Box, num_envs: int) -> Noise:
    """The carry of fresh episodes."""
    return Noise(jnp.zeros((num_envs, *space.shape)), jnp.zeros((num_envs,), bool))


def next_noise(carry: Noise, rng: Key, correlation: Any) -> Noise:
    """Noise whose every value is standard normal, `x_t = c x_{t-1} + sqrt(1 - c^2) z_t` within an episode.

    The stationary discrete form of an Ornstein-Uhlenbeck process (Uhlenbeck and Ornstein 1930; as exploration,
    Lillicrap et al. 2016, section 7), so a policy explores further while each single action is distributed as ever.
    """
    z = jax.random.normal(rng, carry.value.shape)
    begun = carry.begun.reshape(carry.begun.shape + (1,) * (z.ndim - 1))
    c = jnp.where(begun, correlation, 0.0)
    return Noise(c * carry.value + jnp.sqrt(1.0 - c**2) * z, jnp.ones_like(carry.begun))


def play_unit(
    hp: HP, space: Box, play: Callable[[Any], Array], carry: Noise, rng: Key, greedy: bool
) -> tuple[Array, Noise]:
    """Actions `[E, ...]` of a policy `noise [E, ...] -> unit actions`, and the carry: `greedy` ones have no noise.

    During the warm-up they are uniform ones made of the same noise: `erf(x / sqrt 2) = 2 Phi(x) - 1` turns a standard
    normal into a uniform number in [-1, 1].
    """
    if greedy:
        return from_unit(space, play(0.0)), carry
    carry = next_noise(carry, rng, hp.algorithm.noise_correlation)
    unit = warm_up(hp, lambda: jax.lax.erf(carry.value / jnp.sqrt(2.0)), lambda: play(carry.value))
    return from_unit(space, unit), carry


def warm_up(hp: HP, random: Callable[[], Array], play: Callable[[], Array]) -> Array:
    """`random()` before `training_start_step`, `play()` after."""
    start = hp.algorithm.training_start_step
    return jax.lax.cond(hp.frame < start, random, play) if start else play()
