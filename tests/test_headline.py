"""What a run says of itself first: the return at its end, free of how often it was logged."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from agents import spec_of

from slmjax import stats
from slmjax.analysis import metrics
from slmjax.analysis.statistics import bootstrap_ci, iqm
from slmjax.analysis.summary import summary
from slmjax.analysis.tables import session_df
from slmjax.envs import make_env
from slmjax.lab.loop import late_frame, learn, start
from slmjax.lab.report import session_tables
from slmjax.lab.trial import make_agent, make_trial
from slmjax.population import make_population
from slmjax.session import COLUMNS, make_program
from slmjax.stats import WINDOW
from slmjax.types import Rollout, SpecError

NAN = float("nan")


def trial_of(frames: int, log_frequency: int, sessions: int = 2):
    """An agent that acts at random, iterations of 128 frames."""
    meta = {"max_session": sessions, "log_frequency": log_frequency, "eval_episodes": 2}
    return make_trial(spec_of("Random", "CartPole-v1", frames, meta=meta))


def run(frames: int, log_frequency: int, before=None):
    trial = trial_of(frames, log_frequency)
    begun = start(trial) if before is None else before
    return trial, learn(trial, begun, lambda run: True)


class TestTally:
    def test_it_is_what_a_loop_over_the_steps_counts(self):
        rng, envs, steps = np.random.default_rng(0), 64, 7
        now, row = stats.begin(envs), stats.no_episode()
        newest, late, ages, everything = collections.deque(maxlen=WINDOW), [], np.zeros(envs, int), []
        count = jax.jit(stats.count)
        for density, is_late in ((0.0, False), (0.02, False), (0.5, True), (1.0, True), (0.0, True), (0.3, True)):
            ended, valid = rng.random((steps, envs)) < density, rng.random((steps, envs)) < 0.9
            by_limit = rng.random((steps, envs)) < 0.5
            returns = rng.normal(size=(steps, envs)).astype(np.float32)
            flags = map(jnp.asarray, (ended & ~by_limit, ended & by_limit))
            rollout = Rollout(None, None, None, *flags, None, jnp.asarray(valid))
            now, row = count(now, row, rollout, jnp.asarray(returns), is_late)
            late = late if is_late else []
            for t in range(steps):
                ages += valid[t]
                for e in np.flatnonzero(ended[t] & valid[t]):
                    for kept in (newest, everything) + ((late,) if is_late else ()):
                        kept.append((returns[t, e], ages[e]))
                    ages[e] = 0
            np.testing.assert_array_equal(now.age, ages)
            assert now.finished == len(everything)
            held = np.asarray(now.returns)[: min(len(everything), WINDOW)]
            np.testing.assert_array_equal(np.sort(held), np.sort([r for r, _ in newest]))
            for tally, seen in ((row, everything), (now.late, late)):
                assert tally.episodes == len(seen)
                oracle = np.mean(np.asarray(seen, float), axis=0) if seen else np.zeros(2)
                np.testing.assert_allclose([tally.mean_return, tally.mean_length], oracle, rtol=2e-5, atol=1e-6)

    def test_a_long_span_keeps_its_digits_where_a_float32_sum_would_not(self):
        rollout = Rollout(
            None, None, None, jnp.ones((100, 1), bool), jnp.zeros((100, 1), bool), None, jnp.ones((100, 1), bool)
        )
        returns = jnp.full((100, 1), 499.7)
        add = lambda i, at: (stats.count(stats.begin(1), at[0], rollout, returns, False)[1], at[1] + jnp.sum(returns))  # noqa: E731
        tally, total = jax.jit(lambda: jax.lax.fori_loop(0, 40_000, add, (stats.no_episode(), jnp.zeros(()))))()
        assert tally.episodes == 4_000_000
        assert float(tally.mean_return) == pytest.approx(499.7, rel=1e-6)
        assert abs(float(total) / 4e6 - 499.7) > 0.01  # the mutant: sums


class TestFinalReturn:
    def test_it_does_not_depend_on_how_often_is_logged(self):
        seen = []
        for log_frequency in (50, 500, 5000):
            _, done = run(4096, log_frequency)
            columns = done.history.columns
            seen.append([columns[name][:, -1] for name in ("final_return", "final_episodes", "eval_reward")])
        for other in seen[1:]:
            np.testing.assert_array_equal(seen[0], other)
        assert np.isfinite(seen[0]).all()
        assert len({*seen[0][0]}) == 2  # two sessions, two returns

    def test_it_is_of_the_episodes_that_ended_in_the_last_tenth(self):
        trial, done = run(4096, 128)  # a row an iteration: the rows say when each episode ended
        rows, first = done.history.columns, late_frame(trial)
        assert first == 3712  # 3 of 32 iterations
        within = rows["frame"] > first
        returns, number = np.where(rows["episodes"] > 0, rows["mean_return"], 0.0), rows["episodes"]
        for i in range(2):
            last = within[i]
            assert rows["final_episodes"][i, -1] == number[i, last].sum() > 0
            oracle = (returns[i] * number[i])[last].sum() / number[i, last].sum()
            assert rows["final_return"][i, -1] == pytest.approx(oracle, rel=1e-5)
            assert np.isnan(rows["final_return"][i, ~last]).all()
            assert not rows["final_episodes"][i, ~last].any()

    def test_a_budget_that_is_enlarged_moves_it(self):
        _, half = run(1600, 160)
        _, whole = run(3200, 160)
        _, longer = run(3200, 160, before=run(1600, 160)[1])
        np.testing.assert_array_equal(
            whole.history.columns["final_return"][:, -1], longer.history.columns["final_return"][:, -1]
        )
        assert not np.array_equal(
            half.history.columns["final_return"][:, -1], whole.history.columns["final_return"][:, -1]
        )

    def test_rows_hold_what_ended_in_them_and_nothing_else(self):
        trial, done = run(4096, 160)
        rows = done.history.columns
        np.testing.assert_array_equal(rows["episodes"].cumsum(1), rows["epi"])
        ended = rows["episodes"] > 0
        # Every CartPole step pays 1.
        np.testing.assert_allclose(rows["mean_return"][ended], rows["mean_length"][ended], rtol=1e-6)
        assert np.isnan(rows["mean_return"][~ended]).all()
        tables = session_tables(trial.spec, done.history)
        assert tables[0]["episodes"].dtype == np.int64
        running = trial.population.gather(done.sessions).stats.age.sum(1)
        counted = np.where(ended, rows["mean_length"], 0.0) * rows["episodes"]
        np.testing.assert_allclose(counted.sum(1) + np.asarray(running), 4096, rtol=1e-5)


def table(final: float, average: float = 1.0, frame: int = 100, **columns) -> pd.DataFrame:
    shared = {"frame": [frame // 2, frame], "opt_step": [1, 2], "total_reward": [0.0, 1.0]}
    return session_df(shared | {"total_reward_ma": [0.0, average], "final_return": [NAN, final]} | columns)


class TestTrial:
    def test_the_score_is_the_interquartile_mean_with_its_interval(self):
        scores = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -1000.0]
        got = metrics.trial_metrics([table(x) for x in scores], 0.0)
        assert got["final_return"] == iqm(scores) == pytest.approx(3.5)
        assert got["final_return_ci95"] == list(bootstrap_ci(scores, iqm))
        assert got["final_return_mean"] == pytest.approx(np.mean(scores))
        assert [entry["final_return"] for entry in got["sessions"]] == scores

    def test_the_greedy_evaluation_beside_it_is_the_same_statistic(self):
        played = [2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, -1e6]  # one session far off: a mean would tell of nothing else
        tables = [table(x, eval_reward=[NAN, x]) for x in played]
        got = metrics.trial_metrics(tables, 0.0)
        assert got["final_eval_reward"] == got["final_return"] == iqm(played)
        assert got["final_eval_reward_mean"] == pytest.approx(np.mean(played))
        assert summary(got).startswith("final return 3.5 [")
        assert "greedy evaluation 3.5," in summary(got)

    def test_failed_sessions_and_silent_ones_are_named_and_not_in_it(self):
        got = metrics.trial_metrics([table(5.0), table(NAN), table(1e9), table(7.0)], 0.0, failed={2: 50})
        assert got["final_return"] == 6.0
        assert got["failed"] == [2]
        assert got["no_final_episode"] == [1]
        assert metrics.trial_metrics([table(5.0), table(NAN), table(1e9), table(7.0)], 0.0)["final_return"] > 6.0

    @pytest.mark.parametrize(("window", "there"), [(250, True), (251, False), (None, True)])
    def test_slm_labs_average_is_absent_where_its_window_is_most_of_the_run(self, window, there):
        got = metrics.trial_metrics([table(5.0, average=4.0, frame=1000)], 0.0, window=window)
        assert got["final_return_ma"] == (4.0 if there else None)
        assert (got["final_return_ma_absent"] is None) == there
        assert there or "251 frames is more than 25% of the run's 1000" in got["final_return_ma_absent"]
        assert got["final_return"] == 5.0

    def test_a_row_of_a_smaller_budgets_end_is_no_score_of_a_larger_one(self):
        longer = table(NAN, final_return=[7.0, NAN], eval_reward=[9.0, NAN])
        got = metrics.trial_metrics([longer, longer], 0.0, budget=1000)
        assert (got["final_return"], got["final_eval_reward"]) == (None, None)
        assert (got["frame"], got["budget"]) == (100, 1000)
        assert summary(got) == "final return none (stopped at frame 100 of 1000), greedy evaluation none, 2 sessions"

    def test_the_summary_names_who_is_not_in_it(self):
        never = table(NAN, total_reward=[NAN, NAN])
        got = metrics.trial_metrics([table(5.0), table(NAN), never, table(1e9)], None, failed={3: 50})
        assert summary(got).endswith("4 sessions (1 failed: #3, 1 silent: #2, 1 silent at the end: #1)")

    def test_the_summary_leads_with_it(self):
        got = metrics.trial_metrics([table(x, eval_reward=[NAN, 9.0]) for x in (487.25, 487.25)], 0.0)
        assert summary(got) == "final return 487.2 [487.2, 487.2], greedy evaluation 9, 2 sessions"
        one = metrics.trial_metrics([table(-2.7)], 0.0)
        assert summary(one) == "final return -2.7, greedy evaluation none, 1 session"

    @pytest.mark.parametrize(
        ("tables", "failed", "reason"),
        [
            ([table(5.0)], {0}, "every session failed"),
            ([table(NAN)], (), "no episode ended in the last tenth of the budget"),
            ([table(NAN, total_reward=[NAN, NAN])], (), "no episode ended"),
        ],
    )
    def test_the_summary_says_why_there_is_none(self, tables, failed, reason):
        text = summary(metrics.trial_metrics(tables, 0.0, failed))
        assert text.startswith(f"final return none ({reason}), ")


def test_a_notebook_has_it_for_each_session():
    from slmjax.lab.notebook import train

    spec = trial_of(4096, 500).spec
    result = train(dataclasses.replace(spec, meta=dataclasses.replace(spec.meta, lanes=None)))
    tables = result.df.groupby("session").last()
    np.testing.assert_array_equal(result.final_return, tables["final_return"])
    assert result.mean_return.shape == (2, len(result.frames))


class TestColumns:
    def test_a_metric_that_would_hide_a_column_of_every_row_is_refused(self):
        spec = spec_of("Random", "CartPole-v1", 512)
        env = make_env(spec.env)
        agent = make_agent(spec, env)
        for name in COLUMNS:
            named = agent._replace(update=lambda state, *_, name=name: (state, {name: jnp.zeros(())}))
            program = make_program(named, env, env, 128)
            with pytest.raises(SpecError, match=f"metric {name!r}"):
                jax.eval_shape(program.init, jax.random.key(0), spec.hp)

    def test_a_metric_may_have_any_other_name(self):
        trial = trial_of(512, 128)
        agent = make_agent(trial.spec)
        named = agent._replace(update=lambda state, *_: (state, {"policy loss": jnp.ones(())}))
        program = make_program(named, env := make_env(trial.spec.env), env, 128)
        population = make_population(program, 2)
        keys, hp = population.place(trial.population.gather(trial.keys)), population.repeat(trial.spec.hp)
        _, rows = population.segment(population.init(keys, hp), hp, 0, 256)
        np.testing.assert_array_equal(rows["policy loss"], np.ones((2, 2)))

    def test_they_are_those_of_a_run_without_metrics(self):
        trial, done = run(512, 128)
        (table, _) = session_tables(trial.spec, done.history)
        assert set(table.columns) == COLUMNS - {"session", "updates", "failed"}
