"""Where experience comes from: the contract's checks, auto-reset and time limits, and one adapter file a suite."""

from slmjax.envs.check import check_env
from slmjax.envs.make import make_env
from slmjax.envs.vector import limit, vectorize

__all__ = ["check_env", "limit", "make_env", "vectorize"]
