"""The names that `agent.memory.name` may say: each is a class of keys, a store, and other defaults for some keys.

What differs between them are a few independent keys, and any name may set any of them: frames joined (`stack_len`,
`stack_op`), signs of rewards (`reward_op`), windows (`seq_len`, `burn_in`), n-step returns,
combined replay. Priorities and whole-episode returns add columns to a ring, so they are classes of their own.
"""

from slmjax.memory import episodes, prioritized, replay, sequences
from slmjax.memory.episodes import EpisodeReplay
from slmjax.memory.keys import OnPolicyReplay
from slmjax.memory.prioritized import PrioritizedReplay
from slmjax.memory.replay import Replay
from slmjax.types import Memory

_CONCAT = {"stack_len": 4, "stack_op": "concat"}
_ATARI = {"stack_len": 4, "reward_op": "sign"}

ON_POLICY_REPLAY = Memory(OnPolicyReplay, "rollout")
ON_POLICY_CONCAT_REPLAY = ON_POLICY_REPLAY._replace(preset=_CONCAT)
ON_POLICY_ATARI_REPLAY = ON_POLICY_REPLAY._replace(preset=_ATARI)

REPLAY = Memory(Replay, "transitions", replay.make, sequences.make)
CONCAT_REPLAY = REPLAY._replace(preset=_CONCAT)
ATARI_REPLAY = REPLAY._replace(preset=_ATARI)

PRIORITIZED_REPLAY = Memory(PrioritizedReplay, "transitions", prioritized.make, prioritized.make_windows)
ATARI_PRIORITIZED_REPLAY = PRIORITIZED_REPLAY._replace(preset=_ATARI)

SIL_REPLAY = Memory(EpisodeReplay, "episodes", episodes.make)
