"""The temperature alpha of maximum-entropy learning: fixed, or learned to keep the policy's entropy at a target.

log alpha descends  log alpha (H(pi) - target entropy)
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from slmjax.learners.descent import Learned, Logs, begin, descent
from slmjax.schedules import Schedule
from slmjax.spec.errors import refuse_unread
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Array

# Keys that say how alpha is learned.
LEARNED_ALPHA = ("alpha_lr", "alpha_init", "log_alpha_min", "log_alpha_max", "target_entropy", "target_entropy_ratio")


@hyper
class TemperatureKeys:
    """Keys of `agent.algorithm` about alpha."""

    alpha_lr: float | Schedule | None = key(default=None, doc="learning rate of log alpha; null: the actor's", low=0)
    alpha_init: float = key(default=1.0, doc="first temperature", above=0)
    fixed_alpha: float | Schedule | None = key(default=None, doc="temperature; null: it is learned", low=0)
    log_alpha_min: float | None = key(default=None, doc="lower limit of log alpha")
    log_alpha_max: float | None = key(default=None, doc="upper limit of log alpha")
    target_entropy: float | None = key(
        default=None, doc="entropy to hold; null: minus the action's dimensions, or target_entropy_ratio x ln(actions)"
    )
    target_entropy_ratio: float | Schedule = key(
        default=0.98, doc="share of the largest entropy that discrete actions should keep", low=0, high=1
    )

    def check(self) -> None:
        """Refuses limits in the wrong order, and keys that nothing reads. Called by the loader.

        Raises:
            ValueError: `log_alpha_max` is below `log_alpha_min`.
            SpecError: how alpha is learned where it is fixed, or a share of an entropy where one is named.
        """
        if self.fixed_alpha is not None:
            refuse_unread(self, "agent.algorithm", "fixed_alpha leaves nothing to learn", *LEARNED_ALPHA)
        if self.target_entropy is not None:
            refuse_unread(self, "agent.algorithm", "target_entropy says what to hold", "target_entropy_ratio")
        low, high = self.log_alpha_min, self.log_alpha_max
        if low is not None and high is not None and high < low:
            raise ValueError(f"expected a log_alpha_max of at least log_alpha_min {low:.12g}, got {high:.12g}")


def init(hp: HP) -> Learned:
    """The first log alpha, and its optimiser's state."""
    return begin(jnp.log(jnp.asarray(hp.algorithm.alpha_init, jnp.float32)), _optimizer(hp))


def alpha(log_alpha: Array, hp: HP) -> Array:
    """Alpha, learned or fixed."""
    fixed = hp.algorithm.fixed_alpha
    return jnp.exp(log_alpha) if fixed is None else jnp.asarray(fixed, jnp.float32)


def loss(log_alpha: Array, entropy: Array, target: Any) -> tuple[Array, Logs]:
    """`log alpha (H - target)`: its descent raises alpha where the entropy is too low.

    Equation 18 of Haarnoja et al. (2018b) has alpha in place of log alpha, with the same zero; the authors' code
    descends this, whose steps do not fade where alpha is small.
    """
    return log_alpha * jax.lax.stop_gradient(entropy - target), {}


def learn(log_alpha: Learned, entropy: Array, default: Any, hp: HP) -> Learned:
    """One step of log alpha at the `entropy` that the policy has; `default` is its target where the spec names none."""
    alg = hp.algorithm
    if alg.fixed_alpha is not None:
        return log_alpha
    target = default if alg.target_entropy is None else alg.target_entropy
    log_alpha, _ = descent(loss, _optimizer(hp))(log_alpha, entropy, target)
    return log_alpha._replace(params=jnp.clip(log_alpha.params, alg.log_alpha_min, alg.log_alpha_max))


def _optimizer(hp: HP) -> optax.GradientTransformation:
    """Adam: the networks' own optimiser might decay weights, and a temperature is not a weight."""
    rate = hp.algorithm.alpha_lr
    return optax.adam(hp.net.optim_spec.lr if rate is None else rate)
