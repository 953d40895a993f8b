"""Windows of consecutive steps for recurrent networks (Hausknecht & Stone 2015; burn-in: Kapturowski et al. 2019).

A window is `burn_in + seq_len` steps of one environment. It never crosses the write head. An episode may end inside:
`reset` says where the recurrent carry must begin anew. What came before a window is not known, so it begins with a
fresh carry, and the first `burn_in` steps, of weight 0, only warm it up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.memory import replay
from slmjax.memory.replay import Replay, Transition
from slmjax.memory.view import boundary, make_view
from slmjax.types import Array, Key, PyTree, SpecError, Store, VectorEnv


class Sequence(NamedTuple):
    """Windows for a recurrent value method, `[L, B, ...]`, in rlax's grammar.

    Attributes:
        obs: `s_tm1`.
        action: `a_tm1`.
        r_t: reward of the step.
        discount_t: `gamma`, 0 where the step terminated.
        final_obs: `s_t`, the true successor: put it through the network with the carry that `obs` left behind.
        reset: the carry must be a fresh one before this step.
        weight: 1, or 0 for a step that must not be learned from.
        importance: as in `replay.Batch`.
    """

    obs: PyTree
    action: PyTree
    r_t: Array
    discount_t: Array
    final_obs: PyTree
    reset: Array
    weight: Array
    importance: Array | float = 1.0


def length(spec: Replay) -> int:
    """Steps of a window, `L`."""
    return spec.burn_in + spec.seq_len


def sample_starts(spec: Replay, rng: Key, batches: int, *, rows: int, num_envs: int, frame: Any) -> Array:
    """Rows of the first steps of windows, int32 `[batches, batch_size]`, uniform over all complete windows.

    While none is complete the oldest rows are drawn; `gather` gives the steps beyond the write head no weight.
    """
    written = jnp.minimum(frame, replay.whole(spec, rows, num_envs, frame))
    complete = replay.lag(spec, num_envs) + (length(spec) - 1) * num_envs
    youngest = jnp.minimum(complete, written - num_envs)
    age = jax.random.randint(rng, (batches, spec.batch_size), youngest, written, jnp.int32)
    return (frame - 1 - age) % rows


def make(spec: Replay, env: VectorEnv, rollout_size: int) -> Store:
    """A ring for one agent with a recurrent network: `gather` gives a `Sequence`.

    Raises:
        SpecError: see `replay.make`; a ring that cannot hold a window; n-step returns or combined replay of windows.
    """
    if spec.num_step_returns > 1:
        raise SpecError(f"expected 1 with sequences, got {spec.num_step_returns}.", "agent.memory.num_step_returns")
    if spec.use_cer:
        raise SpecError("expected false with sequences, got true.", "agent.memory.use_cer")
    store, num_envs = replay.ring_store(spec, env, rollout_size), env.num_envs
    rows, view = store.capacity, make_view(spec, env.observation_space)
    most = (rows - replay.lag(spec, num_envs)) // num_envs - spec.stack_len + 1 - spec.burn_in
    if spec.seq_len > most:
        raise SpecError(
            f"expected at most {most} in a memory of {rows} transitions ({num_envs} environments, burn_in "
            f"{spec.burn_in}), got {spec.seq_len}.",
            "agent.memory.seq_len",
        )

    def sample(spec: Replay, ring: Transition, rng: Key, batches: int, frame: Any) -> Array:
        del ring
        return sample_starts(spec, rng, batches, rows=rows, num_envs=num_envs, frame=frame)

    def gather(spec: Replay, ring: Transition, start: Array, gamma: Any, frame: Any) -> Sequence:
        steps = jnp.arange(length(spec))[:, None]
        index = (start + steps * num_envs) % rows
        step = replay.gather_shown(spec, view, ring, index, gamma, num_envs=num_envs, frame=frame)
        reset = jnp.concatenate([jnp.ones_like(start[None], bool), boundary(ring, index[:-1])])
        written = (frame - 1 - start) % rows - steps * num_envs >= 0
        weight = step.weight * (written & (steps >= spec.burn_in))
        return Sequence(step.obs, step.action, step.r_t, step.discount_t, step.final_obs, reset, weight)

    return store._replace(sample=sample, gather=gather)
