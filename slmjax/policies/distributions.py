"""Action distributions: from a network's output to an action, its log-probability, entropy and mode.

A distribution draws a *raw* value; `action` turns it into what the environment accepts (clipped, squashed, rescaled).
Learning keeps the raw value, so that a log-probability is exact and never the logarithm of a clipped tail.
The last axes are one event: `log_prob` and `entropy` return one number for each environment.

    sample(key) -> raw                     one for each environment
    log_prob(raw) -> [...]
    entropy() -> [...]                     in nats
    mode() -> raw                          what a greedy agent plays
    action(raw) -> action                  of the space
    sample_and_log_prob(key) -> raw, [...] where gradients pass through a draw

This module holds the names; `discrete.py`, `continuous.py` and `heads.py` the code.
"""

from slmjax.policies.continuous import Beta as Beta
from slmjax.policies.continuous import LogNormal as LogNormal
from slmjax.policies.continuous import MultivariateNormal as MultivariateNormal
from slmjax.policies.continuous import Normal as Normal
from slmjax.policies.continuous import SquashedNormal as SquashedNormal
from slmjax.policies.discrete import Argmax as Argmax
from slmjax.policies.discrete import Bernoulli as Bernoulli
from slmjax.policies.discrete import Categorical as Categorical
from slmjax.policies.discrete import GumbelSoftmax as GumbelSoftmax
from slmjax.policies.discrete import MultiCategorical as MultiCategorical
from slmjax.policies.heads import ActionHead as ActionHead
from slmjax.policies.heads import action_head as action_head
