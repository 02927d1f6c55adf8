"""An open loop that costs next to nothing: requests encoded beforehand, sent at their times over bare sockets.

The service and what floods it share one machine's cores, so that the latter must not be what fills them: about a tenth
of a millisecond a request here, a millisecond with an HTTP client. It is a process of its own (``python
benchmarks/serving_flood.py``, a plan on standard input, what came of it on standard output), so that nothing else holds
it up. Each request is timed from when it should have been begun (what begins late has waited as well), and takes an
idle connection, or a new one.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

ANSWER_S = 120.0


@dataclass
class Flooded:
    """What came of a flood.

    Attributes:
        replies: of each request that was answered, in the order of the answers: its place in the plan, status, seconds.
        bodies: of replies of status 200, by place.
        late_s: the most by which a request was begun later than planned.
        cpu_s: processor time of the process meanwhile.
        connections: opened.
        seconds: from the first request to the last answer.
    """

    replies: list[tuple[int, int, float]] = field(default_factory=list)
    bodies: dict[int, str] = field(default_factory=dict)
    late_s: float = 0.0
    cpu_s: float = 0.0
    connections: int = 0
    seconds: float = 0.0


class _Connection(asyncio.Protocol):
    """Keeps one request under way at a time."""

    def __init__(self, done: Callable[[_Connection, int, bytes], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.asked: tuple[int, float] | None = None
        self._done, self._held = done, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, blank, body = self._held.partition(b"\r\n\r\n")
        if not blank:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
        if not body.endswith(b"0\r\n\r\n") if length is None else len(body) < length:
            return
        if b"connection: close" in lines:
            self.close()
        self._held = b""
        self._done(self, int(head[9:12]), _joined(body) if length is None else body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._done(self, 0, b"")

    def close(self) -> None:
        """Whatever is under way."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None


class _Flood:
    def __init__(self, host: str, port: int, requests: Sequence[bytes]) -> None:
        self._where, self._requests = (host, port), requests
        self._idle: list[_Connection] = []
        self._open: list[_Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self.told = Flooded()

    async def run(self, count: int, rate: float) -> Flooded:
        """All of it."""
        began, cpu = time.perf_counter(), time.process_time()
        for place in range(count):
            due = began + place / rate
            early = due - time.perf_counter()
            self.told.late_s = max(self.told.late_s, -early)
            if early > 0:
                await asyncio.sleep(early)
            elif place % 16 == 0:
                await asyncio.sleep(0)
            self._begin(place, due)
        deadline = time.perf_counter() + ANSWER_S
        while len(self.told.replies) < count and time.perf_counter() < deadline:
            await asyncio.sleep(0.01)
        self.told.seconds = time.perf_counter() - began
        self.told.connections = len(self._open)
        self.told.cpu_s = time.process_time() - cpu
        for connection in self._open:
            connection.asked = None
            connection.close()
        return self.told

    def _begin(self, place: int, due: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None:
                self._ask(connection, place, due)
                return
        task = asyncio.ensure_future(self._connect(place, due))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, place: int, due: float) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._answered), *self._where
            )
        except OSError:
            self.told.replies.append((place, 0, time.perf_counter() - due))
            return
        self._open.append(connection)
        self._ask(connection, place, due)

    def _ask(self, connection: _Connection, place: int, due: float) -> None:
        assert connection.transport is not None
        connection.asked = (place, due)
        connection.transport.write(self._requests[place % len(self._requests)])

    def _answered(self, connection: _Connection, status: int, body: bytes) -> None:
        if connection.asked is None:
            return
        (place, due), connection.asked = connection.asked, None
        self.told.replies.append((place, status, time.perf_counter() - due))
        if status == 200:
            self.told.bodies[place] = body.decode()
        if connection.transport is not None:
            self._idle.append(connection)


def encoded(method: str, path: str, body: Any, host: str) -> bytes:
    """A request as it is sent."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


async def flood(host: str, port: int, requests: Sequence[bytes], count: int, rate: float) -> Flooded:
    """Begin ``count`` of ``requests`` in turn, ``rate`` a second, whether or not earlier ones are answered."""
    plan = {
        "host": host,
        "port": port,
        "requests": [base64.b64encode(one).decode() for one in requests],
        "count": count,
        "rate": rate,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate(json.dumps(plan).encode())
    found = json.loads(told)
    return Flooded(**{**found, "bodies": {int(place): body for place, body in found["bodies"].items()}})


def _joined(chunks: bytes) -> bytes:
    """The content of a chunked body."""
    parts = []
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        chunks = rest[int(size, 16) + 2 :]
    return b"".join(parts)


def main() -> None:
    """The process of a flood."""
    plan = json.loads(sys.stdin.buffer.read())
    gc.disable()
    # It stands for clients elsewhere: where it may, it does not wait for a core, of which it needs 4%.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    requests = [base64.b64decode(one) for one in plan["requests"]]
    told = asyncio.run(_Flood(plan["host"], plan["port"], requests).run(plan["count"], plan["rate"]))
    sys.stdout.write(json.dumps(vars(told)))


if __name__ == "__main__":
    main()
