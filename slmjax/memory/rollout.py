"""On-policy memory: the rollout itself, learned from once and dropped.

It is `[T, E, ...]` in the order of time, so it serves single steps, whole sequences and batches alike; what remains to
say is how its observations and rewards are seen (`view.stack_rollout`, `view.learned_reward`).
"""

from slmjax.memory.view import MemoryKeys
from slmjax.spec.schema import hyper, key


@hyper
class OnPolicyReplay(MemoryKeys):
    """The memory of PPO and its kin: holds nothing beyond the rollout that `Agent.update` is given."""

    name: str = key(default="OnPolicyBatchReplay", doc="name of the memory")
