"""P14: what an image shows is acted upon, by every algorithm; those that are slow to learn it in `pytest -m slow`."""

import jax
import numpy as np
import pytest
from agents import AGENTS, slow_ones
from ladder import SEEDS, cooling
from probes import CENTRES, picture
from test_train_nets import spec_with

import slmjax
from slmjax import registry
from slmjax.types import Discrete

QUICK = ("DQN",)
NET = {"type": "ConvNet", "conv_hid_layers": [[8, 3, 2]], "fc_hid_layers": [16]}
FRAMES, PATIENT = 8000, ("CrossEntropy",)  # these need twice as many
# A deterministic actor that runs into a bound early stays there: it waits for its critics, and moves slower than they.
CALM = {"training_start_step": 2048, "training_iter": 16, "explore_var_spec": 0.5}
QUICK_CRITIC = {"critic_optim_spec": {"name": "Adam", "lr": 3e-3}}


def right(algorithm: str) -> np.ndarray:
    """The share of 500 images that each session acts rightly upon."""
    known = registry.resolve("algorithm", AGENTS[algorithm]["algorithm"]["name"])
    boxed = Discrete not in known.actions
    frames = FRAMES * (1 + (algorithm in PATIENT))
    net = NET | (cooling(frames, 3e-4) | QUICK_CRITIC if boxed else cooling(frames))
    changes = {"algorithm": CALM} if boxed else {}
    spec = spec_with(algorithm, "probes:picture", net, frames, kwargs={"continuous": boxed}, **changes)
    coins, images = jax.vmap(picture().reset)(jax.random.split(jax.random.key(5), 500))
    actions = np.stack([np.asarray(p(images)) for p in slmjax.train(spec, sessions=SEEDS).policies])
    chosen = actions[..., 0] > np.mean(CENTRES) if boxed else actions
    return (chosen == np.asarray(coins)).mean(-1)


@pytest.mark.parametrize("algorithm", slow_ones(AGENTS, {*AGENTS} - {*QUICK}))
def test_what_an_image_shows_is_acted_upon(algorithm):
    assert (right(algorithm) >= 0.98).all()


def test_every_algorithm_that_learns_is_among_them():
    assert {agent["algorithm"]["name"] for agent in AGENTS.values()} == set(registry.names("algorithm")) - {"Random"}
