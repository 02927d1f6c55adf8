"""A PostgreSQL server of one's own for tests: fresh, on a Unix socket only, gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_ROLE = "genrec"


class PostgresServer:
    """Its process can be killed and started again over the same data."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder, self._user = folder, user
        self.url = f"postgresql://{_ROLE}@/postgres?host={folder}"
        self._process: subprocess.Popen[bytes] | None = None
        command = ["initdb", "-D", folder / "data", "-U", _ROLE, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = ["postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self.folder)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def end(self, number: int = signal.SIGINT) -> None:
        """Send the signal to the server's main process and wait for its end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; the test is skipped where PostgreSQL is not installed."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("needs PostgreSQL's initdb and postgres on the PATH")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket is limited
    try:
        if user is not None:
            try:
                os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
        server = PostgresServer(folder, user)
        server.start()
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder)
