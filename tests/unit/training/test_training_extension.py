"""A build that was killed must not keep those after it waiting; one that goes on must."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

from genrec.training.extension import BATON, alone_in


def build(folder: str, mark: str, seconds: float) -> None:
    with alone_in(Path(folder)):
        (Path(folder) / BATON).touch()
        (Path(folder) / mark).touch()
        time.sleep(seconds)
        (Path(folder) / BATON).unlink()


def awaited(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def test_a_killed_build_is_cleared_away_and_a_living_one_is_waited_for(tmp_path):
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=build, args=(str(tmp_path), "first", 600))
    killed.start()
    awaited(tmp_path / "first")
    waiting = fork.Process(target=build, args=(str(tmp_path), "second", 0))
    waiting.start()
    time.sleep(0.3)
    assert not (tmp_path / "second").exists()
    assert (tmp_path / BATON).exists(), "the living build's file stays"
    os.kill(killed.pid, signal.SIGKILL)
    waiting.join(60)
    assert (tmp_path / "second").exists()
    assert waiting.exitcode == 0
    assert not (tmp_path / BATON).exists()
    killed.join(10)
