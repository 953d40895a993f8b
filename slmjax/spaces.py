"""What observations and actions are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array


@dataclass(frozen=True)
class Discrete:
    """The integers `0 .. n-1`; a value is an int32 scalar."""

    n: int
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[Any] = jnp.int32

    def sample(self, key: Key) -> Array:
        """A uniform draw, shape `()`."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def __str__(self) -> str:
        return f"Discrete({self.n})"


@dataclass(frozen=True, eq=False)
class Box:
    """Arrays of one shape and dtype between two bounds; `low` and `high` broadcast to `shape`, and may be infinite.

    `stored` promises that every value is exact in that narrower dtype too (`np.bool_`: zeros and ones; `np.uint8`:
    whole numbers up to 255). Replay memories then keep it so. Nothing else sees it.
    """

    low: Any
    high: Any
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.float32
    stored: Any = None

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
        """A draw, shape `shape`, as gymnasium makes it for each entry.

        Uniform between two finite bounds (of integers, both included), a standard exponential away from the only one,
        a standard normal where there is none.
        """
        integer = jnp.issubdtype(self.dtype, jnp.integer)
        below, above = np.isfinite(self.low), np.isfinite(self.high)
        low, top = np.where(below, self.low, 0.0), np.where(above, self.high + integer, 1.0)
        uniform = jax.random.uniform(key, self.shape, minval=low, maxval=top)
        away = jax.random.exponential(key, self.shape)
        half = jnp.where(below, low + away, top - away)
        draw = jnp.where(below & above, uniform, jnp.where(below | above, half, jax.random.normal(key, self.shape)))
        draw = jnp.floor(draw) if integer else draw
        return jnp.clip(draw, self.low, self.high).astype(self.dtype)  # rounding may step over a bound

    def __str__(self) -> str:
        return f"Box(shape={self.shape}, dtype={np.dtype(self.dtype).name})"


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of `len(nvec)` integers, entry `i` in `0 .. nvec[i]-1`."""

    nvec: tuple[int, ...]
    dtype: ClassVar[Any] = jnp.int32

    @property
    def shape(self) -> tuple[int, ...]:
        """`(len(nvec),)`."""
        return (len(self.nvec),)

    def sample(self, key: Key) -> Array:
        """A uniform draw, shape `[len(nvec)]`."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), jnp.int32)

    def __str__(self) -> str:
        return f"MultiDiscrete({list(self.nvec)})"


@dataclass(frozen=True)
class MultiBinary:
    """A vector of `n` zeros and ones."""

    n: int
    dtype: ClassVar[Any] = jnp.int32

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n,)`."""
        return (self.n,)

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


def zeros(space: Space, *leading: int) -> Any:
    """Zeros shaped like a value of the space, behind axes `leading`; a `Dict` gives a dict."""
    if isinstance(space, Dict):
        return {name: zeros(part, *leading) for name, part in space.spaces.items()}
    return jnp.zeros((*leading, *space.shape), space.dtype)


def narrow(space: Space) -> Any:
    """A zero of the space in the narrowest dtype that holds each of its values exactly; a `Dict` gives a dict."""
    if isinstance(space, Dict):
        return {name: narrow(part) for name, part in space.spaces.items()}
    if isinstance(space, Box):
        return jnp.zeros(space.shape, space.dtype if space.stored is None else space.stored)
    if isinstance(space, MultiBinary):
        return jnp.zeros(space.shape, bool)
    most = space.n if isinstance(space, Discrete) else max(space.nvec)
    return jnp.zeros(space.shape, np.min_scalar_type(most - 1))


def widen(space: Space, value: Any) -> Any:
    """A value of the space, kept as `narrow` says, in the dtype that agents get and give."""
    if isinstance(space, Dict):
        return {name: widen(part, value[name]) for name, part in space.spaces.items()}
    return value.astype(space.dtype)
