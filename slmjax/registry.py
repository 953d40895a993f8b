"""Which name in a spec stands for which object: one line each, imported only when the name is used.

A user's own package needs no line here: a spec may say `module:attribute` wherever it may say a name.
"""

import difflib
import importlib
import re
from typing import Any

from slmjax.types import UserError

_GYMNAX = (
    "CartPole-v1 Pendulum-v1 Acrobot-v1 MountainCar-v0 MountainCarContinuous-v0 "
    "Asterix-MinAtar Breakout-MinAtar Freeway-MinAtar Seaquest-MinAtar SpaceInvaders-MinAtar "
    "Catch-bsuite DeepSea-bsuite MemoryChain-bsuite UmbrellaChain-bsuite DiscountingChain-bsuite SimpleBandit-bsuite "
    "FourRooms-misc MetaMaze-misc PointRobot-misc BernoulliBandit-misc GaussianBandit-misc Reacher-misc Swimmer-misc "
    "Pong-misc FrozenLake-misc"
)

TABLES: dict[str, dict[str, str]] = {
    "algorithm": {
        "Random": "slmjax.algos.random:RANDOM",
        "SARSA": "slmjax.algos.sarsa:SARSA",
        "VanillaDQN": "slmjax.algos.dqn:VANILLA_DQN",
        "DQN": "slmjax.algos.dqn:DQN",
        "DoubleDQN": "slmjax.algos.dqn:DOUBLE_DQN",
        "MunchausenDQN": "slmjax.algos.munchausen:MUNCHAUSEN_DQN",
        "C51": "slmjax.algos.c51:C51",
        "QRDQN": "slmjax.algos.qrdqn:QRDQN",
        "PQN": "slmjax.algos.pqn:PQN",
        "PPO": "slmjax.algos.ppo:PPO",
        "ActorCritic": "slmjax.algos.a2c:ACTOR_CRITIC",
        "SIL": "slmjax.algos.sil:SIL",
        "PPOSIL": "slmjax.algos.sil:PPOSIL",
        "Reinforce": "slmjax.algos.reinforce:REINFORCE",
        "CrossEntropy": "slmjax.algos.cross_entropy:CROSS_ENTROPY",
        "SoftActorCritic": "slmjax.algos.sac:SOFT_ACTOR_CRITIC",
        "TD3": "slmjax.algos.td3:TD3",
        "DDPG": "slmjax.algos.ddpg:DDPG",
        "CrossQ": "slmjax.algos.crossq:CROSSQ",
    },
    "memory": {
        "OnPolicyReplay": "slmjax.memory.names:ON_POLICY_REPLAY",
        "OnPolicySeqReplay": "slmjax.memory.names:ON_POLICY_REPLAY",
        "OnPolicyBatchReplay": "slmjax.memory.names:ON_POLICY_REPLAY",
        "OnPolicySeqBatchReplay": "slmjax.memory.names:ON_POLICY_REPLAY",
        "OnPolicyConcatReplay": "slmjax.memory.names:ON_POLICY_CONCAT_REPLAY",
        "OnPolicyAtariReplay": "slmjax.memory.names:ON_POLICY_ATARI_REPLAY",
        "OnPolicyImageReplay": "slmjax.memory.names:ON_POLICY_REPLAY",
        "Replay": "slmjax.memory.names:REPLAY",
        "SeqReplay": "slmjax.memory.names:REPLAY",
        "ConcatReplay": "slmjax.memory.names:CONCAT_REPLAY",
        "AtariReplay": "slmjax.memory.names:ATARI_REPLAY",
        "ImageReplay": "slmjax.memory.names:REPLAY",
        "PrioritizedReplay": "slmjax.memory.names:PRIORITIZED_REPLAY",
        "AtariPrioritizedReplay": "slmjax.memory.names:ATARI_PRIORITIZED_REPLAY",
        "SILReplay": "slmjax.memory.names:SIL_REPLAY",
        "SILSeqReplay": "slmjax.memory.names:SIL_REPLAY",
    },
    "net": {
        "MLPNet": "slmjax.nets.mlp:MLP_NET",
        "DuelingMLPNet": "slmjax.nets.mlp:DUELING_MLP_NET",
        "ConvNet": "slmjax.nets.conv:CONV_NET",
        "DuelingConvNet": "slmjax.nets.conv:DUELING_CONV_NET",
        "RecurrentNet": "slmjax.nets.recurrent:RECURRENT_NET",
        "DuelingRecurrentNet": "slmjax.nets.recurrent:DUELING_RECURRENT_NET",
    },
    "env": dict.fromkeys(_GYMNAX.split(), "slmjax.envs.gymnax:make"),
}

# What people call a thing, where that is not near to its name.
SHORT = {
    "A2C": "ActorCritic",
    "CEM": "CrossEntropy",
    "DDQN": "DoubleDQN",
    "DRQN": "DQN",
    "DUELINGDQN": "DQN",
    "IQN": "QRDQN",
    "PER": "PrioritizedReplay",
    "RAINBOW": "C51",
    "SAC": "SoftActorCritic",
}


def names(kind: str) -> list[str]:
    """The names that a spec may use for `kind` ('algorithm', 'memory', 'net', 'env'), sorted."""
    return sorted(TABLES[kind])


def nearest(name: str, valid: list[str]) -> str:
    """`" Did you mean 'X'?"` for the closest valid name (or the first that it begins), or an empty string."""
    if (short := SHORT.get(str(name).upper())) in valid:
        return f" Did you mean {short!r}?"
    folded = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
    close = close or [v for v in folded if len(name) > 2 and v.startswith(str(name).lower())]
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def is_target(name: str) -> bool:
    """True for a text of the form `module:attribute`."""
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", name) is not None


def resolve(kind: str, name: str) -> Any:
    """The object behind a name, or behind `module:attribute`.

    Raises:
        UserError: no such name (says the nearest), no such module, or no such attribute.
    """
    target = TABLES[kind].get(name, name)
    if not is_target(target):
        raise UserError(f"unknown {kind} {name!r}.{nearest(name, names(kind))} Known: {', '.join(names(kind))}.")
    module, _, attribute = target.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{kind} {name!r}: cannot import {module!r} ({error}).") from error
    except Exception as error:  # anything that a user's module raises is for its author to mend
        raise UserError(f"{kind} {name!r}: {module!r} fails when imported: {type(error).__name__}: {error}.") from error
    if not hasattr(found, attribute):
        raise UserError(f"{kind} {name!r}: module {module!r} has no attribute {attribute!r}.")
    return getattr(found, attribute)


def register(kind: str, name: str, target: str) -> None:
    """Gives `module:attribute` a short name for this process."""
    TABLES[kind][name] = target
