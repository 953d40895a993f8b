"""Two CPU devices and a compilation cache for every test, set before any backend starts."""

import gc
import os

from compiling import FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What a test says of a compiled program it says of one that was compiled as users compile it (`AS_USERS_DO`).
os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax
import pytest

from slmjax import population
from slmjax.lab import devices

jax.config.update("jax_num_cpu_devices", 2)
devices.cache_programs()
# What JAX has traced stays, millions of objects: looking through all of them again and again takes a tenth of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture
def optimised(monkeypatch):
    """For tests that learn longer than they compile: their populations are optimised."""
    usual, more = population._compiler_options, {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(population, "_compiler_options", lambda normalising: usual(normalising) | more)
