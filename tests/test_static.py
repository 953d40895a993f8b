"""Static or data: what `make` may read of a spec, and how it is told of the rest."""

import dataclasses
import operator
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agents import AGENTS, spec_of
from runs import run

from slmjax import registry
from slmjax.algos import dqn
from slmjax.lab.trial import make_trial
from slmjax.learners import q_learning
from slmjax.memory.prioritized import PrioritizedReplay
from slmjax.schedules import Schedule
from slmjax.spec import schema
from slmjax.spec.static import Data, static_only
from slmjax.types import HP, SpecError

X = np.ones(3, np.float32)
USES = {
    "times": lambda d: X * d,
    "times, of JAX": lambda d: d * jnp.asarray(X),
    "minus": operator.neg,
    "power": lambda d: 2.0**d,
    "compare": lambda d: d > 0,
    "equal": lambda d: d == 1.0,
    "branch": lambda d: 1 if d else 0,
    "number": float,
    "text": lambda d: f"{d:.3f}",
    "hash": lambda d: {d: 1},
    "least": lambda d: min(d, 1.0),
    "array": jnp.asarray,
    "clip": lambda d: jnp.clip(X, 0.0, d),
    "where": lambda d: jnp.where(X > 0, d, 0.0),
    "argument": lambda d: jax.jit(jnp.add)(X, d),
    "loop": lambda d: jax.lax.fori_loop(0, 3, lambda i, x: x, d),
    "optimiser": optax.adam,
    "of a schedule": lambda d: d.start_val,
}


@pytest.mark.parametrize("use", USES)
def test_whatever_is_done_with_a_number_in_make_names_its_key(use):
    with pytest.raises(SpecError, match=r"make` reads it \(test_static.py, line \d+\)") as error:
        USES[use](Data("agent.algorithm.beta"))
    assert error.value.path == "agent.algorithm.beta"


def test_a_number_may_be_handed_on_and_asked_whether_it_is_there():
    data = Data("agent.algorithm.beta")
    assert data is not None
    assert repr(data) == "<data: agent.algorithm.beta>"
    assert dataclasses.replace(dqn.DQNKeys(), gamma=data).gamma is data


def data_keys(section, path: str) -> list[str]:
    """Dotted keys of a section that are numbers or schedules and are set."""
    found = []
    for name, annotation in schema.hints(type(section)).items():
        value = getattr(section, name)
        if value is None or not schema.is_data(annotation):
            continue
        found += [f"{path}.{name}"] if float in schema.members(annotation) else data_keys(value, f"{path}.{name}")
    return found


@pytest.mark.parametrize("name", AGENTS)
def test_every_number_is_refused_and_everything_static_is_as_it_was(name):
    hp = spec_of(name, "CartPole-v1", 1000).hp
    blank = static_only(hp)
    at = lambda path: operator.attrgetter(path.removeprefix("agent."))  # noqa: E731
    numbers = [path for part in HP._fields[:3] for path in data_keys(getattr(hp, part), f"agent.{part}")]
    assert "agent.net.optim_spec.lr" in numbers
    for path in numbers:
        with pytest.raises(SpecError) as error:
            float(at(path)(blank))
        assert error.value.path == path
    # Put back, the numbers give the same hyperparameters: nothing else was changed.
    filled = jax.tree.map(lambda x, y: y, blank, hp, is_leaf=lambda x: isinstance(x, Data))
    assert filled._replace(frame=None) == hp


READS = {
    "agent.algorithm.gamma": lambda hp: hp.algorithm.gamma,
    "agent.algorithm.explore_var_spec": lambda hp: hp.algorithm.explore_var_spec,
    "agent.memory.beta_spec": lambda hp: hp.memory.beta_spec,
    "agent.memory.alpha": lambda hp: hp.memory.alpha,
    "agent.net.optim_spec.lr": lambda hp: hp.net.optim_spec.lr,
    "agent.net.log_std_init": lambda hp: hp.net.log_std_init,
    "agent.net.clip_grad_val": lambda hp: hp.net.clip_grad_val,
}


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("schedule", [False, True])
def test_an_update_that_takes_a_number_from_make_is_refused_before_anything_compiles(path, schedule, monkeypatch):
    """The mistake: `alg = hp.algorithm` in `make`, and `alg.beta` in `update`."""

    def make(hp, env):
        agent = q_learning.make(hp, env)

        def update(state, rollout, key, now):
            state, metrics = agent.update(state, rollout, key, now)
            return state, metrics | {"mine": READS[path](hp) * metrics["loss"]}

        return agent._replace(update=update)

    monkeypatch.setattr(dqn, "DQN", registry.resolve("algorithm", "DQN")._replace(make=make))
    memory, net = {"name": "PrioritizedReplay"}, {"clip_grad_val": 1.0}
    algorithm = {}
    if schedule and path.endswith(("_spec", ".lr")):
        decay = {"start_val": 0.5, "end_val": 0.1, "end_step": 1000}
        part, _, key = path.removeprefix("agent.").partition(".")
        {"algorithm": algorithm, "memory": memory, "net": net}[part] |= (
            {"optim_spec": {"lr": decay}} if part == "net" else {key: decay}
        )
    spec = spec_of("DQN", "CartPole-v1", 1000, algorithm=algorithm, memory=memory, net=net)
    with pytest.raises(SpecError, match="it is data") as error:
        make_trial(spec)
    assert error.value.path == path


def test_the_command_line_says_where_the_key_is_and_which_line_reads_it(tmp_path):
    (tmp_path / "wrong.py").write_text(
        textwrap.dedent("""
        from slmjax.algos import ppo
        from slmjax.algos.ppo import PPO, PPOKeys

        def make(hp, env):
            coef = 2.0 * hp.algorithm.val_loss_coef
            return ppo.make(hp, env)

        WRONG = PPO._replace(make=make)
        """)
    )
    (tmp_path / "wrong.yaml").write_text(
        "agent:\n  algorithm: {name: wrong:WRONG, val_loss_coef: 0.25}\nenv: {name: CartPole-v1, max_frame: 1000}\n"
    )
    done = run("wrong.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "wrong.yaml:2: agent.algorithm.val_loss_coef: it is data" in done.stderr
    assert "(wrong.py, line 6)" in done.stderr
    assert not (tmp_path / "data").exists()


def test_schedules_and_their_own_numbers_are_one_stand_in():
    spec = PrioritizedReplay(beta_spec=Schedule(start_val=0.1, end_val=1.0, end_step=10.0))
    assert isinstance(static_only(HP(dqn.DQNKeys(), spec, None)).memory.beta_spec, Data)
