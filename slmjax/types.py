"""The vocabulary that every room shares: spaces, environments, rollouts, agents, and what a person did wrong.

Axes are always `[S, T, E, ...]` in that order: sessions, time, environments. A function here never sees `S`: sessions
are added by `vmap` in `population.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.spaces import Box as Box
from slmjax.spaces import Dict as Dict
from slmjax.spaces import Discrete as Discrete
from slmjax.spaces import MultiBinary as MultiBinary
from slmjax.spaces import MultiDiscrete as MultiDiscrete
from slmjax.spaces import Space as Space
from slmjax.spaces import narrow as narrow
from slmjax.spaces import widen as widen
from slmjax.spaces import zeros as zeros

PyTree = Any
Array = jax.Array
Key = jax.Array


class UserError(ValueError):
    """Something that the person who wrote the input can mend: one message, exit code 2, no traceback."""


class SpecError(UserError):
    """A wrong value in a spec. `path` is the dotted key (`agent.memory.batch_size`); the loader adds file and line."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message, self.path = message, path


# ---------------------------------------------------------------------------------------------------- environments


class Env(NamedTuple):
    """One environment, as an author writes it: pure functions, no auto-reset, no batch.

    Attributes:
        reset: `(key) -> (state, obs)`.
        step: `(key, state, action) -> (state, obs, reward, terminated, truncated)`. `terminated` means that the
            process ended (the value beyond is zero), `truncated` that it was cut off, as by a time limit (it is not).
            When both are set, termination wins.
        observation_space: the space of `obs`.
        action_space: the space of `action`.
        max_steps: the longest episode that `step` allows, or None when nothing bounds it.
        render: `(state) -> uint8 [height, width, 3]` on the host, or None where the suite cannot.
    """

    reset: Callable[[Key], tuple[PyTree, PyTree]]
    step: Callable[[Key, PyTree, PyTree], tuple[PyTree, PyTree, Array, Array, Array]]
    observation_space: Any  # a Space
    action_space: Any  # a Space
    max_steps: int | None = None
    render: Callable[[PyTree], np.ndarray] | None = None


class Step(NamedTuple):
    """What one step of a `VectorEnv` returns, after the auto-reset; every field starts with the axis `[E, ...]`.

    Attributes:
        obs: what to act on next (of the new episode where one just ended).
        reward: float32.
        terminated: bool; the bootstrap beyond is zero.
        truncated: bool and never set together with `terminated`; bootstrap from `final_obs`.
        final_obs: the true successor of the observation that was acted on. Bootstrap from this, never from `obs`.
        valid: bool; False for a row that a suite invented (a next-step auto-reset), which must enter no loss, memory
            or statistic.
    """

    obs: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: PyTree
    valid: Array

    @property
    def ended(self) -> Array:
        """Where the episode ended with the step, for either reason."""
        return self.terminated | self.truncated

    @property
    def resets(self) -> Array:
        """Where the next step is the first of an episode: a row that a suite invented is that of a reset."""
        return self.ended | ~self.valid


class VectorEnv(NamedTuple):
    """`num_envs` environments that reset themselves: `reset(key) -> (state, obs [E, ...])` and
    `step(key, state, action [E, ...]) -> (state, Step)`. `render(state [E, ...], index=0)` draws environment `index`.
    `always_valid` promises that `Step.valid` is True in every row. The other fields are those of `Env`.
    """

    reset: Callable[[Key], tuple[PyTree, PyTree]]
    step: Callable[[Key, PyTree, PyTree], tuple[PyTree, Step]]
    observation_space: Any  # a Space
    action_space: Any  # a Space
    num_envs: int
    max_steps: int | None = None
    render: Callable[..., np.ndarray] | None = None
    always_valid: bool = False


# ---------------------------------------------------------------------------------------------------------- agents


class Rollout(NamedTuple):
    """`T` steps of `E` environments, time-major, as a session hands them to its agent.

    Attributes:
        obs: what was acted on, `[T, E, ...]`.
        action: `[T, E, ...]`, as the environment got it.
        reward, terminated, truncated, final_obs, valid: those of each `Step`, `[T, E, ...]`.
        extras: what else `Agent.act` returned (log-probabilities, values), `[T, E, ...]`.
        carry: the recurrent carry with which the first step was taken, `[E, ...]`; `()` for feed-forward nets.
        final_value: the agent's value of `final_obs`, `[T, E]`, where it hands the rollout to a memory of whole
            episodes, which bootstraps from it where an episode was truncated; else `()`.
    """

    obs: PyTree
    action: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: PyTree
    valid: Array
    extras: PyTree = ()
    carry: PyTree = ()
    final_value: Array | tuple[()] = ()

    @property
    def ended(self) -> Array:
        """Where an episode ended with the step, for either reason, `[T, E]`."""
        return self.terminated | self.truncated

    @property
    def resets(self) -> Array:
        """Where a carry starts afresh after the step, `[T, E]`: the next one is the first of an episode."""
        return self.ended | ~self.valid

    @property
    def weight(self) -> Array:
        """What a loss multiplies each step by, `[T, E]` float32: 1, or 0 where it is not valid."""
        return self.valid.astype(jnp.float32)


class AgentState(NamedTuple):
    """Everything that an agent knows.

    Attributes:
        policy: all that `act` reads: parameters, and statistics by which observations are normalised. A session keeps a
            copy of the best one, which is evaluated and handed out where the session has failed.
        learner: what else `update` needs: optimiser, targets, a critic that does not act.
        memory: what it remembers; possibly very large, so nothing but `update` and `observe` touches it.
    """

    policy: PyTree
    learner: PyTree = ()
    memory: PyTree = ()


class Agent(NamedTuple):
    """A learning algorithm: pure functions over one pytree, and what the loop must know.

    Attributes:
        init: `(key, hp) -> AgentState`.
        act: `(policy, obs [E, ...], carry, key, hp, greedy) -> (action [E, ...], carry, extras)`; `policy` is that of
            `AgentState`, `greedy` is static.
        update: `(state, rollout, key, hp) -> (state, metrics)`; metrics are float32 scalars by name.
        horizon: `T`, the steps of each environment between two updates.
        observe: `(state, rollout, key, hp) -> state`; remembers without learning, for the warm-up. Default: nothing.
        warmup: frames that are only observed before learning begins.
        opt_steps: gradient steps in one `update`.
        carry: `(num_envs) -> carry` of a fresh episode; `()` for feed-forward nets.
    """

    init: Callable[..., AgentState]
    act: Callable[..., tuple[PyTree, PyTree, PyTree]]
    update: Callable[..., tuple[AgentState, dict[str, Array]]]
    horizon: int
    observe: Callable[..., AgentState] = lambda state, rollout, key, hp: state
    warmup: int = 0
    opt_steps: int = 0
    carry: Callable[[int], PyTree] = lambda num_envs: ()


class HP(NamedTuple):
    """The hyperparameters as data: a pytree whose float leaves may differ between the sessions of one program.

    Its tree structure is the compile signature. `frame` is set (the frames before the rollout that is collected or
    learned from), and schedules are numbers, by the time that `act` and `update` see it (`schedules.at`).
    """

    algorithm: Any
    memory: Any
    net: Any
    frame: Any = None


class Algorithm(NamedTuple):
    """What the registry holds under `agent.algorithm.name`.

    Attributes:
        hyper: the dataclass of its keys (`spec.schema.hyper`).
        make: `(hp: HP, env: VectorEnv) -> Agent`; raises `SpecError` for what cannot work. Its `hp` holds static values
            alone: any use of a number in it is refused (`spec.static`).
        actions: the action spaces that it can act in.
        memories: names of memories that it can learn from, and so from any other of the same kind; the first is the
            default. Empty where it remembers nothing.
        unread: keys of `agent.net` that it has no use for; a spec that sets one is refused.
        net: values that it gives to keys of `agent.net` that a spec leaves out, where the network has such keys.
        only_for: keys of its own that mean something in one action space alone; a spec for another that sets one is
            refused.
    """

    hyper: type
    make: Callable[[HP, VectorEnv], Agent]
    actions: tuple[type, ...]
    memories: tuple[str, ...]
    unread: tuple[str, ...] = ()
    net: Mapping[str, Any] = MappingProxyType({})
    only_for: Mapping[str, type] = MappingProxyType({})


# ------------------------------------------------------------------------------------- the parts that make an agent


class Store(NamedTuple):
    """A memory made for one agent: pure functions over a pytree. `spec` is the current `hp.memory`.

    Attributes:
        init: `() -> ring`, empty.
        add: `(ring, rollout, gamma, frame) -> ring`, with a rollout that began at `frame` written in.
        sample: `(spec, ring, key, batches, frame) -> picks [batches, ...]`, after `frame` frames have been added.
        gather: `(spec, ring, pick, gamma, frame) -> memory.replay.Batch`, what one pick stands for.
        capacity: transitions that it holds.
        rate: `(spec, ring, picks [batches, ...], error [batches, B]) -> ring`: takes note of how wrong the agent was
            about what it drew, once for all batches of an update; nothing where sampling does not depend on it.
    """

    init: Callable[[], PyTree]
    add: Callable[..., PyTree]
    sample: Callable[..., PyTree]
    gather: Callable[..., Any]
    capacity: int
    rate: Callable[..., PyTree] = lambda spec, ring, picks, error: ring


class Memory(NamedTuple):
    """What the registry holds under `agent.memory.name`.

    Attributes:
        hyper: the dataclass of its keys.
        kind: what it gives an algorithm: `transitions`, sampled from a ring; `episodes`, the same with true returns;
            or `rollout`, the newest steps alone.
        make: `(spec, env: VectorEnv, rollout_size) -> Store`; None where the rollout is all there is.
        sequences: the same for an algorithm with a recurrent network, whose `gather` gives windows
            (`memory.sequences.Sequence`); None where it has none.
        preset: values that this name gives to keys that a spec leaves out, where they are not the class's defaults.
    """

    hyper: type
    kind: str
    make: Callable[[Any, VectorEnv, int], Store] | None = None
    sequences: Callable[[Any, VectorEnv, int], Store] | None = None
    preset: Mapping[str, Any] = MappingProxyType({})


class Head(NamedTuple):
    """One output of a network.

    Attributes:
        width: numbers that it puts out.
        role: `actor` or `critic`: which of `actor_init_std` and `critic_init_std` initialises it.
        actions: of a critic, the actions that its width is divided among, action first (`width = actions x atoms`);
            None: one number an action. A dueling network reads it.
    """

    width: int
    role: str
    actions: int | None = None


class Net(NamedTuple):
    """A network as pure functions; algorithms see nothing else of it.

    Attributes:
        init: `(key, spec) -> params`; `spec` is the current `hp.net`.
        apply: `(params, obs [..., obs], carry) -> (tuple of outputs [..., width], carry)`: one step, by statistics as
            they are; `carry` has the leading axes of `obs`.
        carry: `(num_envs) -> carry` of a fresh episode; `()` for feed-forward nets.
        learn: `(params, obs, weight=None) -> (outputs, params)`: as `apply`, but normalised by this batch, with the
            statistics in `params` moved towards it; rows of weight 0 enter none. None where there are no statistics.
        unroll: `(params, obs [T, E, ...], carry, ended [T, E]) -> (outputs [T, E, ...], carry after each step
            [T, E, ...], carry)`: what scanning `apply` gives (`nets.unroll`), faster. None: it is scanned.
    """

    init: Callable[[Key, Any], PyTree]
    apply: Callable[[PyTree, PyTree, PyTree], tuple[tuple[Array, ...], PyTree]]
    carry: Callable[[int], PyTree] = lambda num_envs: ()
    learn: Callable[..., tuple[tuple[Array, ...], PyTree]] | None = None
    unroll: Callable[..., tuple[tuple[Array, ...], PyTree, PyTree]] | None = None

    @property
    def recurrent(self) -> bool:
        """Whether there is a carry."""
        return bool(jax.tree.leaves(self.carry(1)))


class Network(NamedTuple):
    """What the registry holds under `agent.net.type`.

    Attributes:
        hyper: the dataclass of its keys, an extension of `nets.keys.NetKeys`.
        build: `(spec, observation_space, heads, critic) -> Net`; `critic` is True for the second of two networks.
    """

    hyper: type
    build: Callable[[Any, Any, tuple[Head, ...], bool], Net]
