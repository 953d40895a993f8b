"""slmjax: a deep reinforcement-learning lab in JAX.

    import slmjax

    spec = slmjax.load_spec("configs/ppo_cartpole.yaml")
    result = slmjax.train(spec, sessions=64)
    result.returns  # [S, rows]

or one level lower, pure functions to `jit` and `vmap` by hand: `make_env`, `make_agent`, `make_session`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives. They are loaded when first used, so that `import slmjax` stays quick.
_PUBLIC = {
    "load_spec": "slmjax.spec",
    "dump_spec": "slmjax.spec",
    "Spec": "slmjax.spec",
    "make_env": "slmjax.envs",
    "vectorize": "slmjax.envs.vector",
    "make_agent": "slmjax.lab.trial",
    "make_session": "slmjax.lab.trial",
    "train": "slmjax.lab.notebook",
    "Result": "slmjax.lab.notebook",
    "load_result": "slmjax.lab.notebook",
    "Policy": "slmjax.lab.policy",
    "load_policy": "slmjax.lab.policy",
    "session_key": "slmjax.session",
    "register": "slmjax.registry",
    "UserError": "slmjax.types",
    "SpecError": "slmjax.types",
    "Env": "slmjax.types",
    "Box": "slmjax.types",
    "Discrete": "slmjax.types",
}

__all__ = [
    "Box",
    "Discrete",
    "Env",
    "Policy",
    "Result",
    "Spec",
    "SpecError",
    "UserError",
    "__version__",
    "dump_spec",
    "load_policy",
    "load_result",
    "load_spec",
    "make_agent",
    "make_env",
    "make_session",
    "register",
    "session_key",
    "train",
    "vectorize",
]

if TYPE_CHECKING:
    from slmjax.envs import make_env
    from slmjax.envs.vector import vectorize
    from slmjax.lab.notebook import Result, load_result, train
    from slmjax.lab.policy import Policy, load_policy
    from slmjax.lab.trial import make_agent, make_session
    from slmjax.registry import register
    from slmjax.session import session_key
    from slmjax.spec import Spec, dump_spec, load_spec
    from slmjax.types import Box, Discrete, Env, SpecError, UserError


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slmjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
