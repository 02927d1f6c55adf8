"""``python -m cluster submit`` and its kin against a real head, started by `ray start --head` with its token on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.__main__ import main

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-this-test-alone-0123456789abcdef"
START_S = 180.0


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The Jobs API's address, and a home without a token."""
    home = tmp_path_factory.mktemp("home")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environ |= {
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    gcs, dashboard, agent, grpc, metrics = free_ports(5)
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: Ray's sockets lie below it
        flags = (
            "--node-ip-address=127.0.0.1",
            f"--port={gcs}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={grpc}",
            f"--metrics-export-port={metrics}",
            "--num-cpus=1",
            "--object-store-memory=100000000",
            f"--temp-dir={folder}",
            "--disable-usage-stats",
        )
        process = subprocess.Popen(
            ["ray", "start", "--head", "--block", *flags],
            env=environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_S
            while not listens(dashboard):
                assert process.poll() is None, "the head ended"
                assert time.monotonic() < deadline, "the head's Jobs API does not come up"
                time.sleep(0.5)
            yield f"http://127.0.0.1:{dashboard}", home
        finally:
            process.terminate()  # `ray start --block` takes its own processes down with it
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The library and its settings, without the rest of the working tree."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "genrec", folder / "genrec", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "ray_config.yaml", folder)
    return folder


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(head, checkout, tmp_path, monkeypatch, capsys):
    """``python -m cluster WORDS`` in the checkout; in this process, because an import of Ray takes its time."""
    url, home = head
    monkeypatch.chdir(checkout)
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))

    def run(*words: str, token: str | None = TOKEN) -> Done:
        with monkeypatch.context() as patch:
            if token is not None:
                patch.setenv("RAY_AUTH_TOKEN", token)
            capsys.readouterr()
            code = main([*words, "--set", f"cluster.address={url}", "--set", f"cluster.storage.uri=file://{tmp_path}"])
            told = capsys.readouterr()
            return Done(code, told.out, told.err)

    return run


def test_a_stage_runs_on_the_cluster_and_is_listed(call, tmp_path):
    done = call("submit", "prepare")
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stderr
    (manifest,) = tmp_path.glob("runs/**/manifest.json")  # below the storage, made by the job
    assert str(manifest.parent) in done.stdout  # the log was followed
    identity = done.stderr.split()[1]
    assert call("status", identity).stdout.startswith("succeeded  python -m genrec prepare")
    assert str(manifest.parent) in call("logs", identity).stdout
    assert f"{identity}  succeeded" in call("list").stdout
    assert "had ended already" in call("stop", identity).stdout
    made = manifest.stat().st_mtime_ns
    assert call("submit", "prepare").returncode == 0  # the same submit again finds what is done
    assert manifest.stat().st_mtime_ns == made
    assert list(tmp_path.glob("runs/**/manifest.json")) == [manifest]


def test_a_failed_job_hands_on_its_exit_code(call):
    failed = call("submit", "prepare", "--set", "data.reader=table", "--set", "data.path=/no/such/file")
    assert failed.returncode == 2
    assert "/no/such/file" in failed.stdout


def test_a_stopped_job_is_told_and_no_failure_of_ours(call):
    started = call("submit", "run", "--detach")
    assert started.returncode == 0, started.stderr
    identity = started.stderr.split()[1]
    assert "is being stopped" in call("stop", identity).stdout
    followed = call("logs", "--follow", identity)
    assert followed.returncode == 130
    assert "stopped" in followed.stderr


@pytest.mark.parametrize(("token", "words"), [("wrong" * 10, ["list"]), (None, ["submit", "prepare"])])
def test_a_wrong_token_is_one_line(call, token, words):
    refused = call(*words, token=token)
    assert refused.returncode == 2
    assert "refuses the token" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_unknown_job_is_one_line(call):
    unknown = call("status", "raysubmit_none")
    assert unknown.returncode == 2
    assert "no job 'raysubmit_none'" in unknown.stderr
    assert unknown.stderr.count("\n") == 1


def test_too_large_an_upload_is_one_line_and_nothing_is_sent(call, checkout):
    large = checkout / "weights.bin"
    with large.open("wb") as stream:
        stream.truncate(101 * 2**20)
    try:
        refused = call("submit", "prepare")
    finally:
        large.unlink()
    assert refused.returncode == 2
    assert "weights.bin (101.0 MiB)" in refused.stderr
    assert refused.stderr.count("\n") == 1
