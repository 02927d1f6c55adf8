"""The served application: load, overload, faults, durability and soak, each against what it must hold to.

Cases: `load` (lists equal offline ones; beside the same model in this process and behind plain FastAPI + uvicorn),
`overload` (ten times what it can do: only 200, 429 and 503), `faults` (replicas killed, bundles swapped, a broken one
rolled back, under load), `feedback` (events while replicas and the database are killed: each acknowledged one is there
once), `soak` (memory and descriptors over minutes), `hostile` (what must be refused, and memory meanwhile), `schema`
(requests made from the published schema). Everything runs on this machine's loopback and is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

from benchmarks.common import ROOT
from benchmarks.serving_flood import encoded, flood
from benchmarks.serving_hostile import hostile_calls
from benchmarks.serving_tools import (
    RUN,
    Call,
    Offline,
    Seen,
    Service,
    closed_loop,
    mixed_calls,
    open_loop,
    quantiles,
    served,
)
from genrec.config import ServeSettings
from genrec.recommender import Recommender, RecommendRequest
from serve.store import SQLITE_FILE, FeedbackStore, sqlite_url


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--bundle", type=Path, help="directory of a bundle (default: a tiny one that is made)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--k", type=int, default=10, help="overload: length of the lists")
    parser.add_argument("--batch", type=int, default=1, help="overload: requests that a replica takes at once")
    parser.add_argument("--queue", type=int, default=1, help="overload: requests that may wait; 0: none")
    parser.add_argument("--replicas", type=int, default=2, help="overload: most replicas")
    parser.add_argument("--alone", action="store_true", help="overload: once more without HAProxy")
    parser.add_argument("--times", type=float, default=10.0, help="overload: of its capacity")
    parser.add_argument("--seconds", type=float, default=30.0, help="overload: how long")
    parser.add_argument("--minutes", type=float, default=1.0, help="soak: how long")
    parser.add_argument("--rate", type=float, default=20.0, help="soak: requests a second")
    parser.add_argument("--wish-every", type=float, default=10.0, help="soak: seconds from one instruction to the next")
    parser.add_argument("--kills", type=int, default=4, help="faults, feedback: how often something is killed")
    parser.add_argument("--postgresql", action="store_true", help="feedback: into a PostgreSQL server, killed as well")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run a case."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends the service that it started
    with tempfile.TemporaryDirectory(prefix="genrec-serving-") as folder:
        bundle = args.bundle.resolve() if args.bundle else _tiny(Path(folder) / "made")
        result = CASES[args.case](args, bundle, Path(folder))
    return {"name": f"serving {args.case}", **result}


def load(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """16 clients, mixed requests; then lists alone, side by side."""
    offline = Offline(bundle)
    mixed = mixed_calls(offline.first, args.requests)
    lists = mixed_calls(offline.first, max(200, args.requests // 4), mixed=False, seed=1)
    offline.prepare([*mixed, *lists])
    with served(bundle, folder / "served", _port()) as service:
        seen, seconds = asyncio.run(closed_loop(service.url, mixed, args.clients, offline.check))
        one, _ = asyncio.run(closed_loop(service.url, lists, 1, offline.check))
        many, many_s = asyncio.run(closed_loop(service.url, lists, args.clients, offline.check))
    with _plain(bundle) as url:
        plain_one, _ = asyncio.run(closed_loop(url, lists, 1, offline.check))
        plain_many, plain_s = asyncio.run(closed_loop(url, lists, args.clients, offline.check))
    direct = _direct(offline, lists)
    sides = {
        "composed": {**one.percentiles(), "requests_s": round(len(lists) / many_s, 1), "at_load": many.percentiles()},
        "plain": {
            **plain_one.percentiles(),
            "requests_s": round(len(lists) / plain_s, 1),
            "at_load": plain_many.percentiles(),
        },
        "in_process": direct,
    }
    wrong = sum(side.wrong for side in (seen, one, many, plain_one, plain_many))
    return {
        "ours": one.percentiles()["p50_ms"],
        "theirs": plain_one.percentiles()["p50_ms"],
        "ratio": round(one.percentiles()["p50_ms"] / plain_one.percentiles()["p50_ms"], 3),
        "equal": wrong == 0 and set(seen.statuses) == {200},
        "wrong": wrong,
        "mixed": {"statuses": seen.statuses, "requests_s": round(len(mixed) / seconds, 1), **seen.percentiles()},
        "lists": sides,
    }


def overload(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """Ten times the requests that it can answer, begun whether or not others are answered; replicas follow the load.

    With ``--alone`` once more without HAProxy, where Serve's proxy and the ingress refuse.
    """
    offline = Offline(bundle)
    calls = mixed_calls(offline.first, 300, mixed=False, k=args.k)
    offline.prepare(calls)
    told = _flooded(args, bundle, folder / "served", offline, calls)
    accepted, unloaded = told["accepted"].get("p99_ms"), told["unloaded"]["p99_ms"]
    alone = {"alone": _flooded(args, bundle, folder / "alone", offline, calls, haproxy="false")} if args.alone else {}
    sides = [told, *alone.values()]
    return {
        "ours": accepted,
        "theirs": unloaded,
        "ratio": None if accepted is None else round(accepted / unloaded, 2),
        "equal": all(set(side["statuses"]) <= {200, 429, 503} and side["wrong"] == 0 for side in sides),
        **told,
        **alone,
    }


def _flooded(
    args: argparse.Namespace, bundle: Path, folder: Path, offline: Offline, calls: list[Call], haproxy: str = "true"
) -> dict[str, Any]:
    """Unloaded, at capacity, and flooded."""
    small = {
        "serve.haproxy": haproxy,
        "serve.batch_size": args.batch,
        "serve.max_ongoing_requests": args.batch,
        "serve.max_queued_requests": args.queue,
        "serve.max_ongoing_of_client": 100_000,
        "serve.max_replicas": args.replicas,
        "serve.autoscaling.look_back_s": 2,
        "serve.autoscaling.upscale_delay_s": 1,
        "serve.autoscaling.downscale_delay_s": 5,
        "ray.dashboard": "true",
    }
    counts: list[int] = []
    with served(bundle, folder, _port(), **small) as service:

        async def watched(load: Any) -> Any:
            flow = asyncio.ensure_future(load)
            while not flow.done():
                counts.append((await asyncio.to_thread(service.running))["recommender"])
                await asyncio.wait({flow}, timeout=1)
            return await flow

        calm, _ = asyncio.run(watched(closed_loop(service.url, calls, 1, offline.check)))
        full, seconds = asyncio.run(watched(closed_loop(service.url, calls, args.batch, offline.check)))
        capacity = len(full.seconds.get(200, ())) / seconds
        rate = args.times * capacity
        place = urlsplit(service.url)
        requests = [encoded(*call, place.netloc) for call in calls]
        before = service.cpu_s()
        count = int(args.seconds * rate)
        flooded = asyncio.run(watched(flood(str(place.hostname), place.port or 80, requests, count, rate)))
        spent = {name: round(after - before.get(name, 0.0), 2) for name, after in sorted(service.cpu_s().items())}
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and counts[-1] != 1:
            time.sleep(1)
            counts.append(service.running()["recommender"])
    seen = Seen()
    for _, status, waited in flooded.replies:
        seen.add(status, waited)
    wrong = sum(
        not offline.check(calls[place % len(calls)], json.loads(body)) for place, body in flooded.bodies.items()
    )
    refused = [one for status, all_ in seen.seconds.items() if status in {429, 503} for one in all_]
    return {
        "capacity_requests_s": round(capacity, 1),
        "rate_requests_s": round(rate, 1),
        "late_s": round(flooded.late_s, 2),
        "seconds": round(flooded.seconds, 1),
        "connections": flooded.connections,
        "statuses": {**seen.statuses, **({-1: count - len(flooded.replies)} if len(flooded.replies) < count else {})},
        "wrong": wrong,
        "refused": quantiles(refused),
        "unloaded": calm.percentiles(),
        "at_capacity": full.percentiles(),
        "accepted": seen.percentiles(),
        "cpu_s": {"flood": round(flooded.cpu_s, 2), **spent},
        "replicas": [count for place, count in enumerate(counts) if place == 0 or count != counts[place - 1]],
    }


def faults(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """Replicas killed, bundles swapped and a broken one refused while clients go on; without a retry and with one."""
    if args.bundle is not None:
        raise SystemExit("faults: it makes two bundles of one catalog itself; leave out --bundle")
    other = _tiny(folder / "other", seed=1)
    broken = folder / "broken"
    shutil.copytree(other, broken)
    weights = bytearray((broken / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(weights)
    offline = Offline(bundle, other)
    calls = mixed_calls(offline.first, args.requests, mixed=False)
    offline.prepare(calls)
    told: list[str] = []
    runs: dict[str, Any] = {}
    with served(bundle, folder / "served", _port(), **{"serve.replicas": 2, "serve.ingress.replicas": 2}) as service:
        for retries in (0, 1):

            async def events() -> None:
                for number in range(args.kills):
                    await asyncio.sleep(2)
                    name = ("recommender", "ingress")[number % 2]
                    if await asyncio.to_thread(service.kill, name):
                        told.append(f"killed {name}")
                    step = (("swap", str(other)), ("swap", str(broken)), ("rollback",))[number % 3]
                    done = await asyncio.to_thread(service.command, *step)
                    told.append(f"{step[0]} {'refused' if done.returncode else 'done'}")

            seen, seconds = asyncio.run(
                closed_loop(service.url, calls, args.clients, offline.check, retries=retries, beside=events)
            )
            runs[f"retries_{retries}"] = {
                "requests": len(calls),
                "lost": sum(count for status, count in seen.statuses.items() if status != 200),
                "wrong": seen.wrong,
                "retried": seen.retried,
                "first_tries": dict(sorted(seen.first.items())),
                "statuses": seen.statuses,
                "seconds": round(seconds, 1),
                **seen.percentiles(),
            }
    last = runs["retries_1"]
    return {
        "ours": last["lost"] + last["wrong"],
        "theirs": runs["retries_0"]["lost"],
        "ratio": None,
        "equal": last["lost"] == 0 and last["wrong"] == 0 and runs["retries_0"]["wrong"] == 0,
        "runs": runs,
        "events": dict(Counter(told)),
    }


def feedback(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """Events in batches of two while the ingress and, with --postgresql, the database are killed at random."""
    rng = random.Random(0)
    calls: list[Call] = []
    for batch in range(args.requests // 2):
        events = [
            {"event_id": f"{batch}-{i}", "user_id": f"u{batch % 40}", "item_id": "x", "kind": "click"} for i in range(2)
        ]
        calls.append(("POST", "/v1/feedback", {"events": events}))
    acknowledged: set[str] = set()

    def check(call: Call, reply: dict[str, Any]) -> bool:
        assert call[2] is not None
        acknowledged.update(event["event_id"] for event in call[2]["events"])
        return bool(reply["stored"] + reply["duplicates"] == len(call[2]["events"]))

    killed: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        database, settings = None, {}
        if args.postgresql:
            from tests.postgres import postgres_server

            database = stack.enter_context(postgres_server())
            settings = {"serve.store_url": database.url}
        service = stack.enter_context(served(bundle, folder / "served", _port(), **settings))

        async def kills() -> None:
            for number in range(args.kills):
                while not await asyncio.to_thread(service.ready):
                    await asyncio.sleep(0.2)
                await asyncio.sleep(rng.uniform(0.2, 2))
                if database is not None and number % 2:
                    await asyncio.to_thread(database.end, signal.SIGKILL)
                    await asyncio.sleep(rng.uniform(0, 1))
                    await asyncio.to_thread(database.start)
                    killed["database"] += 1
                elif await asyncio.to_thread(service.kill, "ingress"):
                    killed["ingress"] += 1

        seen, seconds = asyncio.run(
            closed_loop(service.url, calls, args.clients, check, retries=120, beside=kills, ends=True)
        )
        url = database.url if database is not None else sqlite_url(service.folder / RUN / SQLITE_FILE)
        store = FeedbackStore(url.replace("postgresql://", "postgresql+psycopg://", 1))
        stored = [event.event_id for event in store.events()]
        store.close()
    return {
        "ours": len(acknowledged - set(stored)),
        "theirs": 0,
        "ratio": None,
        "equal": acknowledged <= set(stored) and len(stored) == len(set(stored)) and seen.wrong == 0,
        "store": "postgresql" if args.postgresql else "sqlite",
        "killed": dict(killed),
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "twice": len(stored) - len(set(stored)),
        "retried": seen.retried,
        "statuses": seen.statuses,
        "seconds": round(seconds, 1),
    }


def soak(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """A moderate rate for minutes on the whole composed app: does memory grow, are descriptors left open?"""
    offline = Offline(bundle)
    calls = mixed_calls(offline.first, int(args.minutes * 60 * args.rate))
    users = [str(user) for user in offline.first.bundle.interactions.user_ids[:50]]
    for place in range(0, len(calls), max(1, int(args.rate * args.wish_every))):
        text = WISHES[place % len(WISHES)]
        calls[place] = ("POST", "/v1/instructions", {"text": text, "user_id": users[place % len(users)], "k": 5})
    del offline
    samples: list[tuple[float, dict[str, tuple[float, float, int]]]] = []
    with served(bundle, folder / "served", _port(), **COMPOSED) as service:

        async def story() -> Seen:
            flow = asyncio.ensure_future(open_loop(service.url, calls, args.rate, lambda *_: True))
            began = time.monotonic()
            while not flow.done():
                samples.append((time.monotonic() - began, await asyncio.to_thread(_held, service)))
                await asyncio.wait({flow}, timeout=10)
            return await flow

        seen = asyncio.run(story())
    later = samples[len(samples) // 3 :]  # after the warm-up
    hours = np.array([seconds / 3600 for seconds, _ in later])
    parts = {}
    for name in sorted(later[-1][1]):
        rows = np.array([held.get(name, (np.nan,) * 3) for _, held in later], float)
        parts[name] = {
            "rss_mib": [round(float(rows[0, 0]), 1), round(float(rows[-1, 0]), 1)],
            "own_mib": [round(float(rows[0, 1]), 1), round(float(rows[-1, 1]), 1)],
            "own_slope_mib_an_hour": round(float(np.polyfit(hours, rows[:, 1], 1)[0]), 2),
            "descriptors": [int(rows[0, 2]), int(rows[-1, 2])],
        }
    total = np.array([sum(one[1] for one in held.values()) for _, held in later])
    slope = float(np.polyfit(hours, total, 1)[0])
    return {
        "ours": round(slope, 2),
        "theirs": 0,
        "ratio": None,
        "equal": set(seen.statuses) <= {200, 429, 503},
        "minutes": args.minutes,
        "rate": args.rate,
        "own_mib": [round(float(total[0]), 1), round(float(total[-1]), 1)],
        "own_slope_mib_an_hour": round(slope, 2),
        "parts": parts,
        "statuses": seen.statuses,
        **seen.percentiles(),
    }


def hostile(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """What must be refused, in rounds: statuses and messages of each, and the memory that is held before and after."""
    attacks = hostile_calls()
    rounds = max(4, args.requests // len(attacks))
    statuses: dict[str, Counter[int]] = {attack.name: Counter() for attack in attacks}
    messages: dict[str, str] = {}
    wrong: list[str] = []
    held: list[dict[str, tuple[float, float, int]]] = []
    with served(bundle, folder / "served", _port(), **COMPOSED) as service, httpx.Client(timeout=180) as client:
        for number in range(rounds):
            if number in {rounds // 4, rounds // 2}:  # before it, first uses fill caches
                held.append(_held(service))
            for attack in attacks:
                reply = client.request(attack.method, service.url + attack.path, **attack.sent())
                statuses[attack.name][reply.status_code] += 1
                told = attack.judged(reply)
                if told is None:
                    wrong.append(f"{attack.name}: {reply.status_code} {reply.text[:200]}")
                elif told:
                    messages[attack.name] = told
        held.append(_held(service))
        alive = service.ready()
    growth = {name: [round(one[name][1], 1) for one in held if name in one] for name in sorted(held[-1])}
    return {
        "ours": len(wrong),
        "theirs": 0,
        "ratio": None,
        "equal": not wrong and alive,
        "rounds": rounds,
        "statuses": {name: dict(counted) for name, counted in statuses.items()},
        "messages": messages,
        "wrong": wrong[:10],
        "own_mib": growth,
    }


def schema(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """Requests made by schemathesis from the schema of the whole composed app, valid ones and broken ones."""
    from tests.serving_fuzz import fuzzed

    model = Recommender.load(bundle)
    users, items = [str(user) for user in model.bundle.interactions.user_ids[:200]], model.bundle.catalog.item_ids[:200]
    sizes = {"serve.max_k": min(ServeSettings().max_k, model.max_k)}  # the schema cannot know how many items there are
    with served(bundle, folder / "served", _port(), **COMPOSED, **sizes) as service:
        # Half valid, half broken; what takes nothing has valid requests alone, which are all the same.
        seen = fuzzed(service.url, lambda _, takes: args.requests // 2 + 1 if takes else args.requests, users, items)
        alive = service.ready()
    return {
        "ours": sum(count for counted in seen.values() for status, count in counted.items() if status >= 500),
        "theirs": 0,
        "ratio": None,
        "equal": alive,
        "operations": {label: dict(sorted(counted.items())) for label, counted in seen.items()},
        "cases": sum(counted.total() for counted in seen.values()),
    }


COMPOSED = {
    "serve.content": "true",
    "serve.cached_lists": 1024,
    "content.pictures.steps": 3,
    "content.pictures.candidates": 1,
}
"""Pictures are made in few steps: it is the way through the parts that is tried, not what they draw."""
WISHES = (
    "something calmer",
    "a comedy from the nineties",
    "draw me a red apple in 3D style",
    "the same but older",
    "surprise me",
    "a film with a detective",
    "make me a green pear in 3D style",
)
CASES = {
    "load": load,
    "overload": overload,
    "faults": faults,
    "feedback": feedback,
    "soak": soak,
    "hostile": hostile,
    "schema": schema,
}


def _held(service: Service) -> dict[str, tuple[float, float, int]]:
    """Of each deployment, the proxy and the controller: MiB resident, MiB of their own, open descriptors."""
    found = {}
    for name, processes in service.parts().items():
        resident, own, descriptors = 0.0, 0.0, 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                resident, own = resident + process.memory_info().rss / 2**20, own + _anonymous(process.pid)
                descriptors += process.num_fds()
        found[name] = (resident, own, descriptors)
    return found


def _anonymous(pid: int) -> float:
    """MiB that no file backs, as Linux tells.

    The unique set size (USS) would have pages of files, too, for whoever is alone in having mapped them: processes that
    begin or end move it by a hundred MiB of torch's libraries.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0.0)


def _direct(offline: Offline, calls: list[Call]) -> dict[str, Any]:
    seconds = []
    for _, _, body in calls:
        assert body is not None
        history = body.get("history")
        request = RecommendRequest(body.get("user_id"), None if history is None else tuple(history), body["k"])
        began = time.perf_counter()
        offline.first.recommend_batch([request])
        seconds.append(time.perf_counter() - began)
    told = {f"p{q}_ms": round(1000 * float(np.percentile(seconds, q)), 2) for q in (50, 95, 99)}
    return {**told, "requests_s": round(len(seconds) / sum(seconds), 1)}


class _plain:  # noqa: N801
    """Plain FastAPI + uvicorn around the same bundle, for a block."""

    def __init__(self, bundle: Path) -> None:
        self._port = _port()
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "serving_plain.py"), str(bundle), str(self._port)], cwd=ROOT
        )

    def __enter__(self) -> str:
        url = f"http://127.0.0.1:{self._port}"
        service = Service(url, self._process, Path())  # type: ignore[arg-type]
        deadline = time.monotonic() + 300
        while not service.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the plain side did not start")
            time.sleep(0.2)
        return url

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def _tiny(folder: Path, seed: int = 0) -> Path:
    """A small bundle with neighbours, around fresh weights."""
    from tests.serving import assembled_bundle

    folder.mkdir(parents=True)
    return assembled_bundle(folder, seed, neighbours=True)


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
