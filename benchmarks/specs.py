"""The settings that the benchmarks time: those of rejax's CartPole examples, in slmjax's keys, and configs/."""

import contextlib
import importlib
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MANY = 10**8  # frames: a budget that no timed run reaches


def make_trial(spec: dict[str, Any], **more: Any) -> Any:
    """The trial of a spec, by the slmjax that Python finds: that of an earlier commit has it in another module."""
    import slmjax

    try:
        trial = importlib.import_module("slmjax.lab.trial")
    except ModuleNotFoundError:
        trial = importlib.import_module("slmjax.lab.build")
    return trial.make_trial(slmjax.load_spec(spec, **more))


def ppo(num_envs: int, frames: int, env: str = "CartPole-v1") -> dict[str, Any]:
    """PPO with 128 steps, 4 minibatches, 4 epochs and two 64-64 tanh networks."""
    return {
        "name": f"ppo_{num_envs}",
        "agent": {
            "algorithm": {
                "name": "PPO",
                "gamma": 0.99,
                "lam": 0.95,
                "clip_eps_spec": 0.2,
                "entropy_coef_spec": 0.01,
                "val_loss_coef": 0.5,
                "time_horizon": 128,
                "minibatch_size": 128 * num_envs // 4,
                "training_epoch": 4,
            },
            "net": {
                "hid_layers": [64, 64],
                "hid_layers_activation": "tanh",
                "init_fn": "orthogonal",
                "actor_init_std": 0.01,
                "critic_init_std": 1.0,
                "clip_grad_val": 0.5,
                "optim_spec": {"lr": 2.5e-4},
            },
        },
        "env": {"name": env, "num_envs": num_envs, "max_frame": frames},
    }


def dqn(num_envs: int, frames: int, slots: int = 10_000, env: str = "CartPole-v1") -> dict[str, Any]:
    """DQN with one gradient step of 128 transitions for each step of its environments, and a 64-64 relu network."""
    return {
        "name": f"dqn_{num_envs}_{slots}",
        "agent": {
            "algorithm": {
                "name": "DQN",
                "gamma": 0.99,
                "explore_var_spec": {"start_val": 1.0, "end_val": 0.05, "end_step": frames // 2},
                "training_start_step": 1000,
            },
            "memory": {"batch_size": 128, "max_size": slots},
            "net": {
                "hid_layers": [64, 64],
                "hid_layers_activation": "relu",
                "optim_spec": {"lr": 1e-3},
                "update_frequency": 500,
            },
        },
        "env": {"name": env, "num_envs": num_envs, "max_frame": frames},
    }


def random(num_envs: int, frames: int, env: str = "CartPole-v1") -> dict[str, Any]:
    """The random policy: a program that compiles in a second."""
    agent = {"algorithm": {"name": "Random"}}
    return {"name": "random", "agent": agent, "env": {"name": env, "num_envs": num_envs, "max_frame": frames}}


def conv() -> dict[str, Any]:
    """A small convolutional network for MinAtar's images."""
    return {
        "type": "ConvNet",
        "conv_hid_layers": [[16, 3, 1, "SAME", 1]],
        "fc_hid_layers": [128],
        "clip_grad_val": 0.5,
        "optim_spec": {"lr": 5e-4},
    }


def config(name: str, **changes: Any) -> dict[str, Any]:
    """`configs/NAME.yaml` with a budget that is never reached; `env__name="X"` changes `env.name`."""
    import yaml

    named = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    spec = {"name": name, **_numbers(named if "agent" in named else next(iter(named.values())))}
    for dotted, value in {"env__max_frame": MANY, **changes}.items():
        *path, last = dotted.split("__")
        node = spec
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return spec


def _numbers(node: Any) -> Any:
    """A tree in which `1e-3`, which YAML calls a text, is a number: not every commit's `load_spec` sees to that."""
    if isinstance(node, dict):
        return {key: _numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers(value) for value in node]
    if isinstance(node, str):
        with contextlib.suppress(ValueError):
            return float(node)
    return node


def resolve(spec: dict[str, Any], **meta: Any) -> Any:
    """The spec, resolved, with keys of `meta`."""
    import slmjax

    return slmjax.load_spec({**spec, "meta": meta})
