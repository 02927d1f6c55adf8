"""The command that a job runs on the cluster, one for ``submit`` and for a rendered RayJob.

Every such command joins the job's own cluster (``ray.address=auto``) and writes below the shared storage, so that any
node reads what another wrote, and the same command goes on where an interrupted one was.
"""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from genrec.artifacts import is_uri
from genrec.cli import STAGE_VERBS
from genrec.config import Settings
from genrec.config.cluster import JOB_CPUS
from genrec.errors import SettingsError

NAMED = {"grid": "genrec", "tune": "tune"}
"""Verbs that take names of the settings file and bring their own presets; verb -> package that runs them."""
VERBS = (*STAGE_VERBS, "run", "grid", "tune", "serve")


@dataclass(frozen=True)
class Job:
    """What to run, in the words of the command line.

    Attributes:
        verb: one of :data:`VERBS`.
        names: of grids, or of one sweep.
        config: settings file, relative to the uploaded folder; None: its ray_config.yaml.
        preset: of that file.
        overrides: ``section.key=value``.
    """

    verb: str
    names: tuple[str, ...] = ()
    config: str | None = None
    preset: str | None = None
    overrides: tuple[str, ...] = ()


def run_directory(settings: Settings) -> str:
    """``run.directory`` on the cluster: below the storage, unless it is absolute or a URI already."""
    storage, directory = settings.cluster.storage, settings.run.directory
    if is_uri(directory):
        return directory
    if storage.mounted or posixpath.isabs(directory):
        return posixpath.normpath(posixpath.join(storage.path, directory))
    return f"{storage.uri}/{posixpath.normpath(directory)}"


def check(job: Job) -> None:
    """Refuse a job that its own command would refuse later, on the cluster.

    Raises:
        SettingsError: an unknown verb, a name too many or too few, or a file that is not uploaded.
    """
    if job.verb not in VERBS:
        raise SettingsError(f"{job.verb}: no such job; there are {', '.join(VERBS)}")
    if job.verb == "tune" and len(job.names) != 1:
        raise SettingsError("tune: give one sweep's name")
    if job.verb == "grid" and not job.names:
        raise SettingsError("grid: give the names of grids, or all")
    if job.verb not in NAMED and job.names:
        raise SettingsError(f"{job.verb} takes no name, got {' '.join(job.names)}")
    if job.verb in NAMED and job.preset is not None:
        raise SettingsError(f"--preset {job.preset}: {job.verb} names its own in the settings file; leave it out")
    if job.config is not None:
        path = PurePosixPath(job.config)
        if path.is_absolute() or ".." in path.parts:
            raise SettingsError(
                f"--config {job.config}: the cluster reads it from the uploaded folder; give a path relative to it"
            )


def arguments(settings: Settings, job: Job) -> list[str]:
    """The command as a list of words.

    Args:
        settings: resolved with the job's own preset and overrides.
        job: checked here.

    Raises:
        SettingsError: see :func:`check`.
    """
    check(job)
    package = NAMED.get(job.verb, "genrec")
    words = ["python", "-m", "serve"] if job.verb == "serve" else ["python", "-m", package]
    if job.verb not in {"serve", "tune"}:
        words.append(job.verb)
    words += job.names
    if package == "genrec" and job.verb != "serve":
        words.append("--log")  # the job's log is the record of who worked where
    if job.config is not None:
        words += ["--config", job.config]
    if job.preset is not None:
        words += ["--preset", job.preset]
    # The last --set wins, so that no preset takes a job away from the cluster's own Ray and storage.
    for override in (*job.overrides, "ray.address=auto", f"run.directory={run_directory(settings)}"):
        words += ["--set", override]
    return words


def command(settings: Settings, job: Job) -> str:
    """The command as a shell takes it."""
    return shlex.join(arguments(settings, job))


def reserved_cpus(settings: Settings, job: Job) -> float:
    """CPUs that the job's own process reserves; Serve's runs on the head, where there is always a proxy to ask."""
    return 0.0 if job.verb == "serve" else settings.cluster.job.cpus


def environment(settings: Settings) -> dict[str, str]:
    """Environment of a job; secrets come from the nodes, never from here."""
    own = {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0", JOB_CPUS: f"{settings.cluster.job.cpus:g}"}
    return {**own, **settings.cluster.job.env}
