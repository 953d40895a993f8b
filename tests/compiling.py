"""How XLA compiles in the tests, and how it does for users: each version refuses options that it does not know."""

import importlib.metadata

_VERSION = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if _VERSION < (0, 11) else {}  # from 0.11 on they are always used

# The passes that decide on operations are those of every program; making good machine code is left out, which takes
# seven eighths of the time (PPO: 12 -> 1.4 s).
QUICK = {"xla_backend_optimization_level": 0, **_EMITTERS}
AS_USERS_DO = {"xla_backend_optimization_level": 3, **dict.fromkeys(_EMITTERS, True)}
# Nearly all of the time of the tests goes into compiling what runs for a second: together these take half of it away.
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
