"""Claims about metrics, tables and graphs. Hand-computed numbers are written out; NumPy loops are the oracles."""

import ast
import json
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from slmjax.analysis import baselines, graphs, metrics, statistics, style, tables
from slmjax.analysis.words import duration, number

NAN = float("nan")


def table(total_reward, frame=None, opt_step=None, **columns):
    """A session's table in which the moving average is the return itself."""
    frame = np.arange(1, len(total_reward) + 1) * 10 if frame is None else frame
    opt_step = frame if opt_step is None else opt_step
    base = {"frame": frame, "wall_t": np.asarray(frame) / 7, "fps": np.full(len(frame), 7.0), "opt_step": opt_step}
    base |= {"epi": np.arange(len(frame)), "total_reward": total_reward, "total_reward_ma": total_reward}
    return tables.session_df(base | columns)


def curve(seed, rows=60, **columns):
    """A plausible learning curve from 20 to 500, its first two rows without an episode."""
    rng = np.random.default_rng(seed)
    progress = np.linspace(0, 1, rows)
    reward = 20 + 480 / (1 + np.exp(-(progress - 0.3) / 0.07)) + 15 * rng.standard_normal(rows)
    reward[:2] = NAN
    frame = np.arange(1, rows + 1) * 1000
    columns.setdefault("loss", 2.0 - progress)
    ma = statistics.moving_average(frame, reward, 10_000)
    return table(reward, frame=frame, **columns).assign(total_reward_ma=ma)


# ------------------------------------------------------------------------------------------------- moving average


def loop_average(frame, reward, window):
    """The definition, as two loops."""
    out = np.full(len(reward), NAN)
    for i in range(len(reward)):
        inside = [r for f, r in zip(frame[: i + 1], reward[: i + 1], strict=True) if f > frame[i] - window]
        finite = [r for r in inside if np.isfinite(r)]
        out[i] = np.mean(finite) if finite else NAN
    return out


def test_moving_average_by_hand_is_over_frames_not_rows():
    frame, reward = [10, 20, 50, 60, 65], [NAN, 1.0, 3.0, 5.0, 10.0]
    # windows of 20 frames: () / (20) / (50) / (50, 60) / (50, 60, 65); frame 20 is not in (60 - 20, 60]
    expected = [NAN, 1.0, 3.0, 4.0, 6.0]
    np.testing.assert_allclose(statistics.moving_average(frame, reward, 20), expected)
    over_rows = pd.Series(reward).rolling(2, min_periods=1).mean()  # the mutant: 20 frames as two rows of 10
    assert not np.allclose(over_rows, expected, equal_nan=True)


def test_moving_average_excludes_the_row_exactly_one_window_ago():
    np.testing.assert_allclose(statistics.moving_average([10, 20, 30], [1.0, 2.0, 4.0], 20), [1.0, 1.5, 3.0])


@pytest.mark.parametrize("seed", range(8))
def test_moving_average_equals_the_loop_on_random_spacings(seed):
    rng = np.random.default_rng(seed)
    rows = 200
    frame = np.cumsum(rng.integers(0, 40, rows))  # rows may share a frame
    reward = np.where(rng.random(rows) < 0.3, NAN, 1e4 + rng.standard_normal(rows))
    reward[rng.integers(rows)] = np.inf
    window = float(rng.integers(1, 400))
    np.testing.assert_allclose(
        statistics.moving_average(frame, reward, window), loop_average(frame, reward, window), rtol=1e-12
    )


@pytest.mark.parametrize("shared", [True, False])
def test_moving_average_of_many_sessions_is_that_of_each(shared):
    rng = np.random.default_rng(0)
    reward = np.where(rng.random((3, 50)) < 0.2, NAN, rng.standard_normal((3, 50)))
    frame = np.cumsum(rng.integers(1, 40, 50 if shared else (3, 50)), axis=-1)
    rows = np.broadcast_to(frame, reward.shape)
    together = statistics.moving_average(frame, reward, 100)
    alone = np.stack([statistics.moving_average(f, r, 100) for f, r in zip(rows, reward, strict=True)])
    np.testing.assert_array_equal(together, alone)


def test_moving_average_of_a_constant_is_that_constant_exactly():
    reward = np.where(np.arange(500) % 3 == 0, NAN, -1197.15)
    averaged = statistics.moving_average(np.arange(500), reward, 100)
    assert np.nanmax(np.abs(averaged + 1197.15)) < 1e-11


def test_moving_average_refuses_what_it_cannot_mean():
    assert statistics.moving_average([], [], 10).shape == (0,)
    with pytest.raises(ValueError, match="positive"):
        statistics.moving_average([1, 2], [0.0, 0.0], 0)
    with pytest.raises(ValueError, match="decrease"):
        statistics.moving_average([2, 1], [0.0, 0.0], 10)


# ----------------------------------------------------------------------------------------------- session metrics


def test_session_metrics_by_hand():
    # strengths over the baseline of 2: 8, 18, 8; frames 10, 20, 40; gradient steps 0 (left out), 4, 8
    df = table([10.0, 20.0, 10.0], frame=[10, 20, 40], opt_step=[0, 4, 8], eval_reward=[NAN, 20.0, 21.0])
    got = metrics.session_metrics(df, 2.0)
    assert got["strength"] == pytest.approx(34 / 3)
    assert got["max_strength"] == 18.0
    assert got["final_strength"] == 8.0
    assert got["sample_efficiency"] == pytest.approx((8 / 10 + 18 / 20 + 8 / 40) / (1 / 10 + 1 / 20 + 1 / 40))
    assert got["training_efficiency"] == pytest.approx((18 / 4 + 8 / 8) / (1 / 4 + 1 / 8))
    assert got["stability"] == pytest.approx(1 - 10 / (8 + 18))
    assert got["final_return_ma"] == 10.0
    assert got["final_eval_reward"] == 21.0
    assert got["random_baseline"] == 2.0
    assert set(got) == {*metrics.SCALARS, "random_baseline"}


def test_rows_without_an_episode_count_nowhere():
    whole = metrics.session_metrics(table([NAN, NAN, 10.0, 20.0], frame=[1, 2, 10, 20]), 2.0)
    part = metrics.session_metrics(table([10.0, 20.0], frame=[10, 20]), 2.0)
    assert whole == part


def test_an_unknown_baseline_is_zero_and_says_so():
    got = metrics.session_metrics(table([10.0, 20.0]), None)
    assert got["random_baseline"] is None
    assert got["strength"] == 15.0
    assert metrics.session_metrics(table([10.0, 20.0]), NAN) == got


@pytest.mark.parametrize("rewards", [[], [NAN], [NAN, NAN, NAN], [np.inf, -np.inf]])
def test_without_a_return_everything_is_none(rewards):
    got = metrics.session_metrics(table(np.array(rewards, float)), 2.0)
    assert all(got[name] is None for name in metrics.SCALARS)


@pytest.mark.parametrize("rewards", [[-200.0] * 5, [-200.00001, -200.0, -200.00001], [0.0, 0.0, 0.0]])
def test_strengths_that_are_rounding_errors_have_no_stability(rewards):
    got = metrics.session_metrics(table(rewards), -200.0 if rewards[0] else 0.0)
    assert got["stability"] is None
    assert got["strength"] == pytest.approx(0.0, abs=1e-4)


def test_every_metric_is_finite_or_none_whatever_the_table():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = rng.integers(1, 6)
        reward = rng.choice([0.0, -1.0, 1.0, 1e-12, 1e12, NAN, np.inf], rows)
        df = table(reward, frame=np.cumsum(rng.integers(0, 3, rows)))
        got = metrics.session_metrics(df, rng.choice([0.0, 1.0, -1.0]))
        assert all(value is None or np.isfinite(value) for value in got.values())
        assert got["stability"] is None or 0.0 <= got["stability"] <= 1.0


def test_efficiency_rewards_remembering_which_slm_labs_code_does_not():
    coded = lambda strength, t: (strength / t).sum() / strength.sum()  # noqa: E731
    t, learns, forgets = np.array([1.0, 2, 3]), np.array([10.0, 10, 10]), np.array([10.0, 0, 0])
    assert metrics.efficiency(learns, t) > metrics.efficiency(forgets, t)
    assert coded(learns, t) < coded(forgets, t)
    assert metrics.efficiency(learns, t) == pytest.approx(10.0)


def test_efficiency_prefers_the_faster_and_never_falls_when_a_row_gets_better():
    rng = np.random.default_rng(0)
    t, strength = np.arange(1.0, 11.0), rng.standard_normal(10)
    assert strength.min() <= metrics.efficiency(strength, t) <= strength.max()
    for row in range(10):
        assert metrics.efficiency(strength + np.eye(10)[row], t) > metrics.efficiency(strength, t)
    assert metrics.efficiency([0, 9, 9], [1, 2, 3]) > metrics.efficiency([0, 0, 9], [1, 2, 3])
    assert np.isnan(metrics.efficiency([1.0, 2.0], [0, 0]))


def test_stability_counts_what_was_lost_and_stays_in_its_range():
    assert metrics.stability([1.0, 2, 3]) == 1.0
    assert metrics.stability([4.0, 0.0]) == 0.0
    assert metrics.stability([-3.0, -2, -1]) == 1.0
    assert metrics.stability([-2.0, 2, 1]) == 0.75  # SLM Lab's divides by 0
    assert metrics.stability([1e-9, 0.0, -100.0]) == 0.0  # SLM Lab's: -1e11
    assert np.isnan(metrics.stability([5.0]))
    positive = np.abs(np.random.default_rng(0).standard_normal(50))
    slm_lab = 1 - abs(np.minimum(np.diff(positive), 0).sum() / positive[:-1].sum())
    assert metrics.stability(positive) == pytest.approx(slm_lab)


# ------------------------------------------------------------------------------------------------- trial metrics


def test_consistency_by_hand():
    # means 2, 4; std (ddof 1) sqrt(2), 0: 1 - 2 sqrt(2) / 6. With ddof 0 it would be 1 - 2/6.
    sessions = [table([1.0, 4.0]), table([3.0, 4.0])]
    assert metrics.consistency(sessions, 0.0) == pytest.approx(1 - 2 * np.sqrt(2) / 6)
    assert metrics.consistency([sessions[0]] * 3, 0.0) == 1.0
    assert metrics.consistency([table([0.0]), table([10.0])], 0.0) == 0.0
    assert np.isnan(metrics.consistency(sessions[:1], 0.0))
    assert np.isnan(metrics.consistency([table([-5.0]), table([5.0])], 0.0))
    assert np.isnan(metrics.consistency([], 0.0))


def test_failed_sessions_are_listed_and_never_averaged_in():
    good = [table([1.0, 3.0]), table([3.0, 5.0])]
    bad = table([1e9, NAN])
    got = metrics.trial_metrics([good[0], bad, good[1]], 0.0, failed={1})
    alone = metrics.trial_metrics(good, 0.0)
    assert got["failed"] == [1]
    assert (got["num_sessions"], alone["num_sessions"]) == (3, 2)
    for name in (*metrics.SCALARS, "consistency", "final_return_ma_std", "final_return_ma_ci95"):
        assert got[name] == alone[name], name
    assert got["final_return_ma"] == 4.0
    assert got["final_return_ma_std"] == pytest.approx(np.sqrt(2))  # ddof 1 of 3 and 5
    assert got["sessions"][1]["failed"] is True
    assert metrics.trial_metrics([good[0], bad, good[1]], 0.0)["final_return_ma"] != 4.0  # the mutant: averaged in


def test_a_failure_frame_cuts_the_failed_session_there():
    got = metrics.trial_metrics([table([1.0, 2.0, 99.0]), table([1.0, 2.0, 3.0])], 0.0, failed={0: 20})
    assert got["sessions"][0]["max_strength"] == 2.0
    assert got["sessions"][0]["failed_frame"] == 20
    assert got["sessions"][1]["failed_frame"] is None
    assert got["max_strength"] == 3.0


def test_sessions_without_an_episode_are_named_and_left_out():
    got = metrics.trial_metrics([table([NAN, NAN]), table([1.0, 3.0]), table([3.0, 5.0])], 0.0)
    assert got["no_episode"] == [0]
    assert got["final_return_ma"] == 4.0
    nothing = metrics.trial_metrics([table([NAN])], None)
    assert nothing["no_episode"] == [0]
    assert nothing["final_return_ma"] is None


def test_the_order_of_sessions_changes_nothing():
    sessions = [curve(seed) for seed in range(6)]
    got = metrics.trial_metrics(sessions, 20.0)
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 3, 4]):
        other = metrics.trial_metrics([sessions[i] for i in order], 20.0)
        assert {k: v for k, v in got.items() if k != "sessions"} == {k: v for k, v in other.items() if k != "sessions"}


@pytest.mark.parametrize("failed", [{0, 1}, {0: 10, 1: 10}])
def test_a_trial_of_failures_has_no_score_and_is_still_json(failed):
    got = metrics.trial_metrics([table([1.0]), table([2.0])], 0.0, failed)
    assert got["final_return_ma"] is None
    assert got["consistency"] is None
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    empty = metrics.trial_metrics([], None)
    assert empty["num_sessions"] == 0


def test_sessions_of_unequal_length_are_compared_over_the_rows_that_all_have():
    frame, values = tables.align([table([1.0, 2.0, 3.0]), table([4.0, np.inf], frame=[10, 24])], "total_reward")
    np.testing.assert_array_equal(frame, [10, 22])
    np.testing.assert_array_equal(values, [[1.0, 2.0], [4.0, NAN]])


# ---------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
def test_iqm_is_scipys_trimmed_mean(n):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(n).standard_normal((3, n))
    np.testing.assert_allclose(statistics.iqm(values), stats.trim_mean(values, 0.25, axis=-1))


def test_iqm_ignores_an_outlier_by_hand():
    assert statistics.iqm([1.0, 2.0, 4.0, 1e9]) == 3.0


def test_bootstrap_of_one_session_knows_nothing_and_of_equal_ones_is_a_point():
    assert np.isnan(statistics.bootstrap_ci([3.0])).all()
    assert statistics.bootstrap_ci([3.0, 3.0, 3.0]) == (3.0, 3.0)


def test_bootstrap_interval_is_the_normal_one_when_sessions_are_many():
    scores = np.random.default_rng(0).standard_normal(400)
    low, high = statistics.bootstrap_ci(scores)
    half = 1.96 * scores.std() / np.sqrt(400)
    np.testing.assert_allclose([low, high], [scores.mean() - half, scores.mean() + half], atol=0.15 * half)
    narrow = statistics.bootstrap_ci(scores, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_is_seeded_free_of_order_and_stratified():
    scores = np.random.default_rng(0).standard_normal((9, 2))
    assert statistics.bootstrap_ci(scores) == statistics.bootstrap_ci(scores[::-1])
    assert statistics.bootstrap_ci(scores) != statistics.bootstrap_ci(scores, seed=1)
    # Two tasks that differ by 1000 and not within: only unstratified draws would mix them and spread.
    assert statistics.bootstrap_ci(np.tile([0.0, 1000.0], (5, 1))) == (500.0, 500.0)
    # Tasks are drawn independently: variances add, not deviations (which would be wider by a factor sqrt(2)).
    many = np.random.default_rng(1).standard_normal((400, 2))
    low, high = statistics.bootstrap_ci(many)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(many.var(axis=0).sum()) / 2 / np.sqrt(400), rel=0.15)


# -------------------------------------------------------------------------------------------------------- tables


def test_columns_stand_in_their_order():
    names = "eval_reward zeta loss epi total_reward_ma total_reward opt_step fps wall_t frame alpha lr eval_reward_std"
    df = tables.session_df({name: np.arange(2) for name in names.split()})
    expected = "frame wall_t fps opt_step epi total_reward total_reward_ma loss lr alpha zeta eval_reward"
    assert list(df.columns) == [*expected.split(), "eval_reward_std"]
    assert {name for name in df if df[name].dtype == np.int64} == {"frame", "opt_step", "epi"}


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"frame": [1]}, "needs the columns opt_step"),
        ({"frame": [1], "opt_step": [1], "total_reward": [1.0], "total_reward_ma": [1.0, 2.0]}, "equally long"),
        ({"frame": [NAN], "opt_step": [1], "total_reward": [1.0], "total_reward_ma": [1.0]}, "finite.*frame"),
    ],
)
def test_a_malformed_table_is_refused(columns, match):
    with pytest.raises(ValueError, match=match):
        tables.session_df(columns)


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_csv_round_trip_is_exact(tmp_path, rows):
    rng = np.random.default_rng(0)
    reward = (rng.standard_normal(rows) * 10.0 ** rng.integers(-300, 300, rows)).astype(np.float64)
    reward[::3] = NAN
    loss = rng.standard_normal(rows).astype(np.float32)
    df = table(reward, frame=np.arange(rows) + 2**53, loss=loss, odd=np.full(rows, NAN), flag=np.ones(rows, bool))
    tables.write_csv(df, tmp_path / "info" / "a.csv")
    pd.testing.assert_frame_equal(tables.read_session_df(tmp_path / "info" / "a.csv"), df, check_exact=True)


def test_json_says_null_for_nan_and_python_for_numpy(tmp_path):
    data = {"a": NAN, "b": [np.float32(0.5), np.int64(3), -np.inf], "c": {1: np.array([1.0, NAN])}, "d": {3, 1}}
    data |= {"e": None, "f": True, "g": "±", "h": np.bool_(False)}
    tables.write_json(data, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    expected = {"a": None, "b": [0.5, 3, None], "c": {"1": [1.0, None]}, "d": [1, 3]}
    assert json.loads(text) == expected | {"e": None, "f": True, "g": "±", "h": False}
    with pytest.raises(TypeError, match="object"):
        tables.jsonable({"x": object()})


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    tables.write_json({"a": 1}, path)

    def interrupted():
        with tables.atomic(path) as temporary:
            temporary.write_text("half a fi")
            assert temporary.parent == path.parent  # a rename is atomic within a file system only
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_who_is_reading_the_old_file_goes_on_reading_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    tables.write_json({"a": 1}, path)
    with path.open() as reader:
        tables.write_json({"a": 2}, path)
        assert json.loads(reader.read()) == {"a": 1}
    assert json.loads(path.read_text()) == {"a": 2}


def test_a_baseline_that_nobody_measured_is_none():
    assert baselines.random_baseline("NoSuchEnv-v0") is None
    shipped = json.loads(resources.files("slmjax.analysis").joinpath("random_baselines.json").read_text())
    for env, entry in shipped.items():
        assert set(entry) >= {"mean", "std", "episodes"}, env
        assert baselines.random_baseline(env) == entry["mean"]


# -------------------------------------------------------------------------------------------------------- graphs


def words(fig):
    """All the text that a figure shows outside its ticks."""
    axes = fig.axes
    legends = [text.get_text() for ax in axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    return legends + [text.get_text() for ax in axes for text in ax.texts] + [ax.get_ylabel() for ax in axes]


def pixels(path):
    """The image as an array, after checking that it is a readable PNG of a sensible size that is not blank."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB"))
    height, width, _ = array.shape
    assert 1000 <= width <= 1200
    assert 500 <= height <= 1300
    ink = (array < 200).any(axis=-1).mean()
    assert 0.002 < ink < 0.5
    return array


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def has_colour(array, colour):
    return bool((np.abs(array.astype(int) - rgb(colour)).max(axis=-1) < 8).sum() > 20)


def test_session_graph_is_a_png_with_its_curves(tmp_path):
    evals = np.where(np.arange(60) % 20 == 19, 480.0, NAN)
    df = curve(0, eval_reward=evals, eval_reward_std=evals / 50)
    figure = graphs.draw_session(df, graphs.graph_title("ppo", "CartPole-v1", 0, 3), 22.0)
    style.save(figure, tmp_path / "graph" / "s.png")
    image = pixels(tmp_path / "graph" / "s.png")
    assert has_colour(image, style.BLUE)
    assert has_colour(image, style.ORANGE)
    assert [p.name for p in (tmp_path / "graph").iterdir()] == ["s.png"]


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        ({}, ["return", "loss"]),
        ({"explore_var": 1.0, "entropy_coef": 1.0}, ["return", "exploration", "loss"]),
        ({"explore_var": NAN, "entropy_coef": 1.0}, ["return", "entropy coef.", "loss"]),
        ({"loss": NAN, "grad_norm": 1.0, "entropy": 0.5}, ["return", "entropy", "gradient norm"]),
        ({"loss": NAN}, ["return"]),
    ],
)
def test_a_pane_is_there_exactly_when_its_column_holds_a_number(columns, labels):
    fig = graphs.draw_session(curve(0, **{name: np.full(60, value) for name, value in columns.items()}), "t")
    assert isinstance(fig, Figure)
    assert [ax.get_ylabel() for ax in fig.axes] == labels
    assert fig.axes[-1].get_xlabel() == "frames"
    assert all(ax.get_xlim() == (0, 60_000) for ax in fig.axes)


def test_session_graph_shows_return_evaluation_and_headline():
    evals = np.where(np.arange(60) == 59, 480.0, NAN)
    title = graphs.graph_title("ppo_$x", "CartPole-v1", 0, 3)
    fig = graphs.draw_session(curve(0, eval_reward=evals), title, 22.97)
    said = words(fig)
    assert {"return", "greedy evaluation", "random policy (22.97)", title} <= set(said)
    assert all(part in title for part in ("ppo_$x", "CartPole-v1", "trial 0", "session 3"))
    assert any("greedy evaluation 480" in text for text in said)
    without = words(graphs.draw_session(curve(0), title))
    assert not any("greedy" in text or "random policy" in text for text in without)


def test_rows_without_an_update_do_not_break_a_line():
    loss = np.where(np.arange(60) % 2 == 0, 1.0, NAN)
    (line,) = graphs.draw_session(curve(0, loss=loss), "t").axes[1].lines
    assert np.isfinite(line.get_ydata()).all()
    assert len(line.get_ydata()) == 30


def test_a_spiky_loss_gets_a_logarithmic_axis_and_a_smooth_one_does_not():
    spiky = np.where(np.arange(60) == 30, 1e4, 1.0)
    assert graphs.draw_session(curve(0, loss=spiky), "t").axes[1].get_yscale() == "log"
    assert graphs.draw_session(curve(0, loss=-spiky), "t").axes[1].get_yscale() == "linear"
    assert graphs.draw_session(curve(0), "t").axes[1].get_yscale() == "linear"


def test_a_flat_line_is_drawn_flat_not_as_its_rounding_errors():
    reward = -200.0 + 1e-9 * np.arange(5)
    for fig in (graphs.draw_session(table(reward), "t"), graphs.draw_trial([table(reward)], "t")):
        low, high = fig.axes[0].get_ylim()
        assert high - low >= 0.019 * 200


def test_a_failed_session_that_diverged_does_not_flatten_the_others():
    fig = graphs.draw_trial([table([1.0, 2.0, 3.0]), table([1.0, 1e30, NAN])], "t", failed=[1])
    assert fig.axes[0].get_ylim()[1] < 10


@pytest.mark.parametrize("sessions", [1, 64])
@pytest.mark.parametrize("rows", [1, 3, 60])
def test_graphs_bear_any_size(tmp_path, sessions, rows):
    dfs = [curve(seed).iloc[60 - rows :] for seed in range(sessions)]
    style.save(graphs.draw_trial(dfs, "title", failed={0} if sessions > 1 else ()), tmp_path / "t.png")
    style.save(graphs.draw_session(dfs[0], "title"), tmp_path / "s.png")
    assert has_colour(pixels(tmp_path / "t.png"), style.BLUE)
    pixels(tmp_path / "s.png")


def test_graphs_say_when_no_episode_finished(tmp_path):
    silent = table(np.full(4, NAN))
    assert graphs.NO_EPISODE in words(graphs.draw_session(silent, "t", 3.0))
    for failed in ((), {0}, {0: 20, 1: 5}):
        fig = graphs.draw_trial([silent, silent], "t", failed, 3.0)
        assert graphs.NO_EPISODE in words(fig)
        assert len(fig.axes[0].get_yticks()) == 0  # a scale of nothing
    assert graphs.NO_EPISODE not in words(graphs.draw_trial([silent, curve(0)], "t"))
    for empty in (silent, silent.iloc[:0]):
        style.save(graphs.draw_session(empty, "t"), tmp_path / "s.png")
        style.save(graphs.draw_trial([empty], "t"), tmp_path / "t.png")
        pixels(tmp_path / "s.png")
        pixels(tmp_path / "t.png")


def test_a_name_with_dollars_or_of_any_length_is_text_not_mathematics(tmp_path):
    figure = graphs.draw_session(curve(0), graphs.graph_title("a$\\frac$b" * 20, "CartPole-v1", 0))
    style.save(figure, tmp_path / "s.png")
    pixels(tmp_path / "s.png")


@pytest.mark.parametrize(
    ("value", "text"),
    [(22.97, "22.97"), (-1197.15, "-1197"), (15086.3, "15,086"), (0.0, "0"), (1e12, "1e+12"), (500.0, "500")],
)
def test_numbers_in_words(value, text):
    assert number(value) == text


def test_durations_in_words():
    assert [duration(s) for s in (4.21, 300, 7200)] == ["4.21 s", "5 min", "2 h"]


def test_the_room_touches_neither_jax_nor_pyplot_nor_another_room():
    for path in Path(graphs.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert not re.search(r"jax\b(?!\.analysis)|pyplot|pylab", module), (path.name, module)
