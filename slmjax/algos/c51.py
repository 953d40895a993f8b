"""C51: a categorical distribution over returns for each action (Bellemare et al. 2017).

    p(s, a): softmax over `n_atoms` returns z from `v_min` to `v_max`;  Q(s, a) = sum_i z_i p_i(s, a)
    target: the distribution of  r + gamma (1 - terminated) Z_target(s', a*),  projected onto the atoms
    loss:   its cross-entropy with p(s, a)

Everything else is that of `learners/q_learning.py`. With `double` the online network chooses `a*`. What a prioritized
memory goes by is the divergence of the prediction from the target: the loss less the target's own entropy, which no
learning removes (Hessel et al. 2018). Returns beyond the support are clipped to it: choose `v_min` and `v_max` from the
environment.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slmjax.algos.dqn import DistributionalKeys, make_distributional
from slmjax.learners.value_heads import ValueHead, of_action
from slmjax.maths.value_distributions import cross_entropy, entropy, project, support
from slmjax.nets.keys import ACTOR_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array, Discrete


@hyper
class C51Keys(DistributionalKeys):
    """`agent.algorithm` of name `C51`."""

    name: str = key(default="C51", doc="name of the algorithm")
    n_atoms: int = key(default=51, doc="returns that a distribution is made of", low=2)
    v_min: float = key(default=-10.0, doc="the lowest of them")
    v_max: float = key(default=10.0, doc="the highest of them")

    def check(self) -> None:
        """Refuses an empty support. Called by the loader, where every number is known.

        Raises:
            ValueError: `v_max` is not above `v_min`; or see `ActionValueKeys.check`.
        """
        super().check()
        if self.v_max <= self.v_min:
            raise ValueError(f"expected a v_max above v_min {self.v_min:.12g}, got {self.v_max:.12g}")


def categorical(n_atoms: int) -> ValueHead:
    """The head whose output is `n_atoms` logits for each action."""

    def atoms(hp: HP) -> Array:
        return support(hp.algorithm.v_min, hp.algorithm.v_max, n_atoms)

    def q(output: Array, hp: HP) -> Array:
        return jnp.sum(jax.nn.softmax(output) * atoms(hp), -1)

    def loss(
        output_tm1: Array, a_tm1: Array, r_t: Array, discount_t: Array, output_t: Array, policy_t: Array, hp: HP
    ) -> tuple[Array, Array]:
        probs_t = jnp.sum(policy_t[..., None] * jax.nn.softmax(output_t), 1)
        returns_t = r_t[:, None] + discount_t[:, None] * atoms(hp)
        target = jax.lax.stop_gradient(project(returns_t, probs_t, atoms(hp)))
        losses = cross_entropy(target, of_action(output_tm1, a_tm1))
        return losses, losses - entropy(target)

    return ValueHead(n_atoms, q, loss)


make = partial(make_distributional, head=lambda alg: categorical(alg.n_atoms))
C51 = Algorithm(C51Keys, make, (Discrete,), ("Replay",), unread=(*ACTOR_KEYS, "loss_spec"))
