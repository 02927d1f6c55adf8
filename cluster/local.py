"""A cluster of several nodes on this machine, for trying what a real one does: a head and its workers, token on.

Every node is a ``ray start --block`` of its own, with its own ports, a small object store and a resource ``node-I``
by which work can be placed. As on rendered clusters, the head of several nodes runs no work. Nodes are known by id
*and* time of birth, so that ``down-local`` ends exactly what was started here; `ray stop` would end every Ray of the
machine. Run again, ``up-local`` starts the nodes that are missing.

On Linux nodes may also have a folder of their own at one path (``--own``): each sees its own disk there, as machines
without a shared file system do.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import requests

from cluster.errors import ClusterError
from cluster.processes import Node, Process, alive, below, is_part
from genrec.config import ClusterSettings

HOST = "127.0.0.1"
READY_S, ATTEMPTS = 120.0, 3
SOCKET_PATH_BYTES = 107
_SESSION_BYTES = 64
"""What Ray appends to its folder for the longest of its sockets."""
_PORTS = ("object-manager-port", "node-manager-port", "runtime-env-agent-port", "metrics-export-port")
_AGENT_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port")


class LocalCluster:
    """The local cluster of a name; at most one of each name and user.

    Args:
        settings: section ``cluster``: name, labels of CPU workers.
        root: folder for its state; None: below the system's temporary folder, where paths are short enough for sockets.

    Raises:
        ClusterError: the folder is another user's, or its path too long.
    """

    def __init__(self, settings: ClusterSettings, root: Path | None = None) -> None:
        self.settings = settings
        self.folder = (root or Path(tempfile.gettempdir())) / f"genrec-{os.getuid()}-{settings.name}"
        if len(os.fsencode(self.folder / "ray-99")) + _SESSION_BYTES > SOCKET_PATH_BYTES:
            raise ClusterError(f"{self.folder}: too long a path for Ray's sockets; set TMPDIR to a short one")
        self.token_file = self.folder / "token"

    def up(self, count: int, cpus: int, object_store_mib: int, own: Path | None = None) -> tuple[str, list[int]]:
        """Bring up the nodes that are missing of ``count``.

        Args:
            count: nodes, the head among them.
            cpus: CPUs that Ray counts on each worker; the head of several nodes has none.
            object_store_mib: shared memory of each node.
            own: a folder of which each node that is started gets its own, empty at first; None: they share all folders.

        Returns:
            Address of the Jobs API, and the nodes that were started.

        Raises:
            ClusterError: a node does not come up; what was started is ended again.
        """
        if count < 1:
            raise ClusterError(f"up-local {count}: a cluster has at least one node, its head")
        with self._held():
            state = self._read()
            if state and not state["nodes"]["0"].alive():  # without its head nothing of it is of use
                self._end(state)
                state = None
            if state is None:
                state = self._fresh()
            nodes: dict[str, Node] = state["nodes"]
            missing = [index for index in range(count) if not alive(nodes.get(str(index)))]

            def start(index: int) -> Node:
                return self._start(index, state, 0 if count > 1 and not index else cpus, object_store_mib, own)

            try:
                for together in ([0], range(1, count)):
                    self._bring_up([index for index in together if index in missing], state, start)
            except (ClusterError, KeyboardInterrupt):
                for node in [nodes.pop(str(index)) for index in reversed(missing) if str(index) in nodes]:
                    node.end()
                self._write(state)
                raise
        return state["address"], missing

    def down(self, index: int | None = None) -> int:
        """End the cluster, or, as if its power failed, one worker of it; returns how many processes were ended.

        Raises:
            ClusterError: there is no such node.
        """
        with self._held():
            state = self._read()
            if index is None:
                if state is None:
                    return 0
                ended = self._end(state)
                self._state_file.unlink()
                for own in self.folder.glob("own-*"):
                    shutil.rmtree(own)
                return ended
            node = state["nodes"].pop(str(index), None) if state and index else None
            if state is None or node is None:
                told = ", ".join(sorted(set(state["nodes"]) - {"0"})) if state else "none"
                raise ClusterError(f"no worker {index} here; there are: {told}")
            self._write(state)
            return node.end(at_once=True)

    def gcs_address(self) -> str:
        """What ``ray.init`` of a process on this machine joins; the token must be in its environment by then.

        Raises:
            ClusterError: nothing is up.
        """
        state = self._read()
        if state is None:
            raise ClusterError(f"{self.folder}: no cluster is up")
        return str(state["gcs"])

    @staticmethod
    def _end(state: dict[str, Any]) -> int:
        nodes = [state["nodes"][index] for index in sorted(state["nodes"], key=int, reverse=True)]
        for node in nodes[:-1]:  # the workers side by side, before their head
            if starter := node.starter.find():
                starter.terminate()
        return sum(node.end() for node in nodes)

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = self.folder.lstat()
            if about.st_uid != os.getuid() or about.st_mode & 0o077 or self.folder.is_symlink():
                raise ClusterError(f"{self.folder}: not this user's alone; remove it, or set TMPDIR to another folder")
            with (self.folder / "lock").open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ClusterError(f"{self.folder}: {error.strerror or error}") from error

    def _fresh(self) -> dict[str, Any]:
        self.token_file.unlink(missing_ok=True)
        handle = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))
        gcs, dashboard = _free_ports(2)
        return {"address": f"http://{HOST}:{dashboard}", "gcs": f"{HOST}:{gcs}", "nodes": {}}

    def _read(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_bytes())
            state["nodes"] = {
                index: Node(Process(**node["starter"]), node["port"], [Process(**part) for part in node["parts"]])
                for index, node in state["nodes"].items()
            }
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterError(f"{self._state_file}: not a record of a cluster ({error}); remove it") from error
        return state if "0" in state["nodes"] else None

    def _write(self, state: Mapping[str, Any]) -> None:
        fresh = self._state_file.with_suffix(".new")
        told = {**state, "nodes": {index: asdict(node) for index, node in state["nodes"].items()}}
        fresh.write_text(json.dumps(told, indent=1), encoding="utf-8")
        os.replace(fresh, self._state_file)

    def _start(self, index: int, state: Mapping[str, Any], cpus: int, object_store_mib: int, own: Path | None) -> Node:
        if index:
            self._share_logs(index)
            flags = [f"--address={state['gcs']}", "--include-log-monitor=false"]
        else:
            flags = ["--head", f"--port={state['gcs'].rpartition(':')[2]}", f"--dashboard-host={HOST}"]
            flags.append(f"--dashboard-port={state['address'].rpartition(':')[2]}")
        names = (*_PORTS, *_AGENT_PORTS)
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        flags += [f"--{name}={port}" for name, port in ports.items()]
        labels = {"genrec/node": str(index), **(self.settings.cpu_workers.labels if cpus else {})}
        flags += [
            f"--node-ip-address={_address(index)}",
            f"--num-cpus={cpus}",
            "--num-gpus=0",
            f"--resources={json.dumps({f'node-{index}': 1})}",
            f"--labels={','.join(f'{name}={value}' for name, value in labels.items())}",
            f"--object-store-memory={object_store_mib * 2**20}",
            # Any free port: by default every node counts up from 10002, and workers of two nodes may take the same.
            "--min-worker-port=0",
            "--max-worker-port=0",
            # Its own: in a shared one each node would unpack a job's upload over the other's.
            f"--temp-dir={self.folder / f'ray-{index}'}",
            "--disable-usage-stats",
            "--block",
        ]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        # A job's `python` is found by the node's path.
        environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environ.get("PATH", "")))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags]
        if own is not None:
            command = self._with_its_own(index, own, command)
        with (self.folder / f"node-{index}.log").open("wb") as log:
            started = subprocess.Popen(
                command,
                env=environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C meant for the caller must not reach it
            )
        return Node(Process.of(psutil.Process(started.pid)), ports["node-manager-port"])

    def _with_its_own(self, index: int, own: Path, command: list[str]) -> list[str]:
        """The command in a mount namespace, where a fresh folder lies over ``own``."""
        if shutil.which("unshare") is None:
            raise ClusterError(f"--own {own}: needs Linux's mount namespaces, and there is no `unshare` here")
        mine = self.folder / f"own-{index}"
        shutil.rmtree(mine, ignore_errors=True)  # a node that comes back is another machine
        mine.mkdir(mode=0o700)
        own.mkdir(parents=True, exist_ok=True)
        space = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
        return [*space, "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', str(mine), str(own), *command]

    def _share_logs(self, index: int) -> None:
        """One folder of logs: of nodes with one address, Ray's agents look for a job's log in the head's."""
        session = (self.folder / "ray-0" / "session_latest").resolve()
        own = self.folder / f"ray-{index}" / session.name
        own.mkdir(parents=True, exist_ok=True)
        if not (own / "logs").exists():
            (own / "logs").symlink_to(session / "logs")

    def _bring_up(self, missing: list[int], state: dict[str, Any], start: Callable[[int], Node]) -> None:
        """Start nodes side by side until the head lists them; a busy machine may miss Ray's short limits, so again."""
        nodes: dict[str, Node] = state["nodes"]
        deadlines: dict[int, float] = {}
        attempts = dict.fromkeys(missing, 0)

        def begin(index: int) -> None:
            nodes[str(index)] = start(index)
            self._write(state)
            attempts[index] += 1
            deadlines[index] = time.monotonic() + READY_S

        for index in missing:
            begin(index)
        while deadlines:
            time.sleep(0.3)
            listed = self._ports_alive(state)
            for index, deadline in list(deadlines.items()):
                node = nodes[str(index)]
                if node.port in listed:
                    node.parts = [Process.of(part) for part in below(node.starter.find()) if is_part(part)]
                    self._write(state)
                    del deadlines[index]
                elif not node.alive() or time.monotonic() > deadline:
                    told = f"node {index} did not start: {self._last_line(str(index))}"
                    node.end()
                    if attempts[index] == ATTEMPTS or "timed out" not in told:
                        raise ClusterError(told)
                    begin(index)

    def _ports_alive(self, state: Mapping[str, Any]) -> set[int]:
        """Ports of the raylets that the head counts as alive."""
        headers = {"Authorization": f"Bearer {self.token_file.read_text(encoding='utf-8')}"}
        try:
            reply = requests.get(f"{state['address']}/nodes?view=summary", headers=headers, timeout=5)
            raylets = [node["raylet"] for node in reply.json()["data"]["summary"]]
        except (requests.exceptions.RequestException, ValueError, KeyError, TypeError):
            return set()
        return {int(raylet["nodeManagerPort"]) for raylet in raylets if raylet.get("state") == "ALIVE"}

    def _last_line(self, index: str) -> str:
        log = self.folder / f"node-{index}.log"
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        told = [line for line in lines if line and set(line) - set("-─ ")]
        return f"{told[-1]} ({log})" if told else str(log)


def _address(index: int) -> str:
    """One of the loopback's for each worker, where the system has several: a job then joins the head, not any node."""
    own = f"127.0.0.{index + 1}"
    with socket.socket() as probe:
        try:
            probe.bind((own, 0))
        except OSError:
            return HOST
    return own


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server((HOST, 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
