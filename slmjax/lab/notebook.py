"""Training without files: a spec in, returns, tables and policies out."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.lab import devices
from slmjax.lab.build import Trial, budget, make_agent, make_trial
from slmjax.lab.history import History
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.progress import Progress
from slmjax.lab.report import session_tables
from slmjax.policies import schedules
from slmjax.spec.sections import Spec
from slmjax.types import HP, Agent, AgentState, Key, PyTree

if TYPE_CHECKING:
    import pandas as pd


class Policy(NamedTuple):
    """What one session learned: call it with observations `[E, ...]` to get actions `[E, ...]`.

    Attributes:
        agent: the pure functions it came from.
        state: the learner, without its memory.
        hp: hyperparameters at the end of training.
    """

    agent: Agent
    state: AgentState
    hp: HP

    def __call__(self, obs: PyTree, key: Key | None = None) -> PyTree:
        """Greedy actions; with a key, actions as in training (sampled, exploring)."""
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        used = jax.random.key(0) if key is None else key
        return self.agent.act(self.state, obs, self.agent.carry(num_envs), used, self.hp, key is None)[0]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a trial came to.

    Attributes:
        spec: what was run.
        sessions: the final `Session` pytree, `[S, ...]`.
        history: the log rows.
        frame: frames of each session.
    """

    spec: Spec
    sessions: Any
    history: History
    frame: int

    @property
    def returns(self) -> np.ndarray:
        """`total_reward` of each session at each log row, `[S, rows]`."""
        return self.history.columns["total_reward"]

    @property
    def frames(self) -> np.ndarray:
        """The frame of each log row, `[rows]`."""
        return self.history.columns["frame"][0]

    @property
    def eval_reward(self) -> np.ndarray:
        """Mean return of the final greedy evaluation of each session, `[S]`."""
        return self.history.columns["eval_reward"][:, -1]

    @property
    def failed(self) -> dict[int, int]:
        """Sessions that became NaN or infinite -> the frame by which they had."""
        return self.history.failed()

    @property
    def df(self) -> "pd.DataFrame":
        """One table of all sessions: the columns of `session_df` and `session` before them."""
        import pandas as pd

        tables = session_tables(self.spec, self.history)
        return pd.concat([t.assign(session=i) for i, t in enumerate(tables)], ignore_index=True).pipe(
            lambda df: df[["session", *(c for c in df.columns if c != "session")]]
        )

    def policy(self, session: int, best: bool = False) -> Policy:
        """What a session learned; `best` takes the learner of its best row instead of the last."""
        size = self.history.size
        if not -size <= session < size:
            raise IndexError(f"session {session} of a result that holds {size}")
        one = jax.tree.map(lambda x: x[session % size], (self.sessions.agent.learner, self.sessions.best))
        learner = one[1].learner if best and np.isfinite(one[1].score) else one[0]
        return Policy(make_agent(self.spec), AgentState(learner), schedules.at(self.spec.hp, jnp.int32(self.frame)))

    @property
    def policies(self) -> list[Policy]:
        """One policy a session."""
        return [self.policy(i) for i in range(self.history.size)]

    def best(self) -> Policy:
        """The policy of the session that is best by its final greedy evaluation, failed ones left out."""
        score = np.where(np.isin(np.arange(self.history.size), list(self.failed)), -np.inf, self.eval_reward)
        return self.policy(int(np.argmax(score)))


def train(spec: Spec, sessions: int | None = None, *, quiet: bool = True) -> Result:
    """Trains a spec in memory, nothing on disk.

    Args:
        spec: from `load_spec`.
        sessions: how many, instead of `meta.max_session`; they differ in their seed alone.
        quiet: no progress.

    Raises:
        SpecError: the spec cannot work.
    """
    devices.use_every_core()
    if sessions is not None:
        spec = dataclasses.replace(spec, meta=dataclasses.replace(spec.meta, max_session=sessions))
    trial: Trial = make_trial(spec)
    with Progress(budget(spec, trial.program), spec.meta.max_session, quiet) as progress:
        run, _ = compile_segment(trial, start(trial))
        run = learn(trial, run, lambda run: _show(progress, run))
    return Result(spec, trial.population.unpad(run.sessions), run.history, run.frame)


def _show(progress: Progress, run: Run) -> bool:
    progress.show(run)
    return True
