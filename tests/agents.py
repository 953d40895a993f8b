"""Small specs for tests: one for each algorithm, on any environment."""

import copy

import pytest

import slmjax

NET = {"hid_layers": [32], "clip_grad_val": 10.0, "optim_spec": {"name": "Adam", "lr": 5e-3}}
PPO = {"name": "PPO", "time_horizon": 32, "minibatch_size": 64, "training_epoch": 4, "entropy_coef_spec": 0.0}
A2C = {"name": "ActorCritic", "training_frequency": 8, "entropy_coef_spec": 0.0}
DQN = {
    "name": "DQN",
    "training_frequency": 4,
    "training_iter": 4,
    "training_start_step": 128,
    "explore_var_spec": {"name": "linear_decay", "start_val": 1.0, "end_val": 0.1, "end_step": 8000},
}
REPLAY = {"name": "Replay", "batch_size": 64, "max_size": 2048}
SIL_REPLAY = {"name": "SILReplay", "batch_size": 64, "max_size": 2048}
TARGET = {"update_type": "polyak", "polyak_coef": 0.05}
SARSA = {name: DQN[name] for name in ("training_frequency", "explore_var_spec")} | {"name": "SARSA"}
PQN = {"name": "PQN", "time_horizon": 16, "minibatch_size": 32, "training_epoch": 4, "lam": 0.8}
PQN |= {"explore_var_spec": DQN["explore_var_spec"]}
SUPPORT = {"v_min": -20.0, "v_max": 10.0, "n_atoms": 31}  # the returns of all probes
NEWEST = REPLAY | {"num_step_returns": 3, "use_cer": True}
MUNCHAUSEN = DQN | {"name": "MunchausenDQN", "tau": 3e-3}  # at 0.03, values of probes would be lower by up to 0.02
SAC = {"name": "SoftActorCritic", "training_frequency": 4, "training_iter": 4, "training_start_step": 128}
SAC |= {"alpha_lr": 1e-2}
TD3 = {"name": "TD3", "training_frequency": 4, "training_iter": 4, "training_start_step": 128}
POLYAK = {"update_type": "polyak", "polyak_coef": 0.05}

AGENTS = {
    "PPO": {"algorithm": PPO, "net": NET},
    "ActorCritic": {"algorithm": A2C, "net": NET},
    "Reinforce": {
        "algorithm": {"name": "Reinforce", "training_frequency": 16, "normalize_advantages": False},
        "net": NET,
    },
    "CrossEntropy": {"algorithm": {"name": "CrossEntropy", "training_frequency": 64, "elite": 0.2}, "net": NET},
    "SIL": {"algorithm": A2C | {"name": "SIL"}, "memory": SIL_REPLAY, "net": NET},
    "PPOSIL": {"algorithm": PPO | {"name": "PPOSIL"}, "memory": SIL_REPLAY, "net": NET},
    "DQN": {"algorithm": DQN, "memory": REPLAY, "net": NET | TARGET},
    "DoubleDQN": {"algorithm": DQN | {"name": "DoubleDQN"}, "memory": REPLAY, "net": NET | TARGET},
    "VanillaDQN": {"algorithm": DQN | {"name": "VanillaDQN"}, "memory": REPLAY, "net": NET},
    "MunchausenDQN": {"algorithm": MUNCHAUSEN, "memory": REPLAY, "net": NET | TARGET},
    "C51": {"algorithm": DQN | {"name": "C51"} | SUPPORT, "memory": REPLAY, "net": NET | TARGET},
    "QRDQN": {"algorithm": DQN | {"name": "QRDQN", "n_quantiles": 16}, "memory": REPLAY, "net": NET | TARGET},
    "Combined": {"algorithm": DQN | {"name": "C51", "double": True} | SUPPORT, "memory": NEWEST, "net": NET | TARGET},
    "SARSA": {"algorithm": SARSA, "net": NET},
    "PQN": {"algorithm": PQN, "net": NET},
    "SoftActorCritic": {"algorithm": SAC, "memory": REPLAY, "net": NET | POLYAK},
    "TD3": {"algorithm": TD3, "memory": REPLAY, "net": NET | POLYAK},
    "DDPG": {"algorithm": TD3 | {"name": "DDPG"}, "memory": REPLAY, "net": NET | POLYAK},
    "CrossQ": {"algorithm": SAC | {"name": "CrossQ"}, "memory": REPLAY, "net": NET | {"batch_renorm": True}},
}


def merge(base: dict, changes: dict) -> dict:
    """`base` with nested `changes` written over it."""
    merged = copy.deepcopy(base)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge(merged[name], value) if nested else value
    return merged


def slow_ones(cases, slow):
    """Parameters of a test; those in `slow` are for `pytest -m slow` alone."""
    mark = lambda case: pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)  # noqa: E731
    return [mark(case) if case in slow else case for case in cases]


def spec_of(
    which: str,
    env: str,
    frames: int,
    *,
    num_envs: int = 4,
    meta: dict | None = None,
    kwargs: dict | None = None,
    **changes: dict,
):
    """A resolved spec. `changes` go into the agent's sections: `algorithm={...}`, `net={...}`, `memory={...}`.

    `kwargs` are those of the environment.
    """
    agent = merge(AGENTS.get(which, {"algorithm": {"name": which}}), changes)
    env_spec = {"name": env, "num_envs": num_envs, "max_frame": frames, "kwargs": kwargs or {}}
    return slmjax.load_spec({"name": "test", "agent": agent, "env": env_spec, "meta": meta or {}})
