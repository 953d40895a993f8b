"""Deep Q-learning (Mnih et al. 2015) and double DQN (van Hasselt et al. 2016).

    act: epsilon-greedy on Q(s, .)
    every `training_frequency` steps: remember them; then `training_iter` times
        sample a batch from the memory
        descend `training_batch_iter` times on  loss( r + gamma (1 - terminated) Q_target(s', a*) - Q(s, a) )
        polyak: the target network moves
    replace: the target network is set, every `update_frequency` frames

`a*` is the greedy action of the target network (DQN), or of the online one (double DQN). The code is
`learners/q_learning.py`; `VanillaDQN` is DQN without a target network.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from slmjax.learners import q_learning
from slmjax.learners.action_values import ActionValueKeys
from slmjax.learners.value_heads import ValueHead
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, Algorithm, Discrete, VectorEnv


@hyper
class DQNKeys(ActionValueKeys):
    """`agent.algorithm` of name `DQN`, `DoubleDQN` or `VanillaDQN`."""

    name: str = key(default="DQN", doc="name of the algorithm")
    training_frequency: int = key(default=1, doc="steps of each environment between two training events", low=1)
    training_iter: int = key(default=1, doc="batches of one training event", low=1)
    training_batch_iter: int = key(default=1, doc="gradient steps on each batch", low=1)
    training_start_step: int = key(default=1000, doc="frames remembered before training begins", low=0)


@hyper
class DistributionalKeys(DQNKeys):
    """Keys of a DQN that predicts distributions of returns."""

    double: bool = key(default=False, doc="the online network chooses the next action")


def make_distributional(hp: HP, env: VectorEnv, *, head: Callable[[Any], ValueHead]) -> Agent:
    """A DQN, or a double DQN, with the head that `head(hp.algorithm)` gives."""
    rule = q_learning.double_q_learning if hp.algorithm.double else q_learning.q_learning
    return q_learning.make(hp, env, rule=rule, head=head(hp.algorithm))


double = partial(q_learning.make, rule=q_learning.double_q_learning)
vanilla = partial(q_learning.make, target_network=False)

DQN = Algorithm(DQNKeys, q_learning.make, (Discrete,), ("Replay",), unread=ACTOR_KEYS)
DOUBLE_DQN = Algorithm(DQNKeys, double, (Discrete,), ("Replay",), unread=ACTOR_KEYS)
VANILLA_DQN = Algorithm(DQNKeys, vanilla, (Discrete,), ("Replay",), unread=ACTOR_KEYS + TARGET_KEYS)
