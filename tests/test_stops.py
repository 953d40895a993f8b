"""A run stopped anywhere, within a log row too, goes on as if it had not been: every leaf, every column.

Rows here are longer than the run until its last third, so each stop is within one. `benchmarks/kills.py` does it with
real kills at random moments.
"""

import itertools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from agents import AGENTS, slow_ones, spec_of
from runs import equal, final_state, only, run
from trees import host, unlike

from slmjax import run as command_line
from slmjax.analysis import graphs
from slmjax.lab import leaves, manifest
from slmjax.lab.checkpoint import Checkpoints, _joined, size_of
from slmjax.lab.history import History
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.progress import Progress
from slmjax.lab.trial import Trial, make_trial
from slmjax.types import UserError

FRAMES, ROW = 8192, 5120
CLOCKS = ("wall_t", "fps")
SLOW = {"optim_spec": {"name": "Adam", "lr": 1e-4}}  # short episodes, so that a hundred end in the row
FAMILIES = {
    "PPO": ("PPO", {"net": SLOW}),
    "PPO, RecurrentNet": ("PPO", {"net": {"type": "RecurrentNet", "hid_layers": None, "rnn_hidden_size": 8} | SLOW}),
    "ActorCritic": ("ActorCritic", {}),
    "Reinforce": ("Reinforce", {"net": SLOW}),
    "DQN": ("DQN", {"algorithm": {"training_frequency": 16}}),
    "SoftActorCritic": ("SoftActorCritic", {"algorithm": {"training_frequency": 32}}),
    "PPOSIL": ("PPOSIL", {"net": SLOW}),
}
USUAL = {"PPO, RecurrentNet", "ActorCritic", "DQN"}


def trial_of(family: str, frames: int = FRAMES, sessions: int = 3) -> Trial:
    name, changes = FAMILIES[family]
    net = {"hid_layers": [8]} | changes.get("net", {})
    meta = {"max_session": sessions, "log_frequency": ROW, "eval_episodes": 2}
    return make_trial(spec_of(name, "CartPole-v1", frames, meta=meta, **changes | {"net": net}))


def to_the_end(run: Run) -> bool:
    return True


def after(visits: int):
    """A visit that ends the loop at the given one."""
    left = iter(range(visits))
    return lambda run: next(left) < visits - 1


def unequal(trial: Trial, ran: Run, other: Run) -> list[str]:
    """Names of the leaves and columns of two runs that are not bit-equal."""
    gather = trial.population.gather
    columns = [{k: v for k, v in r.history.columns.items() if k not in CLOCKS} for r in (ran, other)]
    return unlike(gather(ran.sessions), gather(other.sessions)) + unlike(*columns)


@pytest.mark.parametrize("family", slow_ones(FAMILIES, {*FAMILIES} - USUAL))
def test_stops_within_rows_change_nothing(family, tmp_path):
    trial = trial_of(family)
    whole = learn(trial, start(trial), to_the_end)
    assert whole.history.columns["frame"][0].tolist() == [ROW, FRAMES]
    assert (whole.history.columns["epi"][:, 0] >= 100).all()  # `best` is decided at the end of the row
    again, stops = trial_of(family), []
    run = start(again)
    for visits in (2, 1, 2):
        run = learn(again, compile_segment(again, run)[0], after(visits))
        stops.append(run.frame)
        Checkpoints(tmp_path / "model").save(again, run)
        run = Checkpoints(tmp_path / "model").load(again)
    assert 0 < stops[0] < stops[1] < stops[2] < ROW
    run = learn(again, compile_segment(again, run)[0], to_the_end)
    assert not unequal(trial, whole, run)


def test_closing_the_row_at_a_stop_would_be_seen():
    """The mutant of the test above: a segment of no length that ends the row, as before a resumed run it once did."""
    trial = trial_of("ActorCritic")
    whole = learn(trial, start(trial), to_the_end)
    run = learn(trial, start(trial), after(3))
    closed, _ = trial.population.segment(run.sessions, trial.hp, run.frame, run.frame, close=True)
    run = learn(trial, run._replace(sessions=closed), to_the_end)
    assert "['loss']" in unequal(trial, whole, run)


class TestCommandLine:
    def config(self, folder: Path, frames: int, **meta) -> Path:
        agent = AGENTS["ActorCritic"] | {"net": {"hid_layers": [8]}}
        meta = {"max_session": 3, "log_frequency": 20_000, "eval_episodes": 2} | meta
        spec = {"agent": agent, "env": {"name": "CartPole-v1", "num_envs": 4, "max_frame": frames}, "meta": meta}
        (folder / "tiny.yaml").write_text(yaml.safe_dump({"tiny": spec}))
        return folder / "tiny.yaml"

    def test_a_run_killed_within_a_row_writes_the_table_of_one_that_was_not(self, tmp_path):
        config = self.config(tmp_path, 32_000, checkpoint_frequency=3000)
        for name in ("whole", "killed"):
            assert command_line.main([str(config), "--data", str(tmp_path / name), "--quiet"]) == 0
        whole, killed = (only(tmp_path / name, "tiny_*") for name in ("whole", "killed"))
        # As a kill would have left it: the checkpoint before the last is the newest, and nothing of it is within a row.
        frames = Checkpoints(killed / "model").frames()
        assert frames == [30_016, 32_000]
        shutil.rmtree(killed / "model" / str(frames[1]))
        for part in ("info", "graph"):
            shutil.rmtree(killed / part)
        assert run("--resume", killed, "--quiet").returncode == 0
        assert not equal(final_state(whole), final_state(killed))
        for i in range(3):
            name = Path("info") / f"tiny_t0_s{i}_session_df.csv"
            rows = [[cut(line) for line in (at / name).read_text().splitlines()] for at in (whole, killed)]
            assert rows[0] == rows[1]
            assert len(rows[0]) == 3

    def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(self, tmp_path, capsys):
        config = self.config(tmp_path, 4096)
        assert command_line.main([str(config), "--data", str(tmp_path / "data"), "--quiet"]) == 0
        folder = only(tmp_path / "data", "tiny_*")
        shutil.rmtree(folder / "model")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
        assert command_line.main(["--resume", str(folder)]) == 2
        said = capsys.readouterr().err
        assert "the checkpoints of the run are gone" in said
        assert "had one at frame 4096" in said
        assert str(folder / "tiny_spec.yaml") in said
        assert before == {path: path.read_bytes() for path in before}

    def test_every_part_of_a_run_keeps_its_own_circumstances(self, tmp_path, capsys):
        config = self.config(tmp_path, 2048)
        assert command_line.main([str(config), "--data", str(tmp_path / "data"), "--quiet"]) == 0
        folder = only(tmp_path / "data", "tiny_*")
        record = manifest.read(folder)
        record["parts"][0]["versions"]["jax"] = "0.9.9"
        record["parts"][0]["git"]["sha"] = "f" * 40
        record["parts"][0]["cores"] = 1000
        (folder / manifest.FILE).write_text(json.dumps(record))
        assert command_line.main(["--resume", str(folder), "--set", "env.max_frame=4096"]) == 0
        said = capsys.readouterr().out
        assert "jax was 0.9.9 and is " in said
        assert f"the commit was {'f' * 40} and is " in said
        assert "cores was 1000 and is " in said
        first, second = (record := manifest.read(folder))["parts"]
        assert first["versions"]["jax"] == "0.9.9" != second["versions"]["jax"]
        assert (first["frames"], second["frames"]) == ([0, 2048], [2048, 4096])
        for name in manifest.SECONDS:
            assert record[name] == pytest.approx(first[name] + second[name])
        assert record["frame"] == 4096

    def test_a_part_that_ended_before_the_first_checkpoint_is_kept(self, tmp_path):
        spec = trial_of("ActorCritic").spec
        manifest.begin(tmp_path, spec, "train")
        record = manifest.begin(tmp_path, spec, "train", 0)
        assert [part["state"] for part in record["parts"]] == ["killed", "running"]
        assert record["checkpoint"] is None
        manifest.note(tmp_path, record, checkpoint=0)
        assert manifest.begin(tmp_path, spec, "train", 0)["checkpoint"] == 0

    @pytest.mark.parametrize(
        ("period", "frames"), [(512, [512, 1024, 1536, 2048]), (1000, [1024, 2016, 2048]), (5, [*range(32, 2049, 32)])]
    )
    def test_the_plan_counts_the_checkpoints_that_are_written(self, period, frames, tmp_path, capsys, monkeypatch):
        saved = []
        monkeypatch.setattr(Checkpoints, "save", lambda _, trial, run: saved.append(run.frame))
        config = self.config(tmp_path, 2040, checkpoint_frequency=period)
        assert command_line.main([str(config), "--data", str(tmp_path / "data")]) == 0
        assert sorted({*saved}) == frames
        assert f": {len(frames)} in all" in capsys.readouterr().out

    def test_a_disk_that_fails_costs_the_checkpoint_and_nothing_else(self, tmp_path, capsys, monkeypatch):
        def full(*anything):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(leaves, "write", full)
        config = self.config(tmp_path, 4096, checkpoint_frequency=1024)
        assert command_line.main([str(config), "--data", str(tmp_path / "data")]) == command_line.EXIT_BROKEN
        said = capsys.readouterr()
        assert "warning: cannot write the checkpoint of frame 1024" in said.out
        assert "tables and graphs are complete" in said.out
        assert "No space left on device" in said.err
        assert "Traceback" not in said.err
        folder = only(tmp_path / "data", "tiny_*")
        assert len(list((folder / "info").glob("*.csv"))) == 3
        assert len(list((folder / "graph").glob("*trial_graph.png"))) == 1
        assert manifest.read(folder)["checkpoint"] is None

    @pytest.mark.parametrize("stopped", [False, True])
    def test_graphs_that_cannot_be_drawn_cost_the_graphs_and_nothing_else(self, tmp_path, capsys, monkeypatch, stopped):
        def short_of_memory(*anything):
            raise MemoryError

        config = self.config(tmp_path, 4096, checkpoint_frequency=1024, log_frequency=1024)
        with monkeypatch.context() as little:
            little.setattr(graphs, "draw_trial", short_of_memory)
            if stopped:
                end = lambda _, run: run.history.rows and signal.raise_signal(signal.SIGTERM)  # noqa: E731
                little.setattr(Progress, "show", end)
            assert command_line.main([str(config), "--data", str(tmp_path / "data")]) == command_line.EXIT_BROKEN
        said = capsys.readouterr()
        assert "final return" in said.out
        assert said.err == "error: graphs could not be drawn: MemoryError\n"
        folder = only(tmp_path / "data", "tiny_*")
        assert ("go on with" in said.out) == stopped
        assert (manifest.read(folder)["state"] == "stopped") == stopped
        assert len(list((folder / "info").glob("*.csv"))) == 3
        assert command_line.main(["--resume", str(folder)]) == 0
        assert len(list((folder / "graph").glob("*trial_graph.png"))) == 1


def cut(line: str) -> list[str]:
    """The fields of a line, without the clocks in it."""
    fields = line.split(",")
    return [fields[0], *fields[3:]]


class TestCheckpoints:
    def test_they_hold_every_leaf_of_every_session_and_no_lane_that_pads(self, tmp_path):
        trial = trial_of("ActorCritic", 64)  # three sessions in batches of two: one lane is a copy
        run = start(trial)
        Checkpoints(tmp_path).save(trial, run)
        about, arrays = leaves.read(tmp_path / "0")
        assert about["size"] == 3
        held = host(trial.population.gather(run.sessions))
        assert not equal(arrays, held)
        assert sum(x.nbytes for x in arrays.values()) == size_of(trial)

    def test_rows_are_written_once_and_joined_as_a_counter_counts(self):
        chunks, written = [], 0
        for rows in range(1, 1001):
            joined = _joined(chunks, rows)
            written += sum(b - a for a, b in joined if (a, b) not in chunks)
            chunks = joined
            assert chunks[0][0] == 0
            assert chunks[-1][1] == rows
            assert all(x[1] == y[0] for x, y in itertools.pairwise(chunks))
            assert len(chunks) <= 10
        assert written <= 1000 * 10  # anew each time: 500,500
        assert _joined(chunks, 1000) == chunks

    def test_rows_come_back_as_they_were(self, tmp_path):
        trial = trial_of("ActorCritic", 64)
        sessions, columns, checkpoints = start(trial).sessions, {}, Checkpoints(tmp_path)
        draw = np.random.default_rng(0)
        for rows in (1, 2, 5, 6, 7):
            new = {"frame": rows, "loss": rows, "epi": rows}
            fresh = {
                name: draw.normal(size=(3, n - columns[name].shape[1] if columns else n)) for name, n in new.items()
            }
            columns = {name: np.concatenate([columns.get(name, fresh[name][:, :0]), fresh[name]], 1) for name in new}
            checkpoints.save(trial, Run(rows, sessions, History(3, 1.5, dict(columns))))
            loaded = Checkpoints(tmp_path).load(trial)
            assert loaded.history.wall_t == 1.5
            assert not equal(loaded.history.columns, columns)
        assert Checkpoints(tmp_path).frames() == [6, 7]
        assert len(list((tmp_path / "rows").iterdir())) <= 4

    @pytest.mark.parametrize("victim", ["7/0.npy", "7/about.json", "rows/6-7/0.npy"])
    def test_a_damaged_one_is_passed_over_and_written_anew(self, victim, tmp_path):
        trial = trial_of("ActorCritic", 64)
        sessions, rows = start(trial).sessions, lambda n: History(3, 0.5, {"frame": np.ones((3, n))})
        first = Checkpoints(tmp_path)
        for n in (6, 7):
            first.save(trial, Run(n, sessions, rows(n)))
        file = tmp_path / victim
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        second = Checkpoints(tmp_path)
        run = second.load(trial)
        assert run.frame == 6
        assert list(second.damaged) == [7]
        second.save(trial, Run(7, run.sessions, rows(7)))
        assert Checkpoints(tmp_path).load(trial).frame == 7

    def test_one_of_another_agent_is_refused_with_its_difference(self, tmp_path):
        trial = trial_of("ActorCritic", 64)
        Checkpoints(tmp_path).save(trial, start(trial))
        with pytest.raises(UserError, match="another spec: agent"):
            Checkpoints(tmp_path).load(trial_of("PPO", 64))

    def test_a_write_that_breaks_off_leaves_the_one_before(self, tmp_path, monkeypatch):
        trial = trial_of("ActorCritic", 64)
        checkpoints, run = Checkpoints(tmp_path), start(trial)
        checkpoints.save(trial, run)
        write, calls = leaves._write_leaf, []

        def fails(*words):
            calls.append(words)
            if len(calls) == 5:
                raise OSError(5, "Input/output error")
            return write(*words)

        monkeypatch.setattr(leaves, "_write_leaf", fails)
        with pytest.raises(OSError, match="Input/output error"):
            checkpoints.save(trial, run._replace(frame=32))
        assert [path.name for path in tmp_path.iterdir()] == ["0"]
        checkpoints.save(trial, run._replace(frame=64))
        assert Checkpoints(tmp_path).load(trial).frame == 64
