"""From the `env` section of a spec to environments that can be stepped."""

import inspect
from collections.abc import Callable
from typing import Any

from slmjax import registry
from slmjax.envs.check import check_env
from slmjax.envs.vector import observe_only, vectorize
from slmjax.spec.errors import expect
from slmjax.spec.sections import EnvSpec
from slmjax.types import Env, SpecError, UserError, VectorEnv


def make_env(spec: EnvSpec) -> VectorEnv:
    """The environments that a spec describes, held against the contract (`check_env`) and stepped together.

    `spec.name` is a registered name or `module:attribute` of a function that returns an `Env` (or of an `Env`). A
    function whose first parameter is positional-only (`def make(name, /, **kwargs)`) serves several names and is
    handed the one in the spec.

    Raises:
        UserError: `spec` is no such section.
        SpecError: no such environment, an argument that it does not have, an error while it is made, or a
            broken contract.
    """
    expect(EnvSpec, spec, "the env section of a spec, `spec.env` of slmjax.load_spec(FILE)")
    try:
        found = registry.resolve("env", spec.name)
    except UserError as error:
        raise SpecError(str(error), "env.name") from error
    env = _call(found, spec.name, dict(spec.kwargs or {}))
    if not isinstance(env, Env):
        raise SpecError(
            f"{spec.name} must be a function that returns an slmjax.types.Env, got {type(env).__name__} from it",
            "env.name",
        )
    check_env(env, spec.name)
    env = env if spec.observe is None else observe_only(env, spec.observe)
    return vectorize(env, spec.num_envs, spec.max_t)


def _call(found: Any, name: str, kwargs: dict[str, Any]) -> Any:
    if isinstance(found, Env):
        _check_kwargs(name, kwargs, [])
        return found
    if not callable(found):
        raise SpecError(
            f"{name} must be a function that returns an slmjax.types.Env, or an Env; got {type(found).__name__}",
            "env.name",
        )
    positional = _takes_name(found)
    _check_signature(found, name, kwargs)
    try:
        return found(name, **kwargs) if positional else found(**kwargs)
    except SpecError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise SpecError(f"{name} could not be made; it raised {said}", "env.name") from error


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature: let the call speak for itself
        return [inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]


def _takes_name(function: Callable[..., Any]) -> bool:
    parameters = _parameters(function)
    return bool(parameters) and parameters[0].kind is inspect.Parameter.POSITIONAL_ONLY


def _check_signature(function: Callable[..., Any], name: str, kwargs: dict[str, Any]) -> None:
    """Refuses unknown and missing arguments; a function with `**kwargs` checks its own."""
    parameters = _parameters(function)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    _check_kwargs(name, kwargs, [p.name for p in named])
    missing = [p.name for p in named if p.default is p.empty and p.name not in kwargs]
    if missing:
        raise SpecError(f"{name} needs {', '.join(missing)} under env.kwargs", "env.kwargs")


def _check_kwargs(name: str, kwargs: dict[str, Any], valid: list[str]) -> None:
    for key in kwargs:
        if key not in valid:
            raise unknown_kwarg(name, key, valid)


def unknown_kwarg(name: str, key: str, valid: list[str]) -> SpecError:
    """The error for an argument that an environment does not have: the nearest that it has, and all of them."""
    known = f"Known: {', '.join(sorted(valid))}." if valid else "It takes none."
    return SpecError(f"{name} has no argument {key!r}.{registry.nearest(key, valid)} {known}", f"env.kwargs.{key}")
