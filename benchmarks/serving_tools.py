"""The service in a process of its own, clients of it, and its replicas as the system sees them. Loopback only."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.common import ROOT
from genrec.recommender import Recommender, RecommendRequest
from serve.process import running

START_S = 300.0
RUN = "serving"
_PART = re.compile(r"ray::ServeReplica:genrec:([a-z]+)|ray::(ServeController|ProxyActor)|/(haproxy) -db")
Call = tuple[str, str, dict[str, Any] | None]
"""Method, path, body."""


@dataclass
class Service:
    """A running service.

    Attributes:
        url: where it answers.
        process: of ``python -m serve``, whose descendants are the cluster.
        folder: its run lies below.
        token: of its Ray cluster.
    """

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    token: str = ""

    def replicas(self, name: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas."""
        return self.parts().get(name, [])

    def parts(self) -> dict[str, list[psutil.Process]]:
        """Processes of every deployment's replicas, by its name, of Serve's proxy and controller, and HAProxy."""
        found: dict[str, list[psutil.Process]] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(child.cmdline())
            except psutil.Error:
                continue
            match = _PART.search(line)
            if match:
                found.setdefault(match[match.lastindex or 0].lower(), []).append(child)
        return found

    def cpu_s(self) -> dict[str, float]:
        """Processor time of every part until now, by name; what ended is not counted."""
        spent: Counter[str] = Counter()
        for name, processes in self.parts().items():
            for process in processes:
                with suppress(psutil.Error):
                    spent[name] += sum(process.cpu_times()[:2])
        return dict(spent)

    def running(self) -> dict[str, int]:
        """Running replicas by deployment, as Ray Serve's own status has them (``ray.dashboard`` must be on)."""
        state = running(self.folder / RUN)
        assert state is not None, "it is not served"
        assert state.dashboard is not None, "Serve's status is asked of the dashboard"
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{state.dashboard}/api/serve/applications/", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            told = json.load(reply)["applications"]["genrec"]["deployments"]
        return {
            name: sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
            for name, deployment in told.items()
        }

    def kill(self, name: str) -> bool:
        """SIGKILL to one replica of a deployment; False where there is none at this moment."""
        replicas = self.replicas(name)
        if replicas:
            os.kill(random.choice(replicas).pid, signal.SIGKILL)
        return bool(replicas)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A further ``python -m serve`` command about the same run."""
        return subprocess.run(
            [sys.executable, "-m", "serve", *arguments, *self.options], cwd=ROOT, capture_output=True, text=True
        )

    @property
    def options(self) -> list[str]:
        """Those that name the run."""
        return _run(self.folder)

    def ready(self) -> bool:
        """True if health says so."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _run(folder: Path) -> list[str]:
    return ["--set", f"run.directory={folder}", "--set", f"run.name={RUN}"]


@contextmanager
def served(bundle: Path, folder: Path, port: int, **settings: Any) -> Iterator[Service]:
    """Serve a bundle for the block; ended with what it started."""
    chosen = {
        "serve.port": port,
        "serve.cached_lists": 0,
        "serve.content": "false",
        "ray.num_cpus": 4,  # a share to count in: the machine has the cores that it has
        "ray.object_store_mib": 200,
        "ray.dashboard": "false",
        **settings,
    }
    token = secrets.token_hex(32)
    sets = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", "--bundle", str(bundle), *_run(folder), *sets],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(f"http://127.0.0.1:{port}", process, folder, token)
    try:
        deadline = time.monotonic() + START_S
        while not service.ready() or running(folder / RUN) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the service did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@dataclass
class Seen:
    """What clients saw.

    Attributes:
        seconds: of each request, by status (0: the connection broke).
        wrong: replies whose list is not one of those expected.
        retried: requests that needed a second try.
        first: statuses of first tries.
        late_s: the most by which a request of an open loop was begun later than planned.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wrong: int = 0
    retried: int = 0
    first: Counter[int] = field(default_factory=Counter)
    late_s: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        """One request has ended."""
        self.seconds.setdefault(status, []).append(seconds)

    @property
    def statuses(self) -> dict[int, int]:
        """Requests by final status."""
        return {status: len(seconds) for status, seconds in sorted(self.seconds.items())}

    def percentiles(self, status: int = 200) -> dict[str, float]:
        """Milliseconds."""
        return quantiles(self.seconds.get(status, []))


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds; nothing of nothing."""
    return {f"p{q}_ms": round(1000 * float(np.percentile(seconds, q)), 2) for q in (50, 95, 99)} if seconds else {}


AGAIN = {0, 429, 500, 503}
"""What a client sends again (serve.client): no connection, no room, a replica that died in the proxy's hands."""
Check = Callable[[Call, dict[str, Any]], bool]


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections are kept; as many as are asked for."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as opened:
        yield opened


async def ask(
    client: aiohttp.ClientSession, url: str, call: Call, seen: Seen, check: Check, *, retries: int = 0
) -> None:
    """One request, tried again at most ``retries`` times where the service is away."""
    method, path, body = call
    for attempt in range(retries + 1):
        began = time.perf_counter()
        reply: dict[str, Any] | None = None
        try:
            async with client.request(method, url + path, json=body) as answer:
                status = answer.status
                if status == 200:
                    reply = await answer.json()
                else:
                    await answer.read()
                wait = float(answer.headers.get("Retry-After", 0.2))
        except (aiohttp.ClientError, TimeoutError):
            status, wait = 0, 0.2
        if attempt == 0:
            seen.first[status] += 1
        if status == 200 or attempt == retries or status not in AGAIN:
            seen.add(status, time.perf_counter() - began)
            seen.wrong += reply is not None and not check(call, reply)
            return
        seen.retried += 1
        await asyncio.sleep(wait)


async def closed_loop(
    url: str,
    calls: Sequence[Call],
    clients: int,
    check: Check,
    *,
    retries: int = 0,
    beside: Callable[[], Awaitable[None]] | None = None,
    ends: bool = False,
) -> tuple[Seen, float]:
    """Clients that each send the next request when the last is answered; what they saw, and seconds in all.

    What goes on beside them is waited for, or with ``ends`` broken off when the last request is answered.
    """
    seen, waiting = Seen(), iter(calls)

    async def one(client: aiohttp.ClientSession) -> None:
        for call in waiting:
            await ask(client, url, call, seen, check, retries=retries)

    async with session() as client:
        began = time.perf_counter()
        events = asyncio.ensure_future(beside()) if beside else None
        await asyncio.gather(*(one(client) for _ in range(clients)))
        elapsed = time.perf_counter() - began
        if events is not None:
            if ends:
                events.cancel()
            with suppress(asyncio.CancelledError):
                await events
    return seen, elapsed


async def open_loop(url: str, calls: Sequence[Call], rate: float, check: Check) -> Seen:
    """Requests begun at a rate, whether or not earlier ones are answered."""
    seen = Seen()
    async with session() as client:
        began, tasks = time.perf_counter(), []
        for place, call in enumerate(calls):
            early = began + place / rate - time.perf_counter()
            seen.late_s = max(seen.late_s, -early)
            if early > 0:
                await asyncio.sleep(early)
            tasks.append(asyncio.ensure_future(ask(client, url, call, seen, check)))
        await asyncio.gather(*tasks)
    return seen


class Offline:
    """The lists that a bundle gives in this process, to compare served ones with.

    Args:
        bundles: directories.
    """

    def __init__(self, *bundles: Path) -> None:
        self.models = {model.version: model for model in map(Recommender.load, bundles)}
        self._lists: dict[tuple[str, str], list[str]] = {}

    @property
    def first(self) -> Recommender:
        """Of the first bundle."""
        return next(iter(self.models.values()))

    def check(self, call: Call, reply: Mapping[str, Any]) -> bool:
        """True if a reply is the list of the version that it names; replies of other routes are not lists."""
        body = call[2]
        if call[1] != "/v1/recommendations" or body is None:
            return True
        model = self.models.get(reply["bundle_version"])
        if model is None:
            return False
        key = (model.version, repr(body))
        if key not in self._lists:
            request = RecommendRequest(
                body.get("user_id"), tuple(body["history"]) if "history" in body else None, body["k"]
            )
            self._lists[key] = [entry.item_id for entry in model.recommend_batch([request])[0]]
        return [entry["item_id"] for entry in reply["items"]] == self._lists[key]

    def prepare(self, calls: Sequence[Call]) -> None:
        """Make the lists before the clock runs."""
        for model in self.models.values():
            for call in calls:
                if call[1] == "/v1/recommendations":
                    self.check(call, {"bundle_version": model.version, "items": []})


def mixed_calls(model: Recommender, count: int, *, mixed: bool = True, seed: int = 0, k: int = 10) -> list[Call]:
    """Requests as clients send them: lists for users and histories; mixed: feedback, look-ups, explanations too."""
    rng = random.Random(seed)
    users = [str(user) for user in model.bundle.interactions.user_ids[:500]]
    items = list(model.bundle.catalog.item_ids)
    calls: list[Call] = []
    for place in range(count):
        kind = rng.random() if mixed else rng.random() * 0.8
        if kind < 0.6:
            calls.append(("POST", "/v1/recommendations", {"user_id": rng.choice(users), "k": k}))
        elif kind < 0.8:
            history = [rng.choice(items) for _ in range(rng.randrange(1, 20))]
            calls.append(("POST", "/v1/recommendations", {"history": history, "k": k}))
        elif kind < 0.9:
            event = {"event_id": f"b{place}", "user_id": f"client-{place % 50}", "item_id": rng.choice(items)}
            calls.append(("POST", "/v1/feedback", {"events": [{**event, "kind": "like"}]}))
        elif kind < 0.95:
            calls.append(("GET", f"/v1/items?query={rng.choice('abcdefg')}&limit=5", None))
        else:
            history = [rng.choice(items) for _ in range(5)]
            calls.append(("POST", "/v1/explanations", {"history": history, "item_id": rng.choice(items)}))
    return calls
