"""Does an environment keep the contract? Found out by tracing it, in milliseconds, before anything compiles."""

import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.envs.vector import strong
from slmjax.types import Box, Dict, Discrete, Env, MultiBinary, MultiDiscrete, PyTree, Space, SpecError, UserError

_SPACES = (Discrete, Box, MultiDiscrete, MultiBinary, Dict)
_FIELDS = "(state, obs, reward, terminated, truncated)"


def check_env(env: Any, name: str = "environment") -> None:
    """Holds an `Env` against its contract; nothing is compiled and nothing is run.

    Args:
        env: what a person's function returned.
        name: how to call it in a message.

    Raises:
        SpecError: the first broken rule, with what was expected and what was got: no `Env`, a missing space, a
            function that jax cannot trace, a wrong number of values, an observation that is not of the declared space,
            a `Box.stored` that cannot hold what lies between its bounds, a reward or flag that is no scalar or of the
            wrong dtype, or a state whose tree, shapes or dtypes change from `reset` to `step`.
    """
    if not isinstance(env, Env):
        raise _error(name, "it", "an slmjax.types.Env", type(env).__name__)
    for field in ("observation_space", "action_space"):
        if not isinstance(getattr(env, field), _SPACES):
            raise _error(name, field, "one of " + ", ".join(s.__name__ for s in _SPACES), repr(getattr(env, field)))
        _check_stored(name, field, getattr(env, field))
    if env.max_steps is not None and not (isinstance(env.max_steps, int) and env.max_steps >= 1):
        raise _error(name, "max_steps", "None or an integer of at least 1", repr(env.max_steps))

    key = jax.eval_shape(lambda: jax.random.key(0))
    state, obs = _trace(name, "reset", "(state, obs)", lambda k: _strong_state(env.reset(k)), key)
    _check_obs(name, "reset", env.observation_space, obs)
    action = sample_shape(env.action_space)
    out = _trace(name, "step", _FIELDS, lambda *args: _strong_state(env.step(*args)), key, state, action)
    after, obs, reward, terminated, truncated = out
    _check_obs(name, "step", env.observation_space, obs)
    _check_state(name, state, after)
    _check_scalar(name, "reward", reward, (jnp.floating, jnp.integer, jnp.bool_), "a real scalar")
    _check_scalar(name, "terminated", terminated, (jnp.bool_,), "a bool scalar")
    _check_scalar(name, "truncated", truncated, (jnp.bool_,), "a bool scalar")


def sample_shape(space: Space) -> PyTree:
    """Shape and dtype of an action as agents deliver it: float32 for a Box, int32 for the rest."""
    if isinstance(space, Dict):
        return {name: sample_shape(part) for name, part in space.spaces.items()}
    return jax.ShapeDtypeStruct(space.shape, jnp.float32 if isinstance(space, Box) else jnp.int32)


def _strong_state(out: Any) -> Any:
    """A tuple whose first entry lost its weak types; anything else as it is, for the caller to refuse."""
    return (strong(out[0]), *out[1:]) if isinstance(out, tuple) and out else out


def _trace(name: str, part: str, fields: str, function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    try:
        out = jax.eval_shape(function, *args)
    except UserError:
        raise
    except Exception as error:
        first = str(error).strip().split("\n", maxsplit=1)[0]
        message = f"{name}: {part} cannot be traced by jax{_place(error)}: {type(error).__name__}: {first}"
        raise SpecError(message, "env.name") from error
    if not isinstance(out, tuple) or len(out) != len(fields.split(",")):
        got = f"{len(out)} values" if isinstance(out, tuple) else type(out).__name__
        raise _error(name, f"what {part} returns", fields, got)
    return out


def _place(error: Exception) -> str:
    """` (file:line)` of the innermost frame outside jax, this room and the standard library."""
    ours = ("/jax/", "/envs/check.py", "/envs/vector.py", "/jaxlib/", "/lib/python")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not any(part in f.filename for part in ours)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _check_obs(name: str, part: str, space: Space, obs: Any, label: str = "observation") -> None:
    what = f"the {label} that {part} returns"
    if isinstance(space, Dict):
        names = sorted(space.spaces)
        if not isinstance(obs, dict) or sorted(obs) != names:
            got = f"a dict with {sorted(obs)}" if isinstance(obs, dict) else _show(obs)
            raise _error(name, what, f"a dict with {names} (observation_space)", got)
        for key in names:
            _check_obs(name, part, space.spaces[key], obs[key], f"{label}[{key!r}]")
        return
    if not hasattr(obs, "shape") or obs.shape != space.shape or not _fits(space, obs.dtype):
        raise _error(name, what, f"{_wanted(space)} (observation_space)", _show(obs))


def _fits(space: Any, dtype: Any) -> bool:
    """Discrete spaces hold integers, uint8 boxes uint8 (agents scale them by 255), other boxes any real number.

    Bits may be bools.
    """
    if not isinstance(space, Box):
        return jnp.issubdtype(dtype, jnp.integer) or (isinstance(space, MultiBinary) and dtype == jnp.bool_)
    if np.dtype(space.dtype) == np.uint8 or dtype == jnp.uint8:
        return np.dtype(space.dtype) == np.uint8 and dtype == jnp.uint8
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_


def _check_stored(name: str, field: str, space: Space) -> None:
    """A narrower dtype to store values in must reach from bound to bound; that they are whole is the author's word."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            _check_stored(name, f"{field}[{key!r}]", part)
    elif isinstance(space, Box) and space.stored is not None:
        kind = np.dtype(space.stored)
        if kind.kind not in "bui":
            raise _error(name, f"stored of {field}", "bool or an integer dtype", kind.name)
        least, most = (0, 1) if kind == np.bool_ else (np.iinfo(kind).min, np.iinfo(kind).max)
        if (space.low < least).any() or (space.high > most).any():
            held = f"a dtype that holds {space.low.min():g} to {space.high.max():g}"
            raise _error(name, f"stored of {field}", held, f"{kind.name} ({least} to {most})")


def _check_state(name: str, before: PyTree, after: PyTree) -> None:
    expected: Any = jax.tree.structure(before)
    got: Any = jax.tree.structure(after)
    if expected != got:
        raise _error(name, "the state that step returns", f"the tree of reset's, {expected}", str(got))
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            what = f"the state{jax.tree_util.keystr(path)} that step returns"
            raise _error(name, what, f"{_show(old)}, as reset returns it", _show(new))


def _check_scalar(name: str, what: str, value: Any, kinds: tuple[Any, ...], expected: str) -> None:
    if not hasattr(value, "shape") or value.shape != () or not any(jnp.issubdtype(value.dtype, k) for k in kinds):
        raise _error(name, what, expected, _show(value))


def _show(value: Any) -> str:
    """`float32[2,3]`, or the type's name of what is no array."""
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"{value.dtype}[{','.join(str(n) for n in value.shape)}]"


def _wanted(space: Any) -> str:
    dtype = np.dtype(space.dtype).name if isinstance(space, Box) else "int32"
    return f"{dtype}[{','.join(str(n) for n in space.shape)}]"


def _error(name: str, what: str, expected: str, got: str) -> SpecError:
    return SpecError(f"{name}: {what} must be {expected}, got {got}", "env.name")
