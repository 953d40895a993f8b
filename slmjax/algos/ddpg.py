"""Deep deterministic policy gradient (DDPG, Lillicrap et al. 2016).

    act: a = pi(s) + noise
    for each sampled batch
        critic descends  ( r + gamma (1 - terminated) Q_target(s', pi_target(s')) - Q(s, a) )^2
        actor  ascends   Q(s, pi(s))                                                     with the critic just learned
        the target networks follow

`make` also builds TD3 (`td3.py`), which has several critics, smooths its target actions, and moves the actor and the
targets at every `policy_delay`-th step alone. Actions and their noise are in units of half the range of the action
space.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.algos import offpolicy
from slmjax.algos.critics import build_critics, critic_optimizer, descend_each, init_each, learning, td_loss
from slmjax.algos.losses import weighted_mean
from slmjax.algos.offpolicy import ReplayKeys, Tick
from slmjax.algos.targets import follow_steps
from slmjax.algos.watch import shown, watch
from slmjax.memory.replay import Batch
from slmjax.nets.batch_renorm import keep_statistics
from slmjax.nets.build import build
from slmjax.nets.keys import POLICY_GRADIENT_KEYS
from slmjax.nets.optim import descend, net_optimizer
from slmjax.policies.masks import masking
from slmjax.policies.schedules import Schedule
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Box, Key, PyTree, Rollout, Tail, VectorEnv


@hyper
class DDPGKeys(ReplayKeys):
    """`agent.algorithm` of name `DDPG`."""

    name: str = key(default="DDPG", doc="name of the algorithm")
    explore_var_spec: float | Schedule = key(
        default=0.1, doc="standard deviation of the noise on actions, in half ranges of the space", low=0
    )


class Params(NamedTuple):
    """An actor, and critics `[N, ...]`."""

    actor: PyTree
    critics: PyTree


class Learner(NamedTuple):
    """What it knows beside the actor.

    Attributes:
        critics: parameters `[N, ...]`.
        targets: the target actor and the target critics.
        opt_states: of the actor, and of the critics `[N, ...]`.
        actor_loss: that of the actor's last step.
    """

    critics: PyTree
    targets: Params
    opt_states: Params
    actor_loss: Array


def make(hp: HP, env: VectorEnv, *, number: int = 1, smooth: Callable[[Array, Key, HP], Array] | None = None) -> Agent:
    """A deterministic actor with `number` critics; `smooth`: `(unit target action, key, hp) -> unit action`.

    Raises:
        SpecError: a memory too small, or actions without finite bounds.
    """
    size, store = offpolicy.rollout_size(hp, env), offpolicy.make_store(hp, env)
    space, seen = env.action_space, shown(hp, env).observation_space
    masking(seen, ())  # refuses masks: no continuous action can be forbidden
    # The actor first: what an error says of observations is then about those of the environment alone.
    net = build(hp.net, seen, (Tail(prod(space.shape), "actor"),), statistics=True)
    critics = build_critics(hp.net, seen, space, number)

    def squash(output: Array) -> Array:
        return jnp.tanh(output.reshape(*output.shape[:-1], *space.shape))

    def init(rng: Key, hp: HP) -> AgentState:
        actor_key, critic_key = jax.random.split(rng)
        params = Params(net.init(actor_key, hp.net), critics.init(critic_key, hp.net))
        opt_states = Params(net_optimizer(hp.net).init(params.actor), init_each(critic_optimizer(hp), params.critics))
        learner = Learner(params.critics, jax.tree.map(jnp.copy, params), opt_states, jnp.zeros(()))
        return AgentState(params.actor, learner, store.init())

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        unit = squash(net.apply(params, obs, ())[0][0])
        noisy = lambda noise: jnp.clip(unit + hp.algorithm.explore_var_spec * noise, -1.0, 1.0)  # noqa: E731
        return *offpolicy.play_unit(hp, space, noisy, carry, rng, greedy), ()

    def critic_loss(params: PyTree, targets: Params, batch: Batch, rng: Key, hp: HP) -> tuple[Array, Any]:
        a_t = squash(net.apply(targets.actor, batch.final_obs, ())[0][0])
        a_t = smooth(a_t, rng, hp) if smooth else a_t
        q_t = critics.apply(targets.critics, batch.final_obs, a_t)[..., 0]
        target = batch.r_t + batch.discount_t * jnp.min(q_t, 0)
        scores, learned = critics.learn(params, batch.obs, critics.unit(batch.action), batch.weight)
        value, (error, mean) = td_loss(critics.pick(scores, batch.action), target, batch, hp)
        return value, (error, mean, learned)

    def actor_loss(params: PyTree, first: PyTree, batch: Batch) -> tuple[Array, PyTree]:
        (output,), learned = learning(net)(params, batch.obs, batch.weight)
        q = critics.apply(first, batch.obs, squash(output))[0, :, 0]
        return -weighted_mean(q, batch.weight), learned

    def learn_actor(state: tuple[PyTree, Learner], batch: Batch, hp: HP) -> tuple[PyTree, Learner]:
        actor, learner = state
        first = jax.tree.map(lambda x: x[:1], learner.critics)
        (value, learned), gradient = jax.value_and_grad(actor_loss, has_aux=True)(actor, first, batch)
        actor, opt_state = descend(net_optimizer(hp.net), gradient, learner.opt_states.actor, learned)
        actor = keep_statistics(actor, learned)
        return actor, learner._replace(opt_states=learner.opt_states._replace(actor=opt_state), actor_loss=value)

    def learn(
        state: tuple[PyTree, Learner], batch: Batch, rng: Key, tick: Tick, hp: HP
    ) -> tuple[tuple[PyTree, Learner], dict[str, Array], Array]:
        actor, learner = state
        descent = jax.value_and_grad(critic_loss, has_aux=True)
        (value, (error, q, learned)), gradient = descent(learner.critics, learner.targets, batch, rng, hp)
        now, opt_state = descend_each(critic_optimizer(hp), gradient, learner.opt_states.critics, learned)
        learner = learner._replace(critics=now, opt_states=learner.opt_states._replace(critics=opt_state))
        delay = hp.algorithm.policy_delay
        actor, learner = offpolicy.every(delay, tick, partial(learn_actor, batch=batch, hp=hp), (actor, learner))
        targets = follow_steps(learner.targets, Params(actor, now), hp, size, tick.last, tick.steps % delay == 0)
        logs = {"critic_loss": value, "q_value": q, "grad_norm": optax.tree.norm(gradient)}
        return (actor, learner._replace(targets=targets)), logs | {"actor_loss": learner.actor_loss}, error

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        known, step = (state.policy, state.learner), partial(learn, hp=hp)
        (actor, learner), ring, logs = offpolicy.replay(store, size, state.memory, rollout, rng, hp, known, step)
        logs |= {"loss": logs["critic_loss"] + logs["actor_loss"]}
        logs |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(actor, learner, ring), logs

    alg, carry, observe = hp.algorithm, partial(offpolicy.no_noise, space), offpolicy.remembering(store)
    agent = Agent(init, act, update, alg.training_frequency, observe, alg.training_start_step, alg.training_iter, carry)
    return watch(agent, hp, env)


DDPG = Algorithm(DDPGKeys, make, (Box,), ("Replay",), POLICY_GRADIENT_KEYS, {"update_type": "polyak"})
