"""Two CPU devices, quick compilation and a cache of it for every test, set before any backend starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the time goes into compiling what runs for seconds: these take almost half of it away. What a test says
# of a compiled program it says of one that was compiled as users compile it (`rings.AS_USERS_DO`).
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0")

import gc

import jax
import pytest

from slmjax.lab import devices

jax.config.update("jax_num_cpu_devices", 2)
devices.cache_programs()


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Leaves no program of a module to the next: gigabytes of them, and what collects garbage looks at each."""
    yield
    jax.clear_caches()
    gc.collect()
