"""Jobs on a cluster through Ray's Jobs API: its address and token, sending, following, and what came of them.

Nothing here starts Ray: the Jobs API is HTTP, so a laptop needs no more than a way to the head's port 8265.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.commands import Job, command, reserved_cpus
from cluster.errors import ClusterError
from cluster.render import runtime_env
from cluster.upload import check_upload
from genrec.config import ClusterSettings, Settings

CONNECT_S, AGENT_S, SILENT_S = 5.0, 60.0, 60.0
_POLL_S = 1.0
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)
"""Their log lines would stand between ours; some set their level at import."""
_DEFAULT_TOKEN = Path("~/.ray/auth_token")


def address(settings: ClusterSettings, environ: Mapping[str, str]) -> str:
    """URL of the Jobs API.

    Raises:
        ClusterError: none is given, or the environment's is not one.
    """
    if settings.address is not None:
        return settings.address.rstrip("/")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if given := environ.get(name):
            if not given.startswith(("http://", "https://")):
                raise ClusterError(f"{name}: {given!r} is no address of a Jobs API, as http://127.0.0.1:8265")
            return given.rstrip("/")
    raise ClusterError("no cluster is given: set cluster.address, or RAY_API_SERVER_ADDRESS, as http://127.0.0.1:8265")


def token(settings: ClusterSettings, environ: Mapping[str, str]) -> str | None:
    """The cluster's token; None where there is none to be found.

    Raises:
        ClusterError: a file that is named cannot be read, or is empty.
    """
    if settings.token_file is None and (given := environ.get("RAY_AUTH_TOKEN")):
        return given.strip()
    named = settings.token_file or environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or _DEFAULT_TOKEN).expanduser()
    if named is None and not path.is_file():
        return None
    source = "cluster.token_file" if settings.token_file else "RAY_AUTH_TOKEN_PATH" if named else "the default token"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{source}: {path} cannot be read ({error})") from error
    if not text:
        raise ClusterError(f"{source}: {path} is empty")
    return text


class Jobs:
    """The jobs of one cluster.

    Args:
        settings: section ``cluster``.
        environ: for address and token, where the settings give none.

    Raises:
        ClusterError: no cluster answers, or it refuses the token.
    """

    def __init__(self, settings: ClusterSettings, environ: Mapping[str, str] = os.environ) -> None:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = address(settings, environ)
        given = token(settings, environ)
        _probe(self.address)
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        with self._told():
            self._client = JobSubmissionClient(self.address, headers=headers)

    def submit(self, settings: Settings, job: Job) -> str:
        """Send a job; returns its id.

        Raises:
            SettingsError: the job is not one that can run.
            ClusterError: the upload is too large, or the cluster refuses the job.
        """
        entrypoint = command(settings, job)
        environment = runtime_env(settings)
        directory = Path(environment["working_dir"]).resolve()
        check_upload(directory)
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                with self._told():
                    return self._client.submit_job(
                        entrypoint=entrypoint,
                        runtime_env={**environment, "working_dir": str(directory)},
                        entrypoint_num_cpus=reserved_cpus(settings, job) or None,
                        metadata={"genrec": " ".join((job.verb, *job.names))},
                    )
            except ClusterError as error:
                # A head answers before the agent that takes jobs is up.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def follow(self, job: str, tell: Callable[[str], object]) -> JobDetails:
        """Tell a job's log as it grows; returns what came of the job, at its end.

        A broken connection loses no job: it is asked for until it has ended.

        Raises:
            ClusterError: there is no such job, or the head has given no answer for :data:`SILENT_S`.
        """
        self.details(job)
        try:
            asyncio.run(self._tail(job, tell))
        except (RuntimeError, aiohttp.ClientError) as error:
            tell(f"[the log breaks off: {error}]\n")
        answered = time.monotonic()
        while True:
            try:
                if (details := self.details(job)).status.is_terminal():
                    return details
                answered = time.monotonic()
            except ClusterError:  # a busy head may miss a call
                if time.monotonic() - answered > SILENT_S:
                    raise
            time.sleep(_POLL_S)

    def logs(self, job: str) -> str:
        """A job's log so far."""
        self.details(job)
        with self._told():
            return self._client.get_job_logs(job)

    def stop(self, job: str) -> bool:
        """Stop a job; False if it had ended already."""
        self.details(job)
        with self._told():
            return self._client.stop_job(job)

    def all(self) -> list[JobDetails]:
        """All jobs that were submitted, the latest first."""
        with self._told():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)

    def details(self, job: str) -> JobDetails:
        """How a job is.

        Raises:
            ClusterError: there is no such job.
        """
        with self._told(f"no job {job!r} on {self.address}"):
            return self._client.get_job_info(job)

    async def _tail(self, job: str, tell: Callable[[str], object]) -> None:
        async for text in self._client.tail_job_logs(job):
            tell(text)

    @contextmanager
    def _told(self, refused: str | None = None) -> Iterator[None]:
        """Ray's and HTTP's errors as one line that can be acted on."""
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.address} refuses the token; give the cluster's own by cluster.token_file, RAY_AUTH_TOKEN or "
                f"RAY_AUTH_TOKEN_PATH"
            ) from error
        except (ConnectionError, requests.exceptions.ConnectionError) as error:
            raise ClusterError(f"no cluster answers at {self.address}") from error
        except (RuntimeError, requests.exceptions.RequestException) as error:
            if refused is not None and "404" in str(error):
                raise ClusterError(refused) from error
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ClusterError(f"{self.address}: {first}") from error


def exit_code(details: JobDetails) -> int:
    """The job's exit code: its process's own where there is one, 1 for any other failure, 130 for a stopped job."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return 130
    return details.driver_exit_code or 1


def _probe(url: str) -> None:
    """Ask whether anything listens there; the HTTP client would wait for minutes on a host that does not answer."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"no cluster answers at {url} ({error})") from error
