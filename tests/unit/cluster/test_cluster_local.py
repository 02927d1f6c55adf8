"""The local cluster without Ray: which processes are its own, and which folders it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from cluster.__main__ import main
from cluster.errors import ClusterError
from cluster.local import LocalCluster
from cluster.processes import Node, Process
from genrec.config import ClusterSettings


@pytest.fixture
def parent():
    """A process with a child below it, in a session of its own, as a node is."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    process = psutil.Process(started.pid)
    while not process.children():
        pass
    yield process
    for one in (*process.children(), process) if process.is_running() else ():
        one.kill()
    started.wait()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_node_ends_with_all_below_it_and_with_what_outlived_its_starter(parent, at_once, monkeypatch):
    monkeypatch.setattr("cluster.processes.END_S", 1.0)  # the child heeds no signal to its parent
    (child,) = parent.children()
    stranger = psutil.Process(os.getpid())
    part = Process.of(child)
    node = Node(Process.of(parent), 1, [part])
    assert node.alive()
    if at_once:  # the starter is gone already, its part is not
        parent.kill()
        parent.wait()
        assert not node.alive()
    assert node.end(at_once=at_once) == (1 if at_once else 2)
    assert part.find() is None
    assert stranger.is_running()


def test_a_later_process_of_the_same_id_is_nobodys(parent):
    mine = Process.of(parent)
    assert mine.find() is not None
    assert Process(mine.pid, mine.born - 1).find() is None
    assert Node(Process(mine.pid, mine.born - 1), 1).end(at_once=True) == 0
    assert parent.is_running()


def test_folders_that_are_refused():
    with pytest.raises(ClusterError, match="too long a path"):
        LocalCluster(ClusterSettings(), Path("/") / ("x" * 60))
    cluster = LocalCluster(ClusterSettings(name="mine"), Path("/tmp"))
    assert cluster.folder.name == f"genrec-{os.getuid()}-mine"
    with tempfile.TemporaryDirectory(prefix="g") as short:
        open_to_all = LocalCluster(ClusterSettings(), Path(short))
        open_to_all.folder.mkdir()
        open_to_all.folder.chmod(0o777)
        with pytest.raises(ClusterError, match="not this user's alone"):
            open_to_all.down()


def test_what_is_not_there_is_one_line(capsys, monkeypatch):
    name = f"cluster.name=t{os.getpid()}"
    assert main(["down-local", "--set", name]) == 0
    assert "ended 0 processes" in capsys.readouterr().out
    for words in (["down-local", "--node", "3"], ["up-local", "0"]):
        assert main([*words, "--set", name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"cluster {words[0]}: ")
        assert error.count("\n") == 1
    LocalCluster(ClusterSettings(name=name.removeprefix("cluster.name="))).folder.joinpath("lock").unlink()
    LocalCluster(ClusterSettings(name=name.removeprefix("cluster.name="))).folder.rmdir()
