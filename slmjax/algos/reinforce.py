"""REINFORCE (Williams 1992) and the cross-entropy method on episodes (Rubinstein 1999; Mannor et al. 2003).

    act for `training_frequency` steps, and append them to a window that holds the episodes under way
    of the episodes that ended in these steps, each from its first step:
        G_t = r_t + gamma r_{t+1} + ...  to the end of the episode, with no bootstrap
    descend once on  -mean log pi(a|s) A - entropy_coef * entropy,  A = G, centred or standardised if asked
    (the cross-entropy method: A = 1, on the episodes of the highest returns alone)

An update learns from whole episodes, whenever they began. Where a policy moves while a long episode is under way, its
first steps are a few updates old, and no importance weight corrects for that: keep `training_frequency` large enough,
or the learning rate small. An episode that a time limit cut counts as ended: there is no value to bootstrap from.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from slmjax.algos.losses import standardize, weighted_mean
from slmjax.algos.watch import shown, watch_rollouts
from slmjax.memory.windows import Episodes, Window, append, elite_floor, empty, episodes
from slmjax.nets.actor import build_actor
from slmjax.nets.keys import CRITIC_KEYS, TARGET_KEYS
from slmjax.nets.optim import descend, net_optimizer
from slmjax.policies.heads import EVERY_ACTION, action_head
from slmjax.policies.schedules import Schedule
from slmjax.spec.errors import refuse_unread
from slmjax.spec.schema import hyper, key
from slmjax.types import (
    HP,
    Agent,
    AgentState,
    Algorithm,
    Array,
    Key,
    PyTree,
    Rollout,
    SpecError,
    VectorEnv,
    zeros,
)


@hyper
class EpisodeKeys:
    """What both methods read."""

    action_pdtype: str = key(default="default", doc="distribution over actions")
    action_policy: str = key(default="default", doc="how it is explored: sampled", choices=("default",))
    entropy_coef_spec: float | Schedule = key(default=0.0, doc="weight of the entropy bonus", low=0)
    training_frequency: int = key(default=32, doc="steps of each environment between two updates", low=1)


@hyper
class ReinforceKeys(EpisodeKeys):
    """`agent.algorithm` of name `Reinforce`."""

    name: str = key(default="Reinforce", doc="name of the algorithm")
    gamma: float = key(default=0.99, doc="discount factor", low=0, high=1)
    center_return: bool = key(default=True, doc="subtract the mean return of the update's steps")
    normalize_advantages: bool = key(default=True, doc="standardise the returns of the update's steps")


@hyper
class CrossEntropyKeys(EpisodeKeys):
    """`agent.algorithm` of name `CrossEntropy`."""

    name: str = key(default="CrossEntropy", doc="name of the algorithm")
    elite: float = key(default=0.2, doc="share of the episodes that are learned from, the best", above=0, high=1)


def make(hp: HP, env: VectorEnv, *, elite: bool) -> Agent:
    """An agent that learns from whole episodes, all of them or the elite alone.

    Raises:
        SpecError: episodes have no bound, a distribution that does not fit or cannot be learned, or returns that are
            to be standardised but not centred.
    """
    steps = hp.algorithm.training_frequency
    if not elite and hp.algorithm.normalize_advantages:
        why = "normalize_advantages subtracts the mean, too; set that to false as well"
        refuse_unread(hp.algorithm, "agent.algorithm", why, "center_return")
    if env.max_steps is None:
        raise SpecError("expected a limit, for this algorithm keeps whole episodes, got none.", "env.max_t")
    head = action_head(hp.algorithm.action_pdtype, env.action_space, learnable=True)
    space = shown(hp, env).observation_space
    net = build_actor(hp.net, space, head, env.action_space.shape)

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        obs, carry = zeros(space, env.num_envs), net.carry(env.num_envs)
        raw = jax.eval_shape(lambda: net.step(params, obs, carry)[0].sample(rng))
        # As long as the longest episode that can end in a rollout.
        return AgentState(params, net_optimizer(hp.net).init(params), empty(env.max_steps + steps, obs, raw))

    def act(
        params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool
    ) -> tuple[PyTree, PyTree, PyTree]:
        policy, carry = net.step(params, obs, carry)
        raw = policy.mode() if greedy else policy.sample(rng)
        return policy.action(raw), carry, raw

    def loss(params: PyTree, window: Window, advantage: Array, weight: Array, hp: HP) -> tuple[Array, Array]:
        # The window begins with a fresh carry: what episodes begun before it left of theirs is learned from by nobody.
        policy = net.unroll(params, window.obs, net.carry(env.num_envs), window.ended | ~window.valid)
        entropy = weighted_mean(policy.entropy(), weight)
        surrogate = weighted_mean(policy.log_prob(window.raw) * advantage, weight)
        return -surrogate - hp.algorithm.entropy_coef_spec * entropy, entropy

    def weigh(found: Episodes, valid: Array, hp: HP) -> tuple[Array, Array]:
        weight = (found.done & valid).astype(jnp.float32)
        if elite:
            best = found.total >= elite_floor(found, hp.algorithm.elite)
            return jnp.ones_like(weight), weight * best
        centred = found.to_go - weighted_mean(found.to_go, weight)
        if hp.algorithm.normalize_advantages:
            return standardize(found.to_go, weight), weight
        return (centred if hp.algorithm.center_return else found.to_go), weight

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        del rng
        window = append(state.memory, rollout, rollout.extras)
        found = episodes(window, steps, 1.0 if elite else hp.algorithm.gamma)
        advantage, weight = weigh(found, window.valid, hp)
        (value, entropy), gradient = jax.value_and_grad(loss, has_aux=True)(state.policy, window, advantage, weight, hp)
        before = state.policy, state.learner
        after = descend(net_optimizer(hp.net), gradient, state.learner, state.policy)
        # Where no episode ended there is nothing to learn, and an optimiser's momentum must not act for it.
        some = jnp.sum(weight) > 0
        policy, learner = jax.tree.map(lambda new, old: jnp.where(some, new, old), after, before)
        metrics = {"loss": value, "entropy": entropy, "grad_norm": optax.tree.norm(gradient)}
        metrics |= {"lr": hp.net.optim_spec.lr, "entropy_coef": hp.algorithm.entropy_coef_spec}
        return AgentState(policy, learner, window), metrics

    return watch_rollouts(Agent(init, act, update, horizon=steps, opt_steps=1, carry=net.carry), hp, env)


def _algorithm(hyper: type, elite: bool) -> Algorithm:
    unread = CRITIC_KEYS + TARGET_KEYS
    return Algorithm(hyper, partial(make, elite=elite), EVERY_ACTION, ("OnPolicyReplay",), unread)


REINFORCE = _algorithm(ReinforceKeys, elite=False)
CROSS_ENTROPY = _algorithm(CrossEntropyKeys, elite=True)
