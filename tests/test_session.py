"""A session is a pure function, and a population is many of them in one program that does nothing else.

That a seed decides everything is for `test_determinism.py`.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from agents import spec_of
from compiling import AS_USERS_DO
from trees import host, same, unlike

import slmjax
from slmjax import session as session_module
from slmjax.batches import stack
from slmjax.envs import vectorize
from slmjax.lab.loop import _wish, compile_segment, late_frame, learn, start
from slmjax.lab.trial import make_trial
from slmjax.population import make_population
from slmjax.session import make_program, session_key
from slmjax.stats import WINDOW
from slmjax.types import HP, Agent, AgentState, Box, Discrete, Env


def trial_of(name: str, sessions: int = 4, env: str = "CartPole-v1", frames: int = 1024, **changes):
    meta = {"max_session": sessions, "log_frequency": 256, "eval_episodes": 2} | changes.pop("meta", {})
    return make_trial(spec_of(name, env, frames, meta=meta, **changes))


def run_to(trial, *stops: int):
    """Sessions after segments that end at the given frames."""
    sessions, frame = trial.population.init(trial.keys, trial.hp), 0
    for stop in stops:
        sessions, _ = trial.population.segment(sessions, trial.hp, frame, stop, late=late_frame(trial))
        frame = stop
    return trial.population.gather(sessions)


# ------------------------------------------------------------------------------------------- what an agent is handed

HORIZON, ENVS = 6, 4


def witness() -> Agent:
    """Acts at random; remembers what the last rollout saw and did, and a draw of its update."""
    blank = jnp.zeros((HORIZON, ENVS, 1)), jnp.zeros((HORIZON, ENVS), jnp.int32), jnp.zeros((), jnp.uint32)

    def act(policy, obs, carry, key, hp, greedy):
        return jax.random.randint(key, obs.shape[:1], 0, 2**30), carry, ()

    def update(state, rollout, key, hp):
        return state._replace(memory=(rollout.obs, rollout.action, jax.random.bits(key))), {}

    return Agent(lambda key, hp: AgentState((), memory=blank), act, update, HORIZON)


def counting() -> Env:
    """Observations count from a multiple of ten that the reset draws. An episode that began with an even one dies after
    three steps, the others are cut after five. The reward is half the observation acted on.
    """

    def reset(key):
        first = 10.0 * jax.random.randint(key, (1,), 0, 1000)
        return first, first

    def step(key, now, action):
        even, steps = now[0] // 10 % 2 == 0, now[0] % 10 + 1
        return now + 1, now + 1, now[0] / 2, even & (steps == 3), ~even & (steps == 5)

    return Env(reset, step, Box(0.0, 1e5, (1,)), Discrete(2))


def noise() -> Env:
    """Every observation is a draw of its own, and nothing ends."""
    draw = lambda key: jax.random.uniform(key, (1,))  # noqa: E731
    step = lambda key, state, action: (state, draw(key), 0.0, False, False)  # noqa: E731
    return Env(lambda key: ((), draw(key)), step, Box(0.0, 1.0, (1,)), Discrete(2))


class TestRollout:
    def test_it_says_what_the_environments_did(self):
        agent, env, hp = witness(), vectorize(counting(), ENVS), HP((), (), ())
        session = jax.jit(make_program(agent, env, env, 1).init)(jax.random.key(0), hp)
        collect, parts = jax.jit(lambda s, k: session_module.collect(agent, env, s, hp, k)), []
        for i in range(4):
            session, *part = collect(session, jax.random.key(i))
            parts.append(part)
        rows, returns = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        obs, final_obs = rows.obs[..., 0], rows.final_obs[..., 0]
        even, steps, ended = obs // 10 % 2 == 0, obs % 10, rows.terminated | rows.truncated
        np.testing.assert_array_equal(rows.terminated, even & (steps == 2))
        np.testing.assert_array_equal(rows.truncated, ~even & (steps == 4))
        assert rows.terminated.any()
        assert rows.truncated.any()
        np.testing.assert_array_equal(final_obs, obs + 1)
        np.testing.assert_array_equal(rows.reward, obs / 2)
        np.testing.assert_array_equal(obs[1:][~ended[:-1]], final_obs[:-1][~ended[:-1]])
        assert (steps[1:][ended[:-1]] == 0).all()
        running = np.zeros(ENVS)
        for t, now in enumerate(rows.reward):
            running = running + now
            np.testing.assert_allclose(returns[t], running, rtol=1e-5)
            running = np.where(ended[t], 0.0, running)

    def test_every_session_iteration_step_and_environment_has_draws_of_its_own(self):
        env, size, hp = vectorize(noise(), ENVS), HORIZON * ENVS, HP((), (), ())
        program = make_program(witness(), env, env, size)
        keys = jax.vmap(lambda i: session_key(0, 0, i))(jnp.arange(3))
        first = jax.jit(program.init)(keys[0], hp)
        sessions = jax.vmap(lambda key: first._replace(key=key))(keys)  # alike in everything else
        segment, seen = jax.jit(jax.vmap(program.segment, (0, None, None, None))), []
        for i in range(3):
            sessions, _ = segment(sessions, hp, i * size, (i + 1) * size)
            obs, action, drawn = sessions.agent.memory
            seen.append((obs[:, 1:], action, drawn))  # the first observation is that of before
        for values in zip(*seen, strict=True):
            drawn = np.stack(values)
            assert len(np.unique(drawn)) == drawn.size


class TestProgram:
    def test_no_second_segment_is_traced_or_compiled_anew(self):
        trial = trial_of("DQN")
        traces = []
        counted = trial.program._replace(segment=lambda *args: traces.append(1) or trial.program.segment(*args))
        population = make_population(counted, 4, lanes=trial.population.lanes)
        sessions = population.init(trial.keys, trial.hp)
        for frame, stop in ((0, 256), (256, 1024), (1024, 1040)):
            sessions, _ = population.segment(sessions, trial.hp, frame, stop)
        assert len(traces) == 1

    def test_hyperparameters_are_data(self):
        trial = trial_of("DQN")
        one = stack([trial.spec.hp] * 4)
        rates = jnp.asarray([1e-4, 1e-3, 1e-2, 1e-1])
        net = dataclasses.replace(one.net, optim_spec=dataclasses.replace(one.net.optim_spec, lr=rates))
        same_seed = trial.population.place(session_key(0, 0, 0)[None][jnp.zeros(4, int)])
        hp = trial.population.place(one._replace(net=net))
        result = host(run_to(trial._replace(keys=same_seed, hp=hp), 512))
        kernel = next(v for k, v in result.items() if ".agent.policy" in k and "kernel" in k)
        assert len({k.tobytes() for k in kernel}) == 4

    @pytest.mark.parametrize("algorithm", ["DQN", "PPO"])
    def test_the_compiled_program_holds_no_collective_and_no_copy_of_a_ring(self, algorithm):
        rows = 4096
        changes = {"memory": {"max_size": rows}} if algorithm == "DQN" else {}
        trial = trial_of(algorithm, **changes)
        text = (
            trial.population.lower(trial.population.init(trial.keys, trial.hp), trial.hp).compile(AS_USERS_DO).as_text()
        )
        assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter", text)
        ring = rf"= \w+\[([12],)?{rows}[\],]"
        assert algorithm == "PPO" or re.search(ring, text), "the ring is there"
        assert not [line for line in text.splitlines() if re.search(ring + r".* (copy|select)\(", line)]

    def test_a_ring_copy_would_be_seen(self):
        """The mutant of the test above: a `where` over the ring."""
        rows = 4096

        def body(ring, flag):
            ring = jax.lax.dynamic_update_slice_in_dim(ring, jnp.ones((4,)), 0, 0)
            return jnp.where(flag, ring, 0.0)

        text = jax.jit(jax.vmap(body)).lower(jnp.zeros((2, rows)), jnp.ones(2, bool)).compile(AS_USERS_DO).as_text()
        assert re.search(rf"= \w+\[2,{rows}[\],].* (copy|select)\(", text)

    @pytest.mark.parametrize("sessions", [pytest.param(1, marks=pytest.mark.slow), 3])
    def test_sessions_that_do_not_divide_among_devices_are_all_there(self, sessions):
        trial = trial_of("PPO", sessions)
        ran = run_to(trial, 512)
        keys, hp = jax.vmap(lambda i: session_key(0, 0, i))(jnp.arange(sessions)), stack([trial.spec.hp] * sessions)
        alone = jax.vmap(trial.program.init)(keys, hp)
        segment = jax.vmap(trial.program.segment, (0, 0, None, None, None, None))
        alone, _ = jax.jit(segment)(alone, hp, 0, 512, True, late_frame(trial))
        assert jax.tree.leaves(ran)[0].shape[0] == sessions
        for name, value in host(alone).items():
            np.testing.assert_allclose(host(ran)[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


class TestTime:
    def test_nothing_is_learned_in_the_warm_up_and_everything_is_remembered(self):
        trial = trial_of("DQN", algorithm={"training_start_step": 512})
        population = trial.population
        batches = population.init(trial.keys, trial.hp)
        before = population.gather(batches).agent
        batches, rows = population.segment(batches, trial.hp, 0, 512)
        warm = population.gather(batches).agent
        assert same(before._replace(memory=()), warm._replace(memory=()))
        assert np.abs(np.asarray(warm.memory.obs[:, :512])).sum(-1).min() > 0
        assert (rows["updates"] == 0).all()
        batches, rows = population.segment(batches, trial.hp, 512, 768)
        learned = population.gather(batches).agent
        assert len(unlike(before.policy, learned.policy)) == len(host(learned.policy))
        assert (rows["updates"] == 16).all()

    @pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
    def test_opt_steps_are_those_of_the_optimiser(self, algorithm):
        trial = trial_of(algorithm)
        run = learn(trial, start(trial), lambda run: True)
        learner = trial.population.gather(run.sessions).agent.learner
        counts = [v for k, v in host(learner.opt_state).items() if k.endswith("count")]
        assert counts
        assert (run.history.columns["opt_step"][:, -1] == counts[0]).all()
        assert (run.history.columns["opt_step"] > 0).any()

    def test_rows_lie_on_the_grid_and_the_last_one_at_the_end(self):
        trial = trial_of("DQN", frames=1000)
        run = learn(trial, start(trial), lambda run: True)
        assert run.history.columns["frame"][0].tolist() == [256, 512, 768, 1008]  # whole iterations of 16 frames

    def test_a_row_without_an_update_or_an_episode_says_so(self):
        trial = trial_of("DQN", algorithm={"training_start_step": 512})
        columns = learn(trial, start(trial), lambda run: True).history.columns
        assert np.isnan(columns["loss"][0]).tolist() == [True, True, False, False]
        trial = trial_of("Random", 1, env="probes:nan_reward")
        columns = learn(trial, start(trial), lambda run: True).history.columns
        assert np.isnan(columns["total_reward"]).all(), "that episode never ends"

    def test_evaluations_happen_where_they_were_asked_for_and_touch_nothing(self):
        asked = trial_of("DQN", meta={"eval_frequency": 500})
        silent = trial_of("DQN")
        runs = [learn(trial, start(trial), lambda run: True) for trial in (asked, silent)]
        seen = [np.isfinite(run.history.columns["eval_reward"][0]).tolist() for run in runs]
        assert seen == [[False, True, False, True], [False, False, False, True]]
        assert same(runs[0].sessions, runs[1].sessions)

    def test_compiling_changes_nothing(self):
        trial = trial_of("PPO", 2)
        first = start(trial)
        before = host(first.sessions)
        after, seconds = compile_segment(trial, first)
        assert seconds > 0
        assert all(np.array_equal(before[k], v) for k, v in host(after.sessions).items())


class TestStatistics:
    def test_returns_are_raw_sums_of_rewards(self):
        trial = trial_of("Random", 2)
        run = learn(trial, start(trial), lambda run: True)
        columns = run.history.columns
        # Every CartPole step pays 1: finished returns and running ones add up to the frames.
        stats = trial.population.gather(run.sessions).stats
        episodes = int(columns["epi"][0, -1])
        assert episodes <= WINDOW
        total = float(stats.returns[0, :episodes].sum() + stats.running[0].sum())
        assert total == 1024

    def test_returns_are_raw_where_an_agent_learns_from_their_signs(self):
        trial = trial_of("DQN", 2, env="probes:far_reset", frames=512, memory={"reward_op": "sign"})
        columns = learn(trial, start(trial), lambda run: True).history.columns
        worth = probes.START_REWARD + 3  # of an episode of four steps
        assert (columns["total_reward"] == worth).all()
        assert (columns["eval_reward"][:, -1] == worth).all()

    def test_the_best_policy_is_that_of_the_best_row(self):
        trial = trial_of("PPO", 2, frames=16384)
        best, kept = -np.inf, None

        def first(run):
            return jax.tree.map(lambda x: x[0], trial.population.gather(run.sessions))

        def watch(run):
            nonlocal best, kept
            if run.frame % 256:
                return True  # a visit within a row
            reward = run.history.columns["total_reward"][0, -1]
            if run.history.columns["epi"][0, -1] >= WINDOW and reward >= best:
                best, kept = reward, host(first(run).agent.policy)
            return True

        run = start(trial)
        for stop in range(256, 16385, 256):
            env = dataclasses.replace(trial.spec.env, max_frame=stop)
            one = trial._replace(spec=dataclasses.replace(trial.spec, env=env))
            run = learn(one, run, watch)
        assert first(run).best.score == np.float32(best)
        found = host(first(run).best.policy)
        assert kept, "a window was full"
        assert all(np.array_equal(found[k], v) for k, v in kept.items())


class TestFailure:
    def test_a_session_that_turns_nan_is_frozen_and_named_and_the_others_never_know(self):
        trial = trial_of("PPO", env="probes:nan_reward", frames=1024)
        population = trial.population
        sound = population.gather(population.init(trial.keys, trial.hp))
        clean = sound._replace(env=sound.env._replace(poisoned=jnp.zeros_like(sound.env.poisoned)))
        struck = sound._replace(env=clean.env._replace(poisoned=clean.env.poisoned.at[2].set(True)))
        before = host(jax.tree.map(lambda x: x[2], struck.best.policy))
        placed = [population.place(s) for s in (clean, struck)]
        (clean, _), (struck, rows) = [population.segment(s, trial.hp, 0, 1024) for s in placed]
        clean, struck = population.gather(clean), population.gather(struck)
        assert np.asarray(struck.failed).tolist() == [-1, -1, 256, -1]
        for lane in (0, 1, 3):
            assert same(jax.tree.map(lambda x: x[lane], clean), jax.tree.map(lambda x: x[lane], struck))  # noqa: B023
        after = host(jax.tree.map(lambda x: x[2], struck.best.policy))
        assert all(np.array_equal(before[k], v) for k, v in after.items()), "what it was before the row"
        assert np.asarray(rows["failed"])[:, 3].tolist() == [-1, -1, 256, -1]

    def test_a_session_that_turns_nan_later_keeps_its_best_policy(self):
        trial = trial_of("PPO", env="probes:nan_reward", frames=1024)
        population = trial.population
        sessions = population.gather(population.init(trial.keys, trial.hp))
        sessions = sessions._replace(env=sessions.env._replace(poisoned=jnp.zeros_like(sessions.env.poisoned)))
        batches, _ = population.segment(population.place(sessions), trial.hp, 0, 512)
        sessions = population.gather(batches)
        first, best = host(sessions.agent.policy), host(sessions.best.policy)
        assert all(np.array_equal(first[k], best[k]) for k in first), "no window is full: the newest is the best"
        struck = sessions._replace(env=sessions.env._replace(poisoned=sessions.env.poisoned.at[2].set(True)))
        struck = population.gather(population.segment(population.place(struck), trial.hp, 512, 1024)[0])
        assert np.asarray(struck.failed).tolist() == [-1, -1, 768, -1]
        last = host(struck.best.policy)
        assert all(np.array_equal(last[k][2], best[k][2]) for k in last)
        assert not all(np.array_equal(last[k][1], best[k][1]) for k in last), "the others go on"

    def test_when_every_session_has_failed_nothing_is_left_to_run(self):
        env = {"name": "probes:nan_reward", "kwargs": {"probability": 1.0, "at": 4}, "num_envs": 4, "max_frame": 10**7}
        agent = {"algorithm": {"name": "PPO", "time_horizon": 32, "minibatch_size": 64}}
        spec = slmjax.load_spec({"name": "lost", "agent": agent, "env": env})
        with pytest.warns(UserWarning, match="every session failed by frame"):
            result = slmjax.train(spec, sessions=2)
        assert sorted(result.failed) == [0, 1]
        assert result.frame < 10**6
        with pytest.raises(ValueError, match="all failed"):
            result.best()

    def test_the_lab_reports_the_frame_and_averages_the_others(self):
        spec = spec_of("PPO", "probes:nan_reward", 2048, meta={"log_frequency": 256, "eval_episodes": 2})
        result = slmjax.train(spec, sessions=16)
        assert result.failed, "16 sessions x 4 environments at 2 % each"
        assert len(result.failed) < 16
        lost = next(iter(result.failed))
        assert (result.df[result.df.session == lost].frame < result.failed[lost]).all()
        assert result.best().state is not None


class TestRows:
    """A segment may stop anywhere between two iterations; what is learned and logged does not show where."""

    def test_a_row_may_be_left_open_and_ended_later(self):
        trial = trial_of("DQN")
        whole, rows = trial.population.segment(trial.population.init(trial.keys, trial.hp), trial.hp, 0, 512)
        parts = trial.population.init(trial.keys, trial.hp)
        logs = []
        for frame, stop in ((0, 16), (16, 240), (240, 272), (272, 512)):
            parts, some = trial.population.segment(parts, trial.hp, frame, stop, close=False)
            ended = stop // 256 - frame // 256
            assert {x.shape for x in some.values()} == {(4, ended)}
            logs += [{name: x[:, i] for name, x in some.items()} for i in range(ended)]
        assert same(whole, parts)
        assert len(logs) == 2
        for i, log in enumerate(logs):
            assert all(np.array_equal(np.asarray(rows[name])[:, i], value) for name, value in log.items())

    def test_the_driver_visits_within_a_long_row(self):
        trial = trial_of("PPO", frames=8192, meta={"log_frequency": 8192})
        visits = []
        run = learn(trial, start(trial), lambda run: visits.append(run.frame) or True)
        assert visits[0] == 128
        assert len(visits) > 2
        assert run.history.columns["frame"][0].tolist() == [8192]
        assert same(trial.population.gather(run.sessions), run_to(trial, 8192))

    @pytest.mark.parametrize(
        ("frames", "seconds", "wish"),
        [
            (100, 0.01, 800),  # the first segments are short: whoever waits sees something
            (10_000, 1.0, 10_000),
            (10_000, 10.0, 1000),
            (100, 0.5, 400),  # two iterations a second: four are worth one call
            (100, 1.0, 300),  # but nobody waits for more than three seconds
            (100, 10.0, 30),  # where an iteration takes longer, it is one
        ],
    )
    def test_how_far_a_segment_reaches_follows_the_clock(self, frames, seconds, wish):
        assert _wish(frames, seconds, size=100) == wish

    def test_a_stop_within_a_row_is_kept_and_continued(self):
        trial = trial_of("PPO", meta={"log_frequency": 1024})
        run = learn(trial, start(trial), lambda run: False)
        assert (run.frame, run.history.rows) == (128, 0)
        run = learn(trial, run, lambda run: True)
        assert same(trial.population.gather(run.sessions), run_to(trial, 1024))

    @pytest.mark.parametrize(("frame", "stop"), [(0, 8), (8, 16), (0, 256 * 1001)])
    def test_a_segment_that_cannot_be_is_refused(self, frame, stop):
        trial = trial_of("DQN", 1)
        sessions = trial.population.init(trial.keys, trial.hp)
        with pytest.raises(ValueError, match="expected"):
            trial.population.segment(sessions, trial.hp, frame, stop)
