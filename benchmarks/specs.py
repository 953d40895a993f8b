"""The settings that the benchmarks time: those of rejax's CartPole examples, in slmjax's keys."""

from typing import Any

import slmjax


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


def resolve(spec: dict[str, Any], **meta: Any) -> Any:
    """The spec, resolved, with keys of `meta`."""
    return slmjax.load_spec({**spec, "meta": meta})
