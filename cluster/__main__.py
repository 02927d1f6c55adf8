"""``python -m cluster``: ``render`` writes files of Serve, `ray up` and KubeRay; ``submit`` and its kin run jobs.

Files, logs and tables go to standard output, what is told beside them to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.commands import VERBS, Job
from genrec.config import load_settings
from genrec.errors import GenrecError, SettingsError

if TYPE_CHECKING:
    from cluster.jobs import Jobs
    from cluster.local import LocalCluster

KINDS = (
    "serve",
    "ray-up",
    "raycluster",
    "rayjob",
    "rayservice",
    "prometheus",
    "alarms",
    "runtime-env",
    "grafana-training",
    "grafana-caches",
    "grafana-sweeps",
    "grafana-nodes",
)
"""Of cluster.render; written out here so that --help need not import Ray. A test compares."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (2: a mistake that the user can mend)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.act(options))
    except GenrecError as error:
        sys.stderr.write(f"cluster {options.action}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="settings file (default: ray_config.yaml)")
    common.add_argument("--preset", metavar="NAME", help="a preset of the settings file")
    common.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="override one setting"
    )
    parser = argparse.ArgumentParser(prog="python -m cluster", description="genrec on many machines.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    render = actions.add_parser("render", parents=[common], help="write a native file from the settings")
    render.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    render.add_argument("job", nargs="*", metavar="JOB", help=f"rayjob: one of {', '.join(VERBS)} (default: run)")
    render.add_argument("--output", "-o", type=Path, metavar="FILE", help="write there, not to standard output")
    render.set_defaults(act=_render)

    submit = actions.add_parser("submit", parents=[common], help="run a job on the cluster")
    submit.add_argument("job", nargs="+", metavar="JOB", help=f"one of {', '.join(VERBS)}; grid and tune take names")
    submit.add_argument("--detach", action="store_true", help="do not follow the job's log")
    submit.set_defaults(act=_submit)
    for name, about, act in (
        ("status", "how a job is", _status),
        ("logs", "a job's log", _logs),
        ("stop", "stop a job; the same submit goes on where it was", _stop),
    ):
        action = actions.add_parser(name, parents=[common], help=about)
        action.add_argument("id", metavar="ID", help="of the job, as submit and list tell it")
        action.set_defaults(act=act)
        if name == "logs":
            action.add_argument("--follow", "-f", action="store_true", help="to the job's end; its exit code is ours")
    actions.add_parser("list", parents=[common], help="all jobs of the cluster").set_defaults(act=_list)

    up = actions.add_parser("up-local", parents=[common], help="a cluster of several nodes on this machine")
    up.add_argument("nodes", type=int, metavar="N", help="nodes, the head among them; missing ones are started again")
    up.add_argument("--cpus", type=int, default=2, help="CPUs that Ray counts on each worker (default: 2)")
    up.add_argument("--object-store-mib", type=int, default=200, help="shared memory of each node (default: 200)")
    up.add_argument(
        "--own", type=Path, metavar="FOLDER", help="of this folder each node has its own, as machines have (Linux)"
    )
    up.set_defaults(act=_up_local)
    down = actions.add_parser("down-local", parents=[common], help="end it, or one node of it")
    down.add_argument("--node", type=int, metavar="I", help="end worker I alone, at once, as if its power failed")
    down.set_defaults(act=_down_local)
    return parser


def _render(options: argparse.Namespace) -> int:
    from cluster.render import render

    if options.job and options.kind != "rayjob":
        raise SettingsError(f"{' '.join(options.job)}: only a rayjob runs a job, not {options.kind}")
    job = _job(options, options.job or ["run"])
    settings = load_settings(options.config, preset=options.preset, overrides=options.overrides)
    text = render(options.kind, settings, job)
    if options.output is None:
        sys.stdout.write(text)
        return 0
    try:
        options.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--output {options.output}: {error.strerror or error}") from error
    return 0


def _submit(options: argparse.Namespace) -> int:
    from cluster.commands import check

    job = _job(options, options.job)
    check(job)
    settings = load_settings(options.config, preset=options.preset, overrides=options.overrides)
    from cluster.jobs import Jobs

    jobs = Jobs(settings.cluster)
    identity = jobs.submit(settings, job)
    sys.stderr.write(f"job {identity} on {jobs.address}\n")
    return 0 if options.detach else _follow(jobs, identity)


def _follow(jobs: Jobs, identity: str) -> int:
    from cluster.jobs import exit_code

    try:
        details = jobs.follow(identity, _write)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"the job goes on: python -m cluster logs --follow {identity}, or python -m cluster stop {identity}\n"
        )
        return 130
    code = exit_code(details)
    message = (details.message or "").strip().splitlines()
    told = f": {message[0]}" if code and message else ""
    sys.stderr.write(f"job {identity} {details.status.value.lower()}{told}\n")
    return code


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _jobs(options: argparse.Namespace) -> Jobs:
    settings = load_settings(options.config, preset=options.preset, overrides=options.overrides)
    from cluster.jobs import Jobs

    return Jobs(settings.cluster)


def _status(options: argparse.Namespace) -> int:
    details = _jobs(options).details(options.id)
    sys.stdout.write(f"{details.status.value.lower()}  {details.entrypoint}\n")
    if details.message:
        sys.stdout.write(f"{details.message.strip()}\n")
    return 0


def _logs(options: argparse.Namespace) -> int:
    jobs = _jobs(options)
    if options.follow:
        return _follow(jobs, options.id)
    _write(jobs.logs(options.id))
    return 0


def _stop(options: argparse.Namespace) -> int:
    stopped = _jobs(options).stop(options.id)
    sys.stdout.write(f"job {options.id} {'is being stopped' if stopped else 'had ended already'}\n")
    return 0


def _list(options: argparse.Namespace) -> int:
    for details in _jobs(options).all():
        sys.stdout.write(f"{details.submission_id}  {details.status.value.lower():<9}  {details.entrypoint}\n")
    return 0


def _local(options: argparse.Namespace) -> LocalCluster:
    settings = load_settings(options.config, preset=options.preset, overrides=options.overrides)
    from cluster.local import LocalCluster

    return LocalCluster(settings.cluster)


def _up_local(options: argparse.Namespace) -> int:
    cluster = _local(options)
    own = options.own.expanduser().resolve() if options.own else None
    address, started = cluster.up(options.nodes, options.cpus, options.object_store_mib, own)
    told = f"started {', '.join(map(str, started))}" if started else "all there already"
    sys.stderr.write(f"{options.nodes} nodes ({told}); their logs: {cluster.folder}\n")
    sys.stdout.write(f"export RAY_API_SERVER_ADDRESS={address}\nexport RAY_AUTH_TOKEN_PATH={cluster.token_file}\n")
    return 0


def _down_local(options: argparse.Namespace) -> int:
    ended = _local(options).down(options.node)
    sys.stdout.write(f"ended {ended} processes\n")
    return 0


def _job(options: argparse.Namespace, words: Sequence[str]) -> Job:
    verb, *names = words
    return Job(verb, tuple(names), options.config, options.preset, tuple(options.overrides))


if __name__ == "__main__":
    sys.exit(main())
