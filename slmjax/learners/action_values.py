"""Acting by the values of discrete actions: the keys of every method that does, and how it explores."""

from collections.abc import Callable
from typing import Any

from slmjax.nets.action_values import ActionValues
from slmjax.policies.exploration import POLICIES, greedy_action
from slmjax.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Array, Key, PyTree


@hyper
class ActionValueKeys:
    """Keys of every method that acts by the values of discrete actions."""

    name: str = key(doc="name of the algorithm")
    action_pdtype: str = key(default="Argmax", doc="distribution over actions", choices=("default", "Argmax"))
    action_policy: str = key(
        default="epsilon_greedy", doc="how it is explored; default: greedy", choices=tuple(POLICIES)
    )
    explore_var_spec: float | Schedule = key(
        default=Schedule(start_val=1.0, end_val=0.05, end_step=10_000.0),
        doc="epsilon (at most 1), or the temperature of boltzmann",
        low=0,
    )
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)

    def check(self) -> None:
        """Refuses an epsilon above 1. Called by the loader, where every number is known.

        Raises:
            ValueError: `explore_var_spec` is no probability where it is epsilon.
        """
        spec = self.explore_var_spec
        values = (spec.start_val, spec.end_val) if isinstance(spec, Schedule) else (spec,)
        most = max((x for x in values if x is not None), default=0.0)
        if self.action_policy == "epsilon_greedy" and most > 1:
            raise ValueError(f"expected an explore_var_spec of at most 1, for it is epsilon, got {most:.12g}")


def explore(q: Array, rng: Key, hp: HP) -> Array:
    """Actions `[E]` by values `[E, A]`, explored as the spec says."""
    return POLICIES[hp.algorithm.action_policy](q, hp.algorithm.explore_var_spec, rng)


def act_by_values(
    net: ActionValues, mask: Callable[[Array, PyTree], Array], q: Callable[[Array, HP], Array]
) -> Callable[..., Any]:
    """`Agent.act` of a network whose outputs `[E, A, N]` mean `q(output, hp) [E, A]`, of which `mask` forbids some."""

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        output, carry = net.step(params, obs, carry)
        values = mask(q(output, hp), obs)
        return (greedy_action(values) if greedy else explore(values, rng, hp)), carry, ()

    return act
