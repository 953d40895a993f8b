"""One update of an agent on a batch that the test has written, and a NumPy network to hold it against.

The memory draws the rows of the ring in their order, one row is invalid, importance weights differ, and `rate` leaves
the errors where the rewards were: so a test sees all that goes in and comes out.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from agents import spec_of

from slmjax import schedules
from slmjax.envs import vectorize
from slmjax.lab.trial import make_agent
from slmjax.learners import replayed
from slmjax.types import Box, Discrete, Env, Rollout

ROWS, GAMMA = 8, 0.9
LOW, HIGH = -2.0, 5.0  # of the action; lopsided on purpose
IMPORTANCE = np.linspace(0.3, 1.0, ROWS)
SPACES = {"box": Box(LOW, HIGH, (1,)), "discrete": Discrete(3)}
STEEPEST = {"name": "SGD", "lr": 1.0}
NET = {"hid_layers": [4], "optim_spec": STEEPEST, "clip_grad_val": None}
FOLLOWED = {"update_type": "polyak", "polyak_coef": 0.25}
TARGETLESS = ("CrossQ", "VanillaDQN")


class Case(NamedTuple):
    """An agent and what it is given. `update` is jitted; `rows` are those of `rollout`, `[ROWS, ...]`."""

    agent: Any
    hp: Any
    state: Any
    rollout: Rollout
    update: Any
    rows: dict[str, np.ndarray]


def case(name: str, actions: str, monkeypatch, *, algorithm: dict | None = None, net: dict | None = None) -> Case:
    """An agent with small networks whose memory gives back what it was given."""
    real = replayed.make_store

    def transparent(hp, env, **sizes):
        store = real(hp, env, **sizes)
        gather = lambda *args: store.gather(*args)._replace(importance=jnp.asarray(IMPORTANCE, jnp.float32))  # noqa: E731
        return store._replace(
            sample=lambda spec, ring, key, batches, frame: jnp.tile(jnp.arange(ROWS), (batches, 1)),
            gather=gather,
            rate=lambda spec, ring, picks, error: ring._replace(reward=error[-1]),
        )

    monkeypatch.setattr(replayed, "make_store", transparent)
    spec = spec_of(
        name,
        "CartPole-v1",
        1000,
        num_envs=ROWS,
        algorithm={"gamma": GAMMA, "training_frequency": 1, "training_iter": 1, "training_start_step": 0}
        | (algorithm or {}),
        memory={"batch_size": ROWS, "max_size": ROWS},
        net=NET | ({} if name in TARGETLESS else FOLLOWED) | (net or {}),
    )
    one = Env(None, None, Box(-1.0, 1.0, (2,)), SPACES[actions])
    agent = make_agent(spec, vectorize(one, ROWS))
    hp = schedules.at(spec.hp, jnp.int32(0))
    state = jax.jit(agent.init)(jax.random.key(3), hp)
    rollout = random_rollout(SPACES[actions])
    rows = {f: np.asarray(getattr(rollout, f), np.float64)[0] for f in ("obs", "reward", "final_obs", "valid")}
    rows |= {"action": np.asarray(rollout.action)[0], "reward": rows["reward"] * rows["valid"]}
    rows |= {"discount": GAMMA * (1.0 - np.asarray(rollout.terminated)[0])}
    return Case(agent, hp, state, rollout, jax.jit(agent.update), rows)


def random_rollout(space) -> Rollout:
    """One step of `ROWS` environments: terminations, truncations and an invalid row among them."""
    rng = np.random.default_rng(0)
    obs, final_obs = rng.uniform(-1, 1, (2, 1, ROWS, 2)).astype(np.float32)
    continuous = rng.uniform(LOW, HIGH, (1, ROWS, 1)).astype(np.float32)
    action = continuous if isinstance(space, Box) else rng.integers(0, space.n, (1, ROWS)).astype(np.int32)
    reward = rng.normal(size=(1, ROWS)).astype(np.float32)
    flags = np.arange(ROWS)[None]
    return Rollout(obs, action, reward, flags == 2, flags == 5, final_obs, flags != 7)


def layers(params, index: int | None = None) -> list[np.ndarray]:
    """Kernels and biases of an MLP in their order, float64; of the critic `index` where there are several."""
    dense = params["params"]
    names = sorted((n for n in dense if n.startswith("Dense_")), key=lambda n: int(n.split("_")[1]))
    found = [np.asarray(dense[n][part], np.float64) for n in names for part in ("kernel", "bias")]
    return found if index is None else [x[index] for x in found]


def mlp(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """Dense layers with tanh between them."""
    for i in range(0, len(weights), 2):
        x = x @ weights[i] + weights[i + 1]
        x = np.tanh(x) if i + 2 < len(weights) else x
    return x


def slope(loss, weights: list[np.ndarray], h: float = 1e-5) -> list[np.ndarray]:
    """The gradient of `loss(weights)` by central differences."""
    gradient = []
    for k, w in enumerate(weights):
        each = np.zeros_like(w)
        for i in np.ndindex(w.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in weights]
                moved[k][i] += sign * h
                ends.append(loss(moved))
            each[i] = (ends[0] - ends[1]) / (2 * h)
        gradient.append(each)
    return gradient


def unit(action: np.ndarray) -> np.ndarray:
    """An action of the box as a number in [-1, 1]."""
    return (action - LOW) / (HIGH - LOW) * 2.0 - 1.0


def average(x: np.ndarray, rows: dict) -> float:
    """Mean over the valid rows."""
    return float(np.sum(x * rows["valid"]) / rows["valid"].sum())


def close(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether two lists of gradients agree."""
    return all(np.allclose(f, e, rtol=2e-3, atol=2e-5) for f, e in zip(found, expected, strict=True))


def moved(before: list[np.ndarray], after: list[np.ndarray]) -> list[np.ndarray]:
    """The gradient that a step of size 1 has gone down."""
    return [b - a for b, a in zip(before, after, strict=True)]
