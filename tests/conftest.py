"""Two CPU devices and a compilation cache for every test, set before any backend starts."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the time goes into compiling what runs for a second: together these take half of it away. What a test
# says of a compiled program it says of one that was compiled as users compile it (`rings.AS_USERS_DO`).
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
)

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
