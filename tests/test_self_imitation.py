"""Replay for self-imitation, against a list of finished episodes."""

import jax
import jax.numpy as jnp
import numpy as np
from agents import spec_of

import slmjax
from slmjax.lab.build import make_trial
from slmjax.memory import self_imitation
from slmjax.memory.self_imitation import SILReplay
from slmjax.policies import schedules
from slmjax.types import Rollout

STEPS, ENVS, LONGEST, GAMMA = 4, 3, 10, 0.9


def stream(seed: int, updates: int) -> dict[str, np.ndarray]:
    """Steps `[updates x STEPS, ENVS]` of episodes of random lengths up to `LONGEST`; `id` numbers them."""
    rng = np.random.default_rng(seed)
    total = updates * STEPS
    ended = np.zeros((total, ENVS), bool)
    for e in range(ENVS):
        t = -1
        while t < total:
            t += int(rng.integers(1, LONGEST + 1))
            if t < total:
                ended[t, e] = True
    reward = rng.normal(size=(total, ENVS)).astype(np.float32)
    return {"ended": ended, "reward": reward, "id": np.arange(total * ENVS).reshape(total, ENVS)}


def true_returns(data: dict[str, np.ndarray]) -> np.ndarray:
    """Discounted return to the end of the episode, float64; NaN where the stream ends first."""
    found = np.full(data["reward"].shape, np.nan)
    for e in range(ENVS):
        to_go = np.nan
        for t in reversed(range(len(found))):
            to_go = float(data["reward"][t, e]) + (0.0 if data["ended"][t, e] else GAMMA * to_go)
            found[t, e] = to_go
    return found


def fill(data: dict[str, np.ndarray], size: int):
    past = self_imitation.init(size, LONGEST, STEPS, jnp.zeros((ENVS, 1)), jnp.zeros(ENVS, jnp.int32))
    for i in range(0, len(data["ended"]), STEPS):
        part = {name: x[i : i + STEPS] for name, x in data.items()}
        obs, no = part["id"][..., None].astype(np.float32), np.zeros((STEPS, ENVS), bool)
        rollout = Rollout(obs, part["id"], part["reward"], part["ended"], no, obs, ~no)
        past = self_imitation.add(past, rollout, part["id"], i * ENVS, GAMMA)
        yield past, (i + STEPS) * ENVS


def test_a_step_enters_with_the_return_of_its_whole_episode():
    data = stream(0, 30)
    truth = true_returns(data).reshape(-1)
    for size in (24, 120):
        for past, written in fill(data, size):
            ring = jax.tree.map(np.asarray, past.ring)
            held = ring.weight > 0
            assert held.sum() == np.clip(written - LONGEST * ENVS, 0, size)
            np.testing.assert_allclose(ring.to_go[held], truth[ring.raw[held]], rtol=1e-5)
            assert (ring.obs[held, 0] == ring.raw[held]).all()


def test_every_known_step_is_drawn_and_no_other():
    spec = SILReplay(batch_size=4096, max_size=60)
    for past, written in fill(stream(1, 20), 60):
        rows = self_imitation.sample(spec, past, jax.random.key(written), 1, written, LONGEST * ENVS)[0]
        weight = np.asarray(past.ring.weight)
        drawn = np.unique(np.asarray(rows))
        if weight.any():
            assert sorted(drawn) == sorted(np.flatnonzero(weight))


def sil_update(reward: float) -> dict:
    """Metrics of an update from a memory whose every step had the return `reward`."""
    spec = spec_of("SIL", "CartPole-v1", 64)
    agent = slmjax.make_agent(spec)
    hp = schedules.at(spec.hp, jnp.int32(100_000))
    state = agent.init(jax.random.key(0), hp)
    ring = state.memory.ring
    ring = ring._replace(to_go=jnp.full_like(ring.to_go, reward), weight=jnp.ones_like(ring.weight))
    env = slmjax.make_env(spec.env)
    _, obs = env.reset(jax.random.key(1))
    action, _, extras = agent.act(state.policy, obs, (), jax.random.key(2), hp, False)
    steps = jax.tree.map(lambda x: jnp.broadcast_to(x, (agent.horizon, *x.shape)), (obs, action, extras))
    flag = jnp.zeros((agent.horizon, 4), bool)
    rollout = Rollout(steps[0], steps[1], jnp.ones(flag.shape), flag, flag, steps[0], ~flag, steps[2])
    _, metrics = jax.jit(agent.update)(
        state._replace(memory=state.memory._replace(ring=ring)), rollout, jax.random.key(3), hp
    )
    return metrics


def test_only_what_was_better_than_thought_is_imitated():
    assert float(sil_update(-100.0)["sil_grad_norm"]) == 0.0
    assert float(sil_update(-100.0)["sil_share"]) == 0.0
    better = sil_update(100.0)
    assert float(better["sil_grad_norm"]) > 0.0
    assert float(better["sil_share"]) > 0.9  # all but the rows that this rollout overwrote


def test_nothing_is_imitated_before_an_episode_can_have_ended():
    trial = make_trial(spec_of("SIL", "CartPole-v1", 6400, meta={"max_session": 2, "log_frequency": 32}))
    sessions = trial.population.init(trial.keys, trial.hp)
    _, rows = trial.population.segment(sessions, trial.hp, 0, 6400)
    waiting = 500 * 4 // 32
    norm = np.asarray(rows["sil_grad_norm"])[:, :200]
    assert (norm[:, :waiting] == 0).all()
    assert (norm[:, waiting + 1 :] > 0).mean() > 0.5
