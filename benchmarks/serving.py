"""The served application: load, overload, faults, durability and soak, each against what it must hold to.

Cases: `load` (lists equal offline ones; beside the same model in this process and behind plain FastAPI + uvicorn),
`overload` (ten times what it can do: only 200, 429 and 503), `faults` (replicas killed, bundles swapped, a broken one
rolled back, under load), `feedback` (events while replicas are killed: each acknowledged one is there once), `soak`
(memory and descriptors over minutes). Everything runs on this machine's loopback and is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import ROOT
from benchmarks.serving_tools import Call, Offline, Seen, Service, closed_loop, mixed_calls, open_loop, served
from genrec.data.readers.feedback import SQLITE_FILE
from genrec.recommender import RecommendRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--bundle", type=Path, help="directory of a bundle (default: a tiny one that is made)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--k", type=int, default=10, help="overload: length of the lists")
    parser.add_argument("--batch", type=int, default=4, help="overload: requests that a replica takes at once")
    parser.add_argument("--queue", type=int, default=4, help="overload: requests that may wait")
    parser.add_argument("--times", type=float, default=10.0, help="overload: of its capacity")
    parser.add_argument("--seconds", type=float, default=30.0, help="overload: how long")
    parser.add_argument("--minutes", type=float, default=1.0, help="soak: how long")
    parser.add_argument("--rate", type=float, default=20.0, help="soak: requests a second")
    parser.add_argument("--kills", type=int, default=4, help="faults, feedback: replicas killed")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run a case."""
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
    """Ten times the requests that it can answer, begun whether or not others are answered; replicas follow the load."""
    offline = Offline(bundle)
    calls = mixed_calls(offline.first, 300, mixed=False, k=args.k)
    offline.prepare(calls)
    small = {
        "serve.batch_size": args.batch,
        "serve.max_ongoing_requests": args.batch,
        "serve.max_queued_requests": args.queue,
        "serve.max_ongoing_of_client": 100_000,
        "serve.max_replicas": 2,
        "serve.autoscaling.look_back_s": 2,
        "serve.autoscaling.upscale_delay_s": 1,
        "serve.autoscaling.downscale_delay_s": 5,
        "ray.dashboard": "true",
    }
    counts: list[int] = []
    with served(bundle, folder / "served", _port(), **small) as service:

        async def watched(load: Any) -> Any:
            flow = asyncio.ensure_future(load)
            while not flow.done():
                counts.append((await asyncio.to_thread(service.running))["recommender"])
                await asyncio.wait({flow}, timeout=1)
            return await flow

        calm, _ = asyncio.run(watched(closed_loop(service.url, calls[:200], 1, offline.check)))
        full, seconds = asyncio.run(watched(closed_loop(service.url, calls, args.batch, offline.check)))
        capacity = len(full.seconds.get(200, ())) / seconds
        rate = args.times * capacity
        flood = list(itertools.islice(itertools.cycle(calls), int(args.seconds * rate)))
        seen = asyncio.run(watched(open_loop(service.url, flood, rate, offline.check)))
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and counts[-1] != 1:
            time.sleep(1)
            counts.append(service.running()["recommender"])
    refused = [one for status, all_ in seen.seconds.items() if status in {429, 503} for one in all_]
    told = {f"p{q}_ms": round(1000 * float(np.percentile(refused, q)), 1) for q in (50, 95, 99)} if refused else {}
    accepted, unloaded = seen.percentiles().get("p99_ms"), calm.percentiles()["p99_ms"]
    return {
        "ours": accepted,
        "theirs": unloaded,
        "ratio": None if accepted is None else round(accepted / unloaded, 2),
        "equal": set(seen.statuses) <= {200, 429, 503} and seen.wrong == 0,
        "capacity_requests_s": round(capacity, 1),
        "rate_requests_s": round(rate, 1),
        "late_s": round(seen.late_s, 2),
        "statuses": seen.statuses,
        "refused": told,
        "unloaded": calm.percentiles(),
        "at_capacity": full.percentiles(),
        "accepted": seen.percentiles(),
        "replicas": [count for place, count in enumerate(counts) if place == 0 or count != counts[place - 1]],
    }


def faults(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """Replicas killed, bundles swapped and a broken one refused while clients go on; with one retry and without."""
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
    with served(bundle, folder / "served", _port(), **{"serve.replicas": 2}) as service:
        for retries in (0, 1):

            async def events() -> None:
                for number in range(args.kills):
                    await asyncio.sleep(2)
                    killed = await asyncio.to_thread(service.kill, "recommender")
                    told.append(f"killed {killed}")
                    step = (("swap", str(other)), ("swap", str(broken)), ("rollback",))[number % 3]
                    done = await asyncio.to_thread(service.command, *step)
                    told.append(f"{step[0]} {'refused' if done.returncode else 'done'}")

            repeated = calls
            seen, seconds = asyncio.run(
                closed_loop(service.url, repeated, args.clients, offline.check, retries=retries, beside=events)
            )
            lost = sum(count for status, count in seen.statuses.items() if status != 200)
            runs[f"retries_{retries}"] = {
                "requests": len(repeated),
                "lost": lost,
                "wrong": seen.wrong,
                "statuses": seen.statuses,
                "seconds": round(seconds, 1),
                **seen.percentiles(),
            }
    last = runs["retries_1"]
    return {
        "ours": last["lost"] + last["wrong"],
        "theirs": runs["retries_0"]["lost"],
        "ratio": None,
        "equal": last["lost"] == 0 and last["wrong"] == 0,
        "runs": runs,
        "events": told,
    }


def feedback(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """Events in batches of five while the ingress, which writes the store, is killed at random."""
    import random
    import sqlite3

    rng = random.Random(0)
    calls: list[Call] = []
    for batch in range(args.requests // 5):
        events = [
            {"event_id": f"{batch}-{i}", "user_id": f"u{batch % 40}", "item_id": "x", "kind": "click"} for i in range(5)
        ]
        calls.append(("POST", "/v1/feedback", {"events": events}))
    acknowledged: set[str] = set()

    def check(call: Call, reply: dict[str, Any]) -> bool:
        assert call[2] is not None
        acknowledged.update(event["event_id"] for event in call[2]["events"])
        return bool(reply["stored"] + reply["duplicates"] == len(call[2]["events"]))

    with served(bundle, folder / "served", _port()) as service:

        async def kills() -> None:
            for _ in range(args.kills):
                await asyncio.sleep(rng.uniform(0.5, 2))
                await asyncio.to_thread(service.kill, "ingress")

        seen, seconds = asyncio.run(closed_loop(service.url, calls, args.clients, check, retries=120, beside=kills))
        path = service.folder / "serving" / SQLITE_FILE
        with sqlite3.connect(path) as store:
            stored = [row[0] for row in store.execute("select event_id from feedback_events")]
    return {
        "ours": len(acknowledged - set(stored)),
        "theirs": 0,
        "ratio": None,
        "equal": acknowledged <= set(stored) and len(stored) == len(set(stored)) and seen.wrong == 0,
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "twice": len(stored) - len(set(stored)),
        "retried": seen.retried,
        "statuses": seen.statuses,
        "seconds": round(seconds, 1),
    }


def soak(args: argparse.Namespace, bundle: Path, folder: Path) -> dict[str, Any]:
    """A moderate rate for minutes: does memory grow, are descriptors left open?"""
    offline = Offline(bundle)
    calls = mixed_calls(offline.first, int(args.minutes * 60 * args.rate))
    samples: list[tuple[float, float, int]] = []
    with served(bundle, folder / "served", _port()) as service:

        async def story() -> Seen:
            flow = asyncio.ensure_future(open_loop(service.url, calls, args.rate, lambda *_: True))
            began = time.monotonic()
            while not flow.done():
                samples.append((time.monotonic() - began, *await asyncio.to_thread(_held, service)))
                await asyncio.sleep(2)
            return await flow

        seen = asyncio.run(story())
    later = samples[len(samples) // 3 :]  # after the warm-up
    times, memory, descriptors = (np.array(column, float) for column in zip(*later, strict=True))
    slope = float(np.polyfit(times / 3600, memory, 1)[0]) if len(later) > 2 else float("nan")
    return {
        "ours": round(slope, 2),
        "theirs": 0,
        "ratio": None,
        "equal": set(seen.statuses) <= {200, 503},
        "minutes": args.minutes,
        "memory_mib": [round(float(memory[0]), 1), round(float(memory[-1]), 1)],
        "slope_mib_an_hour": round(slope, 2),
        "descriptors": [int(descriptors[0]), int(descriptors[-1])],
        "statuses": seen.statuses,
        **seen.percentiles(),
    }


CASES = {"load": load, "overload": overload, "faults": faults, "feedback": feedback, "soak": soak}


def _held(service: Service) -> tuple[float, int]:
    """MiB that the replicas hold on their own, and their open descriptors."""
    memory, descriptors = 0.0, 0
    for name in ("ingress", "recommender"):
        for process in service.replicas(name):
            try:
                memory += process.memory_full_info().uss / 2**20
                descriptors += process.num_fds()
            except psutil.Error:
                continue
    return memory, descriptors


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
