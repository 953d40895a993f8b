"""Two CPU devices and a compilation cache for every test, set before any backend starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the time goes into compiling what runs for seconds: these two take a third of it away. What a test says
# of a compiled program it says of one that was compiled as users compile it (`rings.AS_USERS_DO`).
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1")

import jax

from slmjax.lab import devices

jax.config.update("jax_num_cpu_devices", 2)
devices.cache_programs()
