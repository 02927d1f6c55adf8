"""One service per run: the lock, the pid that is ended, and stale files that are not believed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serve.process import LOCK, STATE, Running, ServiceError, end, hold, owner, publish, running

HOLDER = """
import sys, time, signal
from pathlib import Path
from serve.process import hold
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with hold(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    pass
"""


def state(pid: int) -> Running:
    return Running(pid=pid, url="http://127.0.0.1:1", bundle="b", version="v", dashboard=None, example="{}")


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_end_signals_exactly_the_holder_and_waits_for_it(tmp_path: Path, holder: subprocess.Popen) -> None:
    assert owner(tmp_path) == holder.pid
    assert end(tmp_path, timeout_s=10) == holder.pid
    assert holder.wait(timeout=10) == 0
    assert owner(tmp_path) is None


def test_a_second_service_of_the_run_is_refused(tmp_path: Path, holder: subprocess.Popen) -> None:
    with pytest.raises(ServiceError, match=f"pid {holder.pid} already serves"), hold(tmp_path):
        pass


def test_a_killed_service_leaves_nothing_to_signal(tmp_path: Path, holder: subprocess.Popen) -> None:
    publish(tmp_path, state(holder.pid))
    assert running(tmp_path) == state(holder.pid)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / STATE).exists()
    assert running(tmp_path) is None
    assert end(tmp_path) is None


def test_a_foreign_pid_in_a_stale_lock_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(str(os.getpid()))
    assert owner(tmp_path) is None
    assert end(tmp_path) is None  # SIGTERM to ourselves would fail this test run


def test_nothing_runs_where_nothing_ever_ran(tmp_path: Path) -> None:
    assert end(tmp_path / "none") is None
    assert running(tmp_path / "none") is None


def test_the_state_goes_when_the_service_ends(tmp_path: Path) -> None:
    with hold(tmp_path):
        publish(tmp_path, state(os.getpid()))
    assert not (tmp_path / STATE).exists()
