"""Numbers that change with the frame: what each schedule is worth, when, and that SLM Lab's defects are not ours."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trees import descend

from slmjax import registry
from slmjax.nets.mlp import MLPNet
from slmjax.nets.optim import _OPTIMIZERS as OPTIMIZERS
from slmjax.nets.optim import OptimSpec, optimizer
from slmjax.schedules import NAMES, OPTAX, Schedule, at, value
from slmjax.spec import load_spec
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, SpecError

START, END = 100.0, 300.0  # frames
DECAYS = [name for name in NAMES if name != "no_decay"]

# What is left of `start_val - end_val` at a progress p, from the definitions alone
REMAINS = {
    "no_decay": lambda p: 1.0,
    "linear_decay": lambda p: 1.0 - p,
    "rate_decay": lambda p: 0.9 ** (20 * p) - 0.9**20 * p,
    "periodic_decay": lambda p: 0.5 * (1 + math.cos(10 * math.pi * p)) * (1 - p),
}
WHEN = {
    "before": -1,
    "at zero": 0,
    "start": 100,
    "a quarter": 150,
    "middle": 200,
    "nearly": 299,
    "end": 300,
    "after": 10**9,
}
VALUES = {"down": (1.0, 0.1), "up": (0.128, 0.2), "to zero": (0.01, 0.0), "from zero": (0.0, 3.0), "sign": (-2.0, 5.0)}

worth = jax.jit(value)


def schedule(name, start_val, end_val, start_step=START, end_step=END):
    return Schedule(name=name, start_val=start_val, end_val=end_val, start_step=start_step, end_step=end_step)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_is_worth_what_its_definition_says(name):
    for start_val, end_val in VALUES.values():
        for frame in WHEN.values():
            p = min(max((frame - START) / (END - START), 0.0), 1.0)
            expected = end_val + (start_val - end_val) * REMAINS[name](p)
            got = worth(schedule(name, start_val, end_val), frame)
            assert got.dtype == jnp.float32
            assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-5), (frame, start_val, end_val)


@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_both_ends_are_exact_and_zero_is_zero(name, compiled):
    now = worth if compiled else value
    for start_val, end_val in VALUES.values():
        made = schedule(name, start_val, end_val)
        for frame in (0, 100):
            assert np.float32(now(made, frame)) == np.float32(start_val)
        for frame in (300, 301, 2**31 - 1):
            assert np.float32(now(made, frame)) == np.float32(end_val)


@pytest.mark.parametrize("name", ["linear_decay", "rate_decay"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_a_decay_moves_one_way_and_stays_between_its_ends(name, values):
    path = np.asarray(jax.jit(jax.vmap(lambda f: value(schedule(name, *values), f)))(jnp.arange(0, 400)))
    steps = np.diff(path) * np.sign(values[1] - values[0])
    assert (steps >= -1e-6).all()
    assert (steps[100:300] > 0).mean() > 0.99
    assert path.min() >= np.float32(min(values))
    assert path.max() <= np.float32(max(values))


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(DECAYS),
    *[st.floats(-100, 100, width=32, allow_subnormal=False)] * 2,  # XLA takes them for 0
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 2 * 10**6),
)
@example("rate_decay", 1.0, 0.0, 0, 100, 100)
def test_no_schedule_leaves_its_two_values(name, start_val, end_val, start, length, frame):
    got = float(worth(schedule(name, start_val, end_val, float(start), float(start + length)), frame))
    slack = 1e-5 * max(abs(start_val), abs(end_val)) + 1e-37  # below the smallest float32 lies 0
    assert min(start_val, end_val) - slack <= got <= max(start_val, end_val) + slack
    if frame >= start + length:
        assert np.float32(got) == np.float32(end_val)
    elif frame <= start:
        assert np.float32(got) == np.float32(start_val)


@pytest.mark.parametrize("name", NAMES)
def test_without_an_end_value_nothing_changes(name):
    for frame in WHEN.values():
        assert float(value(schedule(name, 0.3, None), frame)) == np.float32(0.3)


@pytest.mark.parametrize("name", DECAYS)
def test_an_empty_interval_is_a_step(name):
    for end_step in (100.0, 50.0, 0.0):
        got = [float(worth(schedule(name, 1.0, 0.25, 100.0, end_step), f)) for f in (0, 99, 100, 101, 10**6)]
        assert got == [1.0, 1.0, 0.25, 0.25, 0.25]
    assert float(value(Schedule(start_val=1.0, end_val=0.5), 0)) == 0.5  # no interval at all: it is over from the start


@pytest.mark.parametrize("name", DECAYS)
def test_a_decay_that_goes_nowhere_is_refused_when_it_is_checked(name):
    for start_step, end_step in ((0.0, 0.0), (100.0, 100.0), (100.0, 50.0)):
        with pytest.raises(ValueError, match=f"expected an end_step after start_step {start_step:g}, got {end_step:g}"):
            schedule(name, 1.0, 0.0, start_step, end_step).check()
    with pytest.raises(ValueError, match=f"expected an end_val .*{name}"):
        schedule(name, 1.0, None).check()
    schedule(name, 1.0, 0.0).check()
    schedule("no_decay", 1.0, None, 100.0, 0.0).check()


@pytest.mark.parametrize("name", registry.names("algorithm"))
def test_a_learning_rate_that_would_be_zero_from_the_start_does_not_load(name):
    lr = {"name": "linear_decay", "start_val": 1e-3, "end_val": 0}
    spec = {"agent": {"algorithm": {"name": name}}, "env": {"name": "CartPole-v1", "max_frame": 2000}}
    defaults = jax.tree.leaves(load_spec(spec).hp, is_leaf=lambda x: isinstance(x, Schedule))
    for default in (x for x in defaults if isinstance(x, Schedule)):
        default.check()
    spec["agent"]["net"] = {"optim_spec": {"lr": lr}}
    with pytest.raises(
        SpecError, match=r"^agent\.net\.optim_spec\.lr: expected an end_step after start_step 0, got 0$"
    ):
        load_spec(spec)
    spec["agent"]["net"] = {"optim_spec": {"lr": lr | {"end_step": 2000}}}
    assert float(value(load_spec(spec).hp.net.optim_spec.lr, 1000)) == pytest.approx(5e-4)


@pytest.mark.parametrize("low", ["optim_spec.lr", "critic_optim_spec.lr", "entropy_coef_spec"])
def test_rates_and_coefficients_below_zero_do_not_load(low):
    path = "agent.algorithm.entropy_coef_spec" if low == "entropy_coef_spec" else f"agent.net.{low}"
    spec = {"agent": {"algorithm": {"name": "PPO"}}, "env": {"name": "CartPole-v1", "max_frame": 2000}}
    rising, falling = "{start_val: -1, end_val: 1, end_step: 9}", "{start_val: 1, end_val: -1, end_step: 9}"
    for written, place in (("-1e-3", ""), (rising, ".start_val"), (falling, ".end_val")):
        with pytest.raises(SpecError) as error:
            load_spec(spec, overrides=[f"{path}={written}"])
        assert error.value.path == path + place
        assert "a number >= 0" in str(error.value)
    load_spec(spec, overrides=[f"{path}=0"])


# ---------------------------------------------------------------------------------------- what SLM Lab's schedules did


def slm_linear(start_val, end_val, start_step, end_step, frame):
    """SLM Lab's `linear_decay` (defect D4): no `end_val` of 0, no increase."""
    if not end_val:
        end_val = start_val
    slope = (end_val - start_val) / (end_step - start_step)
    return max(start_val + slope * max(frame - start_step, 0), end_val)


def slm_periodic(start_val, end_val, start_step, end_step, frame, frequency=60.0):
    """SLM Lab's `periodic_decay` (defect D5): multiplies by `end_val`."""
    x_freq = frequency
    step_per_decay = (end_step - start_step) / x_freq
    x = (frame - start_step) / step_per_decay
    unit = start_val - end_val
    return max(end_val * 0.5 * unit * (1 + math.cos(x) * (1 - x / x_freq)), end_val)


@pytest.mark.parametrize(("start_val", "end_val"), [(0.01, 0.0), (1.0, 0.0), (0.128, 0.2)])
def test_d4_decay_to_zero_and_increase_are_decays(start_val, end_val):
    ours = [float(worth(schedule("linear_decay", start_val, end_val), f)) for f in (100, 200, 300)]
    theirs = [slm_linear(start_val, end_val, START, END, f) for f in (100, 200, 300)]
    assert ours == pytest.approx([start_val, (start_val + end_val) / 2, end_val], abs=1e-6)
    assert len(set(theirs)) == 1  # SLM Lab's never moves


def test_d5_periodic_decay_oscillates():
    frames = np.linspace(START, END, 201)
    ours = np.array(
        [float(x) for x in jax.jit(jax.vmap(lambda f: value(schedule("periodic_decay", 1.0, 0.1), f)))(frames)]
    )
    theirs = [slm_periodic(1.0, 0.1, START, END, f) for f in frames]
    assert len(set(theirs)) == 1  # SLM Lab's is end_val throughout
    peaks = [i for i in range(1, 200) if ours[i - 1] < ours[i] > ours[i + 1]]
    assert len(peaks) == 5  # beside the start: five oscillations
    assert (np.diff(ours[[0, *peaks]]) < -0.05).all()  # and each is lower than the one before
    np.testing.assert_allclose(ours[20::40], 0.1, atol=1e-5)  # between them it touches end_val


def test_rate_decay_is_geometric():
    made = schedule("rate_decay", 1.0, 0.0, 0.0, 1000.0)
    correction = 0.9**20 / 20  # what the shift that makes it arrive at end_val takes away in one of the 20 parts
    for part in range(19):
        here, after = (float(worth(made, 50.0 * k)) + correction * k for k in (part, part + 1))
        assert after / here == pytest.approx(0.9, rel=1e-4)


# ------------------------------------------------------------------------------------------------- schedules inside hp


@hyper
class Keys:
    gamma: float = key(default=0.99, doc="discount")
    explore: float | Schedule = key(default=Schedule(start_val=1.0, end_val=0.0, end_step=100.0), doc="epsilon")
    entropy: float | Schedule = key(default=0.01, doc="entropy")
    horizon: int = key(default=8, doc="T")


def nested(lr=1e-3):
    rate = Schedule(start_val=lr, end_val=0.0, end_step=200.0)
    return HP(Keys(), (), MLPNet(optim_spec=OptimSpec(lr=rate), critic_optim_spec=OptimSpec(lr=0.5)))


def test_at_replaces_every_schedule_and_nothing_else():
    now = at(nested(), 50)
    assert not [x for x in jax.tree.leaves(now, is_leaf=lambda x: isinstance(x, Schedule)) if isinstance(x, Schedule)]
    assert now.frame == 50
    assert float(now.algorithm.explore) == pytest.approx(0.5)
    assert float(now.net.optim_spec.lr) == pytest.approx(0.75e-3)
    assert (now.algorithm.gamma, now.algorithm.entropy, now.algorithm.horizon) == (0.99, 0.01, 8)
    assert now.net.critic_optim_spec.lr == 0.5
    assert now.net.hid_layers == (64, 64)


def test_at_moves_with_the_frame_inside_one_program():
    run = jax.jit(lambda frame: (at(nested(), frame).algorithm.explore, at(nested(), frame).frame))
    for frame, expected in ((0, 1.0), (25, 0.75), (100, 0.0), (10**9, 0.0)):
        explore, seen = run(jnp.int32(frame))
        assert (float(explore), int(seen)) == (pytest.approx(expected), frame)


def test_sessions_with_different_schedules_share_a_program():
    table = [(1.0, 0.1, 0.0, 100.0), (0.5, 0.9, 50.0, 150.0), (1.0, 0.0, 10.0, 10.0)]
    stacked = jax.tree.map(
        lambda *x: jnp.stack([jnp.float32(v) for v in x]), *[schedule("linear_decay", *row) for row in table]
    )
    together = jax.jit(jax.vmap(value, (0, None)))
    for frame in (0, 10, 60, 100, 10**6):
        alone = [float(value(schedule("linear_decay", *row), frame)) for row in table]
        np.testing.assert_allclose(together(stacked, frame), alone, rtol=1e-6, atol=1e-7)
    assert together._cache_size() == 1


# ------------------------------------------------------------------------------------------------------------- optax's

ARGUMENTS = {
    "constant_schedule": {"value": 0.3},
    "cosine_decay_schedule": {"init_value": 1.0, "decay_steps": 200, "alpha": 0.1},
    "cosine_onecycle_schedule": {"transition_steps": 300, "peak_value": 1.0},
    "exponential_decay": {"init_value": 1.0, "transition_steps": 100, "decay_rate": 0.5},
    "linear_onecycle_schedule": {"transition_steps": 300, "peak_value": 1.0},
    "linear_schedule": {"init_value": 1.0, "end_value": 0.0, "transition_steps": 200},
    "piecewise_constant_schedule": {"init_value": 1.0, "boundaries_and_scales": {"100": 0.5, "200": 0.1}},
    "piecewise_interpolate_schedule": {
        "interpolate_type": "linear",
        "init_value": 1.0,
        "boundaries_and_scales": {"100": 0.5, "200": 0.1},
    },
    "polynomial_schedule": {"init_value": 1.0, "end_value": 0.1, "power": 2, "transition_steps": 200},
    "sgdr_schedule": {
        "cosine_kwargs": [{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 50, "decay_steps": 200}] * 2
    },
    "warmup_constant_schedule": {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 100},
    "warmup_cosine_decay_schedule": {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 50, "decay_steps": 200},
    "warmup_exponential_decay_schedule": {
        "init_value": 0.0,
        "peak_value": 1.0,
        "warmup_steps": 50,
        "transition_steps": 100,
        "decay_rate": 0.5,
    },
}


def ppo_with(lr):
    agent = {"algorithm": {"name": "PPO"}, "net": {"optim_spec": {"lr": lr}}}
    return load_spec({"agent": agent, "env": {"name": "CartPole-v1", "max_frame": 2000}})


@pytest.mark.parametrize("name", OPTAX)
def test_every_schedule_of_optax_may_be_named(name):
    keys = dict(ARGUMENTS[name])
    hp = ppo_with({"name": name, "kwargs": keys}).hp
    assert hash(jax.tree.structure(hp)) == hash(jax.tree.structure(ppo_with({"name": name, "kwargs": keys}).hp))
    if "boundaries_and_scales" in keys:
        keys["boundaries_and_scales"] = {int(k): v for k, v in keys["boundaries_and_scales"].items()}
    theirs = getattr(optax, name)(**keys)
    frames = jnp.arange(0, 400, 25)
    ours = jax.jit(jax.vmap(lambda frame: at(hp, frame).net.optim_spec.lr))(frames)
    np.testing.assert_allclose(ours, [float(theirs(int(f))) for f in frames], atol=1e-6)
    assert name == "constant_schedule" or len(set(np.asarray(ours).tolist())) > 2


REFUSED = [
    ({"name": "cosine_decay_schedule", "kwargs": {"init_value": 1.0}}, "init_value, decay_steps, alpha=0.0"),
    ({"name": "cosine_decay_schedule", "kwargs": {"init_value": 1.0, "decay": 5}}, "decay_steps"),
    ({"name": "constant_schedule", "start_val": 1.0, "kwargs": {"value": 1.0}}, "kwargs .value. and nothing else"),
    ({"name": "linear_decay", "start_val": 1.0, "end_val": 0.0, "end_step": 9, "kwargs": {"a": 1}}, "optax alone"),
    ({"name": "linear_decay", "end_val": 0.0, "end_step": 9}, "missing required key 'start_val'"),
    ({"name": "cosine_decay", "start_val": 1.0}, "expected one of"),
]


@pytest.mark.parametrize(("lr", "said"), REFUSED)
def test_a_schedule_of_optax_that_cannot_be_built_does_not_load(lr, said):
    with pytest.raises(SpecError, match=said) as error:
        ppo_with(lr)
    assert error.value.path.startswith("agent.net.optim_spec.lr")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_moves_by_its_learning_rate_in_one_compiled_program(name):
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.full(4, 0.5)}
    gradient = jax.tree.map(lambda x: 0.1 * x, params)

    def move(lr):
        transformation = optimizer(OptimSpec(name=name, lr=lr))
        return descend(transformation, gradient, transformation.init(params), params)[0]["kernel"]

    slow, fast = jax.jit(jax.vmap(move))(jnp.array([1e-3, 1e-1]))
    assert np.isfinite(fast).all()
    assert 0.0 < np.abs(slow - 1.0).max() < np.abs(fast - 1.0).max()


def test_an_optimiser_takes_what_optax_lets_it_take():
    plain, ahead = (
        optimizer(OptimSpec(name="SGD", lr=0.1, momentum=0.9, kwargs=kwargs)) for kwargs in (None, {"nesterov": True})
    )
    one, other = (
        descend(x, {"w": jnp.ones(2)}, x.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})[0] for x in (plain, ahead)
    )
    np.testing.assert_allclose(one["w"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(other["w"], 1.0 - 0.1 * 1.9, rtol=1e-6)
    for kwargs, said in (({"nestrov": True}, "Did you mean 'nesterov'"), ({"momentum": 0.5}, "outside of `kwargs`")):
        with pytest.raises(SpecError, match=said) as error:
            optimizer(OptimSpec(name="SGD", kwargs=kwargs))
        assert error.value.path == f"agent.net.optim_spec.kwargs.{next(iter(kwargs))}"
