"""``python -m serve --detach`` and ``stop``, as ``make demo`` and ``make stop`` use them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serve.process import end, running
from tests.serving import assembled_bundle

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def serve_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )


def test_detached_service_lives_on_is_replaced_by_a_new_bundle_and_is_stopped(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = assembled_bundle(tmp_path / "old", seed=0), assembled_bundle(tmp_path / "new", seed=1)
    run = tmp_path / "runs" / "tiny"
    own = ["--set", f"run.directory={run.parent}", "--set", f"run.name={run.name}"]
    small = ["ray.num_cpus=2", "ray.object_store_mib=200", "ray.dashboard=false", "serve.port=0", "serve.content=false"]
    options = [*own, *(argument for text in small for argument in ("--set", text))]
    try:
        started = serve_command("--bundle", old, "--detach", *options)
        assert started.returncode == 0, started.stdout + started.stderr
        first = running(run)
        assert first is not None
        assert first.url in started.stdout
        command = re.search(r"^try +(curl .*)$", started.stdout, re.MULTILINE)
        assert command is not None
        answered = subprocess.run(command[1], shell=True, capture_output=True, text=True, check=True)
        assert '"title"' in answered.stdout

        again = serve_command("--bundle", old, "--detach", *options)
        assert again.returncode == 0
        assert running(run) == first, "the same bundle is served already"

        replaced = serve_command("--bundle", new, "--detach", *options)
        assert replaced.returncode == 0, replaced.stdout + replaced.stderr
        second = running(run)
        assert second is not None
        assert second.pid != first.pid
        assert second.version != first.version
        assert httpx.get(f"{second.url}/v1/model", timeout=30).json()["bundle_version"] == second.version

        stopped = serve_command("stop", *own)
        assert stopped.returncode == 0
        assert f"ended pid {second.pid}" in stopped.stdout
        assert running(run) is None
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{second.url}/v1/health", timeout=5)
        assert "nothing is served" in serve_command("stop", *own).stdout
    finally:
        end(run)


def test_a_mistake_is_told_in_a_line_and_not_as_a_trace(tmp_path: Path) -> None:
    for arguments, words in [
        (("--set", "serve.prot=1"), "did you mean 'port'"),
        (("--bundle", tmp_path / "none"), "no bundle there"),
        (("--set", f"run.directory={tmp_path}", "--set", "run.name=none"), "no such run"),
    ]:
        told = serve_command(*arguments)
        assert told.returncode == 2
        assert words in told.stderr
        assert "Traceback" not in told.stdout + told.stderr
