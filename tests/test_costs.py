"""A change that makes a program do more is seen without a clock: `tests/costs.py` says what is counted and why."""

from functools import cache

import costs
import jax
import jax.numpy as jnp
import pytest

from slmjax.nets import layers

TABLE = costs.read()
traced = cache(costs.traced)
OTHER_JAX = pytest.mark.skipif(
    jax.__version__ != TABLE["jax"],
    reason=f"the table is of jax {TABLE['jax']}: another one makes other operations of the same program",
)


def test_the_table_has_a_row_for_every_algorithm_and_no_other():
    assert sorted(TABLE["costs"]) == costs.cases(), "python tests/costs.py writes it anew"


@pytest.mark.parametrize("case", costs.cases())
def test_no_weight_gradient_sums_over_two_axes(case):
    assert not costs.slow_products(traced(case))


@OTHER_JAX
@pytest.mark.parametrize("case", costs.cases())
def test_a_program_costs_what_the_table_says(case):
    changed = costs.beyond(costs.costs(traced(case)), TABLE["costs"][case])
    assert not changed, f"{'; '.join(changed)}. If that is as it should be: python tests/costs.py {case!r}"


def as_it_was(x, kernel):
    """`layers.product` of commits up to b00ecd5: leading axes as they come."""
    return x @ kernel if kernel.shape[-1] > layers.NARROW else jnp.stack([x @ column for column in kernel.T], -1)


@pytest.mark.parametrize("case", ["PPO", "ActorCritic, Box", "PPO, RecurrentNet", "SIL"])
def test_the_shape_that_once_cost_a_third_of_the_speed_is_seen(case, monkeypatch):
    monkeypatch.setattr(layers, "product", as_it_was)
    assert costs.slow_products(costs.traced(case))


@OTHER_JAX
def test_its_cost_is_seen(monkeypatch):
    monkeypatch.setattr(layers, "product", as_it_was)
    assert costs.beyond(costs.costs(costs.traced("PPO")), TABLE["costs"]["PPO"])


@pytest.mark.parametrize(("row", "seen"), [(105, False), (106, True), (95, False), (94, True)])
def test_five_percent_either_way_are_seen(row, seen):
    assert bool(costs.beyond({"bytes": row}, {"bytes": 100})) is seen


def test_one_more_copy_where_there_was_none_is_seen():
    assert costs.beyond({"copy": 1}, {"copy": 0})
