"""Actors and critics that learn from a memory: DDPG, TD3, soft actor-critic, CrossQ.

    until `training_start_step`: act uniformly at random, remember
    every `training_frequency` steps: remember them; then `training_iter` times
        sample a batch from the memory
        V(s')    = E_{a' ~ pi} [ min_i Q_i(s', a') - alpha log pi(a' | s') ]                  by target networks
        critics  descend  ( r + gamma (1 - terminated) V(s') - Q_i(s, a) )^2
        at every `policy_delay`-th: the actor descends  -V(s)                  with the critics just learned
                                    log alpha descends  log alpha (H(pi) - target entropy)
        the target networks follow

Members of the family differ in their `Actor`, in how the critics are bootstrapped, in which networks have targets, and
in whether there is a temperature alpha (else it is 0). The expectation is over the `K` actions of `Draws`: one
reparameterised draw where actions are continuous, all of them where they are discrete, so the formulas are the same.
With `num_step_returns` above 1, V is that of the last state: the entropies of the steps between are left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from slmjax.learners import replayed, temperature
from slmjax.learners.descent import Learned, Logs, begin, descent, each
from slmjax.learners.preprocess import network_space, stack_frames
from slmjax.learners.targets import after_step, after_update
from slmjax.maths.arrays import same_shape
from slmjax.maths.losses import ELEMENTWISE, weighted_mean
from slmjax.memory.replay import Batch
from slmjax.nets.critics import Critics, build_critics, learning
from slmjax.nets.network import build
from slmjax.nets.optim import critic_optimizer, net_optimizer
from slmjax.policies.masks import masking
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Array, Discrete, Head, Key, Net, PyTree, Rollout, Store, VectorEnv

State = TypeVar("State")


@hyper
class OffPolicyKeys:
    """Keys of `agent.algorithm` that the whole family has."""

    name: str = key(default="", doc="name of the algorithm")
    action_pdtype: str = key(default="default", doc="distribution over actions: the algorithm's", choices=("default",))
    action_policy: str = key(default="default", doc="how it is explored: sampled", choices=("default",))
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    training_frequency: int = key(default=1, doc="steps of each environment between two training events", low=1)
    training_iter: int = key(default=1, doc="gradient steps of one training event, each on a batch of its own", low=1)
    training_start_step: int = key(default=1000, doc="frames of uniformly random actions before training", low=0)
    policy_delay: int = key(default=1, doc="gradient steps of the critics for each one of the actor", low=1)
    noise_correlation: float = key(
        default=0.0, doc="correlation of a continuous action's noise from step to step; 0 is white", low=0, high=1
    )


class Draws(NamedTuple):
    """`K` actions in each of `B` states, over which an expectation under the policy is taken.

    Attributes:
        action: unit actions `[B, ...]`; `()` where the `K` are all discrete ones, in their order.
        weight: `[B, K]`: probabilities, or 1 for the only draw.
        log_prob: `[B, K]`.
    """

    action: Any
    weight: Array
    log_prob: Array


class Actor(NamedTuple):
    """What the output of an actor's network means.

    Attributes:
        width: numbers that the network must put out.
        act: `(output [E, width], carry, key, hp, greedy) -> (action [E, ...], carry)`.
        carry: as `Agent.carry`.
        draws: `(output [B, width], key, hp) -> Draws`, with gradients.
        next_draws: the same, for the states that critics are bootstrapped from.
        target_entropy: `(output [B, width], hp) -> [B]`, that of a temperature where the spec names none.
    """

    width: int
    act: Callable[..., tuple[PyTree, PyTree]]
    carry: Callable[[int], PyTree]
    draws: Callable[[Array, Key, HP], Draws]
    next_draws: Callable[[Array, Key, HP], Draws]
    target_entropy: Callable[[Array, HP], Array] | None = None


class Targets(NamedTuple):
    """Parameters of target networks; `()` for those that there are not."""

    actor: PyTree
    critics: PyTree


class OffPolicyLearner(NamedTuple):
    """What learning needs besides the actor and the memory.

    Attributes:
        critics: their parameters and optimiser states, `[N, ...]`.
        targets: target networks.
        actor_opt: state of the actor's optimiser.
        log_alpha: logarithm of the temperature, and its optimiser's state; `()` where there is no temperature.
        actor_logs: what the last step of the actor logged; steps without one log it again.
    """

    critics: Learned
    targets: Targets
    actor_opt: PyTree
    log_alpha: Any
    actor_logs: Logs


def random_first(hp: HP, random: Callable[[], Any], play: Callable[[], Any]) -> Any:
    """`random()` before the frame `training_start_step`, `play()` from there on."""
    start = hp.algorithm.training_start_step
    return jax.lax.cond(hp.frame < start, random, play) if start else play()


def soft_value(q: Array, draws: Draws, alpha: Any) -> Array:
    """`E_pi [min_i q_i - alpha log pi]`, `[B]`, of values `[N, B, K]` (Haarnoja et al. 2018b, equation 3)."""
    same_shape(q[0], draws.weight, draws.log_prob)
    return jnp.sum(draws.weight * (jnp.min(q, 0) - alpha * draws.log_prob), -1)


def entropy(draws: Draws) -> Array:
    """`-E_pi [log pi]`, `[B]`, of unit actions."""
    return -jnp.sum(draws.weight * draws.log_prob, -1)


def td_loss(q_tm1: Array, target_tm1: Array, batch: Batch, hp: HP) -> tuple[Array, Logs]:
    """The sum over the critics of the mean loss of their TD errors; the mean value, and the size of each error `[B]`.

    Args:
        q_tm1: values of the played actions, `[N, B]`.
        target_tm1: what they should have been, `[B]`; no gradient goes through it.
        batch: gives the weight of each transition.
        hp: names the loss, `net.loss_spec`.
    """
    same_shape(q_tm1[0], target_tm1)
    error = jax.lax.stop_gradient(target_tm1) - q_tm1
    losses = jnp.sum(ELEMENTWISE[hp.net.loss_spec.name](error), 0) * batch.importance
    logs = {"q_value": weighted_mean(jnp.mean(q_tm1, 0), batch.weight), "error": jnp.mean(jnp.abs(error), 0)}
    return weighted_mean(losses, batch.weight), logs


CriticLoss = Callable[..., tuple[Array, tuple[Logs, PyTree]]]  # see `bootstrapped_loss`


def bootstrapped_loss(
    critics: Critics, params: PyTree, targets: PyTree, draws_t: Draws, alpha: Any, batch: Batch, hp: HP
) -> tuple[Array, tuple[Logs, PyTree]]:
    """The critics' loss, bootstrapped from the target critics; (logs with `error [B]`, parameters as they moved)."""
    q_t = critics.apply(targets, batch.final_obs, draws_t.action)
    target = batch.r_t + batch.discount_t * soft_value(q_t, draws_t, alpha)
    values, learned = critics.learn(params, batch.obs, critics.unit(batch.action), batch.weight)
    value, logs = td_loss(critics.pick(values, batch.action), target, batch, hp)
    return value, (logs, learned)


class _Parts(NamedTuple):
    """What the functions of an agent close over: all of it static. The flags are those of `make`."""

    net: Net
    actor: Actor
    critics: Critics
    store: Store
    mask: Callable[[Array, PyTree], Array]
    critic_loss: CriticLoss
    policy_critics: int
    soft: bool
    target_actor: bool
    target_critics: bool


def make(
    hp: HP,
    env: VectorEnv,
    *,
    actor: Actor,
    critic_loss: CriticLoss = bootstrapped_loss,
    num_critics: int = 2,
    policy_critics: int = 2,
    soft: bool = True,
    target_actor: bool = False,
    target_critics: bool = True,
) -> Agent:
    """An agent with `num_critics` critics; the actor learns from the least of the first `policy_critics`.

    It is `soft` with a temperature. With a `target_actor`, polyak moves the targets when the actor moves (Fujimoto et
    al. 2018, algorithm 1).

    Raises:
        SpecError: a memory too small, actions without finite bounds, or a mask of valid actions that does not fit.
    """
    alg, space = hp.algorithm, network_space(hp, env)
    store = replayed.make_store(hp, env, rollout_size=alg.training_frequency * env.num_envs)
    # The actor first: what an error says of observations is then about those of the environment alone.
    net = build(hp.net, space, (Head(actor.width, "actor"),), statistics=True)
    critics = build_critics(hp.net, space, env.action_space, num_critics)
    mask = masking(space, (env.action_space.n,) if isinstance(env.action_space, Discrete) else ())
    parts = _Parts(net, actor, critics, store, mask, critic_loss, policy_critics, soft, target_actor, target_critics)
    agent = Agent(
        init=partial(_init, parts),
        act=partial(_act, parts),
        update=partial(_update, parts),
        horizon=alg.training_frequency,
        warmup=alg.training_start_step,
        opt_steps=alg.training_iter,
        carry=actor.carry,
    )
    return stack_frames(replayed.remembers(agent, store), hp, env)


def _init(parts: _Parts, rng: Key, hp: HP) -> AgentState:
    actor_key, critic_key = jax.random.split(rng)
    actor = begin(parts.net.init(actor_key, hp.net), net_optimizer(hp.net))
    critics = begin(parts.critics.init(critic_key, hp.net), each(critic_optimizer(hp.net)))
    copy = lambda tree, kept: jax.tree.map(jnp.copy, tree) if kept else ()  # noqa: E731
    targets = Targets(copy(actor.params, parts.target_actor), copy(critics.params, parts.target_critics))
    logs = dict.fromkeys(("actor_loss", "entropy") if parts.soft else ("actor_loss",), jnp.zeros(()))
    log_alpha = temperature.init(hp) if parts.soft else ()
    return AgentState(actor.params, OffPolicyLearner(critics, targets, actor.opt_state, log_alpha, logs))


def _act(
    parts: _Parts, params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool
) -> tuple[PyTree, PyTree, PyTree]:
    (output,), _ = parts.net.apply(params, obs, ())
    return *parts.actor.act(parts.mask(output, obs), carry, rng, hp, greedy), ()


def _update(parts: _Parts, state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, Logs]:
    iterations, size = hp.algorithm.training_iter, rollout.reward.size
    # Gradient steps of all updates before, worked out from the frame: so `policy_delay` stays a branch under `vmap`.
    taken = (hp.frame // size - -(-hp.algorithm.training_start_step // size)) * iterations

    def step(state: Any, batch: Batch, key: Key, i: Array) -> tuple[Any, Logs, Array]:
        actor, learner, logs = _learn(parts, state[0], state[1], batch, key, hp, taken + i)
        error = logs.pop("error")
        return (actor, learner), logs, error

    known = (Learned(state.policy, state.learner.actor_opt), state.learner)
    draw, noise = jax.random.split(rng)
    (actor, learner), ring, logs = replayed.replay(
        parts.store, state.memory, rollout, known, step, hp, batches=iterations, sample_key=draw, step_key=noise
    )
    logs["loss"] = logs["critic_loss"] + logs["actor_loss"]
    targets = after_update(learner.targets, _online(parts, actor, learner), hp, size)
    return AgentState(actor.params, learner._replace(actor_opt=actor.opt_state, targets=targets), ring), logs


def _learn(
    parts: _Parts, actor: Learned, learner: OffPolicyLearner, batch: Batch, rng: Key, hp: HP, taken: Array
) -> tuple[Learned, OffPolicyLearner, Logs]:
    """The gradient step after `taken` others."""
    (target_key, actor_key), targets, alpha = jax.random.split(rng), learner.targets, _alpha(parts, learner, hp)
    (output,), _ = parts.net.apply(targets.actor if parts.target_actor else actor.params, batch.final_obs, ())
    draws_t = parts.actor.next_draws(parts.mask(output, batch.final_obs), target_key, hp)
    loss = lambda x: parts.critic_loss(parts.critics, x, targets.critics, draws_t, alpha, batch, hp)  # noqa: E731
    critics, logs = descent(loss, each(critic_optimizer(hp.net)), statistics=True)(learner.critics)
    delay, learner = hp.algorithm.policy_delay, learner._replace(critics=critics)
    due = taken % delay == 0
    actor, learner = _if_due(delay, due, lambda now: _learn_actor(parts, *now, batch, actor_key, hp), (actor, learner))
    targets = after_step(targets, _online(parts, actor, learner), hp, due if parts.target_actor else True)
    logs = {"critic_loss": logs.pop("loss"), **logs, **learner.actor_logs} | ({"alpha": alpha} if parts.soft else {})
    return actor, learner._replace(targets=targets), logs


def _learn_actor(
    parts: _Parts, actor: Learned, learner: OffPolicyLearner, batch: Batch, rng: Key, hp: HP
) -> tuple[Learned, OffPolicyLearner]:
    """A gradient step of the actor, and of the temperature."""
    alpha = _alpha(parts, learner, hp)
    critics = jax.tree.map(lambda x: x[: parts.policy_critics], learner.critics.params)

    def loss(params: PyTree) -> tuple[Array, tuple[Logs, PyTree]]:
        (output,), learned = learning(parts.net)(params, batch.obs, batch.weight)
        output = parts.mask(output, batch.obs)
        draws = parts.actor.draws(output, rng, hp)
        value = soft_value(parts.critics.apply(critics, batch.obs, draws.action), draws, alpha)
        logs = {"entropy": weighted_mean(entropy(draws), batch.weight)}
        if parts.actor.target_entropy is not None:
            logs["target"] = weighted_mean(parts.actor.target_entropy(output, hp), batch.weight)
        return -weighted_mean(value, batch.weight), (logs, learned)

    actor, logs = descent(loss, net_optimizer(hp.net), statistics=True)(actor)
    if not parts.soft:
        return actor, learner._replace(actor_logs={"actor_loss": logs["loss"]})
    log_alpha = temperature.learn(learner.log_alpha, logs["entropy"], logs["target"], hp)
    shown = {"actor_loss": logs["loss"], "entropy": logs["entropy"]}
    return actor, learner._replace(log_alpha=log_alpha, actor_logs=shown)


def _online(parts: _Parts, actor: Learned, learner: OffPolicyLearner) -> Targets:
    """What the target networks follow."""
    return Targets(actor.params if parts.target_actor else (), learner.critics.params if parts.target_critics else ())


def _alpha(parts: _Parts, learner: OffPolicyLearner, hp: HP) -> Any:
    return temperature.alpha(learner.log_alpha.params, hp) if parts.soft else 0.0


def _if_due(period: int, due: Array, step: Callable[[State], State], state: State) -> State:
    """`step(state)` where `due`, else `state`; one flag for the whole population, so it stays a branch."""
    return step(state) if period == 1 else jax.lax.cond(due, step, lambda same: same, state)
