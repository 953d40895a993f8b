"""On-policy memory: the rollout itself, learned from once and dropped."""

from slmjax.spec.schema import hyper, key
from slmjax.types import Memory


@hyper
class OnPolicyBatchReplay:
    """The memory of PPO and its kin: holds nothing beyond the rollout that `Agent.update` is given."""

    name: str = key(default="OnPolicyBatchReplay", doc="name of the memory")


ON_POLICY_BATCH_REPLAY = Memory(OnPolicyBatchReplay, "rollout")


@hyper
class OnPolicyReplay:
    """The memory of methods that learn from whole episodes; `Agent.update` keeps those under way."""

    name: str = key(default="OnPolicyReplay", doc="name of the memory")


ON_POLICY_REPLAY = Memory(OnPolicyReplay, "episodes")
