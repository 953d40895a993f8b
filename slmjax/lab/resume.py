"""`--resume DIR`: the same run, from its newest checkpoint, as if it had never stopped."""

from pathlib import Path

from slmjax.lab import folder as folders
from slmjax.lab import manifest
from slmjax.lab.checkpoint import CHANGEABLE
from slmjax.lab.train import train
from slmjax.lab.trial import make_trial
from slmjax.spec import load_spec
from slmjax.types import UserError


def resume(folder: Path, overrides: list[str], *, quiet: bool = False) -> int:
    """Continues the run in a folder: the exit code of `train`.

    Raises:
        UserError: not a run's folder, or an override that would make it another run.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in CHANGEABLE:
            raise UserError(f"--set {override}: a resumed run can change only {', '.join(CHANGEABLE)}.")
    path = folders.find_spec(folder)
    if (mode := manifest.read(folder).get("mode", "train")) != "train":
        raise UserError(f"{folder} was made in mode {mode}, which leaves nothing to continue.")
    before, spec = load_spec(path), load_spec(path, overrides=overrides)
    if spec.env.max_frame < before.env.max_frame:
        raise UserError(
            f"env.max_frame: expected at least the {before.env.max_frame} frames that the run was started with, "
            f"got {spec.env.max_frame}."
        )
    trial = make_trial(spec)
    return train(trial, folder, resume=True, quiet=quiet)
