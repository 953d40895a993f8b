"""SARSA: on-policy temporal differences (Rummery & Niranjan 1994; Sutton & Barto 2018, section 6.4).

    act for `training_frequency` steps: epsilon-greedy on Q(s, .)
    descend once on  loss( r + gamma (1 - terminated) Q(s', a') - Q(s, a) ),  a' the action taken in s'

Within a rollout `a'` is the action of the next row. Where there is none it is drawn by the policy that acted: after the
last row, and where a time limit stopped the episode, whose next row belongs to another one. The draw after the last row
has the distribution of the action that a policy without this update would take, as in the textbook, where `a'` is
chosen before Q changes; holding that transition back for the action really taken would mix two policies in one batch
instead. The target is no function of the parameters (a semi-gradient).
"""

import jax
import jax.numpy as jnp
import optax

from slmjax.algos.losses import PUNISH, q_target, td_error, weighted_mean
from slmjax.algos.returns import discounts
from slmjax.algos.value_heads import ActionValueKeys
from slmjax.algos.watch import shown, watch_rollouts
from slmjax.memory.view import boundary
from slmjax.nets.action_values import build_action_values
from slmjax.nets.keys import ACTOR_KEYS, TARGET_KEYS
from slmjax.nets.optim import descend, net_optimizer
from slmjax.policies.exploration import POLICIES, greedy_action
from slmjax.policies.masks import masking
from slmjax.spec.schema import hyper, key
from slmjax.types import HP, Agent, AgentState, Algorithm, Array, Discrete, Key, PyTree, Rollout, VectorEnv


@hyper
class SARSAKeys(ActionValueKeys):
    """`agent.algorithm` of name `SARSA`."""

    name: str = key(default="SARSA", doc="name of the algorithm")
    training_frequency: int = key(default=8, doc="steps of each environment between two gradient steps", low=1)


def next_actions(action: Array, drawn: Array, ended: Array) -> Array:
    """The actions that follow those of a rollout, all `[T, E]`.

    `drawn` are draws of the policy at `final_obs`: they stand in where the next row is no next step.
    """
    following = jnp.concatenate([action[1:], drawn[-1:]])
    return jnp.where(ended, drawn, following)


def make(hp: HP, env: VectorEnv) -> Agent:
    """A SARSA agent.

    Raises:
        SpecError: see `nets.build.build` and `policies.masks.masking`.
    """
    space, actions = shown(hp, env).observation_space, env.action_space.n
    net, mask = build_action_values(hp.net, space, actions), masking(space, (actions,))

    def explore(q: Array, rng: Key, hp: HP) -> Array:
        return POLICIES[hp.algorithm.action_policy](q, hp.algorithm.explore_var_spec, rng)

    def init(rng: Key, hp: HP) -> AgentState:
        params = net.init(rng, hp.net)
        return AgentState(params, net_optimizer(hp.net).init(params))

    def act(params: PyTree, obs: PyTree, carry: PyTree, rng: Key, hp: HP, greedy: bool) -> tuple[Array, PyTree, PyTree]:
        output, carry = net.step(params, obs, carry)
        q = mask(output[..., 0], obs)
        return (greedy_action(q) if greedy else explore(q, rng, hp)), carry, ()

    def values(params: PyTree, rollout: Rollout) -> tuple[Array, Array]:
        ended = boundary(rollout)
        here, there = net.transitions(params, rollout.obs, rollout.final_obs, rollout.carry, ended)
        return mask(here[..., 0], rollout.obs), mask(there[..., 0], rollout.final_obs)

    def loss(params: PyTree, rollout: Rollout, rng: Key, hp: HP) -> tuple[Array, Array]:
        q_tm1, q_t = values(params, rollout)
        q_t = jax.lax.stop_gradient(q_t)
        a_t = next_actions(rollout.action, explore(q_t, rng, hp), rollout.terminated | rollout.truncated)
        discount_t = discounts(rollout.terminated, hp.algorithm.gamma)
        target = q_target(rollout.reward, discount_t, q_t, jax.nn.one_hot(a_t, actions))
        punished = PUNISH[hp.net.loss_spec.name](td_error(q_tm1, rollout.action, target))
        weight = rollout.valid.astype(jnp.float32)
        return weighted_mean(punished, weight), weighted_mean(jnp.max(q_tm1, -1), weight)

    def update(state: AgentState, rollout: Rollout, rng: Key, hp: HP) -> tuple[AgentState, dict[str, Array]]:
        (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(state.policy, rollout, rng, hp)
        params, opt_state = descend(net_optimizer(hp.net), gradient, state.learner, state.policy)
        metrics = {"loss": value, "q_value": q, "grad_norm": optax.tree.norm(gradient)}
        metrics |= {"lr": hp.net.optim_spec.lr, "explore_var": hp.algorithm.explore_var_spec}
        return AgentState(params, opt_state), metrics

    agent = Agent(init, act, update, horizon=hp.algorithm.training_frequency, opt_steps=1, carry=net.carry)
    return watch_rollouts(agent, hp, env)


SARSA = Algorithm(SARSAKeys, make, (Discrete,), ("OnPolicyBatchReplay",), ACTOR_KEYS + TARGET_KEYS)
