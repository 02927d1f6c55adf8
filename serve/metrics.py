"""What the deployments tell Prometheus, beside Serve's own metrics (queues, replicas, HTTP by route).

Ray's agent of each node exports them (``ray metrics``, port by ``metrics_export_port``); the dashboard
serve/dashboards/genrec-serving.json shows them. Each replica makes its own; outside of Ray they count for nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from ray.util.metrics import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000, 120000]
REFUSALS = frozenset({401, 429, 503, 504})
_SIZES: list[float] = [1, 2, 4, 8, 16, 32, 64, 128]


class RecommenderMetrics:
    """Of a replica of the recommender."""

    def __init__(self) -> None:
        self._batch = Histogram("genrec_batch_size", "requests decoded together", boundaries=_SIZES)
        self._decode = Histogram("genrec_decode_ms", "time of a batch in the model", boundaries=_MS)
        self._cache = Counter("genrec_list_cache", "lists asked for, by whether one was kept", tag_keys=("hit",))

    def decoded(self, requests: int, seconds: float) -> None:
        """A batch was answered."""
        self._batch.observe(requests)
        self._decode.observe(1000 * seconds)

    def cached(self, hit: bool) -> None:
        """A list was asked for."""
        self._cache.inc(tags={"hit": "yes" if hit else "no"})


class IngressMetrics:
    """Of a replica of the ingress."""

    def __init__(self) -> None:
        self._stage = Histogram("genrec_stage_ms", "time of a stage of a request", boundaries=_MS, tag_keys=("stage",))
        self._refused = Counter("genrec_refused", "requests refused, by status of HTTP", tag_keys=("code",))
        self._decisions = Counter("genrec_decisions", "the instructor's decisions", tag_keys=("action",))
        self._verdicts = Counter("genrec_verdicts", "fidelity verdicts", tag_keys=("check", "passed"))
        self._waiting = Gauge("genrec_in_flight", "requests that the ingress holds")
        self._versions = Counter("genrec_lists", "lists by version of the bundle", tag_keys=("version",))
        self._held = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        began = perf_counter()
        try:
            yield
        finally:
            self._stage.observe(1000 * (perf_counter() - began), tags={"stage": name})

    @contextmanager
    def held(self) -> Iterator[None]:
        """A request is in flight."""
        self._held += 1
        self._waiting.set(self._held)
        try:
            yield
        finally:
            self._held -= 1
            self._waiting.set(self._held)

    def refused(self, status: int) -> None:
        """A request was refused."""
        self._refused.inc(tags={"code": str(status)})

    def decided(self, action: str) -> None:
        """The instructor decided."""
        self._decisions.inc(tags={"action": action})

    def judged(self, check: str, passed: bool) -> None:
        """A check of a draft ended."""
        self._verdicts.inc(tags={"check": check, "passed": "yes" if passed else "no"})

    def listed(self, version: str) -> None:
        """A list was made."""
        self._versions.inc(tags={"version": version})


class RefusalMeter:
    """ASGI middleware that counts requests refused through no mistake in them, whoever refuses them.

    Args:
        app: whose refusals are counted.
        metrics: of the ingress.
    """

    def __init__(self, app: ASGIApp, *, metrics: IngressMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the status that is sent."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in REFUSALS:
                self.metrics.refused(message["status"])
            await send(message)

        await self.app(scope, receive, counted)
