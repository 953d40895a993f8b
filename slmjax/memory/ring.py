"""A flat ring of transitions that stores each observation once, written by slices and read by one index.

The ring is a pytree of arrays and nothing else. Where to write follows from the frame, which is one number for the
whole population, so under `vmap` a write stays a slice (a head kept in the state would turn it into a scatter, and a
ring of `[T, E, ...]` is copied whole by XLA in every iteration).

Row `i` holds frame `i` (modulo the capacity): the transitions of one step of `E` environments lie side by side, and
the next transition of the same environment lies `E` rows further. Its observation is the successor of row `i`, but
for two kinds of rows. Their successors lie aside, behind the rows and in the same array, so that a successor is read
by one index wherever it is:

    obs   rows 0 .. rows - 1       the observations that were acted on
          E entries                the successors of the newest step, for no row holds them yet
          blocks x E entries       the successors of truncated rows, after which another episode begins

Steps are counted in blocks of `L`, and an environment has one entry for all steps of a block: a slice again, and no
pointer in any row. A second truncation of one environment within `L` steps takes the entry; `owner` says whose it is,
and the row that lost it is not learned from. `L` is at most `BLOCK` and at most the environment's time limit, so a
limit alone never costs a row. After a terminated row nothing is worth anything: its own observation stands for its
successor, for what lies further may be invented, and what is multiplied by 0 must be finite.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slmjax.types import Array, PyTree, Rollout, VectorEnv, narrow

BLOCK = 16  # longest block: 1/16 of the rows is little memory, and episodes cut after fewer steps are rare


class Ring(NamedTuple):
    """Transitions `[rows, ...]`, or an example of one of them.

    Attributes:
        obs: `[rows + E + blocks x E, ...]`, or `[rows, ...]` where nothing is laid aside.
        action: as it was played.
        reward: what is learned from.
        terminated: see `Step`.
        truncated: see `Step`.
        valid: see `Step`; False for rows never written.
        owner: the step within its block that each entry for truncated rows belongs to, `[blocks, E]`; `()` where
            nothing is laid aside.
    """

    obs: PyTree
    action: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    valid: Array
    owner: Any = ()

    def resets(self, index: Array) -> Array:
        """Where the next row of the environment belongs to another episode, at rows `index [...]`.

        A row that a suite invented to reset itself belongs to none, and a row never written is such a row.
        """
        return self.terminated[index] | self.truncated[index] | ~self.valid[index]


def example(env: VectorEnv) -> Ring:
    """One transition of an environment, in the narrowest dtypes that hold it exactly (`spaces.narrow`)."""
    flag = jnp.zeros((), bool)
    return Ring(narrow(env.observation_space), narrow(env.action_space), jnp.zeros(()), flag, flag, flag)


def init(example: Ring, rows: int, *, num_envs: int = 0, max_steps: int | None = None) -> Ring:
    """An empty ring for transitions shaped like `example`, in its dtypes.

    Args:
        example: one transition.
        rows: capacity, a multiple of `num_envs`.
        num_envs: `E`; 0 keeps no successors aside.
        max_steps: no episode is truncated before it has so many steps; None where that is not known.
    """
    ring = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), example)
    if not num_envs:
        return ring
    blocks = -(-rows // num_envs // min(max_steps or BLOCK, BLOCK)) + 1  # rows begin and end within a block
    extent = rows + (1 + blocks) * num_envs
    obs = jax.tree.map(lambda x: jnp.zeros((extent, *x.shape), x.dtype), example.obs)
    return ring._replace(obs=obs, owner=jnp.zeros((blocks, num_envs), jnp.uint8))


def block_length(ring: Ring) -> int:
    """`L`, the steps of a block: all but one of the blocks cover the rows."""
    blocks, num_envs = ring.owner.shape
    return -(-ring.reward.shape[0] // num_envs // (blocks - 1))


def add(ring: Ring, rollout: Rollout, frame: Any) -> Ring:
    """The ring with a rollout `[T, E, ...]` that began at `frame` written over its oldest rows."""
    head = frame % ring.reward.shape[0]

    def put(old: Array, new: Array) -> Array:
        flat = new.reshape(-1, *new.shape[2:]).astype(old.dtype)
        return jax.lax.dynamic_update_slice_in_dim(old, flat, head, 0)

    fresh = {name: getattr(rollout, name) for name in Ring._fields[:-1]}
    written = ring._replace(**{name: jax.tree.map(put, getattr(ring, name), fresh[name]) for name in fresh})
    return written if isinstance(ring.owner, tuple) else lay_aside(written, rollout, frame)


def lay_aside(ring: Ring, rollout: Rollout, frame: Any) -> Ring:
    """The ring with the successors of a rollout's last step and of its truncated rows in their entries."""
    rows, (steps, num_envs) = ring.reward.shape[0], rollout.reward.shape
    blocks, length = ring.owner.shape[0], block_length(ring)
    first = frame // num_envs
    number, within = jnp.divmod(first + jnp.arange(steps), length)
    cut = rollout.truncated & rollout.valid

    def put(k: Any, kept: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        obs, owner = kept
        here = cut & (number == number[0] + k)[:, None]
        last = steps - 1 - jnp.argmax(here[::-1], 0)
        some, at = here.any(0), (number[0] + k) % blocks

        def entry(old: Array, new: Array, at: Any) -> Array:
            before = jax.lax.dynamic_slice_in_dim(old, at, num_envs)
            flag = some.reshape(-1, *[1] * (new.ndim - 1))
            return jax.lax.dynamic_update_slice_in_dim(old, jnp.where(flag, new.astype(old.dtype), before), at, 0)

        chosen = jax.tree.map(lambda x: x[last, jnp.arange(num_envs)], rollout.final_obs)
        obs = jax.tree.map(lambda old, new: entry(old, new, rows + (1 + at) * num_envs), obs, chosen)
        return obs, entry(owner.reshape(-1), within[last], at * num_envs).reshape(owner.shape)

    newest = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new[-1].astype(old.dtype), rows, 0)  # noqa: E731
    obs = jax.tree.map(newest, ring.obs, rollout.final_obs)
    # Rollouts begin at multiples of their length, so they lie within a block that such a multiple is.
    count = 1 if length % steps == 0 else (steps - 2) // length + 2
    obs, owner = jax.lax.fori_loop(0, count, put, (obs, ring.owner), unroll=count <= 2)
    return ring._replace(obs=obs, owner=owner)


def successor(ring: Ring, index: Array, frame: Any) -> tuple[Array, Array]:
    """`(where in obs the successors of rows index [...] lie, whether they still do)`.

    Args:
        ring: the ring.
        index: rows.
        frame: frames written so far.
    """
    rows, (blocks, num_envs) = ring.reward.shape[0], ring.owner.shape
    age, env = (frame - 1 - index) % rows, index % num_envs
    number, within = jnp.divmod((frame - 1 - age) // num_envs, block_length(ring))
    entry = number % blocks * num_envs + env
    truncated = ring.truncated[index]
    at = jnp.where(age < num_envs, rows + env, (index + num_envs) % rows)
    at = jnp.where(truncated, rows + num_envs + entry, at)
    at = jnp.where(ring.terminated[index], index, at)
    return at, ~truncated | (ring.owner.reshape(-1)[entry] == within)
