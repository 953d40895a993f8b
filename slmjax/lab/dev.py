"""Mode `dev`: one session, few frames, every check on, and a picture of what the agent does.

Does what one wishes to see before the long run: the shape of everything, whether every parameter moves in an update,
whether gradients have a sensible size, the operation that made the first NaN, and a GIF.
"""

import dataclasses
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from slmjax import keys
from slmjax.batches import Batches
from slmjax.envs import make_env
from slmjax.envs.gif import write_gif
from slmjax.lab import folder as folders
from slmjax.lab import manifest
from slmjax.lab.loop import Run, compile_segment, learn, start
from slmjax.lab.notebook import result_of
from slmjax.lab.report import draw_graphs, write_tables
from slmjax.lab.trial import Trial, make_agent, make_session, make_trial
from slmjax.session import Session
from slmjax.spec.sections import Spec
from slmjax.types import Key, PyTree, Step, UserError, VectorEnv

UPDATES = 20  # updates that a dev run makes after its warm-up
GIF_STEPS = 300

Say = Callable[[str], None]


def dev(spec: Spec, root: Path, *, quiet: bool = False) -> int:
    """A short run of one session with all checks: 0, or 1 when a check failed.

    Raises:
        UserError: the output folder cannot be written, or something became NaN (says in which operation).
    """
    say: Say = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
    make_trial(spec)  # what is wrong with the spec as it stands, before it is shortened
    trial = make_trial(_shorten(spec))
    folder = folders.create(trial.spec, root)
    record = manifest.begin(folder, trial.spec, "dev")
    say(f"{spec.name}: dev, {trial.spec.env.max_frame} frames of one session, NaN checks on\n{folder}")
    run, before = _checked_run(trial, say)
    still = unchanged(before, run.sessions[0].agent)
    for name in still:
        say(f"CHECK FAILED: parameter {name} did not change in {run.frame} frames")
    if not still:
        say("every parameter changed")
    draw_graphs(trial.spec, write_tables(trial.spec, run.history, folder), folder)
    say(_render(trial, run, folder))
    manifest.note(folder, record, state="complete", frame=run.frame, unchanged=still)
    say(f"graphs: {folder / 'graph'}")
    return 1 if still else 0


def _shorten(spec: Spec) -> Spec:
    agent = make_agent(spec)
    size = agent.horizon * spec.env.num_envs
    frames = (-(-agent.warmup // size) + UPDATES) * size
    env = dataclasses.replace(spec.env, max_frame=min(spec.env.max_frame, frames))
    # Segments end where checkpoints would be due: not a row is run that a NaN came before.
    often = max(1, frames // 20)
    meta = dataclasses.replace(spec.meta, max_session=1, log_frequency=often, checkpoint_frequency=often)
    return dataclasses.replace(spec, env=env, meta=meta)


def _checked_run(trial: Trial, say: Say) -> tuple[Run, PyTree]:
    """The run at its end, and the agent, without its memory, that it began with."""
    run = start(trial)
    say(shapes(run.sessions[0]))
    before = jax.tree.map(np.array, run.sessions[0].agent._replace(memory=()))
    kept = [jax.tree.map(jnp.copy, run.sessions), 0]  # a segment donates what it is given

    def visit(run: Run) -> bool:
        if not run.history.failed():
            kept[:] = [jax.tree.map(jnp.copy, run.sessions), run.frame]
        if run.history.rows and run.history.columns["frame"][0, -1] == run.frame:
            say(_row(run))
        return True

    run, seconds = compile_segment(trial, run)
    say(f"compiled in {seconds:.1f} s")
    run = learn(trial, run, visit)
    if run.history.failed():
        say(f"not a number after frame {kept[1]}; running the next row again, one operation at a time ...")
        raise UserError(_culprit(trial, *kept))
    return run, before


def _culprit(trial: Trial, sessions: Batches, frame: int) -> str:
    """The operation and the line that make a number that is not one, in the row after `frame`."""
    one = keys.usual(jax.tree.map(lambda x: x[0], sessions[0]))
    stop = frame + trial.program.row_frames
    program = make_session(trial.spec, _watched(make_env(trial.spec.env), trial.spec.env.name))
    try:
        with jax.disable_jit(), jax.debug_nans(True):
            program.segment(one, trial.spec.hp, jnp.int32(frame), jnp.int32(stop))
    except UserError as error:
        return str(error)
    except FloatingPointError as error:
        ours = [
            f for f in traceback.extract_tb(error.__traceback__) if f"{Path(jax.__file__).parent}" not in f.filename
        ]
        return f"not a number: {str(error).splitlines()[0]} {ours[-1].filename}:{ours[-1].lineno}: {ours[-1].line}"
    return f"something is not finite after frame {frame}: an infinite loss or parameter"


def _watched(env: VectorEnv, name: str) -> VectorEnv:
    """`env`, to be stepped one operation at a time, that refuses what an environment must not return."""

    def step(key: Key, state: PyTree, action: PyTree) -> tuple[PyTree, Step]:
        state, out = env.step(key, state, action)
        for what, value in (("a reward", out.reward), ("an observation", out.final_obs)):
            for x in map(np.asarray, jax.tree.leaves(value)):
                if x.dtype.kind == "f" and not np.isfinite(x).all():
                    odd = x[~np.isfinite(x)].flat[0]
                    raise UserError(f"{name} returned {what} that is not finite: {odd}.")
        return state, out

    return env._replace(step=step)


def _row(run: Run) -> str:
    columns = run.history.columns
    shown = [n for n in ("total_reward", "loss", "grad_norm", "entropy", "explore_var", "lr") if n in columns]
    known = [(name, columns[name][0, -1]) for name in shown]
    row = f"frame {run.frame}  " + "  ".join(f"{name} {value:.4g}" for name, value in known if not np.isnan(value))
    return row if len(known) == 1 or not np.isnan(known[-1][1]) else f"{row}  (warm-up: nothing learned yet)"


def shapes(session: Session) -> str:
    """Shape and dtype of every array of a session, one a line, without the axis of sessions.

    The best policy, which looks like the agent's, is left out.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(session._replace(best=session.best._replace(policy=())))
    rows = [(jax.tree_util.keystr(path), f"{leaf.dtype}{list(leaf.shape[1:])}") for path, leaf in leaves]
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{wide}}  {shape}" for name, shape in rows)


def unchanged(before: PyTree, after: PyTree) -> list[str]:
    """Names of the parameters that are the same in both: of the policy, and what is called `params` in the learner.

    Both are `AgentState`s with the axis of sessions. A number that stands alone, as a temperature does, may be fixed.
    """
    named = [(jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(before)]
    learned = lambda name, x: name.startswith(".policy") or (".params" in name and np.ndim(x) > 1)  # noqa: E731
    pairs = zip(named, jax.tree.leaves(after._replace(memory=before.memory)), strict=True)
    return [name for (name, x), y in pairs if learned(name, x) and np.array_equal(x, np.asarray(y))]


def _render(trial: Trial, run: Run, folder: Path) -> str:
    """Writes a GIF of one greedy episode, where the suite can be drawn: what to tell the person."""
    env = make_env(dataclasses.replace(trial.spec.env, num_envs=1))
    if env.render is None:
        return f"no GIF: {trial.spec.env.name} cannot be drawn"
    policy, key = result_of(trial, run).policy(0), jax.random.key(trial.spec.meta.seed)

    @jax.jit
    def step(state: PyTree, obs: PyTree, carry: PyTree, key: jax.Array) -> tuple:
        action, carry = policy.step(obs, carry)
        state, out = env.step(key, state, action)
        return state, out.obs, carry, out.ended

    state, obs = jax.jit(env.reset)(key)
    carry, frames = policy.start(1), []
    for i in range(GIF_STEPS):
        frames.append(env.render(state))
        state, obs, carry, ended = step(state, obs, carry, jax.random.fold_in(key, i))
        if bool(ended[0]):
            break
    path = folder / "graph" / f"{trial.spec.name}_t0_s0.gif"
    write_gif(frames, path)
    return f"greedy episode: {path}"
