"""The vocabulary that every room shares: spaces, environments, rollouts, agents, and what a person did wrong.

Axes are always `[S, T, E, ...]` in that order: sessions, time, environments. A function here never sees `S`: sessions
are added by `vmap` in `population.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


# ---------------------------------------------------------------------------------------------------------- spaces


@dataclass(frozen=True)
class Discrete:
    """The integers `0 .. n-1`; a value is an int32 scalar."""

    n: int
    shape: tuple[int, ...] = field(default=(), init=False)
    dtype: Any = field(default=jnp.int32, init=False)

    def sample(self, key: Key) -> Array:
        """A uniform draw, shape `()`."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def __str__(self) -> str:
        return f"Discrete({self.n})"


@dataclass(frozen=True, eq=False)
class Box:
    """Arrays of one shape and dtype between two bounds; `low` and `high` broadcast to `shape`, and may be infinite."""

    low: Any
    high: Any
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = np.broadcast_to(np.asarray(getattr(self, name), np.float32), self.shape)
            object.__setattr__(self, name, bound)
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def bounded(self) -> bool:
        """True when every bound is finite."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def sample(self, key: Key) -> Array:
        """A uniform draw, shape `shape`; where a bound is infinite, a standard normal one."""
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        low, high = np.where(finite, self.low, 0.0), np.where(finite, self.high, 1.0)
        uniform = jax.random.uniform(key, self.shape, minval=low, maxval=high)
        return jnp.where(finite, uniform, jax.random.normal(key, self.shape)).astype(self.dtype)

    def __str__(self) -> str:
        return f"Box(shape={self.shape}, dtype={np.dtype(self.dtype).name})"


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of `len(nvec)` integers, entry `i` in `0 .. nvec[i]-1`."""

    nvec: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """`(len(nvec),)`."""
        return (len(self.nvec),)

    @property
    def dtype(self) -> Any:
        """int32."""
        return jnp.int32

    def sample(self, key: Key) -> Array:
        """A uniform draw, shape `[len(nvec)]`."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), jnp.int32)

    def __str__(self) -> str:
        return f"MultiDiscrete({list(self.nvec)})"


@dataclass(frozen=True)
class MultiBinary:
    """A vector of `n` zeros and ones."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n,)`."""
        return (self.n,)

    @property
    def dtype(self) -> Any:
        """int32."""
        return jnp.int32

    def sample(self, key: Key) -> Array:
        """A uniform draw, shape `[n]`."""
        return jax.random.randint(key, self.shape, 0, 2, jnp.int32)

    def __str__(self) -> str:
        return f"MultiBinary({self.n})"


@dataclass(frozen=True)
class Dict:
    """A mapping from names to spaces; a value is a dict with the same names."""

    spaces: Mapping[str, Any]

    def sample(self, key: Key) -> dict[str, Any]:
        """A draw from every part."""
        keys = jax.random.split(key, len(self.spaces))
        return {name: space.sample(k) for (name, space), k in zip(sorted(self.spaces.items()), keys, strict=True)}

    def __str__(self) -> str:
        return "Dict(" + ", ".join(f"{name}: {space}" for name, space in sorted(self.spaces.items())) + ")"


Space = Discrete | Box | MultiDiscrete | MultiBinary | Dict


# ---------------------------------------------------------------------------------------------------- environments


class Env(NamedTuple):
    """One environment, as an author writes it: pure functions, no auto-reset, no batch.

    Attributes:
        reset: `(key) -> (state, obs)`.
        step: `(key, state, action) -> (state, obs, reward, terminated, truncated)`. `terminated` means that the
            process ended (the value beyond is zero), `truncated` that somebody stopped watching (it is not). When
            both are set, termination wins.
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


class VectorEnv(NamedTuple):
    """`num_envs` environments that reset themselves: `reset(key) -> (state, obs [E, ...])` and
    `step(key, state, action [E, ...]) -> (state, Step)`. `render(state [E, ...], index=0)` draws environment `index`.
    The other fields are those of `Env`.
    """

    reset: Callable[[Key], tuple[PyTree, PyTree]]
    step: Callable[[Key, PyTree, PyTree], tuple[PyTree, Step]]
    observation_space: Any  # a Space
    action_space: Any  # a Space
    num_envs: int
    max_steps: int | None = None
    render: Callable[..., np.ndarray] | None = None


# ---------------------------------------------------------------------------------------------------------- agents


class Rollout(NamedTuple):
    """`T` steps of `E` environments, time-major, as a session hands them to its agent.

    Attributes:
        obs: what was acted on, `[T, E, ...]`.
        action: `[T, E, ...]`, as the environment got it.
        reward: `[T, E]` float32.
        terminated: `[T, E]` bool.
        truncated: `[T, E]` bool.
        final_obs: true successors of `obs`, `[T, E, ...]`.
        valid: `[T, E]` bool; rows that are False enter no loss and no statistic.
        extras: whatever `Agent.act` returned beside the action (log-probabilities, values), `[T, E, ...]`.
        carry: the recurrent carry with which the first step was taken, `[E, ...]`; `()` for feed-forward nets.
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


class AgentState(NamedTuple):
    """Everything that an agent knows.

    Attributes:
        learner: parameters, targets, optimiser and normalisers: small, and all that `act` needs.
        memory: what it remembers; possibly very large, so nothing but `update` and `observe` touches it. `()` where
            an agent has none, and in a policy that was taken out of a run.
    """

    learner: PyTree
    memory: PyTree = ()


class Agent(NamedTuple):
    """A learning algorithm: three pure functions over one pytree, and four facts that the loop must know.

    Attributes:
        init: `(key, hp) -> AgentState`.
        act: `(state, obs [E, ...], carry, key, hp, greedy) -> (action [E, ...], carry, extras)`. `greedy` is static.
        update: `(state, rollout, key, hp) -> (state, metrics)`; metrics are float32 scalars by name.
        observe: `(state, rollout, key, hp) -> state`; remembers without learning, for the warm-up.
        horizon: `T`, the steps of each environment between two updates.
        warmup: frames that are only observed before learning begins.
        opt_steps: gradient steps in one `update`.
        carry: `(num_envs) -> carry` of a fresh episode; `()` for feed-forward nets.
    """

    init: Callable[..., AgentState]
    act: Callable[..., tuple[PyTree, PyTree, PyTree]]
    update: Callable[..., tuple[AgentState, dict[str, Array]]]
    observe: Callable[..., AgentState]
    horizon: int
    warmup: int = 0
    opt_steps: int = 0
    carry: Callable[[int], PyTree] = lambda num_envs: ()


class HP(NamedTuple):
    """The hyperparameters as data: a pytree whose float leaves may differ between the sessions of one program.

    Its tree structure is the compile signature. `frame` is set, and schedules are plain numbers, by the time that
    `act` and `update` see it (`policies.schedules.at`).
    """

    algorithm: Any
    memory: Any
    net: Any
    frame: Any = None


class Algorithm(NamedTuple):
    """What the registry holds under `agent.algorithm.name`.

    Attributes:
        hyper: the dataclass of its keys (`spec.schema.hyper`).
        make: `(hp: HP, env: VectorEnv) -> Agent`; raises `SpecError` for what cannot work.
        actions: the action spaces that it can act in.
        memories: names of the memories that it can learn from; the first is the default.
    """

    hyper: type
    make: Callable[[HP, VectorEnv], Agent]
    actions: tuple[type, ...]
    memories: tuple[str, ...]
