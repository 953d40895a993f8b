"""gymnax 1.0: classic control, MinAtar, bsuite and the small ones, behind slmjax's contract.

What it hides, all checked against the library's source: gymnax resets inside `step` (we call `step_env`, `reset_env`
and `is_truncated` and own the reset); states hold Python numbers; declared observation spaces may have another dtype
than the data; some rewards are integers.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.envs.make import unknown_kwarg
from slmjax.types import Array, Box, Discrete, Env, Key, PyTree, Space, SpecError

_HUGE = 1e30  # gymnax writes "no bound" as the largest float32
_WRONG_BOUNDS = ("GaussianBandit-misc", "MemoryChain-bsuite")  # rewards and contexts below the declared 0


def make(name: str, /, **kwargs: Any) -> Env:
    """A gymnax environment by its registered name.

    Args:
        name: for instance `CartPole-v1`.
        **kwargs: arguments of its constructor (`size: 20`) or fields of its parameters (`max_steps_in_episode: 100`).

    Raises:
        SpecError: no such environment, or an argument that it does not have or cannot take.
    """
    env, params = _construct(name, kwargs)

    def reset(key: Key) -> tuple[PyTree, PyTree]:
        obs, state = env.reset_env(key, params)
        return state, obs

    def step(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, PyTree, Array, Array, Array]:
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, obs, reward, terminated, env.is_truncated(state, params)

    _, obs = jax.eval_shape(reset, jax.random.key(0))
    space = _space(env.observation_space(params), obs)
    if name.endswith("-MinAtar") and isinstance(space, Box):  # objects are in a cell or not
        space = dataclasses.replace(space, stored=np.bool_)
    if name in _WRONG_BOUNDS:
        space = Box(-np.inf, np.inf, obs.shape)
    return Env(
        reset=reset,
        step=step,
        observation_space=space,
        action_space=_space(env.action_space(params)),
        max_steps=int(params.max_steps_in_episode),
        render=_renderer(name, env, params, obs.shape),
    )


def _construct(name: str, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The gymnax environment and its parameters, with every argument where it belongs."""
    import gymnax  # here, because it takes a second and pulls in matplotlib, seaborn and SciPy

    try:
        env, params = gymnax.make(name)
    except ValueError as error:
        known = ", ".join(gymnax.registered_envs)
        raise SpecError(f"gymnax has no environment {name!r}. Known: {known}.", "env.name") from error
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    arguments = [p.name for p in inspect.signature(type(env)).parameters.values() if p.kind in kinds]
    fields = [field.name for field in dataclasses.fields(params)]
    for key in kwargs:
        if key not in arguments + fields:
            raise unknown_kwarg(name, key, arguments + fields)
    built = {key: _argument(key, value) for key, value in kwargs.items() if key in arguments}
    if built:
        try:
            env, params = gymnax.make(name, **built)
        except (AssertionError, TypeError, ValueError) as error:
            raise SpecError(f"{name} refuses {built}: {error}", "env.kwargs") from error
    given = {key: _typed(name, key, getattr(params, key), kwargs[key]) for key in fields if key in kwargs}
    return env, params.replace(**_derived(name, params, given))


def _argument(key: str, value: Any) -> Any:
    """A constructor argument; where it wants a random key, a spec gives the seed."""
    return jax.random.key(value) if key.endswith("_key") and isinstance(value, int) else value


def _typed(name: str, key: str, default: Any, value: Any) -> Any:
    """`value` in the type of the parameter's default: whole numbers stay whole, `10` may stand for `10.0`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool) and isinstance(value, bool):
        return value
    if isinstance(default, bool):
        raise SpecError(f"{name}: {key} must be true or false, got {value!r}", f"env.kwargs.{key}")
    if isinstance(default, int) and number and value == int(value):
        return int(value)
    if isinstance(default, float) and number:
        return float(value)
    if isinstance(default, int | float):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise SpecError(f"{name}: {key} must be {kind}, got {value!r}", f"env.kwargs.{key}")
    if np.shape(value) != np.shape(default):
        expected = f"numbers of shape {np.shape(default)}"
        raise SpecError(f"{name}: {key} must be {expected}, got {value!r}", f"env.kwargs.{key}")
    return jnp.asarray(value, default.dtype)


def _derived(name: str, params: Any, given: dict[str, Any]) -> dict[str, Any]:
    """CartPole keeps two products of its other parameters; they follow when somebody changes a mass or the length."""
    if name != "CartPole-v1":
        return given
    new = params.replace(**given)
    return {"total_mass": new.masscart + new.masspole, "polemass_length": new.masspole * new.length, **given}


def _space(space: Any, obs: Any = None) -> Space:
    """Our space for gymnax's; the shape and dtype of a real observation win over the declared ones."""
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    shape, dtype = (space.shape, jnp.float32) if obs is None else (obs.shape, obs.dtype)
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    if not _broadcasts(low, shape) or not _broadcasts(high, shape):
        low, high = low.min(), high.max()
    low, high = np.where(low < -_HUGE, -np.inf, low), np.where(high > _HUGE, np.inf, high)
    return Box(low, high, shape, jnp.uint8 if dtype == jnp.uint8 else jnp.float32)


def _broadcasts(bound: np.ndarray, shape: tuple[int, ...]) -> bool:
    try:
        np.broadcast_to(bound, shape)
    except ValueError:
        return False
    return True


def _renderer(name: str, env: Any, params: Any, shape: tuple[int, ...]) -> Callable[[PyTree], np.ndarray] | None:
    """How to draw a state: classic control as figures, mazes and every grid observation as cells; None for the rest."""
    from slmjax.envs import draw

    if name in draw.CLASSIC:
        return lambda state: draw.CLASSIC[name](jax.device_get(state), params)
    if name in ("FourRooms-misc", "MetaMaze-misc", "FrozenLake-misc"):
        return lambda state: draw.grid(_maze(env, jax.device_get(state)))
    if len(shape) in (2, 3) and min(shape[:2]) > 1:
        key = jax.random.key(0)  # no grid observation is random
        return lambda state: draw.channels(np.asarray(env.observe(key, state, None, params)))
    return None


def _maze(env: Any, state: Any) -> np.ndarray:
    """Cells of a maze: 0 floor, 10 wall or hole, 3 goal, 2 the agent."""
    if hasattr(env, "desc"):  # FrozenLake: start, frozen, hole, goal
        cells = np.array([0, 0, 10, 3])[np.asarray(env.desc)]
        cells.flat[int(state.position)] = 2
        return cells
    cells = np.where(np.asarray(env.occupied_map), 10, 0)
    cells[tuple(state.goal)] = 3
    cells[tuple(state.pos)] = 2
    return cells
