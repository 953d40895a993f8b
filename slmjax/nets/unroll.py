"""A network over time: a carry goes from step to step and starts afresh where an episode ended.

    x_t, carry = net.apply(params, obs_t, carry)
    carry = fresh where resets_t

exactly as a session acts (`session.py`). A network without a carry is applied to all steps at once.
"""

import jax

from slmjax.maths.arrays import where
from slmjax.types import Array, Net, PyTree


def unroll(net: Net, params: PyTree, obs: PyTree, carry: PyTree, resets: Array) -> tuple[tuple[Array, ...], PyTree]:
    """Outputs `[T, E, ...]` at `obs [T, E, ...]`, and the carry `[E, ...]` to go on with.

    Args:
        net: the network.
        params: its parameters.
        obs: what was seen, in the order of time.
        carry: that of the first step; `()` for feed-forward nets.
        resets: `[T, E]`; an episode ended with the step, so the next one starts with a fresh carry.
    """
    outputs, _, carry = steps(net, params, obs, carry, resets)
    return outputs, carry


def unroll_transitions(
    net: Net, params: PyTree, obs: PyTree, final_obs: PyTree, carry: PyTree, resets: Array
) -> tuple[tuple[Array, ...], tuple[Array, ...], PyTree]:
    """As `unroll`, and the outputs `[T, E, ...]` at the true successors `final_obs [T, E, ...]` of each step.

    A successor is seen with the carry that its step left, before any reset: what to bootstrap from at every step, also
    where an episode was truncated.
    """
    outputs, reached, carry = steps(net, params, obs, carry, resets)
    if not jax.tree.leaves(carry):
        return outputs, net.apply(params, final_obs, ())[0], carry
    successors, _ = jax.vmap(net.apply, (None, 0, 0))(params, final_obs, reached)
    return outputs, successors, carry


def steps(
    net: Net, params: PyTree, obs: PyTree, carry: PyTree, resets: Array
) -> tuple[tuple[Array, ...], PyTree, PyTree]:
    """Outputs, the carry that each step left `[T, E, ...]`, and the carry to go on with."""
    if not jax.tree.leaves(carry):
        return net.apply(params, obs, ())[0], carry, carry
    if net.unroll is not None:
        return net.unroll(params, obs, carry, resets)
    fresh = net.carry(resets.shape[1])

    def step(carry: PyTree, now: tuple[PyTree, Array]) -> tuple[PyTree, tuple[tuple[Array, ...], PyTree]]:
        obs, resets = now
        outputs, reached = net.apply(params, obs, carry)
        return where(resets, fresh, reached), (outputs, reached)

    carry, (outputs, reached) = jax.lax.scan(step, carry, (obs, resets))
    return outputs, reached, carry
