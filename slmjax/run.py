"""The command line: `python -m slmjax.run CONFIG [SPEC_NAME] [MODE]`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slmjax.spec import Spec

MODES = ("train", "dev")
EXIT_BROKEN, EXIT_INTERRUPTED = 74, 130  # EX_IOERR; as a shell reports SIGINT

EXAMPLES = """\
examples:
  python -m slmjax.run configs/dqn_cartpole.yaml
      train the spec in the file, with live progress; tables and graphs go to data/
  python -m slmjax.run configs/dqn_cartpole.yaml dev
      one session, few frames, every check on, and a GIF of what the agent does
  python -m slmjax.run configs/ppo_cartpole.yaml --sessions 64 --set agent.algorithm.gamma=0.98
      64 sessions in one program, one key changed
  python -m slmjax.run --resume data/ppo_cartpole_2026_01_31_120000
      go on where a run stopped (with --set env.max_frame=N to a larger budget; schedules stay as they are)

exit codes: 0 complete, 1 every session failed, 2 wrong input (one message says what and where),
74 the disk or a pipe failed, 75 stopped by Ctrl-C or SIGTERM after a checkpoint (go on with --resume),
130 interrupted twice, at once
"""


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    made = argparse.ArgumentParser(
        prog="python -m slmjax.run",
        description="Train agents from a config file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("config", nargs="?", help="YAML or JSON file with one or several specs")
    made.add_argument("words", nargs="*", metavar="SPEC_NAME MODE", help=f"which spec; how: {', '.join(MODES)}")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override any key, or a ${var}")
    made.add_argument("--sessions", type=int, metavar="N", help="short for --set meta.max_session=N")
    made.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in this folder, bit-exactly")
    made.add_argument("--data", type=Path, metavar="DIR", help="where new runs go (default: data)")
    made.add_argument("--quiet", action="store_true", help="no progress, no summary")
    made.add_argument("--no-cache", action="store_true", help="do not keep compiled programs between runs")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line: the exit code."""
    options = parser().parse_intermixed_args(arguments)
    from slmjax.types import UserError

    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: `module:attribute` may lie where one stands
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign must not end a run
    try:
        return _run(options)
    except UserError as error:
        _complain(f"error: {error}")
        return 2
    except BrokenPipeError:  # nobody reads what is printed; the run's folder has its log
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the interpreter flushes it once more at exit
        return EXIT_BROKEN
    except OSError as error:
        _complain(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return EXIT_BROKEN
    except KeyboardInterrupt:
        _complain("interrupted; what the last checkpoint holds can be continued with --resume DIR")
        return EXIT_INTERRUPTED


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


def _run(options: argparse.Namespace) -> int:
    from slmjax.lab import devices

    if not options.no_cache:
        devices.cache_programs()
    if options.resume:
        from slmjax.lab.resume import resume
        from slmjax.types import UserError

        if options.config:
            raise UserError(f"--resume takes the spec from the run's folder; got a config as well: {options.config}.")
        if options.data:
            raise UserError(f"--resume writes into the run's folder; got --data as well: {options.data}.")
        return resume(options.resume, _overrides(options), quiet=options.quiet)
    spec, mode = _read(options)
    data = options.data or Path("data")
    if mode == "dev":
        from slmjax.lab.dev import dev

        return dev(spec, data, quiet=options.quiet)
    from slmjax.lab import folder
    from slmjax.lab.train import train
    from slmjax.lab.trial import make_trial

    trial = make_trial(spec)  # everything that can be wrong with a spec shows here, before a folder is made
    return train(trial, folder.create(trial.spec, data), quiet=options.quiet)


def _overrides(options: argparse.Namespace) -> list[str]:
    sessions = [] if options.sessions is None else [f"meta.max_session={options.sessions}"]
    return [*options.set, *sessions]


def _read(options: argparse.Namespace) -> tuple[Spec, str]:
    from slmjax.registry import nearest
    from slmjax.spec import load_spec
    from slmjax.types import UserError

    words = list(options.words)
    mode = words.pop() if words and words[-1] in MODES else "train"
    if not options.config:
        raise UserError("expected a config file, for instance configs/dqn_cartpole.yaml; see --help.")
    if len(words) > 1 or options.config in MODES:
        got = " ".join([options.config, *options.words])
        hint = nearest(words[-1], list(MODES)) if words else ""
        modes = ", ".join(MODES)
        raise UserError(f"expected CONFIG [SPEC_NAME] [MODE], where MODE is one of {modes}; got {got!r}.{hint}")
    try:
        return load_spec(options.config, words[0] if words else None, _overrides(options)), mode
    except UserError as error:
        mistaken = words and f"there is no spec {words[0]!r}" in str(error) and nearest(words[0], list(MODES))
        raise UserError(f"{error} Or did you mean the mode{mistaken[13:]}") if mistaken else error  # noqa: B904


if __name__ == "__main__":
    sys.exit(main())
