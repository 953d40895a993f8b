"""Training without files: a spec in, returns, tables and policies out."""

import dataclasses
import functools
import signal
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.lab import devices
from slmjax.lab.build import Trial, budget, check_spec, make_agent, make_trial
from slmjax.lab.history import History
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.progress import Progress, mean_return
from slmjax.lab.report import session_tables
from slmjax.lab.stop import StopRequest
from slmjax.policies import schedules
from slmjax.spec.errors import brief, fail
from slmjax.spec.sections import Spec
from slmjax.types import HP, Agent, Array, Key, PyTree

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """What one session learned: call it with observations `[E, ...]` to get actions `[E, ...]`.

    The first call compiles, once for all policies of a `Result`. It may be part of what you `jit` and `vmap`.

    Attributes:
        label: whose it is, for people.
        agent: the pure functions it came from.
        state: what it acts by, `AgentState.policy`.
        hp: hyperparameters at the end of training.
    """

    label: str
    agent: Agent
    state: PyTree
    hp: HP

    def __repr__(self) -> str:
        return f"Policy({self.label})"

    def __call__(self, obs: PyTree, key: Key | None = None) -> PyTree:
        """Greedy actions; with a key, actions as in training (sampled, exploring)."""
        return _act(self.agent, self.state, obs, self.hp, key)


@functools.partial(jax.jit, static_argnums=0)
def _act(agent: Agent, state: PyTree, obs: PyTree, hp: HP, key: Key | None) -> PyTree:
    num_envs = jax.tree.leaves(obs)[0].shape[0]
    used = jax.random.key(0) if key is None else key
    return agent.act(state, obs, agent.carry(num_envs), used, hp, key is None)[0]


def _alone(x: Array) -> Array:
    """An array free of the devices of its population, so that it is computed with where the observations are."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_alone(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    return jnp.asarray(np.asarray(x))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a trial came to.

    Attributes:
        spec: what was run.
        sessions: the final `Session` pytree, `[S, ...]`.
        history: the log rows, those of failed sessions included.
        frame: frames of each session; fewer than the budget where training was interrupted.
    """

    spec: Spec
    sessions: Any
    history: History
    frame: int

    def __repr__(self) -> str:
        done = Run(self.frame, self.sessions, self.history)
        parts = [
            f"{self.spec.name}: {self.spec.agent.algorithm.name} on {self.spec.env.name}",
            f"sessions={self.history.size}",
            f"frame={self.frame}" + f" of {self.spec.env.max_frame}" * (self.frame < self.spec.env.max_frame),
            f"mean_return={mean_return(done):.6g}",
            f"failed={len(self.failed)}",
        ]
        return f"Result({', '.join(parts)})"

    @property
    def returns(self) -> np.ndarray:
        """`total_reward` of each session at each log row, `[S, rows]`: average with `np.nanmean`.

        NaN before the first episode of a session has ended, and from the row on in which it failed.
        """
        return self._sound("total_reward")

    @property
    def frames(self) -> np.ndarray:
        """The frame of each log row, `[rows]`."""
        return self.history.columns["frame"][0] if self.history.rows else np.zeros(0, int)

    @property
    def eval_reward(self) -> np.ndarray:
        """Mean return of the final greedy evaluation of each session, `[S]`: average with `np.nanmean`.

        NaN for a session that failed, and for all of them where training was interrupted before that evaluation.
        """
        return self._newest("eval_reward")

    def _sound(self, column: str) -> np.ndarray:
        """A column, `[S, rows]`, with NaN at and after the row in which a session failed."""
        if not self.history.rows:  # interrupted before the first was complete
            return np.zeros((self.history.size, 0))
        return np.where(self.history.columns["failed"] < 0, self.history.columns[column], np.nan)

    def _newest(self, column: str) -> np.ndarray:
        """The last row of a column, `[S]`."""
        return self._sound(column)[:, -1] if self.history.rows else np.full(self.history.size, np.nan)

    @property
    def failed(self) -> dict[int, int]:
        """Sessions that became NaN or infinite -> the frame by which they had."""
        return self.history.failed()

    @property
    def df(self) -> "pd.DataFrame":
        """One table of all sessions: the columns of `session_df` and `session` before them."""
        import pandas as pd

        if not self.history.rows:
            return pd.DataFrame(columns=["session", "frame", "total_reward"])
        tables = session_tables(self.spec, self.history)
        return pd.concat([t.assign(session=i) for i, t in enumerate(tables)], ignore_index=True).pipe(
            lambda df: df[["session", *(c for c in df.columns if c != "session")]]
        )

    @functools.cached_property
    def _agent(self) -> Agent:
        return make_agent(self.spec)

    def policy(self, session: int, best: bool = False) -> Policy:
        """What a session learned; `best` takes the policy of its best row instead of the last.

        That of a failed session is that of its best row.
        """
        size = self.history.size
        if not -size <= session < size:
            raise IndexError(f"session {session} of a result that holds {size}")
        best = best or session % size in self.failed
        learned = self.sessions.best.policy if best else self.sessions.agent.policy
        state = jax.tree.map(lambda x: _alone(x[session % size]), learned)
        label = f"{self.spec.name}: {self.spec.agent.algorithm.name} on {self.spec.env.name}, session {session % size}"
        label += ", its best row" if best else f", frame {self.frame}"
        return Policy(label, self._agent, state, schedules.at(self.spec.hp, jnp.int32(self.frame)))

    @property
    def policies(self) -> list[Policy]:
        """One policy a session."""
        return [self.policy(i) for i in range(self.history.size)]

    def best(self) -> Policy:
        """The policy of the session that is best by its final greedy evaluation, failed ones left out.

        Where training was interrupted before that evaluation, by its last `total_reward`.

        Raises:
            ValueError: every session failed, or none has finished an episode.
        """
        if len(self.failed) == self.history.size:
            raise ValueError(f"no session is the best: all failed, by frame {max(self.failed.values())} (see `failed`)")
        score = self.eval_reward if np.isfinite(self.eval_reward).any() else self._newest("total_reward")
        if not np.isfinite(score).any():
            raise ValueError("no session is the best: none that is sound has finished an episode")
        return self.policy(int(np.argmax(np.where(np.isfinite(score), score, -np.inf))))


class _Interrupt(StopRequest):
    """Ctrl-C alone: who wants the process to end (SIGTERM) does not want it to go on with half a result."""

    def __enter__(self) -> "_Interrupt":
        super().__enter__()
        if signal.SIGTERM in self._before:
            signal.signal(signal.SIGTERM, self._before.pop(signal.SIGTERM))  # type: ignore[arg-type]
        return self


def train(spec: Spec, sessions: int | None = None, *, quiet: bool = True) -> Result:
    """Trains a spec in memory; compiled programs are kept on disk (`devices.cache_programs`), nothing else.

    Ctrl-C (the stop button of a notebook) ends training after the segment under way, about a second, and returns
    the `Result` so far with a warning; its `frame` says how far it came. A second Ctrl-C interrupts at once and loses
    it. Signals reach the main thread alone, so elsewhere training cannot be interrupted so.

    Args:
        spec: from `load_spec`.
        sessions: how many, instead of `meta.max_session`; they differ in their seed alone.
        quiet: no progress.

    Raises:
        UserError: `spec` is none.
        SpecError: the spec cannot work.
    """
    check_spec(spec)
    if sessions is not None:
        _check_sessions(sessions)
        spec = dataclasses.replace(spec, meta=dataclasses.replace(spec.meta, max_session=int(sessions)))
    devices.use_every_core()
    devices.cache_programs()
    trial: Trial = make_trial(spec)
    total = budget(spec, trial.program)
    with _Interrupt() as stop, Progress(total, spec.meta.max_session, quiet) as progress:
        run, _ = compile_segment(trial, start(trial))
        run = learn(trial, run, lambda run: _show(progress, run) and not stop.requested)
    failed = run.history.failed()
    if len(failed) == run.history.size:
        warnings.warn(f"every session failed by frame {max(failed.values())}; see `failed`", stacklevel=2)
    elif run.frame < total:
        warnings.warn(f"interrupted at frame {run.frame} of {total}; this is the result so far", stacklevel=2)
    return Result(trial.spec, trial.population.gather(run.sessions), run.history, run.frame)


def _check_sessions(sessions: Any) -> None:
    """Refuses what `load_spec` would, and floats."""
    if isinstance(sessions, bool) or not isinstance(sessions, (int, np.integer)) or sessions < 1:
        raise fail(f"expected an integer >= 1, got {brief(repr(sessions))}", path="meta.max_session")


def _show(progress: Progress, run: Run) -> bool:
    progress.show(run)
    return True
