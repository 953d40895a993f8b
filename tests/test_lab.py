"""The driver: what a run writes, how it stops and goes on, what it says of wrong input."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from agents import AGENTS, merge
from runs import equal, final_state, interrupt, only, run

from slmjax import run as command_line
from slmjax.analysis.tables import read_session_df
from slmjax.lab import memory
from slmjax.lab.checkpoint import Checkpoints, size_of
from slmjax.lab.dev import unchanged
from slmjax.lab.folder import locked
from slmjax.lab.trial import make_trial
from slmjax.learners.descent import Learned
from slmjax.learners.off_policy import OffPolicyLearner
from slmjax.spec import load_spec
from slmjax.types import AgentState

FRAMES = {"PPO": 4096, "DQN": 4096}


def write_config(folder: Path, algorithm: str = "PPO", name: str = "tiny", **sections) -> Path:
    spec = {
        "agent": AGENTS[algorithm],
        "env": {"name": "CartPole-v1", "num_envs": 4, "max_frame": FRAMES[algorithm]},
        "meta": {"max_session": 2, "log_frequency": 256, "eval_episodes": 2},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({name: merge(spec, sections)}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished PPO run, made in this process."""
    root = tmp_path_factory.mktemp("finished")
    config = write_config(root, meta={"checkpoint_frequency": 512})
    assert command_line.main([str(config), "--data", str(root / "data"), "--quiet"]) == 0
    return only(root / "data", "tiny_*")


@pytest.fixture
def own(finished, tmp_path) -> Path:
    """A copy of that folder, to do harm to."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted((p for p in (folder / "model").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def empty(*checkpoints: Path) -> None:
    """Checkpoints whose arrays are gone."""
    for file in (file for checkpoint in checkpoints for file in checkpoint.glob("*.npy")):
        file.write_bytes(b"")


class TestFolder:
    def test_it_holds_what_scripts_depend_on(self, finished):
        names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file() and "model" not in p.parts}
        assert names == {
            "tiny_spec.yaml",
            "manifest.json",
            "log/tiny.log",
            "log/.lock",
            "info/tiny_t0_s0_session_df.csv",
            "info/tiny_t0_s1_session_df.csv",
            "info/tiny_t0_trial_metrics.json",
            "graph/tiny_t0_s0_session_graph.png",
            "graph/tiny_t0_s1_session_graph.png",
            "graph/tiny_t0_trial_graph.png",
        }

    def test_the_table_has_a_row_for_every_log_interval(self, finished):
        table = read_session_df(finished / "info" / "tiny_t0_s0_session_df.csv")
        assert table.frame.tolist() == list(range(256, 4097, 256))
        assert table.columns[:12].tolist() == [
            "frame", "wall_t", "fps", "opt_step", "epi", "episodes", "mean_return", "mean_length", "total_reward",
            "total_reward_ma", "final_episodes", "final_return",
        ]  # fmt: skip
        assert np.isfinite(table.eval_reward.iloc[-1])
        assert table.wall_t.is_monotonic_increasing

    def test_the_manifest_says_how_it_came_about(self, finished):
        manifest = json.loads((finished / "manifest.json").read_text())
        assert manifest["state"] == "complete"
        assert manifest["frame"] == 4096
        (part,) = manifest["parts"]
        assert part["versions"]["jax"]
        assert part["frames"] == [0, 4096]
        assert part["compile_seconds"] == manifest["compile_seconds"] > 0
        assert set(part) >= {"git", "devices", "command", "run_seconds", "total_seconds", "python", "began", "state"}

    def test_the_resolved_spec_reproduces_the_run(self, finished, tmp_path):
        again = only(finished, "*_spec.yaml")
        assert command_line.main([str(again), "--data", str(tmp_path), "--quiet"]) == 0
        assert not equal(final_state(finished), final_state(only(tmp_path, "tiny_*")))

    def test_two_checkpoints_are_kept(self, finished):
        assert [path.name for path in checkpoints_of(finished)] == ["3584", "4096"]

    def test_dev_draws_the_agent_and_checks_it(self, tmp_path, capsys):
        config = write_config(tmp_path)
        assert command_line.main([str(config), "dev", "--data", str(tmp_path / "data")]) == 0
        said = capsys.readouterr().out
        assert "every parameter changed" in said
        assert ".agent.policy.params" in said
        assert "grad_norm" in said
        folder = only(tmp_path / "data", "tiny_*")
        assert (folder / "graph" / "tiny_t0_s0.gif").stat().st_size > 1000

    def test_dev_names_a_parameter_that_does_not_move(self, tmp_path, capsys):
        config = write_config(tmp_path, agent={"net": {"optim_spec": {"lr": 0.0}}})
        assert command_line.main([str(config), "dev", "--data", str(tmp_path / "data")]) == 1
        assert "did not change" in capsys.readouterr().out

    def test_a_critic_that_does_not_move_is_named_and_a_fixed_temperature_is_not(self):
        critics, alpha = Learned({"kernel": np.ones((1, 2, 3))}, np.zeros((1, 4))), Learned(np.ones(1), np.zeros(1))
        learner = OffPolicyLearner(critics, np.ones((1, 2)), np.zeros((1, 2)), alpha, actor_logs={})
        before = AgentState({"kernel": np.ones((1, 2))}, learner, memory=np.zeros((1, 5)))
        after = before._replace(policy={"kernel": np.zeros((1, 2))})
        assert unchanged(before, after) == [".learner.critics.params['kernel']"]
        assert unchanged(before, before)[0] == ".policy['kernel']"
        moved = learner._replace(critics=critics._replace(params={"kernel": np.zeros((1, 2, 3))}))
        assert not unchanged(before, after._replace(learner=moved))

    @pytest.mark.filterwarnings("ignore:overflow")
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (float("nan"), ["nan", "probes.py:", "poisoned"]),  # the line that made it
            pytest.param(1e39, ["returned a reward that is not finite: inf"], marks=pytest.mark.slow),
        ],
    )
    def test_dev_stops_at_the_first_nan(self, value, words, tmp_path, capsys):
        kwargs = {"probability": 1.0, "at": 4} | ({} if np.isnan(value) else {"value": value})
        config = write_config(tmp_path, env={"name": "probes:nan_reward", "kwargs": kwargs, "num_envs": 4})
        assert command_line.main([str(config), "dev", "--data", str(tmp_path / "data")]) == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words), said

    def test_a_run_in_which_every_session_fails_ends_at_once_with_code_1(self, tmp_path, capsys):
        env = {"name": "probes:nan_reward", "kwargs": {"probability": 1.0, "at": 4}, "num_envs": 4}
        config = write_config(tmp_path, env=env | {"max_frame": 10_000_000})
        assert command_line.main([str(config), "--data", str(tmp_path / "data")]) == 1
        said = capsys.readouterr()
        assert "every session failed" in said.out
        assert "session 1 FAILED" in said.err
        folder = only(tmp_path / "data", "tiny_*")
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["state"] == "complete"
        assert manifest["frame"] < 1_000_000
        assert command_line.main(["--resume", str(folder), "--quiet"]) == 1
        assert json.loads((folder / "manifest.json").read_text())["frame"] == manifest["frame"]


class TestResume:
    @pytest.mark.parametrize("algorithm", [pytest.param("PPO", marks=pytest.mark.slow), "DQN"])
    def test_a_larger_budget_continues_as_if_it_had_always_been_so(self, algorithm, tmp_path):
        short = write_config(tmp_path, algorithm, "short", env={"max_frame": 2048})
        long = write_config(tmp_path, algorithm, "long", env={"max_frame": 4096})
        for config in (short, long):
            assert command_line.main([str(config), "--data", str(tmp_path / "data"), "--quiet"]) == 0
        folder = only(tmp_path / "data", "short_*")
        words = ["--resume", str(folder), "--set", "env.max_frame=4096", "--quiet"]
        assert command_line.main(words) == 0
        assert not equal(final_state(folder), final_state(only(tmp_path / "data", "long_*")))
        table = read_session_df(folder / "info" / "short_t0_s0_session_df.csv")
        assert table.frame.tolist() == list(range(256, 4097, 256))
        assert load_spec(folder / "short_spec.yaml").env.max_frame == 4096

    def test_sigterm_leaves_a_checkpoint_and_exit_code_75(self, tmp_path):
        config = write_config(tmp_path, env={"max_frame": 40_000_000})
        log = tmp_path / "data" / "*" / "log" / "tiny.log"
        words = (config, "--data", tmp_path / "data")
        assert interrupt(*words, after=0.5, by=signal.SIGTERM, when=log, shows="frames/s") == 75
        folder = only(tmp_path / "data", "tiny_*")
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["state"] == "stopped"
        assert (folder / "graph" / "tiny_t0_trial_graph.png").exists()
        assert final_state(folder)["step"] == manifest["frame"] > 0

    @pytest.mark.slow
    def test_a_stop_before_the_first_row_can_be_continued(self, tmp_path):
        config = write_config(tmp_path, env={"max_frame": 40_000_000}, meta={"log_frequency": 40_000_000})
        data = tmp_path / "data"
        log = data / "*" / "log" / "tiny.log"
        assert interrupt(config, "--data", data, after=1, by=signal.SIGTERM, when=log, shows="frame 1") == 75
        folder = only(data, "tiny_*")
        stopped = final_state(folder)["step"]
        assert stopped > 0
        assert interrupt("--resume", folder, after=8, by=signal.SIGTERM, when=folder / "tiny_spec.yaml") == 75
        assert final_state(folder)["step"] >= stopped

    def test_a_failed_resume_leaves_the_record_of_the_run_alone(self, own, capsys):
        empty(*checkpoints_of(own))
        before = {name: (own / name).read_bytes() for name in ("manifest.json", "tiny_spec.yaml")}
        assert command_line.main(["--resume", str(own), "--set", "env.max_frame=8192"]) == 2
        assert "no readable checkpoint" in capsys.readouterr().err
        assert before == {name: (own / name).read_bytes() for name in before}

    def test_what_is_done_after_a_damaged_checkpoint_is_kept(self, own):
        empty(checkpoints_of(own)[-1])
        trial = make_trial(load_spec(own / "tiny_spec.yaml"))
        checkpoints = Checkpoints(own / "model")
        run = checkpoints.load(trial)
        assert run.frame == 3584
        assert list(checkpoints.damaged) == [4096]
        sessions, _ = trial.population.segment(run.sessions, trial.hp, 3584, 3840)
        checkpoints.save(trial, run._replace(frame=3840, sessions=sessions))
        assert final_state(own)["step"] == 3840

    def test_two_processes_cannot_write_one_run(self, own, capsys):
        with locked(own):
            assert command_line.main(["--resume", str(own)]) == 2
        assert "another process" in capsys.readouterr().err

    def test_a_run_that_cannot_learn_says_so(self, tmp_path, capsys):
        config = write_config(tmp_path, "DQN", env={"max_frame": 64})
        assert command_line.main([str(config), "--data", str(tmp_path / "data")]) == 0
        assert "nothing will be learned" in capsys.readouterr().out

    def test_a_killed_run_resumes_to_the_same_bits(self, finished, tmp_path):
        kill_and_resume("PPO", tmp_path, after=0.3, reference=finished)

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
    def test_ten_kills_at_random_moments(self, algorithm, tmp_path):
        frames = {"PPO": 400_000, "DQN": 100_000}[algorithm]
        changes = {"env": {"max_frame": frames}, "meta": {"checkpoint_frequency": 4096, "log_frequency": 1024}}
        config = write_config(tmp_path, algorithm, "whole", **changes)
        assert run(config, "--data", tmp_path / "data", limit=300).returncode == 0
        reference = only(tmp_path / "data", "whole_*")
        draw, resumed_from = random.Random(algorithm), []
        for i in range(10):
            place = tmp_path / f"kill{i}"
            place.mkdir()
            after = draw.uniform(0.0, 12.0)
            resumed_from.append(kill_and_resume(algorithm, place, after=after, reference=reference, **changes))
        print(algorithm, "killed, then resumed from frames", resumed_from)
        assert any(resumed_from), "no kill came after a checkpoint"

    def test_a_damaged_checkpoint_is_passed_over(self, own, finished):
        empty(checkpoints_of(own)[-1])
        assert command_line.main(["--resume", str(own), "--quiet"]) == 0
        assert not equal(final_state(own), final_state(finished))


def kill_and_resume(algorithm: str, place: Path, *, after: float, reference: Path, **changes) -> int:
    """Kills a run `after` seconds from its folder's appearance, resumes it, and holds the end against `reference`."""
    config = write_config(place, algorithm, "tiny", **changes)
    interrupt(config, "--data", place / "data", after=after, when=place / "data" / "tiny_*")
    folder = only(place / "data", "tiny_*")
    committed = [int(p.name) for p in (folder / "model").iterdir() if p.name.isdigit()]
    done = run("--resume", folder, "--quiet", limit=300)
    assert done.returncode == 0, done.stderr
    assert not equal(final_state(folder), final_state(reference))
    return max(committed, default=0)


# Each: what is written over a good spec, and words that the one message must hold.
WRONG = {
    "unknown key": ({"agent": {"algorithm": {"gama": 0.9}}}, ["gama", "gamma", "tiny.yaml:"]),
    "wrong type": ({"agent": {"algorithm": {"gamma": "high"}}}, ["agent.algorithm.gamma", "high"]),
    "unknown environment": ({"env": {"name": "CartPole-v2"}}, ["env.name", "CartPole-v1"]),
    "unknown module": ({"env": {"name": "nowhere:make"}}, ["nowhere"]),
    "unknown algorithm": ({"agent": {"algorithm": {"name": "PPQ"}}}, ["agent.algorithm.name", "PPO"]),
    "horizon and minibatches": ({"agent": {"algorithm": {"minibatch_size": 48}}}, ["minibatch_size", "128", "48"]),
    "negative number": ({"agent": {"algorithm": {"gamma": -0.1}}}, ["gamma", "-0.1"]),
    "nan": ({"agent": {"net": {"optim_spec": {"lr": float("nan")}}}}, ["lr"]),
    "unknown activation": ({"agent": {"net": {"hid_layers_activation": "rleu"}}}, ["rleu", "relu"]),
    "unknown initialiser": ({"agent": {"net": {"init_fn": "ortogonal"}}}, ["ortogonal", "orthogonal"]),
    "unknown optimiser": ({"agent": {"net": {"optim_spec": {"name": "Adamm"}}}}, ["Adamm", "adam"]),
    "distribution that does not fit": ({"agent": {"algorithm": {"action_pdtype": "Normal"}}}, ["Normal", "Discrete"]),
    "unknown argument of an environment": ({"env": {"kwargs": {"gravitas": 1.0}}}, ["gravitas", "gravity"]),
    "a key of the network that PPO does not read": ({"agent": {"net": {"update_type": "polyak"}}}, ["update_type"]),
    "no sessions": ({"meta": {"max_session": 0}}, ["meta.max_session", "0"]),
    "rows too long to count": ({"meta": {"log_frequency": 2**31 - 1}}, ["meta.log_frequency", "2147483647"]),
    "too many frames": ({"env": {"max_frame": 2**31 - 1}}, ["env.max_frame", "2147483647"]),
}
WRONG_DQN = {
    "a space it does not support": ({"env": {"name": "Pendulum-v1"}}, ["agent.algorithm.name", "Pendulum-v1", "PPO"]),
    "replay smaller than a batch": ({"agent": {"memory": {"max_size": 32}}}, ["agent.memory.max_size", "64", "32"]),
    "a key of the network that DQN does not read": ({"agent": {"net": {"shared": True}}}, ["net.shared", "DQN"]),
    "warm-up beyond the memory": ({"agent": {"algorithm": {"training_start_step": 9999}}}, ["training_start_step"]),
    "memory of another kind": ({"agent": {"memory": {"name": "OnPolicyBatchReplay"}}}, ["memory", "Replay"]),
}


class TestWrongInput:
    def refused(self, words: list, capsys, tmp_path: Path) -> str:
        """Exit code 2, one message, nothing written: the message."""
        assert command_line.main([*map(str, words), "--data", str(tmp_path / "data")]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert "Traceback" not in shown.err
        assert not (tmp_path / "data").exists()
        return shown.err

    @pytest.mark.parametrize("case", WRONG)
    def test_a_wrong_spec(self, case, capsys, tmp_path):
        changes, words = WRONG[case]
        message = self.refused([write_config(tmp_path, **changes)], capsys, tmp_path)
        assert all(word in message for word in words), message

    @pytest.mark.parametrize("case", WRONG_DQN)
    def test_a_wrong_spec_for_dqn(self, case, capsys, tmp_path):
        changes, words = WRONG_DQN[case]
        agent = changes.get("agent", {})
        spec = write_config(tmp_path, "DQN", **{k: v for k, v in changes.items() if k != "agent"}, agent=agent)
        if "name" in agent.get("memory", {}):
            spec.write_text(spec.read_text().replace("batch_size: 64", "").replace("max_size: 2048", ""))
        message = self.refused([spec], capsys, tmp_path)
        assert all(word in message for word in words), message

    @pytest.mark.parametrize(("sessions", "share"), [(8, 5.5), (1, 0.9)])
    def test_sessions_that_do_not_fit_the_memory(self, sessions, share, capsys, tmp_path, monkeypatch):
        """What it says would fit does."""
        spec = load_spec(write_config(tmp_path))
        each = size_of(make_trial(spec)) / spec.meta.max_session
        monkeypatch.setattr(memory, "available", lambda devices: int(share * each))
        words = [write_config(tmp_path), "--set", "meta.lanes=2"]
        message = self.refused([*words, "--sessions", sessions], capsys, tmp_path)
        if share < 2:
            assert "Not even one fits" in message
            return
        assert "At most 4 such sessions fit (meta.max_session)" in message
        make_trial(load_spec(words[0], overrides=["meta.lanes=2", "meta.max_session=4"]))
        assert "At most 4" in self.refused([*words, "--sessions", 5], capsys, tmp_path)

    def test_a_spec_that_the_file_does_not_hold(self, capsys, tmp_path):
        message = self.refused([write_config(tmp_path), "tyni"], capsys, tmp_path)
        assert "tyni" in message
        assert "tiny" in message

    def test_a_file_that_is_not_there_or_empty_or_no_yaml(self, capsys, tmp_path):
        assert "absent.yaml" in self.refused([tmp_path / "absent.yaml"], capsys, tmp_path)
        for name, text in (("empty.yaml", ""), ("broken.yaml", "a: [1, 2"), ("list.yaml", "- 1")):
            (tmp_path / name).write_text(text)
            assert name in self.refused([tmp_path / name], capsys, tmp_path)
        assert str(tmp_path) in self.refused([tmp_path], capsys, tmp_path)

    def test_no_config_at_all(self, capsys, tmp_path):
        assert "config" in self.refused([], capsys, tmp_path)

    def test_a_set_that_matches_nothing(self, capsys, tmp_path):
        message = self.refused([write_config(tmp_path), "--set", "agent.algorithm.gama=1"], capsys, tmp_path)
        assert "gamma" in message

    def test_an_output_folder_that_cannot_be_written(self, capsys, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("")
        assert command_line.main([str(write_config(tmp_path)), "--data", str(blocked / "data")]) == 2
        assert "cannot write" in capsys.readouterr().err

    def test_a_folder_that_is_no_run_cannot_be_resumed(self, capsys, tmp_path):
        for folder in (tmp_path, tmp_path / "absent"):
            assert command_line.main(["--resume", str(folder)]) == 2
            assert "not the folder of a run" in capsys.readouterr().err

    def test_a_dev_run_leaves_nothing_to_resume(self, capsys, tmp_path):
        config = write_config(tmp_path)
        assert command_line.main([str(config), "dev", "--data", str(tmp_path / "data"), "--quiet"]) == 0
        assert command_line.main(["--resume", str(only(tmp_path / "data", "tiny_*"))]) == 2
        assert "dev" in capsys.readouterr().err

    def test_a_mode_that_does_not_exist(self, capsys, tmp_path):
        assert "'train'" in self.refused([write_config(tmp_path), "tain"], capsys, tmp_path)
        assert "MODE" in self.refused(["train"], capsys, tmp_path)

    def test_options_may_stand_anywhere(self, tmp_path):
        words = [write_config(tmp_path), "--data", tmp_path / "data", "--quiet", "tiny", "--sessions", "1", "dev"]
        assert command_line.main([str(word) for word in words]) == 0

    def test_a_resumed_run_stays_the_same_run(self, capsys, finished):
        assert command_line.main(["--resume", str(finished), "--set", "agent.algorithm.gamma=0.5"]) == 2
        assert "env.max_frame" in capsys.readouterr().err
        assert command_line.main(["--resume", str(finished), "--set", "env.max_frame=10"]) == 2
        assert "4096" in capsys.readouterr().err
        assert load_spec(finished / "tiny_spec.yaml").env.max_frame == 4096

    def test_a_spec_edited_by_hand_is_not_continued_unnoticed(self, capsys, finished, tmp_path):
        folder = tmp_path / "edited"
        shutil.copytree(finished, folder)
        path = folder / "tiny_spec.yaml"
        path.write_text(path.read_text().replace("gamma: 0.99", "gamma: 0.98"))
        assert command_line.main(["--resume", str(folder)]) == 2
        said = capsys.readouterr().err
        assert "agent.algorithm.gamma was 0.99 and is 0.98" in said

    def test_the_command_line_in_its_own_process(self, tmp_path):
        shown = run("--help")
        assert shown.returncode == 0
        assert "examples:" in shown.stdout
        wrong = run(tmp_path / "absent.yaml", cwd=tmp_path)
        assert wrong.returncode == 2
        assert "Traceback" not in wrong.stderr
        assert os.listdir(tmp_path) == []
