"""``python -m cluster render KIND``: the native files of Serve, `ray up` and KubeRay from the settings.

The file goes to standard output or to ``--output``, errors to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.commands import VERBS, Job
from genrec.config import load_settings
from genrec.errors import GenrecError, SettingsError

KINDS = ("serve", "ray-up", "raycluster", "rayjob", "rayservice", "runtime-env")
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


def _job(options: argparse.Namespace, words: Sequence[str]) -> Job:
    verb, *names = words
    return Job(verb, tuple(names), options.config, options.preset, tuple(options.overrides))


if __name__ == "__main__":
    sys.exit(main())
