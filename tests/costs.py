"""What one small program of every algorithm costs, without a clock: a table that a change has to answer for.

    python tests/costs.py [CASE ...]        writes tests/costs.json anew; look at the difference before you commit it

Of the compiled program of one session: bytes that its operations read and write, and the number of copies, transposes,
gathers and sorts of more than `LARGE` elements. They say of XLA on a CPU what a clock says on a quiet machine only.
What XLA makes of a program hangs on its version, so the table names it.
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from compiling import QUICK

TABLE = Path(__file__).with_name("costs.json")
LARGE = 200  # elements: what a minibatch has seen is 256, its activations are 2,048
COUNTED = ("copy", "transpose", "gather", "sort")
BAR = 0.05

_NET = {"hid_layers": [32, 32], "fc_hid_layers": [32], "clip_grad_val": 0.5}
_CONV = {"type": "ConvNet", "conv_hid_layers": [[8, 3, 1]]}
_SMALL = {"time_horizon": 16, "minibatch_size": 64, "training_epoch": 2, "training_start_step": 64}
_MEMORY = {"batch_size": 64, "max_size": 4096}
_PER = {"memory": {"name": "PrioritizedReplay"}}
_CARRY = {"net": {"type": "RecurrentNet", "hid_layers": None, "rnn_hidden_size": 32}}
EXTRA: dict[str, tuple[str, dict[str, Any]]] = {
    "PPO, Box": ("PPO", {"env": "Pendulum-v1"}),
    "PPO, ConvNet": ("PPO", {"env": "Breakout-MinAtar", "net": _CONV}),
    "PPO, RecurrentNet": ("PPO", _CARRY),
    "ActorCritic, Box": ("ActorCritic", {"env": "Pendulum-v1"}),
    "DQN, ConvNet": ("DQN", {"env": "Breakout-MinAtar", "net": _CONV}),
    "DQN, DuelingMLPNet": ("DQN", {"net": {"type": "DuelingMLPNet"}}),
    "DQN, RecurrentNet": ("DQN", _CARRY | {"memory": {"seq_len": 8, "batch_size": 8}}),
    "DoubleDQN, PrioritizedReplay": ("DoubleDQN", _PER),
    "SoftActorCritic, Box": ("SoftActorCritic", {"env": "Pendulum-v1"}),
}


def cases() -> list[str]:
    """Every algorithm on an environment that it can act in, and networks, memories and actions of other kinds."""
    from slmjax import registry

    return sorted([*registry.names("algorithm"), *EXTRA])


def program_of(case: str) -> tuple[Any, tuple[Any, ...]]:
    """The segment of one session of a case, and the shapes of its arguments."""
    import slmjax
    from slmjax import registry
    from slmjax.types import Discrete

    name, changes = EXTRA.get(case, (case, {}))
    known = registry.resolve("algorithm", name)
    env = changes.get("env", "CartPole-v1" if known.actions[0] is Discrete else "Pendulum-v1")
    agent: dict[str, Any] = {"algorithm": {"name": name} | _of(known.hyper, _SMALL)}
    net = {"type": "MLPNet"} | ({"batch_renorm": True} if name == "CrossQ" else {}) | changes.get("net", {})
    agent["net"] = {k: v for k, v in (_of(registry.resolve("net", net["type"]).hyper, _NET) | net).items() if v}
    if known.memories:
        wanted = {"name": known.memories[0]} | changes.get("memory", {})
        agent["memory"] = _of(registry.resolve("memory", wanted["name"]).hyper, _MEMORY) | wanted
    spec = slmjax.load_spec(
        {"name": "costs", "agent": agent, "env": {"name": env, "num_envs": 8, "max_frame": 100_000}}
    )
    program = slmjax.make_session(spec)
    key = slmjax.session_key(0, 0, 0)
    session = jax.eval_shape(program.init, key, spec.hp)
    return program.segment, (session, spec.hp, jnp.int32(0), jnp.int32(0), jnp.bool_(True))


def _of(hyper: type, keys: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if hasattr(hyper, name)}


def traced(case: str) -> Any:
    """The program of a case, traced."""
    function, arguments = program_of(case)
    return jax.jit(function, compiler_options=QUICK).trace(*arguments)


def costs(program: Any) -> dict[str, int]:
    """The row of a case that was traced."""
    compiled = program.lower().compile()
    analysis: Any = compiled.cost_analysis()
    found = dict.fromkeys(COUNTED, 0)
    for shape, operation in re.findall(r"= \w+\[([\d,]*)\]\S* ([a-z-]+)\(", compiled.as_text() or ""):
        if operation in found and math.prod(int(n) for n in shape.split(",") if n) > LARGE:
            found[operation] += 1
    return {"bytes": int(analysis["bytes accessed"])} | found


def slow_products(program: Any) -> list[str]:
    """Weight gradients of a traced case that sum over two axes, which XLA on a CPU transposes in memory at every step.

    Such a product leaves the last axis of both sides, of what a layer saw and of what came back. One that contracts the
    last axis of a side is another (the gradient of what two critics saw sums over both).
    """
    found = _products(program.jaxpr.jaxpr)
    return [f"{shapes[0]} x {shapes[1]}, contracted {axes[0]}" for axes, shapes in found if _is_slow(axes[0], shapes)]


def _is_slow(contracted: Any, shapes: list[tuple[int, ...]]) -> bool:
    both = zip(contracted, shapes, strict=True)
    return len(contracted[0]) > 1 and all(len(shape) - 1 not in axes for axes, shape in both)


def _products(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["dimension_numbers"], [v.aval.shape for v in equation.invars]
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _products(inner)


def read() -> dict[str, Any]:
    """The table: `{"jax": version, "costs": {case: row}}`."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def beyond(row: dict[str, int], known: dict[str, int]) -> list[str]:
    """What of a row is more than `BAR` away from the table, either way: a gain, too, is to be written down."""
    return [
        f"{name}: {known[name]} -> {row[name]}" for name in known if abs(row[name] - known[name]) > BAR * known[name]
    ]


def main() -> None:
    """Writes the table, or the rows that were asked for."""
    wanted = sys.argv[1:] or cases()
    table = read() if sys.argv[1:] else {"jax": jax.__version__, "costs": {}}
    for case in wanted:
        table["costs"][case] = costs(traced(case))
        print(case, table["costs"][case], flush=True)
    lines = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(table["costs"].items()))
    TABLE.write_text(f'{{\n  "jax": {json.dumps(table["jax"])},\n  "costs": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
