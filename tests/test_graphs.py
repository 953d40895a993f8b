"""What the graphs of a trial show: the data of their marks, read back from the axes."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from runs import LIMIT
from scipy import stats

from slmjax.analysis import drawing, graphs, style
from slmjax.analysis.curves import ENOUGH, band, learning_curves, middle
from slmjax.analysis.drawing import SHARE, Job, draw_all
from slmjax.analysis.metrics import ranked, trial_metrics
from slmjax.analysis.overview import NAMED, draw_sessions
from slmjax.analysis.statistics import bootstrap_ci, iqm
from slmjax.analysis.summary import summary
from slmjax.analysis.tables import session_df, write_csv
from slmjax.lab.report import noteworthy

NAN = float("nan")


def table(returns, episodes=50, final=None, **more):
    """A session's table: mean returns and numbers of episodes by row; the smoothed return lags far behind."""
    rows = len(returns)
    returns = np.asarray(returns, np.float64)
    episodes = np.where(np.isfinite(returns), episodes, 0)
    columns = {"frame": 1000 * np.arange(1, rows + 1), "opt_step": np.arange(rows), "wall_t": np.arange(rows) / 10}
    columns |= {
        "mean_return": returns,
        "episodes": episodes,
        "total_reward": returns / 2,
        "total_reward_ma": returns / 3,
    }
    columns["final_return"] = np.full(rows, returns[-1] if final is None else final)
    return session_df(columns | more)


def trial(sessions, rows=20, seed=0):
    rng = np.random.default_rng(seed)
    return [table(400 * (1 - np.exp(-np.arange(1, rows + 1) / 5)) + rng.normal(0, 30, rows)) for _ in range(sessions)]


def the(fig, label):
    """The line with a label."""
    (line,) = [line for line in fig.axes[0].lines if re.match(label, str(line.get_label()))]
    return line


def legend(fig):
    return [text.get_text() for text in fig.axes[0].get_legend().get_texts()]


class TestCurves:
    def test_a_bin_is_the_mean_over_the_episodes_that_ended_in_it(self):
        rows = 400
        rng = np.random.default_rng(0)
        episodes = rng.integers(0, 3, rows)
        returns = np.where(episodes > 0, rng.normal(size=rows), NAN)
        curves = learning_curves([table(returns, episodes)])
        assert curves.width > 1
        for at in (-1, -2, -7):
            rows_of = slice(rows + at * curves.width, rows + (at + 1) * curves.width)
            earned = np.repeat(np.nan_to_num(returns[rows_of]), episodes[rows_of])
            assert len(earned) >= ENOUGH
            assert curves.values[0, at] == pytest.approx(earned.mean())
            assert curves.frame[at] == 1000 * (rows + (at + 0.5) * curves.width)

    def test_bins_are_rows_where_rows_hold_enough(self):
        curves = learning_curves([table(np.arange(30.0)), table(np.arange(30.0))])
        assert curves.width == 1
        np.testing.assert_array_equal(curves.values[1], np.arange(30.0))

    def test_a_long_run_has_at_most_200_bins(self):
        assert learning_curves([table(np.arange(5001.0))]).values.shape[1] <= 200

    def test_the_middle_is_scipys_trimmed_mean_and_bears_gaps(self):
        values = np.random.default_rng(0).normal(size=(37, 6))
        values[3, 1] = values[5:, 2] = values[:, 3] = NAN
        for at in (0, 1, 2, 4):
            known = values[np.isfinite(values[:, at]), at]
            assert middle(values)[at] == pytest.approx(stats.trim_mean(known, 0.25))
        assert np.isnan(middle(values)[3])

    def test_the_band_is_the_bootstrap_interval_of_the_interquartile_mean(self):
        values = np.random.default_rng(0).normal(size=(37, 3))
        values[3, 1] = NAN
        low, high = band(values)
        for at in range(3):
            known = values[np.isfinite(values[:, at]), at]
            assert (low[at], high[at]) == pytest.approx(bootstrap_ci(known, iqm), rel=1e-9)
        assert np.isnan(band(values[:1])).all()


class TestTrialGraph:
    def test_it_draws_the_interquartile_mean_of_the_returns_not_of_a_moving_average(self):
        sessions = trial(9)
        line = the(graphs.draw_trial(sessions, "t"), "IQM of 9 sessions")
        expected = [stats.trim_mean([df["mean_return"][i] for df in sessions], 0.25) for i in range(20)]
        np.testing.assert_allclose(line.get_ydata(), expected)
        np.testing.assert_allclose(line.get_xdata(), 1000 * (np.arange(20) + 0.5))

    @pytest.mark.parametrize("sessions", [2, 9, 40])
    def test_nothing_is_drawn_beyond_what_was_earned(self, sessions):
        dfs = [table(np.minimum(df["mean_return"], 380.0)) for df in trial(sessions)]
        fig = graphs.draw_trial(dfs, "t")
        drawn = [np.asarray(line.get_ydata(), float) for line in fig.axes[0].lines]
        drawn += [path.vertices[:, 1] for area in fig.axes[0].collections for path in area.get_paths()]
        earned = np.concatenate([df["mean_return"] for df in dfs])
        assert max(y.max() for y in drawn) <= earned.max() + 1e-9
        assert min(y.min() for y in drawn) >= earned.min() - 1e-9

    def test_failed_sessions_are_marked_by_number_and_left_out(self):
        sessions = [*trial(4), table([900.0] * 10 + [NAN] * 10)]
        fig = graphs.draw_trial(sessions, "t", {4: 10_000})
        mutant = graphs.draw_trial(sessions, "t")  # averaged in
        without = the(graphs.draw_trial(sessions[:4], "t"), "IQM of 4").get_ydata()
        np.testing.assert_array_equal(the(fig, "IQM of 4 sessions").get_ydata(), without)
        assert not np.array_equal(the(mutant, "IQM of 5 sessions").get_ydata()[:10], without[:10])
        cross = the(fig, r"failed \(1\)")
        assert (cross.get_marker(), cross.get_color(), cross.get_xdata()[0]) == ("x", style.RED, 10_000)
        assert "#4" in [text.get_text() for text in fig.axes[0].texts]

    @pytest.mark.parametrize("level", [25.0, 399.0])
    def test_numbers_that_would_cover_each_other_lie_apart_within_the_axis(self, level):
        stuck = [table([level + 0.1 * i] * 20, final=25.0) for i in range(6)]
        fig = graphs.draw_trial(trial(20) + stuck, "t", random_baseline=20.0)
        fig.draw_without_rendering()
        labels = [text for text in fig.axes[0].texts if re.fullmatch(r"#\d+|[\d.]+", text.get_text())]
        assert len(labels) == 7
        boxes = sorted((text.get_window_extent() for text in labels), key=lambda box: box.y0)
        middles = np.array([(box.y0 + box.y1) / 2 for box in boxes])
        assert (np.diff(middles) > 0.7 * boxes[0].height).all()
        axis = fig.axes[0].get_window_extent()
        assert (axis.y0 < middles).all()
        assert (middles < axis.y1).all()

    def test_stuck_sessions_are_marked_by_number(self):
        sessions = [*trial(7), table([25.0] * 20)]
        fig = graphs.draw_trial(sessions, "t", random_baseline=20.0)
        np.testing.assert_array_equal(the(fig, r"stuck \(1\)").get_ydata(), [25.0] * 20)
        assert "#7" in [text.get_text() for text in fig.axes[0].texts]

    @pytest.mark.parametrize("sessions", [3, 300])
    def test_every_mark_is_in_the_legend_and_many_sessions_are_few_marks(self, sessions):
        evals = np.where(np.arange(20) % 5 == 4, 300.0, NAN)
        dfs = [df.assign(eval_reward=evals) for df in trial(sessions)]
        dfs[1:2] = [table([25.0] * 20, eval_reward=evals)]
        fig = graphs.draw_trial(dfs, "t", {0: 5000}, 20.0)
        crowd = {"all sessions", "middle half"} if sessions > 100 else {"single sessions"}
        named = {
            f"IQM of {sessions - 1} sessions",
            "95 % interval",
            "greedy evaluation",
            "random policy (20)",
            "failed (1)",
            "stuck (1)",
        }
        assert set(legend(fig)) == crowd | named
        assert len(fig.axes[0].lines) + len(fig.axes[0].collections) < 12

    def test_greedy_evaluations_are_interquartile_means(self):
        played = [1.0, 2.0, 3.0, -1e6, 1e6]
        evals = [np.where(np.arange(20) == 9, x, NAN) for x in played]
        dfs = [df.assign(eval_reward=one) for df, one in zip(trial(5), evals, strict=True)]
        np.testing.assert_array_equal(the(graphs.draw_trial(dfs, "t"), "greedy").get_ydata(), [2.0])

    def test_the_headline_is_the_summary(self):
        sessions = trial(5)
        fig = graphs.draw_trial(sessions, "t", (), 20.0)
        assert summary(trial_metrics(sessions, 20.0), style.GAP) in [text.get_text() for text in fig.axes[0].texts]


class TestStuck:
    @pytest.mark.parametrize(("final", "stuck"), [(259.0, [4]), (261.0, [])])
    def test_it_is_no_better_than_halfway_from_the_random_policy_to_the_others(self, final, stuck):
        sessions = [table([500.0] * 3)] * 4 + [table([100.0] * 3, final=final)]
        assert trial_metrics(sessions, 20.0)["stuck"] == stuck

    def test_where_nobody_learned_or_random_is_unknown_nobody_is_stuck(self):
        sessions = [table([10.0] * 3), table([-90.0] * 3), table([5.0] * 3)]
        assert trial_metrics(sessions, 50.0)["stuck"] == []
        assert trial_metrics([table([500.0] * 3)] * 4 + [table([1.0] * 3)], None)["stuck"] == []

    def test_a_failed_session_is_failed_not_stuck(self):
        sessions = [table([500.0] * 3)] * 4 + [table([21.0] * 3)]
        assert trial_metrics(sessions, 20.0, {4: 2000})["stuck"] == []

    def test_the_summary_names_the_first_few(self):
        sessions = [table([500.0] * 3)] * 20 + [table([25.0] * 3)] * 5
        assert summary(trial_metrics(sessions, 20.0)).endswith("25 sessions (5 stuck: #20, #21, #22, #23 and 1 more)")


class TestNoteworthy:
    def test_of_a_few_sessions_it_is_all(self):
        assert noteworthy(trial_metrics(trial(8), 20.0)) == list(range(8))

    def test_of_many_it_is_best_median_worst_failed_and_stuck(self):
        sessions = [table([300.0 + i] * 3) for i in range(30)] + [table([25.0] * 3)] * 3
        metrics = trial_metrics(sessions, 20.0, {5: 0, 6: 0, 7: 0, 8: 0, 9: 0})
        median = sorted([i for i in range(33) if not 5 <= i <= 9], key=lambda i: -sessions[i]["final_return"][0])[14]
        assert noteworthy(metrics) == sorted({5, 6, 7, 8, 29, 30, 31, 32, median})  # #32 is the last of three equals

    def test_where_every_session_failed_it_is_some(self):
        assert noteworthy(trial_metrics(trial(20), 20.0, dict.fromkeys(range(20), 0))) == [0, 1, 2, 3]


class TestSeveralProcesses:
    @pytest.fixture
    def jobs(self, tmp_path):
        stems = [str(tmp_path / str(i)) for i in range(2 * SHARE)]
        for stem, session in zip(stems, trial(2 * SHARE), strict=True):
            write_csv(session, f"{stem}.csv")
        return [Job(f"{stem}.csv", f"{stem}.png", "a title", 9.0) for stem in stems]

    @pytest.mark.timeout(LIMIT)
    def test_they_draw_what_one_would(self, jobs, tmp_path):
        draw_all(jobs, 2)
        several = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
        assert len(set(several.values())) == 2 * SHARE
        for job in jobs[::5]:
            style.save(graphs.draw_session(pd.read_csv(job.table), job.title, job.random_baseline), job.graph)
        assert several == {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}

    @pytest.mark.timeout(LIMIT)
    def test_what_one_of_them_says_last_is_told(self, jobs, tmp_path):
        (tmp_path / "3.csv").unlink()
        with pytest.raises(OSError, match=r"could not be drawn.*3\.csv"):
            draw_all(jobs, 2)

    @pytest.mark.timeout(LIMIT)
    def test_one_that_ends_before_it_was_told_what_to_draw_is_told_too(self, jobs, monkeypatch):
        monkeypatch.setattr(drawing.sys, "executable", shutil.which("false"))
        longer_than_a_pipe = [job._replace(title="t" * 70_000) for job in jobs]
        with pytest.raises(OSError, match="could not be drawn") as caught:
            draw_all(longer_than_a_pipe, 2)
        assert not isinstance(caught.value, BrokenPipeError), "that would be taken for nobody reading what is printed"


def test_the_graph_of_a_failed_session_says_so():
    fig = graphs.draw_session(table([1.0, 2.0, 3.0]), "t", failed=4000.0)
    assert any("FAILED by frame 4000" in text.get_text() for text in fig.axes[0].texts)
    assert "failed" in legend(fig)
    assert fig.axes[0].get_xlim()[1] >= 4000
    assert "failed" not in legend(graphs.draw_session(table([1.0, 2.0, 3.0]), "t"))


class TestOverview:
    def draw(self, sessions, failed):
        found = trial_metrics(sessions, 20.0, failed)
        return draw_sessions(sessions, "t", found, failed), found

    def cells(self, fig):
        (mesh,) = [mesh for mesh in fig.axes[0].collections if hasattr(mesh, "get_coordinates")]
        return mesh, np.ma.filled(mesh.get_array(), NAN)

    def test_rows_are_sessions_best_first_failed_last_and_empty_from_the_failure_on(self):
        sessions = [table([100.0 * i] * 10) for i in (2, 4, 9, 3)]
        fig, found = self.draw(sessions, {2: 4000})
        assert ranked(found) == [1, 3, 0, 2]
        mesh, cells = self.cells(fig)
        np.testing.assert_array_equal(cells[:3, 0], [400, 300, 200])
        np.testing.assert_array_equal(cells[3], [900.0] * 4 + [NAN] * 6)
        assert mesh.get_clim() == (200, 400)  # what a failed session reached decides no colour
        np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], 1000 * np.arange(11))
        assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["#1", "#3", "#0", "#2"]
        assert set(legend(fig)) == {"failed (1)", "no return"}

    def test_one_that_failed_early_takes_nothing_from_the_others(self):
        """Its table ends with the last row that is sound."""
        sessions = [table([100.0 * i] * 10) for i in (2, 4, 9)]
        mesh, cells = self.cells(self.draw([*sessions[:2], sessions[2][:3]], {2: 4000})[0])
        np.testing.assert_array_equal(cells, [[400] * 10, [200] * 10, [900.0] * 3 + [NAN] * 7])
        assert mesh.get_clim() == (200, 400)

    def test_where_all_failed_in_the_first_row_there_are_crosses_and_no_warning(self, recwarn):
        sessions, failed = [table([1.0])[:0]] * 9, dict.fromkeys(range(9), 512)
        found = trial_metrics(sessions, 20.0, failed)
        for fig in (draw_sessions(sessions, "t", found, failed), graphs.draw_trial(sessions, "t", failed, 20.0, found)):
            fig.draw_without_rendering()
            assert fig.axes[0].get_xlim()[1] >= 512
            crosses = [line for line in fig.axes[0].lines if line.get_marker() == "x"]
            assert {float(line.get_xdata()[0]) for line in crosses} == {512.0}
        assert graphs.NO_ROW in [text.get_text() for text in fig.axes[0].texts]
        assert not recwarn.list

    def test_of_many_sessions_the_odd_ones_are_named(self, tmp_path):
        sessions = [*trial(200), table([25.0] * 20), table([300.0] * 20)]
        fig, found = self.draw(sessions, {201: 5000})
        named = {text.get_text(): text.get_color() for text in fig.axes[0].get_yticklabels()}
        assert named["#201"] == style.RED
        assert len(named) <= 2 * NAMED
        assert f"#{ranked(found)[0]}" in named
        style.save(draw_sessions(sessions, "t", found, {201: 5000}), tmp_path / "all.png")
        assert [path.name for path in tmp_path.iterdir()] == ["all.png"]

    @pytest.mark.parametrize("failed", [(), {0: 1000, 1: 0}])
    def test_it_bears_sessions_without_an_episode(self, failed):
        sessions = [table([NAN] * 4, final=NAN), table([NAN] * 4, final=NAN)]
        assert len(self.draw(sessions, failed)[0].axes) == 1
