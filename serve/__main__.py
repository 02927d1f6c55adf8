"""``python -m serve``: serve a run's bundle over HTTP, in the foreground or with ``--detach``; ``stop`` ends it.

``swap BUNDLE`` puts another bundle into service without losing a request, ``--canary 10`` for ten percent of them
first; ``promote`` makes the canary the one, ``rollback`` goes back, ``rollout`` tells how things stand.

What it tells goes to standard output, errors and log lines to standard error.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console
from rich.logging import RichHandler

from genrec.artifacts import is_uri
from genrec.bundle import bundle_place
from genrec.config import Settings, load_settings
from genrec.errors import GenrecError
from genrec.stages import open_stage
from serve.process import (
    READY_TIMEOUT_S,
    Running,
    ServiceError,
    end,
    healthy,
    hold,
    owner,
    publish,
    run_directory,
    running,
)
from serve.rollout import DEFAULT_CATALOG, ROLLOUT_FILE, Rollout, Rollouts
from serve.tuning import tune

DETACHED_LOG = "serve.log"
STEPS = ("swap", "promote", "rollback", "rollout")
_START_TIMEOUT_S = READY_TIMEOUT_S + 120.0
_LOG_TAIL_LINES = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (2: a mistake that the user can mend)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    console = Console(soft_wrap=True)
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        settings = load_settings(options.config, preset=options.preset, overrides=options.set)
        if options.action == "stop":
            return _stop(settings, console)
        if options.action in STEPS:
            return _roll(settings, options, console)
        bundle = _bundle(settings, options.bundle)
        if options.detach:
            arguments = [argument for argument in given if argument != "--detach"]
            return _detach(settings, bundle, arguments, _same_run(options), console)
        return _foreground(settings, bundle, console)
    except GenrecError as error:
        sys.stderr.write(f"serve: {error}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve", description="Serve a run's bundle over HTTP.")
    parser.add_argument("action", nargs="?", choices=("run", "stop", *STEPS), default="run")
    parser.add_argument("target", nargs="?", help="swap: directory of the bundle (default: the run's newest)")
    parser.add_argument(
        "--canary", type=float, metavar="PERCENT", help="swap: only for so many of the users, to begin with"
    )
    parser.add_argument("--catalog", default=DEFAULT_CATALOG, help="swap, promote, rollback: of serve.catalogs")
    parser.add_argument("--config", help="settings file (default: ray_config.yaml)")
    parser.add_argument("--preset", help="a preset of the settings file")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one setting")
    parser.add_argument("--bundle", help="directory or URI of a bundle (default: the run's own)")
    parser.add_argument("--detach", action="store_true", help="leave it running; `python -m serve stop` ends it")
    return parser


def _bundle(settings: Settings, given: str | None) -> str:
    run = settings.run
    if given is None and is_uri(run.directory):  # replicas on other nodes fetch it from there, not from our mirror
        given = f"{run.directory.rstrip('/')}/{run.name}/bundle"
    return bundle_place(given or open_stage(run.directory, run.name, "bundle"))


def _roll(settings: Settings, options: argparse.Namespace, console: Console) -> int:
    """Take one step of a rollout and tell how things stand."""
    rollouts = Rollouts(run_directory(settings) / ROLLOUT_FILE)
    if options.action == "swap":
        _swap(settings, options, rollouts)
    elif options.action == "promote":
        rollouts.change(options.catalog, Rollout.promote)
    elif options.action == "rollback":
        rollouts.change(options.catalog, Rollout.rollback)
    for catalog, rollout in rollouts.read().items():
        console.print(f"{catalog}: {rollout.stable}", markup=False, highlight=False)
        if rollout.canary is not None:
            console.print(f"  canary   {100 * rollout.share:g}%  {rollout.canary}", markup=False, highlight=False)
        if rollout.previous is not None:
            console.print(f"  before   {rollout.previous}", markup=False, highlight=False)
        if rollout.refused is not None:
            console.print(f"  refused  {rollout.refused}: {rollout.reason}", markup=False, highlight=False)
    return 0


def _swap(settings: Settings, options: argparse.Namespace, rollouts: Rollouts) -> None:
    if options.canary is not None and not 0 < options.canary < 100:
        raise ServiceError(f"--canary {options.canary:g}: give a percentage between 0 and 100")
    bundle = _bundle(settings, options.target or options.bundle)
    share = 1.0 if options.canary is None else options.canary / 100
    rollouts.change(options.catalog, lambda one: one.want(bundle, share))
    deadline = time.monotonic() + READY_TIMEOUT_S
    while (rollout := rollouts.read()[options.catalog]).wanted == bundle:
        if time.monotonic() > deadline:
            raise ServiceError(f"{bundle}: not taken up within {READY_TIMEOUT_S:g} s; is this run being served?")
        time.sleep(0.1)
    if rollout.refused == bundle:
        raise ServiceError(f"{bundle}: refused, {rollout.stable} goes on serving: {rollout.reason}")


def _foreground(settings: Settings, bundle: str, console: Console) -> int:
    tune()
    from serve.runtime import service  # Ray is imported here alone, so that `stop` answers at once

    ended = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        ended.set()

    # While it starts, a signal breaks off the start; once it runs, it ends the wait. Either way `service` cleans up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = run_directory(settings)
    try:
        with hold(folder), service(settings, bundle) as state:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, on_signal)
            publish(folder, state)
            _announce(state, console)
            ended.wait()
            console.print("ending: requests in flight are answered first")
    except KeyboardInterrupt:
        console.print("ended before it was ready")
        return 130
    return 0


def _detach(settings: Settings, bundle: str, arguments: list[str], run: str, console: Console) -> int:
    folder = run_directory(settings)
    state = running(folder)
    if state is not None and state.bundle == bundle and healthy(state.url):
        _announce(state, console)
        return 0
    if end(folder) is not None:
        console.print("ended the service of an older bundle of this run")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / DETACHED_LOG
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C meant for the caller must not reach it
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (state := running(folder)) is None or state.pid != child.pid:
        if child.poll() is not None:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
            raise ServiceError("the service did not start:\n" + "\n".join(tail))
        if time.monotonic() > deadline:
            child.terminate()
            raise ServiceError(f"the service was not ready within {_START_TIMEOUT_S:g} s; see {log}")
        time.sleep(0.2)
    _announce(state, console)
    console.print(f"log      {log}\nend it   python -m serve stop{run}", markup=False)
    return 0


def _same_run(options: argparse.Namespace) -> str:
    """The options that name this run to `stop`."""
    pairs = [("--config", options.config), ("--preset", options.preset), *(("--set", text) for text in options.set)]
    return "".join(f" {flag} {shlex.quote(value)}" for flag, value in pairs if value is not None)


def _stop(settings: Settings, console: Console) -> int:
    folder = run_directory(settings)
    starting = running(folder) is None and owner(folder) is not None
    pid = end(folder)
    if pid is None:
        console.print(f"{folder}: nothing is served")
    else:
        console.print(f"ended pid {pid}" + (" while it was starting" if starting else ""))
    return 0


def _announce(state: Running, console: Console) -> None:
    headers = "-H 'content-type: application/json'" + (' -H "Authorization: Bearer $KEY"' if state.secured else "")
    lines = [
        f"serving  {state.url}  (bundle {state.version})",
        f"docs     {state.url}/docs",
        *([f"ray      {state.dashboard}"] if state.dashboard else []),
        f"try      curl -s {state.url}/v1/recommendations {headers} -d '{state.example}'",
    ]
    console.print("\n".join(lines), markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
