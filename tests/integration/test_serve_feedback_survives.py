"""What was acknowledged is there, once: the endpoint's process, and then the database's, killed at random moments.

The real routes run under a real HTTP server in a process of their own, which SIGKILL ends while clients send.
Clients send again what was not acknowledged, as ours and others do.
"""

import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from genrec.config import ServeSettings, Settings
from genrec.recommender import RecommendRequest
from serve.api import create_api
from serve.errors import not_ready
from serve.journal import Journal
from serve.recommender import Answer, Refusal
from serve.store import FeedbackStore, sqlite_url, store_url
from tests.postgres import postgres_server

pytestmark = pytest.mark.integration

BATCH, CLIENTS = 5, 3
KILLS = 5


class NoModel:
    """Feedback needs none."""

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        raise not_ready()

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        raise not_ready()

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        raise not_ready()

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        return "b", "s"


def _endpoint(url: str, port: int) -> None:
    api = create_api(ServeSettings(), NoModel(), Journal(FeedbackStore(url)))
    uvicorn.run(api, host="127.0.0.1", port=port, log_level="critical")


class Endpoint:
    """The process of the endpoint; forked, for importing takes longer than it lives."""

    def __init__(self, url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url, self.base = url, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = multiprocessing.get_context("fork").Process(target=_endpoint, args=(self.url, self.port))
        self.process.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{self.base}/v1/health").status_code == 200
                return
            except httpx.TransportError:
                assert self.process.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL


@dataclass
class Sender:
    """One client: batches of events in order, each sent until it is acknowledged."""

    number: int
    acknowledged: list[str] = field(default_factory=list)
    stored: int = 0
    again: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    _batch: int = 0

    def send(self, base: str, stop: threading.Event) -> None:
        """Until ``stop``, or until nothing answers."""
        with httpx.Client(base_url=base, timeout=30) as client:
            while not stop.is_set():
                ids = [f"{self.number}-{self._batch}-{i}" for i in range(BATCH)]
                user = f"u{self.number}"
                events = [{"event_id": one, "user_id": user, "item_id": one, "kind": "like"} for one in ids]
                try:
                    reply = client.post("/v1/feedback", json={"events": events})
                except httpx.TransportError:
                    self.again += 1
                    return
                if reply.status_code != 200:
                    self.refused[reply.status_code] += 1
                    time.sleep(0.05)
                    continue
                self.stored += reply.json()["stored"]
                self.acknowledged += ids
                self._batch += 1


def while_sending(base: str, senders: list[Sender], act: Any, batches: int, seconds: float) -> None:
    """Let the senders send, do ``act`` some ``seconds`` after so many acknowledged ``batches``, and wait for all."""
    begun = sum(len(sender.acknowledged) for sender in senders)
    stop = threading.Event()
    threads = [threading.Thread(target=sender.send, args=(base, stop)) for sender in senders]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while sum(len(sender.acknowledged) for sender in senders) < begun + BATCH * batches:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(seconds)
    act()
    stop.set()
    for thread in threads:
        thread.join()


def check(url: str, senders: list[Sender]) -> int:
    """Every acknowledged event is there once and whole; what else is there was sent and not acknowledged."""
    store = FeedbackStore(url)
    events = store.events()
    stored = Counter(event.event_id for event in events)
    assert set(stored.values()) == {1}
    acknowledged = [one for sender in senders for one in sender.acknowledged]
    assert len(acknowledged) == len(set(acknowledged))
    assert set(acknowledged) <= set(stored)
    assert all(event.item_id == event.event_id and event.received == event.time for event in events)
    assert len(set(stored) - set(acknowledged)) <= BATCH * len(senders), "at most the batches in flight at the end"
    for sender in senders:  # each batch is there whole or not at all
        of_it = Counter(one.split("-")[1] for one in stored if one.startswith(f"{sender.number}-"))
        assert set(of_it.values()) == {BATCH}
    store.close()
    return len(acknowledged)


def test_acknowledged_events_survive_kill_9_of_the_endpoint(tmp_path: Path, record_property: Any) -> None:
    url, chance = sqlite_url(tmp_path / "feedback.sqlite3"), random.Random(7)
    endpoint, senders = Endpoint(url), [Sender(i) for i in range(CLIENTS)]
    for _ in range(KILLS):
        endpoint.start()
        while_sending(endpoint.base, senders, endpoint.kill, chance.randint(5, 20), chance.uniform(0, 0.05))
    acknowledged = check(url, senders)
    record_property("acknowledged", acknowledged)
    record_property("cut off", sum(sender.again for sender in senders))
    assert acknowledged >= 100
    assert sum(sender.again for sender in senders) > 0, "no kill met a request"
    endpoint.start()
    while_sending(endpoint.base, senders, lambda: None, 5, 0)
    endpoint.kill()
    check(url, senders)


def test_acknowledged_events_survive_kill_9_of_postgresql(record_property: Any) -> None:
    chance = random.Random(8)
    with postgres_server() as server:
        url = store_url(Settings.model_validate({"serve": {"store_url": server.url}}))
        endpoint, senders = Endpoint(url), [Sender(i) for i in range(CLIENTS)]
        endpoint.start()

        def fall_and_rise() -> None:
            server.end(signal.SIGKILL)
            time.sleep(0.2)
            server.start()
            time.sleep(0.2)

        for _ in range(3):
            while_sending(endpoint.base, senders, fall_and_rise, chance.randint(5, 20), chance.uniform(0, 0.05))
        endpoint.kill()
        acknowledged = check(url, senders)
    refused = sum((sender.refused for sender in senders), Counter())
    record_property("acknowledged", acknowledged)
    record_property("refused", dict(refused))
    assert acknowledged >= 100
    assert set(refused) == {503}, refused
