"""On-policy memory: the rollout itself, learned from once and dropped."""

from slmjax.spec.schema import hyper, key


@hyper
class OnPolicyBatchReplay:
    """The memory of PPO and its kin: holds nothing beyond the rollout that `Agent.update` is given."""

    name: str = key(default="OnPolicyBatchReplay", doc="name of the memory")
