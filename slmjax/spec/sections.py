"""The parts of a spec that belong to no algorithm: `env`, `meta` and the whole."""

import dataclasses
from typing import Any

from slmjax.spec.schema import hyper, key
from slmjax.types import HP

MOST_FRAMES = 2**31 - 1  # what counts frames in a compiled program
_UINT32 = 2**32 - 1  # seeds beyond would be cut to this


@hyper
class EnvSpec:
    """The `env` section."""

    name: str = key(doc="a registered environment, or `module:attribute` of a function that returns an `Env`")
    num_envs: int = key(default=1, doc="environments of one session, stepped together", low=1)
    max_frame: int = key(
        doc="budget of one session: environment steps summed over its environments", low=1, high=MOST_FRAMES
    )
    max_t: int | None = key(default=None, doc="time limit of an episode in steps; none: the environment's own", low=1)
    observe: tuple[int, ...] | None = key(
        default=None, doc="entries of a vector observation that the agent gets, by number; none: all", low=0
    )
    kwargs: dict[str, Any] | None = key(default=None, doc="further arguments of the environment")


@hyper
class MetaSpec:
    """The `meta` section: how a spec is run; of what a session learns no more than the last bits depend on it."""

    max_session: int = key(default=1, doc="sessions of one trial; they differ in their seed alone", low=1)
    seed: int = key(default=0, doc="root of all randomness", low=0, high=_UINT32)
    lanes: int | None = key(
        default=None,
        doc="sessions of a batch, on which last bits depend; none: 1 or 2 by their size on a CPU, on a GPU all",
        low=1,
    )
    log_frequency: int = key(default=500, doc="frames between two rows of a session's table", low=1, high=MOST_FRAMES)
    eval_frequency: int | None = key(
        default=None, doc="frames between evaluations; none: one at the end", low=1, high=MOST_FRAMES
    )
    eval_episodes: int = key(default=32, doc="episodes of one greedy evaluation", low=1)
    checkpoint_frequency: int | None = key(
        default=None, doc="frames between checkpoints; none: every minute", low=1, high=MOST_FRAMES
    )
    session_graphs: str = key(
        default="few",
        doc="graphs of single sessions: few (best, median, worst, failed, stuck; all of up to 8) or all",
        choices=("few", "all"),
    )


@hyper
class AgentSpec:
    """The `agent` section: a label, and the three parts that make an agent. Their schemas come from the registry."""

    name: str = key(default="", doc="free label, shown in graphs; the algorithm's name if empty")
    algorithm: Any = key(doc="what learns")
    memory: Any = key(default=None, doc="what it remembers; none: the algorithm's default")
    net: Any = key(default=None, doc="what it is made of; none: MLPNet with its defaults")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where each value came from: dotted key -> (file, line)."""

    lines: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)

    def where(self, path: str) -> str:
        """`file:line` of a key or of the nearest enclosing key that was written; `--set` values say so; '' if none."""
        while path not in self.lines and path:
            path = path.rpartition(".")[0]
        file, line = self.lines.get(path, ("", 0))
        return f"{file}:{line}" if line else file


@dataclasses.dataclass(frozen=True)
class Spec:
    """One resolved spec: every key present, checked and typed."""

    name: str
    agent: Any
    env: Any
    meta: Any
    search: dict[str, Any] | None = None
    source: Source = dataclasses.field(default_factory=Source, compare=False, repr=False)

    @property
    def hp(self) -> HP:
        """The hyperparameters: a pytree whose structure is the compile signature."""
        return HP(self.agent.algorithm, self.agent.memory, self.agent.net)
