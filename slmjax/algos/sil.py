"""Self-imitation learning (Oh et al. 2018): SIL on top of A2C, PPOSIL on top of PPO; see `learners/imitation.py`."""

from functools import partial

from slmjax.algos import a2c, ppo
from slmjax.learners import imitation
from slmjax.learners.imitation import ImitationKeys
from slmjax.nets.keys import TARGET_KEYS
from slmjax.policies.heads import EVERY_ACTION
from slmjax.spec.schema import hyper, key
from slmjax.types import Algorithm


@hyper
class SILKeys(ImitationKeys, a2c.ActorCriticKeys):
    """`agent.algorithm` of name `SIL`."""

    name: str = key(default="SIL", doc="name of the algorithm")


@hyper
class PPOSILKeys(ImitationKeys, ppo.PPOKeys):
    """`agent.algorithm` of name `PPOSIL`."""

    name: str = key(default="PPOSIL", doc="name of the algorithm")


make_sil = partial(imitation.make, base=a2c.make)
make_pposil = partial(imitation.make, base=ppo.make)

SIL = Algorithm(SILKeys, make_sil, EVERY_ACTION, ("SILReplay",), unread=TARGET_KEYS)
PPOSIL = Algorithm(PPOSILKeys, make_pposil, EVERY_ACTION, ("SILReplay",), unread=TARGET_KEYS)
