"""One service per run, known by a locked file: who serves, where, and how to end exactly that process.

The serving process holds an exclusive lock on ``<run folder>/serve.lock`` for as long as it lives, and the
file holds its pid. Nobody else holds that lock, so a pid is only ever signalled while its owner is alive; a
pid that the system gave to another process since cannot be hit.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from genrec.artifacts import local_root
from genrec.config import Settings
from genrec.errors import GenrecError

LOCK = "serve.lock"
STATE = "serve.json"
READY_TIMEOUT_S = 300.0  # six deployments with their models, on a busy machine
_LOCK_PATIENCE_S = 2.0


class ServiceError(GenrecError):
    """The service cannot be started or ended as asked."""


@dataclass(frozen=True)
class Running:
    """What a serving process tells of itself once it is ready.

    Attributes:
        pid: of the process that started it and that ends it.
        url: where it answers.
        bundle: directory, links resolved.
        version: of the bundle.
        dashboard: URL of Ray's dashboard; None without one.
        example: body of a request that it can answer.
        secured: it asks for an API key.
    """

    pid: int
    url: str
    bundle: str
    version: str
    dashboard: str | None
    example: str
    secured: bool = False


def run_directory(settings: Settings) -> Path:
    """The folder of the run."""
    return local_root(settings.run.directory, settings.run.mirror).resolve() / settings.run.name


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one service of the run in ``folder``.

    Raises:
        ServiceError: another process is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as stream:
        _lock(stream, folder)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        try:
            yield
        finally:
            (folder / STATE).unlink(missing_ok=True)
            stream.truncate(0)


def _lock(stream: IO[str], folder: Path) -> None:
    """Lock, with patience for those who only look (:func:`owner` holds a shared lock for an instant)."""
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise ServiceError(
                f"{folder}: pid {owner(folder)} already serves this run; end it with `python -m serve stop`"
            ) from None
        return


def owner(folder: Path) -> int | None:
    """Pid of the process that serves the run; None if none does."""
    try:
        with (folder / LOCK).open("r") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(stream.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def publish(folder: Path, running: Running) -> None:
    """Say that the service is ready."""
    fresh = folder / f".{STATE}.{os.getpid()}"
    fresh.write_text(json.dumps(asdict(running), indent=1), encoding="utf-8")
    os.replace(fresh, folder / STATE)


def running(folder: Path) -> Running | None:
    """The ready service of the run; None if there is none, or it is still starting."""
    pid = owner(folder)
    try:
        state = Running(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return state if state.pid == pid else None


def end(folder: Path, *, timeout_s: float = 60.0) -> int | None:
    """Ask the service of the run to end and wait until it has.

    Returns:
        its pid; None if nothing was running.

    Raises:
        ServiceError: it did not end in time.
    """
    pid = owner(folder)
    if pid is None:
        return None
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while owner(folder) == pid:
        if time.monotonic() > deadline:
            raise ServiceError(f"{folder}: pid {pid} did not end within {timeout_s:g} s of SIGTERM")
        time.sleep(0.1)
    return pid


def healthy(url: str) -> bool:
    """True if the endpoint at ``url`` says that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/v1/health", timeout=5) as reply:  # noqa: S310
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False
