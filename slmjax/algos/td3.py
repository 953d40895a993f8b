"""Twin delayed deep deterministic policy gradient (TD3, Fujimoto et al. 2018).

    act: a = pi(s) + noise
    for each sampled batch
        a'        = clip( pi_target(s') + clip(noise, -c, c), -1, 1 )                    smoothing
        critics   descend  ( r + gamma (1 - terminated) min_i Q_target_i(s', a') - Q_i(s, a) )^2
        at every `policy_delay`-th
            actor ascends  Q_1(s, pi(s))                                                 with the critics just learned
            the target networks follow

It is `ddpg.py` with two critics, the smaller of whose values is bootstrapped from, with smoothing and with the delay.
Actions and their noise are in units of half the range of the action space.
"""

from functools import partial

import jax
import jax.numpy as jnp

from slmjax.algos import ddpg
from slmjax.nets.keys import POLICY_GRADIENT_KEYS
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Algorithm, Array, Box, Key


@hyper
class TD3Keys(ddpg.DDPGKeys):
    """`agent.algorithm` of name `TD3`."""

    name: str = key(default="TD3", doc="name of the algorithm")
    policy_delay: int = key(default=2, doc="gradient steps of the critics for each one of the actor", low=1)
    target_noise: float = key(default=0.2, doc="standard deviation of the noise on target actions", low=0)
    target_noise_clip: float = key(default=0.5, doc="largest noise on a target action", low=0)


def smooth(unit: Array, rng: Key, hp: HP) -> Array:
    """Target policy smoothing: clipped normal noise on unit actions (Fujimoto et al. 2018, section 5.3)."""
    noise = hp.algorithm.target_noise * jax.random.normal(rng, unit.shape)
    limit = hp.algorithm.target_noise_clip
    return jnp.clip(unit + jnp.clip(noise, -limit, limit), -1.0, 1.0)


make = partial(ddpg.make, num_critics=2, smooth=smooth)
TD3 = Algorithm(TD3Keys, make, (Box,), ("Replay",), unread=POLICY_GRADIENT_KEYS, net={"update_type": "polyak"})
