"""One session as a pure program: act, step, update, evaluate.

    segment:  rows of iterations;  iteration:  collect a rollout [T, E], then absorb it

Nothing here knows an algorithm, a device or a file. The `Session` pytree holds everything, so saving it is a complete
checkpoint and loading it an exact resume. Time is one number for the whole population, `frame`, which never becomes
part of the state: under `vmap` it stays unbatched, and what depends on it (schedules, where a ring is written, when a
target follows) stays cheap.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slmjax import schedules
from slmjax.keys import root_key
from slmjax.maths.arrays import where
from slmjax.play import evaluation_key, play
from slmjax.stats import WINDOW, EpisodeStats, Tally, begin, count, newest_mean, no_episode
from slmjax.types import HP, Agent, AgentState, Array, Key, PyTree, Rollout, SpecError, VectorEnv

MAX_ROWS = 1000  # log rows that one call of `segment` can return

# What every log row says, of the session itself or of the clock: names that no metric of an algorithm may have.
COLUMNS = frozenset(
    "session frame wall_t fps opt_step total_reward total_reward_ma epi episodes mean_return mean_length "
    "final_episodes final_return updates failed eval_reward eval_reward_std".split()
)

_INIT, _TRAIN = 0, 1  # what a session's key is folded with, one number a use; `play` has the third


class Best(NamedTuple):
    """The policy at the end of the row with the highest `total_reward` over a full window, and that score.

    Until a window is full, the policy is that of the last row and the score `-inf`.
    """

    score: Array
    policy: PyTree


class OpenRow(NamedTuple):
    """The log row under way.

    Attributes:
        sums: each metric summed over the updates of the row.
        updates: how many there were.
        ended: the episodes that have ended in it.
    """

    sums: dict[str, Array]
    updates: Array
    ended: Tally


class Session(NamedTuple):
    """One agent learning in one set of `E` environments from one seed: the complete state.

    Attributes:
        key: root of this session's randomness; never changes.
        agent: what the agent knows.
        env: state of the environments.
        obs: what to act on next, `[E, ...]`.
        carry: recurrent carry, `[E, ...]` or `()`.
        stats: episode returns.
        best: the best policy so far.
        row: the log row under way.
        failed: frame at the end of the row in which something became NaN or infinite; -1 while all is well. From then
            on only `best` can be used, and stays as it is.
    """

    key: Key
    agent: AgentState
    env: PyTree
    obs: PyTree
    carry: PyTree
    stats: EpisodeStats
    best: Best
    row: OpenRow
    failed: Array


class Program(NamedTuple):
    """The pure functions of a session, to `jit` and `vmap` at will.

    Attributes:
        init: `(key, hp) -> Session`. Raises `SpecError` where a metric of the agent has the name of one of `COLUMNS`.
        segment: `(session, hp, frame, stop, close=True, late=0) -> (session, rows)`: continues from `frame` to `stop`,
            both multiples of `iteration_frames`, at most `MAX_ROWS` rows apart. A row ends at every multiple of
            `row_frames`, and at `stop` if `close`; else it stays open for the next segment. `rows` holds, for each
            row that ended and in their order, `total_reward` (of the last `WINDOW` episodes), `epi` (all that have
            ended), `episodes`, `mean_return` and `mean_length` of those that ended in the row, `final_episodes` and
            `final_return` of those that have ended since frame `late` (means are 0 where there is no episode),
            `updates`, `failed`, and the mean of each metric over the updates of the row: arrays `[MAX_ROWS]`. `frame`,
            `stop`, `close` and `late` are data: segments of all lengths are one program.
        evaluate: `(session, hp, frame) -> returns [episodes]` of greedy episodes from fresh environments with
            learning and exploration off; those of the best policy where the session has failed.
        iteration_frames: frames of one iteration, `T x E`.
        row_frames: frames of one log row.
        opt_steps: gradient steps of one iteration.
        warmup_iterations: iterations that are observed, not learned from.
    """

    init: Callable[[Key, HP], Session]
    segment: Callable[..., tuple[Session, dict[str, Array]]]
    evaluate: Callable[[Session, HP, Array], Array]
    iteration_frames: int
    row_frames: int
    opt_steps: int
    warmup_iterations: int


def session_key(seed: int, trial: int, session: int) -> Key:
    """The root key of a session: adding sessions or trials changes no other session's key."""
    return jax.random.fold_in(jax.random.fold_in(root_key(seed), trial), session)


class _Parts(NamedTuple):
    """What the functions of a program close over: all of it static."""

    agent: Agent
    env: VectorEnv
    iteration_frames: int
    row_frames: int
    warmup: int  # iterations


def make_program(agent: Agent, env: VectorEnv, eval_env: VectorEnv, log_frequency: int) -> Program:
    """The program of sessions that run `agent` in `env` and evaluate in `eval_env` (one episode an environment).

    A log row is `log_frequency` frames, rounded up to whole iterations.
    """
    size = agent.horizon * env.num_envs
    parts = _Parts(agent, env, size, -(-log_frequency // size) * size, -(-agent.warmup // size))
    return Program(
        init=partial(_init, parts),
        segment=partial(_segment, parts),
        evaluate=partial(_evaluate, agent, eval_env),
        iteration_frames=size,
        row_frames=parts.row_frames,
        opt_steps=agent.opt_steps,
        warmup_iterations=parts.warmup,
    )


def _init(parts: _Parts, key: Key, hp: HP) -> Session:
    agent, env = parts.agent, parts.env
    agent_key, env_key = jax.random.split(jax.random.fold_in(key, _INIT))
    state = agent.init(agent_key, schedules.at(hp, jnp.zeros((), jnp.int32)))
    env_state, obs = env.reset(env_key)
    # The session's buffers are donated, and none can be donated twice: hence the copy.
    best = Best(jnp.full((), -jnp.inf), jax.tree.map(jnp.copy, state.policy))
    row = OpenRow({}, jnp.zeros((), jnp.int32), no_episode())
    failed = jnp.full((), -1, jnp.int32)
    session = Session(key, state, env_state, obs, agent.carry(env.num_envs), begin(env.num_envs), best, row, failed)

    def metrics(session: Session) -> dict[str, Array]:
        now = schedules.at(hp, jnp.int32(0))
        rollout = collect(agent, env, session, now, key)[1]
        return agent.update(session.agent, rollout, key, now)[1] | schedules.columns(hp, now)

    shapes = jax.eval_shape(metrics, session)
    if taken := sorted(COLUMNS & shapes.keys()):
        fault = f"update returns a metric {taken[0]!r}, which every log row holds already: it needs another name."
        raise SpecError(fault, "agent.algorithm.name")
    row = row._replace(sums={n: jnp.zeros(x.shape, jnp.result_type(x, jnp.float32)) for n, x in shapes.items()})
    # A weak type would become a strong one in the first segment, and the second would be compiled again.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), session._replace(row=row))


def _segment(
    parts: _Parts,
    session: Session,
    hp: HP,
    frame: Array,
    stop: Array,
    close: Array | bool = True,
    late: Array | int = 0,
) -> tuple[Session, dict[str, Array]]:
    row_frames, size = parts.row_frames, parts.iteration_frames
    first, count = frame // row_frames, -(-stop // row_frames) - frame // row_frames
    shapes = jax.eval_shape(lambda s: _close_row(s, frame)[1], session)
    rows = jax.tree.map(lambda x: jnp.zeros((MAX_ROWS, *x.shape), x.dtype), shapes)

    def step(i: Array, carry: tuple[Session, dict]) -> tuple[Session, dict]:
        start = jnp.maximum(frame, (first + i) * row_frames)
        end = jnp.minimum(stop, (first + i + 1) * row_frames)
        session = _advance(parts, carry[0], hp, start, (end - start) // size, late)
        # `closed` is unbatched, so `vmap` keeps the branch; only what changes goes through it.
        closed = (end % row_frames == 0) | close
        open_ = (session.best, session.row, session.failed)
        kept, values = jax.lax.cond(closed, lambda: _close_row(session, end), lambda: (open_, zeros))
        best, row, failed = kept
        session = session._replace(best=best, row=row, failed=failed)
        return session, jax.tree.map(lambda all_, x: all_.at[i].set(x), carry[1], values)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, count, step, (session, rows))


def _advance(parts: _Parts, session: Session, hp: HP, start: Array, iterations: Array, late: Array | int) -> Session:
    """Iterations from the frame `start`: first those that are only observed, then those that are learned from."""
    agent, env, size = parts.agent, parts.env, parts.iteration_frames
    key = jax.random.fold_in(session.key, _TRAIN)
    warm = jnp.clip(parts.warmup - start // size, 0, iterations)

    def iterate(i: Array, session: Session, learn: bool) -> Session:
        frame = start + i * size
        collect_key, update_key = jax.random.split(jax.random.fold_in(key, frame))
        now = schedules.at(hp, frame)
        session, rollout, returns = collect(agent, env, session, now, collect_key)
        scheduled = schedules.columns(hp, now)
        return absorb(agent, session, rollout, returns, update_key, now, scheduled, learn=learn, late=frame >= late)

    if parts.warmup:
        session = jax.lax.fori_loop(0, warm, partial(iterate, learn=False), session)
    return jax.lax.fori_loop(warm, iterations, partial(iterate, learn=True), session)


def collect(agent: Agent, env: VectorEnv, session: Session, hp: HP, key: Key) -> tuple[Session, Rollout, Array]:
    """The first half of an iteration: `T` steps of the session's environments, by `hp` with numbers for schedules.

    Returns:
        The session after them (its environments, observation, carry and running returns), the rollout, and the return
        of the episode under way after each step `[T, E]`.
    """
    fresh = agent.carry(env.num_envs)

    def step(now: tuple, keys: Key) -> tuple[tuple, tuple[Rollout, Array]]:
        env_state, obs, carry, running = now
        act_key, env_key = keys
        action, carry, extras = agent.act(session.agent.policy, obs, carry, act_key, hp, False)
        env_state, out = env.step(env_key, env_state, action)
        carry = where(out.resets, fresh, carry)
        running = running + jnp.where(out.valid, out.reward, 0.0)
        seen = Rollout(obs, action, out.reward, out.terminated, out.truncated, out.final_obs, out.valid, extras)
        return (env_state, out.obs, carry, jnp.where(out.ended, 0.0, running)), (seen, running)

    start = (session.env, session.obs, session.carry, session.stats.running)
    keys = jax.vmap(jax.random.split)(jax.random.split(key, agent.horizon))
    (env_state, obs, carry, running), (rollout, returns) = jax.lax.scan(step, start, keys)
    if env.always_valid:  # a constant, which costs nothing where it is used
        rollout = rollout._replace(valid=jnp.ones_like(rollout.valid))
    stats = session.stats._replace(running=running)
    after = session._replace(env=env_state, obs=obs, carry=carry, stats=stats)
    return after, rollout._replace(carry=session.carry), returns


def absorb(
    agent: Agent,
    session: Session,
    rollout: Rollout,
    returns: Array,
    key: Key,
    hp: HP,
    scheduled: dict[str, Array],
    *,
    learn: bool,
    late: Array,
) -> Session:
    """The second half of an iteration: statistics of a rollout, and what the agent makes of it.

    Args:
        agent: learns and logs, or only observes, as `learn` says.
        session: as `collect` left it.
        rollout: `[T, E, ...]`.
        returns: of the episode under way after each step, `[T, E]`.
        key: of this iteration.
        hp: hyperparameters with numbers for schedules, at the frame at which the rollout began.
        scheduled: what schedules are worth then, by the names of their columns.
        learn: see above.
        late: whether episodes that end in the rollout are final ones.
    """
    stats, ended = count(session.stats, session.row.ended, rollout, returns, late)
    row = session.row._replace(ended=ended)
    if learn:
        state, metrics = agent.update(session.agent, rollout, key, hp)
        sums = jax.tree.map(jnp.add, row.sums, metrics | scheduled)
        row = row._replace(sums=sums, updates=row.updates + 1)
    else:
        state = agent.observe(session.agent, rollout, key, hp)
    return session._replace(agent=state, stats=stats, row=row)


def _close_row(session: Session, frame: Array) -> tuple[tuple[Best, OpenRow, Array], dict[str, Array]]:
    """Ends a log row at `frame`: the best policy, a new row and `failed`, and what the old row says.

    A session in which something is no longer finite is marked. What is not of the policy shows in the metrics: a loss
    and a gradient are functions of it. A row may be one iteration, so this must be cheap.
    """
    stats, best, row, policy = session.stats, session.best, session.row, session.agent.policy
    reward = newest_mean(stats)
    score = jnp.where(stats.finished >= WINDOW, reward, -jnp.inf)
    fine = _all_finite((policy, stats, row.sums)) & (session.failed < 0)
    better = fine & (score >= best.score)
    best = where(better, Best(score, policy), best)
    failed = jnp.where(fine | (session.failed >= 0), session.failed, frame)
    # Where there is nothing to average the driver writes NaN; a NaN made here would trip `jax_debug_nans`.
    means = jax.tree.map(lambda x: x / jnp.maximum(row.updates, 1), row.sums)
    values = {"total_reward": reward, "epi": stats.finished, "updates": row.updates, "failed": failed}
    values |= row.ended._asdict() | {"final_episodes": stats.late.episodes, "final_return": stats.late.mean_return}
    return (best, jax.tree.map(jnp.zeros_like, row), failed), values | means


def _all_finite(tree: PyTree) -> Array:
    values = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in values]))


def _evaluate(agent: Agent, env: VectorEnv, session: Session, hp: HP, frame: Array) -> Array:
    policy = where(session.failed < 0, session.agent.policy, session.best.policy)
    return play(agent, env, policy, hp, frame, evaluation_key(session.key, frame))
