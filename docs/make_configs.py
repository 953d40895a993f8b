"""Writes `docs/configs.md`, and the keys on the pages of the algorithms, from the `@hyper` classes.

So the pages cannot say anything else than the code.

python docs/make_configs.py
"""

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

from slmjax import registry
from slmjax.spec import schema
from slmjax.spec.build import describe
from slmjax.spec.sections import AgentSpec, EnvSpec, MetaSpec

PAGE = Path(__file__).with_name("configs.md")
FEW = 3  # names that a heading holds
PARTS = {"algorithm": "name", "memory": "name", "net": "type"}  # kind -> the key that chooses

PROSE = """
# Configs

A run is described by one *spec*: which agent, in which environment, for how long, how often. `docs/make_configs.py`
writes this page from the code; `tests/test_docs.py` runs the examples.

## A small one

```yaml
# small.yaml
agent:
  algorithm: {name: DQN, gamma: 0.98}
env: {name: CartPole-v1, num_envs: 4, max_frame: 20000}
meta: {max_session: 2}
```

```sh
python -m slmjax.run small.yaml
python -m slmjax.run small.yaml --set agent.algorithm.gamma=0.95 --set meta.seed=1
```

`agent` and `env` are required, `meta` and `search` (planned: it is read and kept, nothing runs it yet) are not. What a
spec leaves out takes the default of the tables below. The run's folder holds the spec with every key written out; that
file alone repeats the run.

Files are YAML 1.2, hence JSON too: `1e-3` is a number, `yes` is a string. Tags, duplicate keys and unknown keys are
errors.

## Several specs in one file

```yaml
# several.yaml
_net: &net # keys that begin with _ are for anchors; they are no specs
  hid_layers: [32, 32]
  optim_spec: &adam {name: Adam, lr: 1e-3}

dqn:
  agent: {algorithm: {name: DQN}, net: {<<: *net, hid_layers_activation: relu}}
  env: {name: "${env}", num_envs: 4, max_frame: 20000}

ppo:
  agent: {algorithm: {name: PPO}, net: {<<: *net, shared: true}}
  env: {name: "${env}", num_envs: 4, max_frame: 20000}
```

A file that holds several specs names them at the top level; a file that holds one may put `agent` and `env` there, and
the spec is then called like the file. `${env}` is a placeholder: it must be given a value.

```sh
python -m slmjax.run several.yaml ppo --set env=Acrobot-v1
```

```python
import slmjax

spec = slmjax.load_spec("several.yaml", "dqn", variables={"env": "CartPole-v1"})
same = slmjax.load_spec("several.yaml", "dqn", ["env=CartPole-v1"])  # the texts of --set
assert spec == same
```

`--set a.b.c=value` overrides any key, also one that the file leaves out; a key that does not exist is an error. The
value is read as YAML: `--set agent.net.hid_layers=[256,256]`. `--set name=value` without a dot fills `${name}`.

## Errors

Everything is checked before anything compiles. A message names the file and line (or the `--set`), the key, what was
expected, what was got, and the nearest valid name; the exit code is 2.

```python
try:
    slmjax.load_spec("small.yaml", overrides=["agent.algorithm.gama=0.9"])
except slmjax.SpecError as error:
    print(error)  # --set agent.algorithm.gama=0.9: agent.algorithm.gama: unknown key 'gama'. Did you mean 'gamma'? ...
    assert "Did you mean 'gamma'?" in str(error)
```

## Schedules

Where a table says "a number or `Schedule`", write a number for a constant, or a mapping:

```yaml
# schedules.yaml
agent:
  algorithm:
    name: PPO
    clip_eps_spec: 0.2
    entropy_coef_spec: {name: linear_decay, start_val: 0.01, end_val: 0.0, start_step: 5000, end_step: 20000}
  net:
    optim_spec: {lr: {name: rate_decay, start_val: 1e-3, end_val: 1e-4, end_step: 20000}}
env: {name: CartPole-v1, num_envs: 8, max_frame: 20000}
```

Steps are frames of one session. A schedule holds `start_val` until `start_step` and `end_val` from `end_step` on, and
reaches it exactly, 0 included. A decay needs both: an `end_val`, and an `end_step` after its `start_step`. Between
them, with progress `p` from 0 to 1:

| name | value |
|---|---|
| `no_decay` | `start_val` |
| `linear_decay` | a straight line |
| `rate_decay` | `0.9^(20 p)` of the way remains, shifted so that it arrives |
| `periodic_decay` | five damped cosine waves |

```python
from slmjax.schedules import value

schedule = slmjax.load_spec("schedules.yaml").hp.algorithm.entropy_coef_spec
assert value(schedule, 12500) == 0.005
```

Any schedule of optax goes by its own name, with its arguments as `kwargs`, steps in frames:

```python
decay = "{name: cosine_decay_schedule, kwargs: {init_value: 1e-3, decay_steps: 20000}}"
cosine = slmjax.load_spec("schedules.yaml", overrides=[f"agent.net.optim_spec.lr={decay}"])
assert value(cosine.hp.net.optim_spec.lr, 20000) == 0
```

## Data and static

The column *kind* says what may differ between the sessions of one compiled program. *Data* are floats, and the mappings
that hold them: a change of value compiles nothing. *Static* keys are part of the program's shape: integers,
booleans, names, lists. `null` instead of a number is another program, too.

```python
import jax


def structure(change):
    return jax.tree.structure(slmjax.load_spec("schedules.yaml", overrides=[change]).hp)


assert structure("agent.algorithm.gamma=0.9") == structure("agent.algorithm.gamma=0.99")
assert structure("agent.net.init_gain=1.0") == structure("agent.net.init_gain=2.0")
assert structure("agent.algorithm.training_epoch=2") != structure("agent.algorithm.training_epoch=3")
```
"""


def page() -> str:
    """The text of `docs/configs.md`: the prose, then a table a class."""
    parts = [PROSE.strip(), "## Every key"]
    parts += [_section("`agent`", AgentSpec, False)]
    for kind, label in PARTS.items():
        for cls, names in _classes(kind).items():
            few = names if len(names) <= FEW else names[:1]
            parts.append(_section(f"`agent.{kind}`, {label} {' or '.join(f'`{name}`' for name in few)}", cls, True))
            if len(names) > FEW:
                others = ", ".join(f"`{name}`" for name in names[1:])
                parts.append("\n".join(textwrap.wrap(f"The same keys: {others}.", 118)))
            parts += _presets(kind, names)
    parts += [_section(f"`{cls.__name__}`, a mapping inside of the above", cls, True) for cls in _nested()]
    parts += [_section("`env`", EnvSpec, False), _section("`meta`", MetaSpec, False)]
    return "\n\n".join(parts) + "\n"


def with_keys(text: str) -> str:
    """The page of an algorithm, with the tables that it asks for by `<!-- keys: NAME ... -->` written again."""

    def fill(match: re.Match[str]) -> str:
        classes: dict[type, list[str]] = {}
        for name in match[1].split():
            classes.setdefault(registry.resolve("algorithm", name).hyper, []).append(name)
        tables = [_section(", ".join(f"`{n}`" for n in names), cls, True) for cls, names in classes.items()]
        for name in match[1].split():
            other = ", ".join(f"`{key}: {_plain(v)}`" for key, v in registry.resolve("algorithm", name).net.items())
            tables += [f"`{name}` gives the network another default: {other}."] if other else []
        return f"<!-- keys: {match[1]} -->\n\n" + "\n\n".join(tables) + "\n\n<!-- end -->"

    return re.sub(r"<!-- keys: (.*?) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def _classes(kind: str) -> dict[type, list[str]]:
    """Class of keys -> the registered names that it serves."""
    found: dict[type, list[str]] = {}
    for name in registry.TABLES[kind]:
        found.setdefault(registry.resolve(kind, name).hyper, []).append(name)
    return found


def _presets(kind: str, names: list[str]) -> list[str]:
    """A list of the names that stand for other defaults, where there are any."""
    presets = {name: getattr(registry.resolve(kind, name), "preset", {}) for name in names}
    lines = [
        f"- `{name}`: " + ", ".join(f"`{key}: {_plain(value)}`" for key, value in preset.items())
        for name, preset in presets.items()
        if preset
    ]
    return ["Names with other defaults:\n\n" + "\n".join(lines)] if lines else []


def _nested() -> list[type]:
    """Classes that are values of keys: schedules, optimisers, losses."""
    found: dict[type, None] = {}
    todo = [cls for kind in PARTS for cls in _classes(kind)]
    while todo:
        for annotation in schema.hints(todo.pop(0)).values():
            inner = [member for member in schema.members(annotation) if schema.is_hyper(member)]
            todo += [cls for cls in inner if cls not in found]
            found |= dict.fromkeys(inner)
    return list(found)


def _section(title: str, cls: type, kinds: bool) -> str:
    """One table; `kinds` adds the column that says data or static."""
    hints, keys, needed = schema.hints(cls), schema.keys(cls), schema.required(cls)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    head = ["key", "value", "default", *(["kind"] if kinds else []), "meaning"]
    rows = [head, ["---"] * len(head)]
    for name, annotation in hints.items():
        default = "required" if name in needed else _show(defaults[name])
        kind = [("data" if schema.is_data(annotation) else "static")] if kinds else []
        rows.append([f"`{name}`", _value(annotation, keys[name]), default, *kind, keys[name].doc])
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return f"### {title}\n\n{table}"


def _value(annotation: Any, limits: schema.Key) -> str:
    """What a key may hold, with the names of the classes that it may hold."""
    if annotation is Any:
        return "a mapping, see below"
    inner = [f"`{member.__name__}`" for member in schema.members(annotation) if schema.is_hyper(member)]
    return describe(annotation, limits).replace("a mapping", inner[0] if inner else "a mapping")


def _show(value: Any) -> str:
    """A default in the words of YAML."""
    if value is None:
        return "null"
    if schema.is_hyper(type(value)):
        set_ = {name: getattr(value, name) for name in schema.hints(type(value))}
        return "`{" + ", ".join(f"{name}: {_plain(v)}" for name, v in set_.items() if v is not None) + "}`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(list(value)) if isinstance(value, tuple) else str(value) or '""'


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for path in PAGE.with_name("algorithms").glob("*.md"):
        path.write_text(with_keys(path.read_text(encoding="utf-8")), encoding="utf-8")
