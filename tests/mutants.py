"""Mistakes that this field makes again and again, written into the code on purpose; and the tests that must see them.

`tests/test_mutants.py` makes each of them in a copy of the package and runs the tests named beside it, which must fail.
`python tests/mutants.py` writes the table of `docs/testing.md`.
"""

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"
HEADING = "## Mutants"

# The 25 that every deep-RL library should be proof against.
NAMES = (
    "drop `1-terminated`",
    "swap flags",
    "lambda-recursion crosses episodes",
    "bootstrap from reset obs",
    "missing gamma",
    "advantage sign",
    "no `stop_gradient` on target",
    "target net never synced",
    "(N,) vs (N,1) broadcast",
    "PRNG key reused across envs",
    "PRNG key reused across seeds",
    "minibatch permutation reused",
    "ratio without stop-grad",
    "log-prob summed over batch",
    "entropy sign",
    "tanh log-det missing",
    "action not rescaled",
    "normaliser updated in eval",
    "clipped reward reported as return",
    "replay samples past write pointer",
    "stack across episode boundary",
    "PER weights unnormalised",
    "LSTM state not reset on done",
    "hidden state stored one step late",
    "frames counted per-env instead of total",
)


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        name: one of `NAMES`.
        file: where it is made, within `slmjax`.
        part: what it spoils there.
        old: what stands there, exactly once.
        new: what stands there instead.
        caught_by: the tests that see it, each of them, as pytest names them within `tests`.
    """

    name: str
    file: str
    part: str
    old: str
    new: str
    caught_by: tuple[str, ...]


ONE_UPDATE = "test_policy_gradients.py::test_one_update_is_what_the_papers_say"
A2C, PPO = f"{ONE_UPDATE}[ActorCritic-discrete]", f"{ONE_UPDATE}[PPO-box]"
REINFORCE = "test_policy_gradients.py::test_one_update_of_reinforce_is_what_the_paper_says"
SELF_IMITATION = "test_policy_gradients.py::test_self_imitation_adds_a_step_towards_what_was_better_than_thought"
DQN = "test_dqn.py::test_one_update_is_what_the_papers_say[DQN]"
SAC = "test_sac.py::TestOneUpdate::test_it_is_what_the_papers_say[discrete]"
TD3 = "test_td3.py::test_one_update_is_what_the_papers_say[TD3]"
ROLLOUT = "test_session.py::TestRollout::test_it_says_what_the_environments_did"
DRAWS = "test_session.py::TestRollout::test_every_session_iteration_step_and_environment_has_draws_of_its_own"
RAW = "test_session.py::TestStatistics::test_returns_are_raw_where_an_agent_learns_from_their_signs"
GRID = "test_session.py::TestTime::test_rows_lie_on_the_grid_and_the_last_one_at_the_end"
RECURRENT = "test_recurrent.py::test_what_a_session_saw_is_what_learning_sees"
WINDOW_END = "test_memory.py::test_truncation_ends_a_window_but_bootstraps_and_termination_does_not"

# An idea that has several places in the code has a mutant in each of them.
MUTANTS = (
    Mutant(
        "drop `1-terminated`",
        "maths/returns.py",
        "discounts of on-policy methods",
        "return gamma * (1.0 - terminated)",
        "return gamma * (1.0 - 0.0 * terminated)",
        ("test_maths.py::test_discounts_are_gamma_or_zero", A2C),
    ),
    Mutant(
        "drop `1-terminated`",
        "memory/replay.py",
        "n-step returns of the ring",
        "return total, factor * (1.0 - ring.terminated[last]), last",
        "return total, factor, last",
        (WINDOW_END, DQN, TD3),
    ),
    Mutant(
        "swap flags",
        "session.py",
        "rollouts of a session",
        "out.reward, out.terminated, out.truncated, out.final_obs",
        "out.reward, out.truncated, out.terminated, out.final_obs",
        (ROLLOUT,),
    ),
    Mutant(
        "swap flags",
        "envs/vector.py",
        "steps of the environments",
        "Step(obs, reward, terminated, truncated & ~terminated, final_obs",
        "Step(obs, reward, truncated & ~terminated, terminated, final_obs",
        ("test_envs.py::test_max_t_truncates_and_termination_on_the_same_step_still_wins", ROLLOUT),
    ),
    Mutant(
        "lambda-recursion crosses episodes",
        "maths/returns.py",
        "GAE",
        "return _accumulate(delta, discount_t * lam * (1.0 - ended))",
        "return _accumulate(delta, discount_t * lam)",
        ("test_maths.py::test_gae_equals_a_loop_on_a_thousand_trajectories", A2C),
    ),
    Mutant(
        "lambda-recursion crosses episodes",
        "maths/returns.py",
        "lambda-returns",
        "return 1.0 - (ended.astype(bool) | last)",
        "return 1.0 - jnp.broadcast_to(last, ended.shape)",
        ("test_returns.py::test_q_lambda_equals_rlax_and_a_loop_over_the_best_values",),
    ),
    Mutant(
        "bootstrap from reset obs",
        "session.py",
        "rollouts of a session",
        "out.terminated, out.truncated, out.final_obs",
        "out.terminated, out.truncated, out.obs",
        (ROLLOUT,),
    ),
    Mutant(
        "bootstrap from reset obs",
        "envs/vector.py",
        "steps of the environments",
        "truncated & ~terminated, final_obs, jnp.ones",
        "truncated & ~terminated, obs, jnp.ones",
        ("test_envs.py::test_final_obs_is_what_the_environment_returned_and_obs_is_a_new_episode_where_one_ended",),
    ),
    Mutant(
        "bootstrap from reset obs",
        "learners/on_policy.py",
        "A2C, PPO",
        "obs, final_obs = normalize(policy, rollout.obs), normalize(policy, rollout.final_obs)",
        "obs = normalize(policy, rollout.obs)\n        final_obs = jnp.concatenate([obs[1:], obs[-1:]])",
        (A2C, PPO),
    ),
    Mutant(
        "bootstrap from reset obs",
        "memory/replay.py",
        "n-step returns of the ring",
        "_at(ring.action, index), _at(ring.obs, after)\n",
        "_at(ring.action, index), _at(ring.obs, (last + num_envs) % ring.reward.shape[0])\n",
        ("test_memory.py::test_n_step_returns_that_cross_episodes_would_be_caught",),
    ),
    Mutant(
        "bootstrap from reset obs",
        "memory/ring.py",
        "truncated rows whose successor was overwritten",
        "return at, ~truncated | (ring.owner.reshape(-1)[entry] == within)",
        "return at, jnp.ones_like(truncated)",
        ("test_memory.py::test_truncations_in_quick_succession_do_overwrite_successors",),
    ),
    Mutant(
        "missing gamma",
        "maths/returns.py",
        "discounts of on-policy methods",
        "return gamma * (1.0 - terminated)",
        "return 1.0 - terminated",
        ("test_maths.py::test_discounts_are_gamma_or_zero", A2C),
    ),
    Mutant(
        "missing gamma",
        "memory/replay.py",
        "n-step returns of the ring",
        "jnp.full_like(ring.reward[index], gamma)",
        "jnp.ones_like(ring.reward[index])",
        (WINDOW_END, DQN, TD3),
    ),
    Mutant(
        "advantage sign",
        "algos/a2c.py",
        "A2C",
        "policy_loss = -weighted_mean(",
        "policy_loss = weighted_mean(",
        (A2C,),
    ),
    Mutant(
        "advantage sign",
        "algos/ppo.py",
        "PPO",
        "clipped_surrogate(log_ratio, batch.advantage, clip)",
        "clipped_surrogate(log_ratio, -batch.advantage, clip)",
        (PPO,),
    ),
    Mutant(
        "advantage sign",
        "learners/episodic.py",
        "REINFORCE",
        "return -surrogate - hp.algorithm",
        "return surrogate - hp.algorithm",
        (REINFORCE,),
    ),
    Mutant(
        "no `stop_gradient` on target",
        "maths/losses.py",
        "TD errors",
        "return jax.lax.stop_gradient(target_tm1) - pick(q_tm1, a_tm1)",
        "return target_tm1 - pick(q_tm1, a_tm1)",
        ("test_maths.py::test_no_gradient_flows_through_a_target",),
    ),
    # Where there are target networks no gradient could come so far. CrossQ has none.
    Mutant(
        "no `stop_gradient` on target",
        "learners/off_policy.py",
        "critics without targets (CrossQ)",
        "error = jax.lax.stop_gradient(target_tm1) - q_tm1",
        "error = target_tm1 - q_tm1",
        ("test_crossq.py::test_one_update_is_what_the_paper_says[discrete]",),
    ),
    Mutant(
        "target net never synced",
        "learners/targets.py",
        "replace",
        "return where((hp.frame + frames) // period > hp.frame // period, params, target)",
        "return target",
        (
            "test_dqn.py::test_a_replaced_target_waits_for_its_frame",
            "test_sac.py::test_a_replaced_target_waits_for_its_frame_and_for_the_end_of_the_update",
        ),
    ),
    Mutant(
        "target net never synced",
        "learners/targets.py",
        "polyak",
        "return optax.incremental_update(params, target, jnp.where(due, hp.net.polyak_coef, 0.0))",
        "return target",
        (DQN, SAC, TD3),
    ),
    # Everything that takes several arrays refuses unequal shapes: the guard is gone.
    Mutant(
        "(N,) vs (N,1) broadcast",
        "maths/arrays.py",
        "the guard against it",
        "if len(set(shapes)) > 1:",
        "if len(set(shapes)) > len(shapes):",
        ("test_maths.py::test_shapes_that_would_broadcast_are_refused",),
    ),
    # And where there is no guard.
    Mutant(
        "(N,) vs (N,1) broadcast",
        "algos/ppo.py",
        "where no guard stands: PPO's value loss",
        "value_loss = elementwise(value - batch.target)",
        "value_loss = jnp.mean(elementwise(value.reshape(-1, 1) - batch.target.reshape(-1)), 1).reshape(value.shape)",
        (PPO,),
    ),
    Mutant(
        "PRNG key reused across envs",
        "envs/vector.py",
        "resets",
        "return jax.vmap(start)(jax.random.split(key, num_envs))",
        "return jax.vmap(start)(jnp.stack([key] * num_envs))",
        ("test_envs.py::test_each_environment_steps_with_draws_of_its_own",),
    ),
    Mutant(
        "PRNG key reused across envs",
        "envs/vector.py",
        "steps",
        "steps = jax.random.split(key, num_envs)",
        "steps = jnp.stack([key] * num_envs)",
        ("test_envs.py::test_each_environment_steps_with_draws_of_its_own", DRAWS),
    ),
    Mutant(
        "PRNG key reused across envs",
        "policies/exploration.py",
        "epsilon-greedy",
        "draw = jax.random.uniform(key, scores.shape[:-1])",
        "draw = jnp.broadcast_to(jax.random.uniform(key), scores.shape[:-1])",
        ("test_policies.py::test_epsilon_greedy_draws_for_each_environment",),
    ),
    Mutant(
        "PRNG key reused across seeds",
        "session.py",
        "keys of sessions",
        "return jax.random.fold_in(jax.random.fold_in(root_key(seed), trial), session)",
        "return jax.random.fold_in(jax.random.key(seed), trial)",
        (DRAWS, "test_determinism.py::TestEveryAlgorithm::test_sessions_differ_in_everything_random[Random]"),
    ),
    Mutant(
        "PRNG key reused across seeds",
        "session.py",
        "keys of training",
        "key = jax.random.fold_in(session.key, _TRAIN)",
        "key = jax.random.fold_in(jax.random.key(0), _TRAIN)",
        (DRAWS,),
    ),
    # The same in time: every rollout of a session draws what the first one drew.
    Mutant(
        "PRNG key reused across seeds",
        "session.py",
        "keys of the rollouts of one session",
        "jax.random.split(jax.random.fold_in(key, frame))",
        "jax.random.split(key)",
        (DRAWS,),
    ),
    Mutant(
        "minibatch permutation reused",
        "learners/minibatches.py",
        "passes over one rollout",
        "jax.vmap(lambda k: permutation(k, plan.sequences))",
        "jax.vmap(lambda k: permutation(key, plan.sequences))",
        ("test_maths.py::test_every_pass_over_every_rollout_has_an_order_of_its_own",),
    ),
    Mutant(
        "minibatch permutation reused",
        "learners/minibatches.py",
        "updates",
        "shuffle(plan, rng)",
        "shuffle(plan, jax.random.key(0))",
        ("test_policy_gradients.py::test_every_update_of_ppo_has_an_order_of_its_own",),
    ),
    # The nearest: log-probabilities of acting are data here, not functions of the parameters. This recomputes them.
    Mutant(
        "ratio without stop-grad",
        "algos/ppo.py",
        "PPO",
        "policy.log_prob(batch.raw) - batch.log_prob",
        "policy.log_prob(batch.raw) - policy.log_prob(batch.raw)",
        (PPO,),
    ),
    # What self-imitation weighs log-probabilities by is no function of the parameters either.
    Mutant(
        "ratio without stop-grad",
        "learners/imitation.py",
        "SIL",
        "imitation = -policy.log_prob(batch.action) * jax.lax.stop_gradient(better)",
        "imitation = -policy.log_prob(batch.action) * better",
        (SELF_IMITATION,),
    ),
    Mutant(
        "log-prob summed over batch",
        "algos/a2c.py",
        "A2C",
        "weighted_mean(policy.log_prob(batch.raw) * batch.advantage",
        "weighted_mean(policy.log_prob(batch.raw).sum() * batch.advantage",
        (A2C,),
    ),
    Mutant(
        "log-prob summed over batch",
        "policies/continuous.py",
        "Normal, SquashedNormal",
        "return jnp.sum(x, tuple(range(-event, 0))) if event else x",
        "return jnp.sum(x) if event else x",
        ("test_policies.py::test_normal_equals_scipy_over_every_event",),
    ),
    Mutant(
        "entropy sign",
        "learners/on_policy.py",
        "A2C, PPO",
        "- hp.algorithm.entropy_coef_spec * entropy",
        "+ hp.algorithm.entropy_coef_spec * entropy",
        (A2C, PPO),
    ),
    Mutant(
        "entropy sign",
        "learners/episodic.py",
        "REINFORCE",
        "- hp.algorithm.entropy_coef_spec * entropy",
        "+ hp.algorithm.entropy_coef_spec * entropy",
        (REINFORCE,),
    ),
    Mutant(
        "entropy sign",
        "learners/off_policy.py",
        "SAC",
        "(jnp.min(q, 0) - alpha * draws.log_prob)",
        "(jnp.min(q, 0) + alpha * draws.log_prob)",
        ("test_sac.py::test_expectations_over_discrete_actions_are_exact", SAC),
    ),
    Mutant(
        "tanh log-det missing",
        "policies/continuous.py",
        "SquashedNormal",
        "return _sum(normal - _log_tanh_slope(raw), self.event)",
        "return _sum(normal, self.event)",
        (
            "test_policies.py::test_squashed_normal_is_a_density_over_the_interval",
            "test_sac.py::test_log_probabilities_of_unit_actions_are_those_of_tfp",
        ),
    ),
    Mutant(
        "action not rescaled",
        "policies/continuous.py",
        "actors",
        "safe_low + 0.5 * (unit + 1.0) * (safe_high - safe_low), raw)",
        "unit, raw)",
        (
            "test_policies.py::test_raw_values_become_actions_of_the_space",
            "test_offpolicy.py::test_the_bounds_are_minus_one_and_one",
        ),
    ),
    Mutant(
        "action not rescaled",
        "learners/off_policy.py",
        "actions that critics see",
        "critics.learn(params, batch.obs, critics.unit(batch.action), batch.weight)",
        "critics.learn(params, batch.obs, batch.action, batch.weight)",
        (TD3,),
    ),
    # The nearest: acting returns no statistics, so an evaluation cannot keep any. Here it sees by moved ones.
    Mutant(
        "normaliser updated in eval",
        "learners/on_policy.py",
        "acting",
        "pi, value, carry = net.step(policy.params, normalize(policy, obs), carry)",
        "now = moments.update(policy.obs_moments, obs, jnp.ones(len(obs))) if alg.normalize_obs else ()\n"
        "        pi, value, carry = net.step(policy.params, normalize(policy._replace(obs_moments=now), obs), carry)",
        ("test_learning.py::TestNormalisation::test_acting_sees_by_them_as_they_are_whoever_acts_beside[True]",),
    ),
    Mutant(
        "clipped reward reported as return",
        "session.py",
        "training",
        "running = running + jnp.where(out.valid, out.reward, 0.0)",
        "running = running + jnp.where(out.valid, jnp.sign(out.reward), 0.0)",
        (RAW, ROLLOUT),
    ),
    Mutant(
        "clipped reward reported as return",
        "play.py",
        "evaluation",
        "total = total + jnp.where(going & out.valid, out.reward, 0.0)",
        "total = total + jnp.where(going & out.valid, jnp.sign(out.reward), 0.0)",
        (RAW,),
    ),
    Mutant(
        "replay samples past write pointer",
        "memory/replay.py",
        "draws",
        "oldest = jnp.minimum(frame, whole(spec, rows, num_envs, frame))",
        "oldest = whole(spec, rows, num_envs, frame)",
        ("test_memory.py::test_draws_are_uniform_over_what_was_written",),
    ),
    Mutant(
        "replay samples past write pointer",
        "memory/replay.py",
        "n-step returns",
        "        open_ = open_ & (age - k * num_envs >= 0)\n",
        "",
        ("test_memory.py::test_n_step_windows_end_at_the_write_head",),
    ),
    Mutant(
        "stack across episode boundary",
        "memory/frame_stack.py",
        "rows of the ring",
        "same = same & ~ring.resets(here) & (age",
        "same = same & (age",
        ("test_views.py::test_a_stack_that_crosses_an_episode_would_be_caught",),
    ),
    Mutant(
        "stack across episode boundary",
        "memory/frame_stack.py",
        "rollouts",
        "return where(resets, fresh, carry), (x, final_x)",
        "return carry, (x, final_x)",
        ("test_views.py::test_a_rollout_is_stacked_as_it_was_seen[2]",),
    ),
    Mutant(
        "PER weights unnormalised",
        "memory/prioritized.py",
        "importance weights",
        "smallest / jnp.where(drawn, priority, 1.0)",
        "1.0 / jnp.where(drawn, priority, 1.0)",
        ("test_prioritized.py::test_importance_is_one_where_nothing_is_preferred_and_never_above",),
    ),
    Mutant(
        "LSTM state not reset on done",
        "session.py",
        "acting",
        "carry = where(out.resets, fresh, carry)",
        "carry = where(jnp.zeros_like(out.resets), fresh, carry)",
        (RECURRENT,),
    ),
    Mutant(
        "LSTM state not reset on done",
        "nets/recurrent.py",
        "learning",
        "return tuple(jnp.where(ended[..., None], 0.0, s) for s in reached), reached",
        "return reached, reached",
        (
            "test_recurrent.py::test_cells_are_those_of_the_textbook_and_forget_at_the_end_of_an_episode[LSTM-1]",
            RECURRENT,
        ),
    ),
    Mutant(
        "hidden state stored one step late",
        "session.py",
        "the carry of a rollout",
        "rollout._replace(carry=session.carry)",
        "rollout._replace(carry=agent.act(session.agent.policy, session.obs, session.carry, key, hp, False)[1])",
        (RECURRENT,),
    ),
    # The same within learning: a successor is seen with the carry that its step began with.
    Mutant(
        "hidden state stored one step late",
        "nets/unroll.py",
        "successors",
        "jax.vmap(net.apply, (None, 0, 0))(params, final_obs, reached)",
        "jax.vmap(net.apply, (None, 0, 0))(params, final_obs, jax.tree.map(lambda r: r[::-1], reached))",
        ("test_recurrent.py::test_a_successor_is_seen_with_the_carry_that_its_step_left",),
    ),
    Mutant(
        "frames counted per-env instead of total",
        "session.py",
        "rows of the log",
        "size = agent.horizon * env.num_envs",
        "size = agent.horizon",
        (GRID,),
    ),
    Mutant(
        "frames counted per-env instead of total",
        "learners/q_learning.py",
        "DQN",
        "after_update(target, followed(learned), hp, rollout.reward.size)",
        "after_update(target, followed(learned), hp, len(rollout.reward))",
        ("test_dqn.py::test_a_replaced_target_waits_for_its_frame",),
    ),
    Mutant(
        "frames counted per-env instead of total",
        "learners/off_policy.py",
        "SAC, TD3",
        "iterations, size = hp.algorithm.training_iter, rollout.reward.size",
        "iterations, size = hp.algorithm.training_iter, len(rollout.reward)",
        ("test_sac.py::test_a_replaced_target_waits_for_its_frame_and_for_the_end_of_the_update",),
    ),
)


INTRODUCTION = """
`pytest -m mutants` makes each of these mistakes in a copy of the package, one at a time. The tests next to it must fail
then, each of them because what it claims is no longer true; without the mistake all of them pass.
`python tests/mutants.py` writes this section. `tests/test_mutants.py`, in the default run, holds the table against the
code: when code that a mutant changes is rewritten, the mutant has to be rewritten, too.
"""


def section() -> str:
    """What `docs/testing.md` says of them."""
    rows = ["| mutant | in `slmjax/` | what it spoils | caught by |", "|---|---|---|---|"]
    for mutant in MUTANTS:
        tests = "<br>".join(f"`{test}`" for test in mutant.caught_by)
        rows.append(f"| {mutant.name} | `{mutant.file}` | {mutant.part} | {tests} |")
    return "\n".join([HEADING, INTRODUCTION, *rows]) + "\n"


def without_section(page: str) -> str:
    """The page up to the table, which is its last section."""
    return page.partition(HEADING)[0].rstrip() + "\n\n"


if __name__ == "__main__":
    PAGE.write_text(without_section(PAGE.read_text(encoding="utf-8")) + section(), encoding="utf-8")
