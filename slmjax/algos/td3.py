"""Twin delayed deep deterministic policy gradient (TD3, Fujimoto et al. 2018), and DDPG (Lillicrap et al. 2016).

    act: a = pi(s) + noise
    for each sampled batch
        a'        = clip( pi_target(s') + clip(noise, -c, c), -1, 1 )                    smoothing
        critics   descend  ( r + gamma (1 - terminated) min_i Q_target_i(s', a') - Q_i(s, a) )^2
        at every `policy_delay`-th
            actor ascends  Q_1(s, pi(s))                                                 with the critics just learned
            the target networks follow

DDPG is the same with one critic, no smoothing and no delay. Actions and their noise are in units of half the range of
the action space.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from slmjax.algos import offpolicy
from slmjax.algos.critics import build_critics, critic_optimizer, descend_each, from_unit, init_each, learning, td_loss
from slmjax.algos.losses import same_shape, weighted_mean
from slmjax.algos.offpolicy import ReplayKeys, Tick
from slmjax.algos.targets import follow_steps
from slmjax.algos.watch import shown, watch
from slmjax.memory.replay import Batch
from slmjax.nets.batch_renorm import keep_statistics
from slmjax.nets.build import build
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


@hyper
class TD3Keys(DDPGKeys):
    """`agent.algorithm` of name `TD3`."""

    name: str = key(default="TD3", doc="name of the algorithm")
    policy_delay: int = key(default=2, doc="gradient steps of the critics for each one of the actor", low=1)
    target_noise: float = key(default=0.2, doc="standard deviation of the noise on target actions", low=0)
    target_noise_clip: float = key(default=0.5, doc="largest noise on a target action", low=0)


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


# (target action in [-1, 1], key, hp) -> the action whose value is the target
Smooth = Callable[[Array, Key, HP], Array]


def smooth(unit: Array, rng: Key, hp: HP) -> Array:
    """Target policy smoothing: clipped normal noise on unit actions (Fujimoto et al. 2018, section 5.3)."""
    noise = hp.algorithm.target_noise * jax.random.normal(rng, unit.shape)
    limit = hp.algorithm.target_noise_clip
    return jnp.clip(unit + jnp.clip(noise, -limit, limit), -1.0, 1.0)


def clipped_double_target(r_t: Array, discount_t: Array, q_t: Array) -> Array:
    """`r_t + discount_t min_i q_t_i`, `[B]`, for values `[N, B]` (Fujimoto et al. 2018, equation 10)."""
    same_shape(r_t, discount_t, q_t[0])
    return r_t + discount_t * jnp.min(q_t, 0)


def make(hp: HP, env: VectorEnv, *, number: int, smooth: Smooth) -> Agent:
    """A deterministic actor with `number` critics, whose target actions are changed by `smooth`.

    Raises:
        SpecError: a memory too small, or actions without finite bounds.
    """
    size, store = offpolicy.rollout_size(hp, env), offpolicy.make_store(hp, env)
    space: Box = env.action_space
    seen = shown(hp, env).observation_space
    masking(seen, ())  # refuses masks: no continuous action can be forbidden
    # The actor first: what an error says of observations is then about those of the environment alone.
    net = build(hp.net, seen, (Tail(prod(space.shape), "actor"),), statistics=True)
    critics = build_critics(hp.net, seen, space, number)

    def squash(output: Array) -> Array:
        return jnp.tanh(output.reshape(*output.shape[:-1], *space.shape))

    def play(params: PyTree, obs: PyTree) -> Array:
        return squash(net.apply(params, obs, ())[0][0])

    def init(rng: Key, hp: HP) -> AgentState:
        actor_key, critic_key = jax.random.split(rng)
        params = Params(net.init(actor_key, hp.net), critics.init(critic_key, hp.net))
        opt_states = Params(net_optimizer(hp.net).init(params.actor), init_each(critic_optimizer(hp), params.critics))
        learner = Learner(params.critics, jax.tree.map(jnp.copy, params), opt_states, jnp.zeros(()))
        return AgentState(params.actor, learner, store.init())

    def act(
        params: PyTree, obs: PyTree, carry: offpolicy.Noise, rng: Key, hp: HP, greedy: bool
    ) -> tuple[Array, PyTree, PyTree]:
        unit = play(params, obs)
        if greedy:
            return from_unit(space, unit), carry, ()
        carry = offpolicy.next_noise(carry, rng, hp.algorithm.noise_correlation)
        noisy = lambda noise: jnp.clip(unit + hp.algorithm.explore_var_spec * noise, -1.0, 1.0)  # noqa: E731
        return from_unit(space, offpolicy.explore(hp, carry.value, noisy)), carry, ()

    def critic_loss(params: PyTree, targets: Params, batch: Batch, rng: Key, hp: HP) -> tuple[Array, Any]:
        a_t = smooth(play(targets.actor, batch.final_obs), rng, hp)
        q_t = critics.apply(targets.critics, batch.final_obs, a_t)[..., 0]
        scores, learned = critics.learn(params, batch.obs, critics.unit(batch.action), batch.weight)
        q_tm1 = critics.pick(scores, batch.action)
        value, (error, mean) = td_loss(q_tm1, clipped_double_target(batch.r_t, batch.discount_t, q_t), batch, hp)
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
        due = tick.steps % delay == 0
        targets = follow_steps(learner.targets, Params(actor, now), hp, size, tick.last, due)
        logs = {"critic_loss": value, "q_value": q, "grad_norm": optax.tree.norm(gradient)}
        return (actor, learner._replace(targets=targets)), logs | {"actor_loss": learner.actor_loss}, error

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        known, step = (state.policy, state.learner), partial(learn, hp=hp)
        (actor, learner), ring, logs = offpolicy.replay(store, size, state.memory, rollout, rng, hp, known, step)
        logs |= {"loss": logs["critic_loss"] + logs["actor_loss"], "lr": hp.net.optim_spec.lr}
        logs |= {"explore_var": hp.algorithm.explore_var_spec}
        return AgentState(actor, learner, ring), logs

    alg, carry = hp.algorithm, partial(offpolicy.no_noise, space)
    steps, observe = alg.training_iter, offpolicy.remembering(store)
    agent = Agent(init, act, update, alg.training_frequency, observe, alg.training_start_step, steps, carry)
    return watch(agent, hp, env)


def _algorithm(keys: type, number: int, smooth: Smooth) -> Algorithm:
    unread, polyak = ("log_std_init", "shared"), {"update_type": "polyak"}
    return Algorithm(keys, partial(make, number=number, smooth=smooth), (Box,), ("Replay",), unread, polyak)


TD3 = _algorithm(TD3Keys, 2, smooth)
DDPG = _algorithm(DDPGKeys, 1, lambda unit, rng, hp: unit)
