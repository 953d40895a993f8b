"""What a person may write in a spec, what it becomes, and what each mistake says."""

import copy
import json
import math
import random
import re
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slmjax import registry
from slmjax.schedules import Schedule
from slmjax.spec import dump_spec, load_spec, locate, names
from slmjax.spec.schema import hyper, key
from slmjax.types import Algorithm, Memory, Network, SpecError, UserError

# ---------------------------------------------------------------------------------------- rooms that tests stand in for


@hyper
class Optim:
    name: str = key(default="Adam", doc="optimiser")
    lr: float | Schedule = key(default=1e-3, doc="learning rate", above=0)


@hyper
class FakeNet:
    type: str = key(default="MLPNet", doc="name")
    hid_layers: tuple[int, ...] = key(default=(64, 64), doc="widths", low=1)
    kernels: tuple[tuple[int, ...], ...] = key(default=(), doc="nested")
    pair: tuple[int, float] = key(default=(1, 2.0), doc="fixed length")
    activation: str = key(default="tanh", doc="activation", choices=("tanh", "relu"))
    clip: float | None = key(default=None, doc="clip", above=0)
    shared: bool = key(default=False, doc="share")
    optim_spec: Optim = key(default=Optim(), doc="optimiser")


@hyper
class FakeKeys:
    name: str = key(default="Fake", doc="name")
    gamma: float = key(default=0.99, doc="discount", low=0, high=1)
    lam: float = key(default=1, doc="an integer as default of a float")
    explore_var_spec: float | Schedule = key(
        Schedule(start_val=1.0, end_val=0.1, end_step=100.0), doc="eps", low=0, high=1
    )
    training_iter: int = key(default=1, doc="batches", low=1)
    clip_vloss: bool = key(default=False, doc="clip")


@hyper
class FakeReplay:
    name: str = key(default="FakeReplay", doc="name")
    batch_size: int = key(default=32, doc="batch", low=1)


@hyper
class OtherReplay:
    name: str = key(default="OtherReplay", doc="name")


@hyper
class Needy:
    name: str = key(default="Needy", doc="name")
    needed: int = key(doc="required")
    wanted: float = key(doc="required")


@hyper
class Nameless:
    x: int = key(default=1, doc="no name")


FAKE_REPLAY = Memory(FakeReplay, "transitions")
OTHER_REPLAY = Memory(OtherReplay, "rollout")
FAKE_NET = Network(FakeNet, lambda *args: None)
FAKE = Algorithm(FakeKeys, lambda hp, env: None, (), ("FakeReplay",))
NEEDY = Algorithm(Needy, lambda hp, env: None, (), ("FakeReplay",))
IDLE = Algorithm(Nameless, lambda hp, env: None, (), ())
FORGETFUL = Algorithm(FakeKeys, lambda hp, env: None, (), ())
NOT_ONE = 3


@pytest.fixture(autouse=True, scope="module")
def rooms():
    saved = copy.deepcopy(registry.TABLES)
    for name, kind, target in [
        ("Fake", "algorithm", "FAKE"),
        ("Needy", "algorithm", "NEEDY"),
        ("Idle", "algorithm", "IDLE"),
        ("Forgetful", "algorithm", "FORGETFUL"),
        ("NotOne", "algorithm", "NOT_ONE"),
        ("FakeReplay", "memory", "FAKE_REPLAY"),
        ("OtherReplay", "memory", "OTHER_REPLAY"),
        ("MLPNet", "net", "FAKE_NET"),
    ]:
        registry.register(kind, name, f"{__name__}:{target}")
    yield
    for kind, table in saved.items():
        registry.TABLES[kind].clear()
        registry.TABLES[kind].update(table)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the working directory, so that messages begin with its bare name."""
    monkeypatch.chdir(tmp_path)

    def _write(text, name="s.yaml"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return _write


MINIMAL = """\
agent:
  algorithm: {name: Fake}
env: {name: CartPole-v1, max_frame: 1000}
"""
FULL = """\
agent:
  name: label
  algorithm:
    name: Fake
    gamma: 0.98
    explore_var_spec:
      name: linear_decay
      start_val: 1.0
      end_val: 0
      end_step: 800
  memory:
    name: FakeReplay
    batch_size: 64
  net:
    type: MLPNet
    hid_layers: [32, 16]
    kernels: [[8, 4], [4, 2]]
    optim_spec: {name: Adam, lr: 3e-4}
env:
  name: CartPole-v1
  max_frame: 1e5
  num_envs: 4
  kwargs: {reward: 1, tags: [a, b]}
meta:
  max_session: 4
  seed: 7
search:
  agent.algorithm.gamma__uniform: [0.9, 0.99]
"""


def minimal(**changes):
    spec: dict[str, Any] = {"agent": {"algorithm": {"name": "Fake"}}, "env": {"name": "CartPole-v1", "max_frame": 1000}}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = spec
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return spec


def message(source, **kwargs):
    with pytest.raises(SpecError) as caught:
        load_spec(source, **kwargs)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- what it becomes


def test_the_smallest_spec_gets_every_default(write):
    spec = load_spec(write(MINIMAL, "small.yaml"))
    assert spec.name == "small"
    assert spec.agent.name == "Fake"
    assert spec.agent.algorithm == FakeKeys()
    assert spec.agent.memory == FakeReplay()
    assert spec.agent.net == FakeNet()
    assert (spec.env.max_frame, spec.env.num_envs, spec.meta.seed, spec.search) == (1000, 1, 0, None)


def test_a_full_spec_is_typed(write):
    spec = load_spec(write(FULL))
    assert spec.agent.algorithm.explore_var_spec == Schedule(
        name="linear_decay", start_val=1.0, end_val=0.0, end_step=800.0
    )
    assert spec.agent.net.hid_layers == (32, 16)
    assert spec.agent.net.kernels == ((8, 4), (4, 2))
    assert spec.agent.net.optim_spec.lr == 3e-4
    assert type(spec.env.max_frame) is int
    assert spec.env.max_frame == 100_000
    assert spec.env.kwargs == {"reward": 1, "tags": ["a", "b"]}
    assert spec.search == {"agent.algorithm.gamma__uniform": [0.9, 0.99]}
    hash(jax.tree.structure(spec.hp))


def test_floats_are_floats_wherever_they_come_from():
    written = load_spec(minimal(agent__algorithm__lam=1, agent__algorithm__gamma=1))
    default = load_spec(minimal())
    assert type(written.agent.algorithm.lam) is float
    assert type(default.agent.algorithm.lam) is float
    assert type(written.agent.algorithm.gamma) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("+1", 1), ("-1", -1), ("012", 12), ("1_000", 1000), ("0x1F", 31), ("0o17", 15),
        ("1e-3", 1e-3), ("3e-4", 3e-4), ("1e5", 1e5), ("1E5", 1e5), ("1.e2", 100.0), (".5", 0.5), ("-.5e1", -5.0),
        ("1.5", 1.5), ("1_0.5", 10.5), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("1e", "1e"), ("e5", "e5"), ("1.2.3", "1.2.3"), ("_1", "_1"), ("=", "="), ("NaN", "NaN"), ("'1'", "1"),
         ('"1e3"', "1e3"),
        ("!!str 1", "1"), ("!!float 1", 1.0), ("'true'", "true"), ("\u0661", "\u0661"),
    ],
)  # fmt: skip
def test_yaml_scalars_are_yaml_1_2(write, text, value):
    got = load_spec(write(MINIMAL + f"search:\n  x: {text}\n"))
    assert got.search["x"] == value
    assert type(got.search["x"]) is type(value)


@pytest.mark.parametrize(
    ("path", "given_value", "value"),
    [
        ("env__max_frame", 3.0, 3), ("env__max_frame", 1e5, 100_000), ("agent__algorithm__gamma", 1, 1.0),
        ("agent__net__hid_layers", [4.0, 2], (4, 2)), ("agent__net__hid_layers", (), ()), ("agent__net__pair", [3, 4],
         (3, 4.0)),
        ("agent__net__clip", None, None), ("agent__net__clip", 1, 1.0), ("env__max_t", None, None),
        ("env__max_frame", np.int64(5), 5), ("agent__algorithm__gamma", np.float32(0.5), 0.5),
        ("agent__net__shared", np.bool_(True), True), ("agent__memory", None, FakeReplay()),
         ("agent__net", None, FakeNet()),
        ("agent__memory", {}, FakeReplay()), ("agent__algorithm__explore_var_spec", 0, 0.0),
        ("env__name", "some.module:make", "some.module:make"),
    ],
)  # fmt: skip
def test_values_that_mean_the_same_are_taken(path, given_value, value):
    spec = load_spec(minimal(**{path: given_value}))
    got = spec
    for part in path.split("__"):
        got = getattr(got, part)
    assert got == value
    assert type(got) is type(value)


def test_an_algorithm_without_memory_has_none():
    spec = load_spec(
        {"agent": {"algorithm": {"name": "Forgetful"}, "memory": None}, "env": {"name": "Pong-misc", "max_frame": 1}}
    )
    assert spec.agent.memory is None
    assert spec.agent.algorithm.name == "Forgetful"
    assert "remembers nothing" in message(minimal(agent__algorithm__name="Forgetful", agent__memory__name="FakeReplay"))


def test_a_part_may_be_a_module_and_attribute():
    assert load_spec(minimal(agent__algorithm__name=f"{__name__}:FAKE")).agent.algorithm.name == f"{__name__}:FAKE"


# ------------------------------------------------------------------------------------------------- files of many specs

MANY = """\
_net: &net
  hid_layers: [8]
  optim_spec: &optim
    lr: 1e-2
_base: &base
  algorithm: {name: Fake}
  net: *net
one:
  agent:
    <<: *base
    name: first
  env: &env {name: CartPole-v1, max_frame: 10}
two:
  agent:
    algorithm: {name: Fake, gamma: 7}
    net:
      <<: [{activation: relu, shared: true}, {shared: false}, *net]
      clip: 1
  env:
    <<: *env
    max_frame: 20
"""


def test_named_specs_anchors_and_merges(write):
    file = write(MANY)
    assert names(file) == ["one", "two"]
    one = load_spec(file, "one")
    assert (one.name, one.agent.name, one.env.max_frame) == ("one", "first", 10)
    assert one.agent.net == FakeNet(hid_layers=(8,), optim_spec=Optim(lr=1e-2))
    two = load_spec(file, "two", ["agent.algorithm.gamma=0.5"])
    assert two.agent.net == FakeNet(
        hid_layers=(8,), optim_spec=Optim(lr=1e-2), activation="relu", shared=True, clip=1.0
    )
    assert (two.env.name, two.env.max_frame) == ("CartPole-v1", 20)


def test_a_wrong_spec_does_not_keep_its_neighbour_from_loading(write):
    assert load_spec(write(MANY), "one").name == "one"
    assert message("s.yaml", name="two").startswith("s.yaml:15: agent.algorithm.gamma: ")


def test_lines_are_those_where_a_value_was_written(write):
    spec = load_spec(write(MANY), "one")
    where = spec.source.where
    assert where("") == "s.yaml:8"
    assert where("agent") == "s.yaml:9"
    assert where("agent.algorithm.name") == "s.yaml:6"
    assert where("agent.net.hid_layers") == "s.yaml:2"
    assert where("agent.net.optim_spec.lr") == "s.yaml:4"
    assert where("agent.net.optim_spec.name") == "s.yaml:3"
    assert where("agent.name") == "s.yaml:11"
    assert where("env.max_frame") == "s.yaml:12"
    assert where("meta.seed") == "s.yaml:8"


def test_a_single_spec_may_name_itself(write):
    file = write("name: own\n" + MINIMAL)
    assert names(file) == ["own"]
    assert load_spec(file).name == "own"
    assert load_spec(file, "own").name == "own"
    assert "there is no spec 's'" in message(file, name="s")
    assert load_spec(minimal(), "given").name == "given"
    assert load_spec(minimal()).name == "spec"


def test_the_one_named_spec_of_a_file_needs_no_name(write):
    text = "_x: 1\nonly:\n" + "".join(f"  {line}\n" for line in MINIMAL.splitlines())
    assert load_spec(write(text)).name == "only"
    assert load_spec({"a": minimal(), "b": minimal()}, "b").name == "b"


# ----------------------------------------------------------------------------------------------- --set and placeholders


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("agent.algorithm.gamma=1e-1", "agent.algorithm.gamma", 0.1),
        ("agent.net.hid_layers=[4, 4]", "agent.net.hid_layers", (4, 4)),
        ("agent.memory.batch_size=128", "agent.memory.batch_size", 128),
        ("meta.seed=3", "meta.seed", 3),
        ("env.max_t=", "env.max_t", None),
        ("agent.name='007'", "agent.name", "007"),
        ("agent.name=a=b # c", "agent.name", "a=b # c"),
        ("agent.name=*x: &y", "agent.name", "*x: &y"),
        ("env.kwargs={a: 1, b: {c: [2]}}", "env.kwargs", {"a": 1, "b": {"c": [2]}}),
        ("env.kwargs.deep.er=1.0", "env.kwargs", {"deep": {"er": 1.0}}),
        ("name=renamed", "name", "renamed"),
        ("agent.algorithm.explore_var_spec=0.5", "agent.algorithm.explore_var_spec", 0.5),
        ("agent.algorithm.explore_var_spec.end_step=5", "agent.algorithm.explore_var_spec",
         Schedule(start_val=1.0, end_val=0.1, end_step=5.0)),
        ("agent.net.optim_spec.lr={name: no_decay, start_val: 0.5}", "agent.net.optim_spec.lr",
         Schedule(name="no_decay", start_val=0.5)),
    ],
)  # fmt: skip
def test_set_overrides_any_key_written_or_not(write, override, path, value):
    spec = load_spec(write(MINIMAL), overrides=[override])
    got = spec
    for part in path.split("."):
        got = getattr(got, part)
    assert got == value
    if path != "name":
        assert spec.source.where(path) == f"--set {override}"


def test_set_changes_one_key_of_a_written_mapping_and_the_last_one_wins(write):
    spec = load_spec(
        write(FULL), overrides=["agent.algorithm.explore_var_spec.end_val=0.5", "meta.seed=1", "meta.seed=2"]
    )
    assert spec.agent.algorithm.explore_var_spec == Schedule(start_val=1.0, end_val=0.5, end_step=800.0)
    assert spec.meta.seed == 2
    assert spec.source.where("agent.algorithm.explore_var_spec.start_val") == "s.yaml:8"


def test_a_written_schedule_takes_nothing_from_the_default_one(write):
    written = minimal(agent__algorithm__explore_var_spec={"name": "no_decay", "start_val": 0.3})
    assert load_spec(written).agent.algorithm.explore_var_spec == Schedule(name="no_decay", start_val=0.3)


def test_set_of_a_search_key_keeps_its_dots(write):
    override = "search.agent.algorithm.gamma__uniform=[0.1, 0.2]"
    assert load_spec(write(FULL), overrides=[override]).search == {"agent.algorithm.gamma__uniform": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("agent.algorithm.gama=1", ["unknown key 'gama'", "Did you mean 'gamma'?"]),
        ("agent.algorithm.gamma=2", ["agent.algorithm.gamma", "a number >= 0 and <= 1", "got 2"]),
        ("agnet.name=x", ["unknown key 'agnet'", "'agent'"]),
        ("gamma=0.9", ["no key 'gamma'", "${gamma}", "Did you mean 'agent.algorithm.gamma'?"]),
        ("max_fram=9", ["no key 'max_fram'", "Did you mean 'env.max_frame'?"]),
        ("agent.algorithm.gamma", ["dotted.key=value"]),
        ("=3", ["dotted.key=value"]),
        ("agent.net.hid_layers=[1,", ["broken YAML"]),
        ("agent.net.hid_layers.0=1", ["a list of integers", "got a mapping"]),
        ("agent.name=!!python/name:os.system", []),
        ("agent.name=[!!python/name:os.system x]", ["tag"]),
        ("agent.algorithm.gamma.x=1", ["expected a number", "got a mapping"]),
        ("agent=5", ["expected a mapping", "got 5"]),
        ("env.max_frame=${max_frame}", ["${max_frame} has no value"]),
        (".".join("a" * 2000) + "=1", ["nested deeper"]),
    ],
)
def test_a_set_that_cannot_be_says_so(write, override, parts):
    file = write(MINIMAL)
    if not parts:  # on the command line this is text, not a tag
        assert load_spec(file, overrides=[override]).agent.name == "!!python/name:os.system"
        return
    said = message(file, overrides=[override])
    assert said.startswith(f"--set {override}"[:60])
    assert all(part in said for part in parts), said


PLACEHOLDERS = """\
agent:
  algorithm: {name: Fake, gamma: ${gamma}}
  name: run_${tag}
  net: {hid_layers: ${layers}}
env:
  name: "${env}"
  max_frame: ${max_frame}   # ${comment}
"""
VALUES = {"gamma": "0.5", "tag": "7", "layers": "[3, 2]", "env": "CartPole-v1", "max_frame": "1e3"}


def test_placeholders_take_values_before_scalars_are_read(write):
    spec = load_spec(write(PLACEHOLDERS), overrides=[f"{name}={value}" for name, value in VALUES.items()])
    assert (spec.agent.algorithm.gamma, spec.agent.name, spec.agent.net.hid_layers) == (0.5, "run_7", (3, 2))
    assert (spec.env.name, spec.env.max_frame) == ("CartPole-v1", 1000)
    assert spec.source.where("env.max_frame") == "s.yaml:7"
    again = load_spec("s.yaml", variables={**VALUES, "layers": (3, 2), "gamma": 0.5})
    assert again == spec
    source = minimal(agent__algorithm__gamma="${g}", agent__name="a${g}")
    assert load_spec(source, variables={"g": 0.25}).agent.algorithm.gamma == 0.25
    assert load_spec(source, overrides=["g=0.25"]).agent.name == "a0.25"


def test_placeholder_mistakes(write):
    file = write(PLACEHOLDERS)
    rest = {name: value for name, value in VALUES.items() if name != "max_frame"}
    assert message(file, variables=rest).startswith("s.yaml:7: the placeholder ${max_frame} has no value")
    assert "no ${comment}" in message(file, variables={**VALUES, "comment": 1})
    assert "no ${gama}" in message(file, variables={**VALUES, "gama": 1})
    assert "'gamma'" in message(file, variables={**VALUES, "gama": 1})
    assert "holds a placeholder itself" in message(file, variables={**VALUES, "env": "${tag}"})
    assert "s.yaml:4" in message(file, variables={**VALUES, "layers": "[1,"})
    assert message(file, variables={**VALUES, "gamma": "3"}).startswith(
        "s.yaml:2: agent.algorithm.gamma: expected a number"
    )
    assert load_spec(file, overrides=["env.max_frame=5"], variables=rest).env.max_frame == 5


# ---------------------------------------------------------------------------------------------------------------- JSON


def test_json_with_trailing_commas_and_tabs(write):
    text = '{\n\t"agent":{\n\t\t"algorithm":{"name":"Fake","gamma":5E-1,},\n\t},\n'
    text += '\t"env":{"name":"CartPole-v1","max_frame":10},\n}\n'
    spec = load_spec(write(text, "old.json"))
    assert (spec.name, spec.agent.algorithm.gamma, spec.env.max_frame) == ("old", 0.5, 10)
    assert spec.source.where("agent.algorithm.gamma") == "old.json:3"
    assert spec.source.where("env.max_frame") == "old.json:5"


def test_json_is_read_as_json(write):
    source = minimal(agent__name='q"\\/\u00e9\U0001f600\n', search={"a": [1, 1.5, True, None, "x: y", "1"]})
    for indent in (None, 2, "\t"):
        spec = load_spec(write(json.dumps(source, indent=indent), "a.json"))
        assert (spec.agent.name, spec.search) == (source["agent"]["name"], source["search"])
    assert "\ud800" not in load_spec(write(json.dumps(minimal(agent__name="x\ud800")), "a.json")).agent.name


# ---------------------------------------------------------------------------------------------------- what mistakes say

LINES = """\
agent:
  algorithm:
    name: Fake
{algorithm}
  memory:
    name: FakeReplay
{memory}
  net:
    type: MLPNet
{net}
env:
  name: CartPole-v1
  max_frame: 1000
{env}
meta:
  max_session: 1
{meta}
"""


@pytest.mark.parametrize(
    ("section", "line", "at", "parts"),
    [
        ("algorithm", "gama: 1", 4,
         ["agent.algorithm.gama", "unknown key 'gama'", "Did you mean 'gamma'?", "Expected one of: name, gamma"]),
        ("algorithm", "gamma: abc", 4, ["agent.algorithm.gamma", "expected a number >= 0 and <= 1", "got 'abc'"]),
        ("algorithm", "gamma: '0.9'", 4, ["expected a number", "got '0.9'"]),
        ("algorithm", "gamma: true", 4, ["expected a number", "got true"]),
        ("algorithm", "gamma: null", 4, ["expected a number", "got null"]),
        ("algorithm", "gamma: [1]", 4, ["expected a number", "got a list"]),
        ("algorithm", "gamma: {a: 1}", 4, ["expected a number", "got a mapping"]),
        ("algorithm", "gamma: .nan", 4, ["agent.algorithm.gamma", "finite"]),
        ("algorithm", "lam: -.inf", 4, ["agent.algorithm.lam", "finite"]),
        ("algorithm", "lam: 1e999", 4, ["agent.algorithm.lam", "finite"]),
        ("algorithm", "lam: " + "9" * 5000, 4, ["64 bits"]),
        ("algorithm", "lam: " + "9" * 90, 4, ["64 bits"]),
        ("algorithm", "gamma: 1.01", 4, [">= 0 and <= 1", "got 1.01"]),
        ("algorithm", "training_iter: 0", 4, ["an integer >= 1", "got 0"]),
        ("algorithm", "training_iter: 1.5", 4, ["an integer >= 1", "got 1.5"]),
        ("algorithm", "training_iter: true", 4, ["an integer >= 1", "got true"]),
        ("algorithm", "training_iter: 1e30", 4, ["an integer >= 1", "got 1e+30"]),
        ("algorithm", "clip_vloss: 1", 4, ["expected true or false", "got 1"]),
        ("algorithm", "clip_vloss: yes", 4, ["expected true or false", "got 'yes'"]),
        ("algorithm", "explore_var_spec: 2", 4, ["a number >= 0 and <= 1 or a mapping", "got 2"]),
        ("algorithm", "explore_var_spec: {start_val: 2}", 4, ["explore_var_spec.start_val", ">= 0 and <= 1", "got 2"]),
        ("algorithm", "explore_var_spec: {end_val: 1}", 4,
         ["explore_var_spec", "missing required key 'start_val' (a number)"]),
        ("algorithm", "explore_var_spec: {start_val: 1, name: linear}", 4,
         ["'no_decay', 'linear_decay'", "got 'linear'"]),
        ("algorithm", "explore_var_spec:\n      start_val: 1\n      end_stp: 2", 6, ["end_stp", "'end_step'"]),
        ("algorithm", "explore_var_spec: {start_val: 1, end_val: 0}", 4,
         ["agent.algorithm.explore_var_spec: expected an end_step after start_step 0, got 0"]),
        ("algorithm", "explore_var_spec: {start_val: 1, end_val: 0, start_step: 2e6, end_step: 1e6}", 4,
         ["expected an end_step after start_step 2000000, got 1000000"]),
        ("algorithm", "explore_var_spec: {start_val: 1, end_step: 9, name: rate_decay}", 4,
         ["agent.algorithm.explore_var_spec: expected an end_val", "rate_decay", "got null"]),
        ("memory", "batch_size: -1", 7, ["agent.memory.batch_size", "an integer >= 1", "got -1"]),
        ("memory", "batch: 1", 7, ["unknown key 'batch'", "Did you mean 'batch_size'?"]),
        ("net", "hid_layers: 64", 10, ["agent.net.hid_layers", "a list of integers", "got 64"]),
        ("net", "hid_layers: [64, a]", 10, ["agent.net.hid_layers.1", "an integer", "got 'a'"]),
        ("net", "hid_layers: [64,\n      0]", 11, ["agent.net.hid_layers.1", "an integer >= 1", "got 0"]),
        ("net", "kernels: [8, [4]]", 10, ["agent.net.kernels.0", "a list of integers", "got 8"]),
        ("net", "pair: [1, 2, 3]", 10, ["agent.net.pair", "a list of 2 values", "got a list of 3"]),
        ("net", "activation: Relu", 10, ["agent.net.activation", "one of 'tanh', 'relu'", "got 'Relu'"]),
        ("net", "activation: 3", 10, ["one of 'tanh', 'relu'", "got 3", "quote it"]),
        ("net", "clip: 0", 10, ["a number > 0 or null", "got 0"]),
        ("net", "optim_spec: Adam", 10, ["agent.net.optim_spec", "a mapping", "got 'Adam'"]),
        ("net", "optim_spec: {lr: 0}", 10, ["agent.net.optim_spec.lr", "> 0", "got 0"]),
        ("net", "optim_spec: {lr: {start_val: 0}}", 10, ["agent.net.optim_spec.lr.start_val", "> 0", "got 0"]),
        ("env", "num_env: 2", 14, ["env.num_env", "Did you mean 'num_envs'?"]),
        ("env", "kwargs: [1]", 14, ["env.kwargs", "a mapping or null", "got a list"]),
        ("env", "kwargs: {a: {b: .inf}}", 14, ["env.kwargs.a.b", "finite"]),
        ("meta", "seed: -1", 17, ["meta.seed", "an integer >= 0", "got -1"]),
        ("meta", "seed: 4294967296", 17, ["meta.seed", "<= 4294967295", "got 4294967296"]),
        *[("meta", f"{key}: 2147483648", 17, [f"meta.{key}", "<= 2147483647"])
          for key in ("log_frequency", "eval_frequency", "checkpoint_frequency")],
        ("meta", "a: 1\n  seeed: 2\n  c: 3", 17, ["'a'", "'seeed'", "Did you mean 'seed'?", "'c'"]),
    ],
)  # fmt: skip
def test_each_mistake_says_where_which_what_and_what_is_near(write, section, line, at, parts):
    places = dict.fromkeys(("algorithm", "memory", "net", "env", "meta"), "    # nothing")
    indent = "  " if section in ("env", "meta") else "    "
    said = message(write(LINES.format(**{**places, section: indent + line})))
    assert said.startswith(f"s.yaml:{at}: "), said
    assert all(part in said for part in parts), said
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"agent__algorithm__name": "Fak"},
         ["agent.algorithm.name", "unknown algorithm 'Fak'", "Did you mean 'Fake'?"]),
        ({"agent__algorithm__name": 3}, ["agent.algorithm.name", "expected a string", "got 3"]),
        ({"agent__algorithm__name": "no.such.module:X"}, ["agent.algorithm.name", "cannot import"]),
        ({"agent__algorithm__name": "math:X"}, ["agent.algorithm.name", "no attribute 'X'"]),
        ({"agent__algorithm__name": "math:pi"}, ["agent.algorithm", "expected an slmjax.types.Algorithm", "float"]),
        ({"agent__algorithm__name": "NotOne"}, ["expected an slmjax.types.Algorithm", "int"]),
        ({"agent__algorithm__name": "Idle"}, ["agent.algorithm", "@hyper", "'name'"]),
        ({"agent__algorithm__name": "a:b:c"}, ["unknown algorithm"]),
        ({"agent__algorithm__name": ".:x"}, ["unknown algorithm"]),
        ({"agent__algorithm__name": "Needy"},
         ["agent.algorithm", "missing required keys 'needed' (an integer), 'wanted' (a number)"]),
        ({"agent__algorithm": "Fake"}, ["agent.algorithm", "expected a mapping with 'name'", "got 'Fake'"]),
        ({"agent__algorithm": {"gamma": 1}}, ["agent.algorithm", "missing required key 'name'", "Fake"]),
        ({"agent": {}}, ["agent", "missing required key 'algorithm'"]),
        ({"agent__memry": {}}, ["agent.memry", "Did you mean 'memory'?"]),
        ({"agent__memory__name": "FakeReply"}, ["agent.memory.name", "unknown memory", "Did you mean 'FakeReplay'?"]),
        ({"agent__memory__name": "OtherReplay"},
         ["agent.memory.name", "Fake cannot learn from 'OtherReplay'", "FakeReplay"]),
        ({"agent__net__type": "MLP"}, ["agent.net.type", "unknown net 'MLP'", "Did you mean 'MLPNet'?"]),
        ({"agent__net__name": "MLPNet"}, ["agent.net.name", "unknown key 'name'", "type"]),
        ({"env__name": "CartPole-v0"}, ["env.name", "unknown env 'CartPole-v0'", "Did you mean 'CartPole-v1'?"]),
        ({"env": {"name": "CartPole-v1"}}, ["env", "missing required key 'max_frame' (an integer >= 1 and"]),
        ({"search": [1]}, ["search", "expected a mapping", "got a list"]),
        ({"search": {"x": math.nan}}, ["search.x", "finite"]),
        ({"meta": 3}, ["meta", "expected a mapping", "got 3"]),
        ({"nmae": "x"}, ["unknown key 'nmae'", "Did you mean 'name'?"]),
        ({"name": "a/b"}, ["name", "folder", "got 'a/b'"]),
        ({"name": ".."}, ["name", "folder"]),
        ({"env__max_frame": 2**31}, ["env.max_frame", ">= 1 and <= 2147483647", "got 2147483648"]),
        ({"name": "x" * 101}, ["name", "folder", "at most 100 bytes"]),
        ({"name": "\u00e9" * 51}, ["name", "folder", "at most 100 bytes"]),
        ({"name": "\u8a9e" * 34}, ["name", "folder", "at most 100 bytes"]),
        ({"name": {"a": 1}}, ["name", "expected a string"]),
        ({"env__kwargs": {"x": object()}}, ["env.kwargs.x", "plain value", "object"]),
        ({"env__kwargs": {"x": {1, 2}}}, ["env.kwargs.x", "plain value", "set"]),
        # what SLM Lab's users bring along
        ({"agent__algorithm__training_batch_epoch": 2}, ["it is called 'training_batch_iter'"]),
        ({"agent__algorithm__training_epoch": 2}, ["it is called 'training_iter'"]),
        ({"agent__algorithm__clip_val_loss": 2}, ["it is called 'clip_vloss'"]),
        ({"agent__net__lr_scheduler_spec": {}}, ["'optim_spec.lr' may be a schedule"]),
        ({"agent__net__gpu": True}, ["it is gone: JAX chooses"]),
        ({"env__max_tick": 2}, ["write 'env.max_frame'"]),
        ({"env__reward_scale": 2}, ["it is gone", "raw"]),
        ({"meta__max_tick_unit": "epi"}, ["it is gone", "frames"]),
        ({"meta__distributed": False}, ["it is gone"]),
        ({"meta__rigorous_eval": 0}, ["'meta.eval_frequency'"]),
        ({"body": {"num": 1}}, ["unknown key 'body'", "it is gone"]),
        ({"agent": [{"name": "DQN"}]}, ["agent", "expected a mapping, got a list", "early specs", "`agent: {"]),
        ({"env": [{"name": "X"}]}, ["env", "expected a mapping, got a list", "`env: {"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_dict_say_the_key(changes, parts):
    said = message(minimal(**changes))
    assert all(part in said for part in parts), said
    assert "\n" not in said


@pytest.mark.parametrize("name", ["x" * 100, "\u00e9" * 50, "\u8a9e" * 33])
def test_a_name_of_a_hundred_bytes_is_still_a_name(name, tmp_path):
    assert load_spec(minimal(name=name)).name == name
    (tmp_path / f"{name}_2026_01_01_000000").mkdir()


def test_the_largest_seed_and_budget_are_taken_and_a_larger_seed_would_be_another_of_them():
    spec = load_spec(minimal(meta__seed=2**32 - 1, env__max_frame=2**31 - 1))
    assert (spec.meta.seed, spec.env.max_frame) == (2**32 - 1, 2**31 - 1)
    data = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()  # noqa: E731
    assert data(2**32 - 1) != data(0)
    assert data(2**32) == data(0)


def test_a_cyclic_dict_is_an_error():
    source = minimal()
    source["search"] = source
    assert "nested deeper" in message(source)


def test_specerror_carries_the_path_and_is_a_users_error():
    with pytest.raises(UserError) as caught:
        load_spec(minimal(agent__algorithm__gamma=2))
    assert caught.value.path == "agent.algorithm.gamma"
    assert str(caught.value) == "agent.algorithm.gamma: expected a number >= 0 and <= 1, got 2"


def test_locate_adds_the_place_to_what_other_rooms_raise(write):
    spec = load_spec(write(FULL), overrides=["meta.seed=3"])
    error = locate(SpecError("too wide", path="agent.net.hid_layers"), spec)
    assert str(error) == "s.yaml:16: agent.net.hid_layers: too wide"
    assert str(locate(error, spec)) == str(error)
    assert str(locate(SpecError("bad", "meta.seed"), spec)) == "--set meta.seed=3: meta.seed: bad"
    assert str(locate(SpecError("bad", "agent.net.clip"), spec)) == "s.yaml:14: agent.net.clip: bad"
    assert str(locate(SpecError("bad"), spec)) == "s.yaml:1: bad"
    assert str(locate(SpecError("bad", "env.name"), load_spec(minimal()))) == "env.name: bad"
    assert str(locate(SpecError("bad"), load_spec(minimal()))) == "bad"


# ------------------------------------------------------------------------------------------ files that are not a spec


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["s.yaml:1", "empty"]),
        ("# only a comment\n", ["s.yaml:1", "empty"]),
        ("_x: 1\n", ["expected a spec", "got none"]),
        ("{}", ["expected a spec", "got none"]),
        ("[1, 2]", ["s.yaml:1", "expected a mapping", "got a list"]),
        ("hello", ["s.yaml:1", "expected a mapping", "got 'hello'"]),
        ("a: 1\nb: [1, 2\nc: 3\n", ["s.yaml:3", "broken YAML", "column"]),
        ("a:\n\tb: 1\n", ["s.yaml:2", "broken YAML", "column 1"]),
        ("a: 1\n---\nb: 2\n", ["s.yaml:2", "broken YAML"]),
        ("a: *nope\n", ["s.yaml:1", "undefined alias"]),
        (b"a: 1\nb: \xff\xfe\n", ["s.yaml:2", "UTF-8", "0xff"]),
        (b"a: 1\nb: \x00\n", ["s.yaml:2", "control character"]),
        ("a: \"\\UFFFFFFFF\"\n", ["s.yaml", "broken YAML"]),
        ("%YAML 9.9\n---\na: 1\n", ["broken YAML"]),
        (MINIMAL + "env: {}\n", ["s.yaml:4", "duplicate key 'env'", "line 3"]),
        ("agent: {a: 1,\n  a: 2}", ["s.yaml:2", "duplicate key 'a'", "line 1"]),
        ("? [a, b]\n: 1\n", ["s.yaml:1", "string as key"]),
        ("agent:\n  <<: 3\nenv: {}\n", ["s.yaml:2", "after '<<'", "got '3'"]),
        ("agent: 5\nenv: {}", ["s.yaml:1", "agent", "got 5"]),
        ("foo: 5", ["s.yaml:1", "expected a mapping, got 5"]),
        ("foo:\n  agent: {}\n", ["s.yaml:1", "missing required key 'env'"]),
        ("foo: {}", ["s.yaml:1", "missing required keys 'agent', 'env'"]),
        ("a: {}\nb: {}", ["s.yaml", "holds 2 specs", "a, b"]),
        ("a: !!python/object/apply:os.system ['echo hi']", ["s.yaml:1", "tag", "python/object/apply"]),
        ("a: !!python/name:os.system ''", ["s.yaml:1", "tag"]),
        ("a: !custom {b: 1}", ["s.yaml:1", "tag '!custom'"]),
        ("a: 1\nb: !!binary aGk=", ["s.yaml:2", "tag"]),
        (MINIMAL + "meta: {seed: !!int abc}", ["s.yaml:4", "type int", "got 'abc'"]),
        (MINIMAL + "search: !!float abc", ["s.yaml:4", "type float"]),
    ],
)  # fmt: skip
def test_files_that_are_not_a_spec(write, content, parts):
    said = message(write(content))
    assert said.startswith("s.yaml")
    assert all(part in said for part in parts), said
    assert "\ue000" not in said


def test_files_that_cannot_be_read(write, tmp_path):
    write(MINIMAL, "cartpole.yaml")
    assert message("cartpol.yaml") == "cartpol.yaml: no such file. Did you mean 'cartpole.yaml'?"
    assert "no such file" in message("no/such/dir/x.yaml")
    assert "directory" in message(str(tmp_path))
    assert "ending '.txt'" in message(write(MINIMAL, "a.txt"))
    assert "cannot read" in message("a\0b.yaml")
    assert "larger file" in message(write("#" * (2 << 20), "big.yaml"))
    assert "expected the path" in message(None)
    assert "expected the path" in message(3)
    file = write("dqn_pong: {}\nppo_pong: {}\n")
    assert message(file, name="dqn_png").startswith("s.yaml: there is no spec 'dqn_png'. Did you mean 'dqn_pong'?")
    assert load_spec(write(b"\xef\xbb\xbf" + MINIMAL.encode())).name == "s"
    assert load_spec(tmp_path / "cartpole.yaml").name == "cartpole"


BOMB = "_a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"_{n}: &{n} [{', '.join([f'*{p}'] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "_a: &a {k: 1}\n" + "".join(
    f"_{n}: &{n} {{<<: [{', '.join([f'*{p}'] * 10)}]}}\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        BOMB + MINIMAL + "search: {x: *i}\n",
        BOMB + "search: &x {<<: {y: *i}}\n" + MINIMAL,
        MERGES + MINIMAL + "search: {<<: *i}\n",
        MINIMAL + "search: &s {a: *s}\n",
        MINIMAL + "search: {a: &s [*s]}\n",
        MINIMAL + "search: &s {<<: *s}\n",
        MINIMAL + "search: " + "[" * 100_000,
        MINIMAL + "search: " + "{a: " * 100_000,
        MINIMAL + "search: " + "[" * 60 + "]" * 60,
        MINIMAL + "search:\n  " + "- " * 100_000 + "\n",
        MINIMAL + "search:\n  " + "? " * 100_000 + "\n",
        MINIMAL + "search: [" + "1," * 400_000 + "]",
        "&a [*a]",
        "&a {<<: *a}",
        '"' * 100_000,
        "a: " * 100_000,
        "&" * 100_000,
        "!" * 100_000,
    ],
    ids=range(18),
)
def test_hostile_files_end_in_one_message(write, content):
    said = message(write(content))
    assert said.startswith("s.yaml")
    assert len(said) < 1000


def test_an_alias_bomb_that_no_spec_uses_does_no_harm(write):
    assert load_spec(write(BOMB + MINIMAL)).name == "s"


# ---------------------------------------------------------------------------------------------------------- round trip

WORDS = st.text(max_size=12) | st.sampled_from(
    ["1e-3", "yes", "null", "~", "0x1", "a: b", "# c", "1_0", "'", "${", "<<", "=", "-", " x", "a\x85b\u2028\r\n c"]
)
WORDS = WORDS.filter(
    lambda word: not re.search(r"\$\{[^{}\s]*\}", word) and not re.search("[\ud800-\udfff\ue000]", word)
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    gamma=st.floats(0, 1),
    lam=st.floats(allow_nan=False, allow_infinity=False),
    label=WORDS,
    kwargs=st.none() | st.dictionaries(WORDS, PLAIN, max_size=3),
    search=st.none() | st.dictionaries(WORDS, PLAIN, max_size=3),
    layers=st.lists(st.integers(1, 2**40), max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
@example(gamma=1e-3, lam=-0.0, label="1e-3", kwargs={"": [{"": "${"}]}, search={"x": 1e300}, layers=[], seed=0)
def test_dump_and_load_is_the_identity(tmp_path_factory, gamma, lam, label, kwargs, search, layers, seed):
    spec = load_spec(
        minimal(agent__name=label, agent__algorithm__gamma=gamma, agent__algorithm__lam=lam, env__kwargs=kwargs,
                search=search, agent__net__hid_layers=layers, meta__seed=seed, name="some name"),
    )  # fmt: skip
    file = tmp_path_factory.getbasetemp() / "round.yaml"
    file.write_bytes(dump_spec(spec).encode())
    again = load_spec(file)
    assert again == spec
    assert repr(again) == repr(spec)
    assert dump_spec(again) == dump_spec(spec)


def test_a_dumped_spec_is_whole_and_plain(write):
    text = dump_spec(load_spec(write(FULL), overrides=["name=whole", "agent.net.clip=0.5"]))
    assert "&" not in text
    assert "!" not in text
    held = yaml.safe_load(text)["whole"]
    assert held["meta"]["seed"] == 7
    assert held["agent"]["algorithm"]["lam"] == 1.0
    assert held["agent"]["net"]["kernels"] == [[8, 4], [4, 2]]
    assert held["env"]["max_t"] is None
    assert set(held["agent"]["net"]) == set(FakeNet.__dataclass_fields__)
    assert "hid_layers: [32, 16]" in text


def test_a_spec_without_memory_survives_the_round_trip(write):
    spec = load_spec(minimal(agent__algorithm__name="Forgetful"))
    assert load_spec(write(dump_spec(spec))) == spec


# ------------------------------------------------------------------------------------------------------------- fuzzing


def _mutate(text, rng):
    at, size = rng.randrange(len(text)), rng.randrange(1, 12)
    other = rng.randrange(len(text))
    token = rng.choice(["[", "]", "{", "}", ": ", "- ", "&a ", "*a ", "<<: ", "!!", "\n", "\t", "'", '"', "${x}",
     "1e400",
                        ".nan", "null", "\x00", "\ud83d", "\ue000", "|", ">", "%", "@", "#", "\u2028", "---\n", "\\",
                         "?"])  # fmt: skip
    return rng.choice(
        [
            text[:at] + text[at + size :],
            text[:at] + token + text[at:],
            text[:at] + token + text[at + size :],
            text[:at] + text[other : other + 20] + text[at:],
            text[:at],
        ]
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(8))
def test_mutated_specs_raise_nothing_but_specerror(write, seed):
    rng = random.Random(seed)
    said = []
    for i in range(60):
        text = _mutate(FULL if i % 2 else MANY, rng)
        for _ in range(rng.randrange(3)):
            text = _mutate(text or "x", rng) if text else text
        file = write(text.encode("utf-8", "surrogatepass"), rng.choice(["f.yaml", "f.json"]))
        try:
            spec = load_spec(file, rng.choice([None, None, "one"]))
        except SpecError as error:
            said.append(str(error))
        else:
            write(dump_spec(spec), "again.yaml")
            assert load_spec("again.yaml") == spec
    assert len(said) > 20
    assert all(text.startswith(("f.yaml", "f.json")) for text in said)
    "".join(said).encode()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_values_raise_nothing_but_specerror(seed):
    rng = random.Random(seed)
    junk = [
        None,
        True,
        -1,
        0,
        1.5,
        10**30,
        math.nan,
        math.inf,
        "",
        "x",
        "a:b",
        [],
        [[]],
        {},
        {"a": {}},
        (1,),
        "${",
        b"x",
        object(),
    ]
    said = []
    for _ in range(100):
        source = yaml.safe_load(FULL)
        place = source
        while isinstance(place, dict) and place:
            parent, last = place, rng.choice(list(place))
            place = place[last] if rng.random() < 0.7 else None
        parent[rng.choice([last, "x", 3])] = rng.choice(junk)
        try:
            load_spec(
                source, overrides=rng.choice([[], [rng.choice(["a", "agent", "env.x", "agent.net.pair"]) + "=[1, 2]"]])
            )
        except SpecError as error:
            said.append(str(error))
    assert all(said)


def test_a_class_of_keys_keeps_what_it_does_itself_and_its_mappings_are_static():
    @hyper
    class Own:
        rate: float = key(default=1.0, doc="data")
        parts: dict | tuple = key(default=(), doc="static")
        seen: int = key(default=0, doc="what `__post_init__` counts")

        def __post_init__(self) -> None:
            object.__setattr__(self, "seen", len(self.parts))

    own = Own(parts={"a": 1, "b": 2})
    assert own.seen == 2
    assert hash(jax.tree.structure(own)) == hash(jax.tree.structure(Own(parts={"a": 1, "b": 2})))
    assert jax.tree.map(lambda x: {"x": x}, own).rate == {"x": 1.0}
    assert type(jax.tree.map(lambda x: {"x": x}, own).rate) is dict
