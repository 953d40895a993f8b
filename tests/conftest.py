"""Two CPU devices and a compilation cache for every test, set before any backend starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from slmjax.lab import devices

jax.config.update("jax_num_cpu_devices", 2)
devices.cache_programs()
