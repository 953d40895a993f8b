"""Complete checkpoints through Orbax: everything a run is, committed atomically, the last two kept.

A run is stored as its leaves by name, without the copies that pad a population, so it can be continued on another
number of devices. The best policy of each session is part of its state.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slmjax.lab.build import Trial
from slmjax.lab.history import History
from slmjax.lab.loop import Run
from slmjax.spec.dump import to_dict
from slmjax.spec.errors import show
from slmjax.spec.sections import Spec
from slmjax.types import PyTree, UserError

# What may change between two parts of one run: nothing that a session's past depends on.
CHANGEABLE = ("env.max_frame", "meta.eval_frequency", "meta.checkpoint_frequency")
KEEP = 2
_NO_ROWS = "no rows yet"


class Checkpoints:
    """The checkpoints under one folder. Orbax (1 s to import) is only loaded when the first one is made or read."""

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist yet."""
        self.folder = folder
        self.damaged: dict[int, str] = {}  # frame -> what was wrong with the checkpoint of that frame
        self._manager: Any = None

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

            logging.getLogger("absl").setLevel(logging.CRITICAL)  # what it logs it also raises
            options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True, enable_async_checkpointing=True)
            self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        return self._manager

    def latest(self) -> int | None:
        """Frame of the newest committed checkpoint, None if there is none."""
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            return None
        return self._open().latest_step()

    def save(self, trial: Trial, run: Run) -> None:
        """Copies a run to the host and writes it in the background; a checkpoint of that frame is not written twice.

        Raises:
            OSError: an earlier one could not be written (the disk is full).
        """
        import orbax.checkpoint as ocp

        manager = self._open()
        if manager.latest_step() == run.frame:
            return
        sessions = _to_host(trial.population.gather(run.sessions))
        # Orbax writes no empty mapping, and before the first row ends there is nothing to write.
        history = {name: np.array(values) for name, values in run.history.columns.items()} or {_NO_ROWS: np.zeros(1)}
        about = {"frame": run.frame, "wall_t": run.history.wall_t, "spec": to_dict(trial.spec)}
        args = ocp.args.Composite(
            sessions=ocp.args.StandardSave(sessions),
            history=ocp.args.StandardSave(history),
            about=ocp.args.JsonSave(about),
        )
        with self._writing():
            saved = manager.save(run.frame, args=args)
        if not saved:
            raise OSError(f"the checkpoint of frame {run.frame} was refused: a later one is there")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line what Orbax, which writes in the background, says of a failure in hundreds."""
        try:
            yield
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else repr(error)
            text = f"cannot write a checkpoint to {self.folder}: ... {said[-160:]}"
            raise OSError(text) from error

    def load(self, trial: Trial) -> Run:
        """The newest run that can be read; unreadable ones are noted in `damaged` and passed over.

        Raises:
            UserError: no checkpoint fits this spec.
        """
        for step in sorted(self._open().all_steps(), reverse=True):
            try:
                run = self._restore(trial, step)
            except UserError:
                raise
            except Exception as error:  # whatever Orbax says of a damaged file, the one before may be whole
                self.damaged[step] = (str(error) or repr(error)).splitlines()[0]
                continue
            for damaged in self.damaged:
                self._open().delete(damaged)  # Orbax keeps nothing older than its newest step
            return run
        raise UserError(
            "no readable checkpoint:\n  " + "\n  ".join(f"{self.folder / str(f)}: {e}" for f, e in self.damaged.items())
        )

    def _restore(self, trial: Trial, step: int) -> Run:
        import orbax.checkpoint as ocp

        names = ("sessions", "history", "about")
        readers = (ocp.args.StandardRestore(), ocp.args.StandardRestore(), ocp.args.JsonRestore())
        found = self._open().restore(step, args=ocp.args.Composite(**dict(zip(names, readers, strict=True))))
        _check_same(found["about"]["spec"], trial.spec)
        sessions = trial.population.place(_from_host(found["sessions"], trial))
        columns = {name: np.array(values) for name, values in found["history"].items() if name != _NO_ROWS}
        return Run(step, sessions, History(trial.population.size, found["about"]["wall_t"], columns))

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            with self._writing():
                manager.wait_until_finished()
                manager.close()


def _check_same(before: dict[str, Any], spec: Spec) -> None:
    """Refuses to go on with a spec that is not the one that the checkpoint came from."""
    old, new = dict(_dotted(before)), dict(_dotted(json.loads(json.dumps(to_dict(spec)))))
    for name in [*old, *new]:
        if old.get(name) != new.get(name) and name not in CHANGEABLE:
            raise UserError(
                f"the run was started with another spec: {name} was {show(old.get(name))} and is "
                f"{show(new.get(name))}. Only {', '.join(CHANGEABLE)} may change."
            )


def _dotted(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(path, tree)]
    return [pair for key, value in tree.items() for pair in _dotted(value, f"{path}.{key}" if path else key)]


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(tree: PyTree) -> dict[str, np.ndarray]:
    # A true copy: the device's buffer is donated to the next segment while the file is still being written.
    return {name: np.array(jax.random.key_data(x) if _is_key(x) else x, copy=True) for name, x in _named(tree)}


def _from_host(leaves: dict[str, np.ndarray], trial: Trial) -> PyTree:
    one = jax.eval_shape(trial.program.init, *jax.tree.map(lambda x: x[0], (trial.keys[0], trial.hp[0])))
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct((trial.population.size, *x.shape), x.dtype), one)
    wanted = dict(_named(template))
    if set(wanted) != set(leaves):
        odd = sorted(set(wanted) ^ set(leaves))[0]
        raise UserError(f"the checkpoint was written by another kind of agent: {odd} is not in both.")

    impl = jax.random.key_impl(trial.keys[0])

    def leaf(name: str) -> Any:
        want, value = wanted[name], np.asarray(leaves[name])
        made: Any = jax.random.wrap_key_data(jnp.asarray(value), impl=impl) if _is_key(want) else value
        if made.shape != want.shape or made.dtype != want.dtype:
            raise UserError(
                f"the checkpoint does not fit the spec: {name} is {made.dtype}{list(made.shape)}, "
                f"expected {want.dtype}{list(want.shape)}."
            )
        return made

    return jax.tree.unflatten(jax.tree.structure(template), [leaf(name) for name in wanted])
