"""``python -m tune NAME``: run a sweep of the settings file, or go on with it; ``list``, ``status`` and ``report``.

What it tells goes to standard output, the running table and log lines to standard error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler

from genrec.errors import GenrecError
from genrec.progress import StageProgress

if TYPE_CHECKING:
    from tune.result import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (2: a mistake that the user can mend)."""
    options = _parser().parse_args(arguments)
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("genrec").setLevel(logging.INFO if options.verbose else logging.WARNING)
    try:
        _act(options)
    except GenrecError as error:
        sys.stderr.write(f"tune: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("tune: interrupted; run the same command to go on\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tune",
        description="Sweeps of the settings file (section sweeps).",
        usage="python -m tune [NAME | report NAME | status NAME | list] [options]",
    )
    parser.add_argument("words", nargs="+", metavar="NAME", help="a sweep, or one of list, status NAME, report NAME")
    parser.add_argument("--config", metavar="FILE", help="settings file (default: ray_config.yaml)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one setting of all trials"
    )
    parser.add_argument("--verbose", "-v", action="store_true", help="log more")
    return parser


def _act(options: argparse.Namespace) -> None:
    from tune.settings import VERBS

    words: list[str] = options.words
    verb = words.pop(0) if words[0] in VERBS else "run"
    if len(words) != (verb != "list"):
        _parser().error("give one sweep's name" if verb != "list" else "list takes no name")
    if verb == "list":
        _list(options)
        return
    from tune.sweep import Sweep

    sweep = Sweep(words[0], options.config, options.set)
    if verb == "run":
        from tune.driver import run_sweep
        from tune.watch import Terminal

        terminal = Terminal(sweep, Console(stderr=True, highlight=False))
        try:
            result = run_sweep(sweep, told=terminal, reporter=StageProgress())
        finally:
            terminal.stop()
    else:
        from tune.records import Records
        from tune.result import Result

        result = Result(sweep, Records(sweep.directory))
    _tell(result, report=verb != "status")


def _list(options: argparse.Namespace) -> None:
    from tune.settings import load_sweeps

    for name, sweep in load_sweeps(options.config).items():
        points = f"{sweep.trials} trials" if sweep.search == "optuna" else "grid"
        sys.stdout.write(f"{name:<20} {points:<10} {', '.join(sweep.space)}  {sweep.about}\n")


def _tell(result: Result, *, report: bool) -> None:
    from tune.report import verdict_text, write_report
    from tune.watch import trials_table

    console = Console(soft_wrap=True, highlight=False)
    console = console if console.is_terminal else Console(width=200, highlight=False)
    sweep = result.sweep
    console.print(trials_table(sweep, result.records.trials))
    counts, (spared, whole) = result.counts(), result.spared_epochs()
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"{told}; stopping early spared {spared} of {whole} epochs", markup=False)
    for line in verdict_text(result):
        console.print(line, markup=False)
    if report:
        console.print(f"report: {write_report(result)}", markup=False, soft_wrap=True)
    console.print(f"tensorboard --logdir {sweep.directory / 'tensorboard'}", markup=False, soft_wrap=True)
    if sweep.definition.mlflow:
        from tune.logs import local_store

        uri = sweep.definition.mlflow_uri or local_store(sweep.directory)
        console.print(f"mlflow ui --backend-store-uri {uri}", markup=False, soft_wrap=True)
    if result.best is not None:
        console.print(f"python -m genrec run --from-sweep {sweep.name}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
