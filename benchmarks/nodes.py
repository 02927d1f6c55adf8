"""A node is lost and comes back: during pretraining, while a retrieval cache is made, and under the service's load.

Three local nodes (``cluster up-local``): a head without work and two workers. One worker is killed as if its power
failed (SIGKILL to all of its processes at once), and started again later. What is told:

- pretraining: which groups of workers trained on which nodes and from which step, the steps that were done again, and
  how long it took until training went on, alone and then with both;
- caches: whether the cache is byte for byte the one of an undisturbed run;
- serving: requests that failed for clients that retry once, and how many needed that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common import say
from benchmarks.scaling import (
    CLIENTS,
    LIST_LENGTH,
    LOCAL_NODES,
    MOST_OF_A_NODE,
    cache_inputs,
    local_nodes,
    serving_at,
)
from cluster.local import LocalCluster

PHASES = ("pretraining", "caches", "serving")
VICTIM = 2
SHAPE = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 64, "d_ff": 256, "heads": 4, "d_head": 16}
CHECKPOINT_STEPS, KILL_AT = 20, 50
PATIENCE_S = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--users", type=int, default=6000, help="caches: users, each asked for once")
    parser.add_argument("--minutes", type=float, default=1.5, help="pretraining: of training, all groups together")
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="serving: of load; the node is lost after a quarter"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every phase, the node brought back after each."""
    phases: dict[str, Callable[[argparse.Namespace, Path, LocalCluster], dict[str, Any]]] = {
        "pretraining": pretraining,
        "caches": caches,
        "serving": serving,
    }
    told: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="g") as folder, local_nodes(Path(folder)) as cluster:
        for phase in args.phases:
            told[phase] = phases[phase](args, Path(folder) / phase, cluster)
            say(f"{phase}: {told[phase]}")
            bring_back(cluster)
    unsettled = sum(not phase["as_undisturbed"] for phase in told.values())
    return {
        "name": "nodes",
        "ours": len(told) - unsettled,
        "theirs": len(told),
        "unit": "phases that end as if no node had been lost, and phases",
        "ratio": round(1 - unsettled / len(told), 2),
        "equal": unsettled == 0,
        **told,
    }


def pretraining(args: argparse.Namespace, folder: Path, cluster: LocalCluster) -> dict[str, Any]:
    """DDP that may go on with one worker; the node is lost, and comes back while the other trains alone."""
    from benchmarks.workers import BeautyFactory
    from genrec.config import TrainingSettings
    from genrec.training.attempts import read_attempts
    from genrec.training.curves import read_curves
    from genrec.training.ray_train import fit_on_ray

    factory = BeautyFactory(64, shape=tuple(SHAPE.items()))
    settings = TrainingSettings(
        strategy="ddp",
        workers=2,
        workers_min=1,
        cpus_per_worker=MOST_OF_A_NODE,
        batch_size=factory.batch_size,
        max_minutes=args.minutes,
        checkpoint_steps=CHECKPOINT_STEPS,
        log_every=1,
        resize_check_s=5,
        tensorboard=False,
    )
    times: dict[str, float] = {}

    def reached(step: int) -> bool:
        return any(row["step"] >= step for row in read_curves(folder))

    def lose_and_return() -> None:
        wait_for(lambda: reached(KILL_AT))
        lose(cluster)
        times["lost"] = time.monotonic()
        wait_for(lambda: len(read_attempts(folder)) == 2)
        times["alone"] = time.monotonic()
        bring_back(cluster)
        times["back"] = time.monotonic()
        wait_for(lambda: len(read_attempts(folder)) == 3)
        times["both"] = time.monotonic()

    with beside(lose_and_return):
        result = fit_on_ray(factory, settings, 0, folder, sid_version=factory().sid_version)
    attempts = read_attempts(folder)
    return {
        "groups": [str(attempt) for attempt in attempts],
        "steps": result.steps,
        "steps_done_again": sum(attempt.lost for attempt in attempts),
        "checkpoint_steps": CHECKPOINT_STEPS,
        "seconds_until_it_went_on": round(times["alone"] - times["lost"], 1),
        "seconds_from_return_to_both": round(times["both"] - times["back"], 1),
        "as_undisturbed": [len(attempt.nodes) for attempt in attempts] == [2, 1, 2] and result.stopped == "max_minutes",
    }


def caches(args: argparse.Namespace, folder: Path, cluster: LocalCluster) -> dict[str, Any]:
    """The cache of texts, made twice; the second time a node is lost when a third of its blocks are there."""
    from genrec.retrieval.cache import build_cache

    inputs, key = cache_inputs(args.users, workers=3)
    seconds, digests = {}, {}
    for name in ("undisturbed", "node lost"):
        target = folder / name.replace(" ", "-")
        blocks = inputs.blocks(args.users)

        def lose_midway(target: Path = target, blocks: int = blocks) -> None:
            wait_for(lambda: len(list(target.glob("split=*/*.parquet"))) > blocks / 3)
            lose(cluster)

        began = time.monotonic()
        with beside(lose_midway if name == "node lost" else None):
            build_cache(target, inputs, key)
        seconds[name] = round(time.monotonic() - began, 1)
        digests[name] = digest_of(target)
    return {
        "blocks": blocks,
        "seconds": seconds,
        "digests": digests,
        "as_undisturbed": len(set(digests.values())) == 1,
    }


def serving(args: argparse.Namespace, folder: Path, cluster: LocalCluster) -> dict[str, Any]:
    """Two replicas of each part on two nodes, clients that retry once; a node is lost under load."""
    two = {"replicas": 2, "cpus_per_replica": 0.5, "ingress": {"replicas": 2, "cpus": 0.2}}

    def lose_in_time() -> None:
        time.sleep(args.seconds / 4)
        lose(cluster)

    with serving_at(folder, two) as port, beside(lose_in_time):
        answered, again, failed, longest = clients(port, args.seconds)
    return {
        "answered": answered,
        "sent_again": again,
        "failed": len(failed),
        "failures": sorted(set(failed))[:5],
        "longest_s": round(longest, 1),
        "as_undisturbed": not failed and answered > 0,
    }


def clients(port: int, seconds: float) -> tuple[int, int, list[str], float]:
    """Lists asked for by clients that retry once: answered, sent again, errors, longest wait."""
    from serve.client import Client
    from serve.client_errors import ClientError

    answered, deadline, longest = [0] * CLIENTS, time.monotonic() + seconds, [0.0] * CLIENTS
    failed: list[str] = []
    transports = [_Counting() for _ in range(CLIENTS)]

    def ask(client: int) -> None:
        with Client(f"http://127.0.0.1:{port}", transport=transports[client]) as service:
            asked = 0
            while time.monotonic() < deadline:
                began = time.monotonic()
                asked += 1
                try:
                    shown = service.recommend(user_id=f"u{(client + CLIENTS * asked) % 240}", k=LIST_LENGTH)
                    answered[client] += len(shown.items) == LIST_LENGTH
                except ClientError as error:
                    failed.append(str(error))
                longest[client] = max(longest[client], time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = sum(transport.sent for transport in transports)
    return sum(answered), sent - sum(answered) - len(failed), failed, max(longest)


class _Counting(httpx.HTTPTransport):
    """Counts what is sent, retries too."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        return super().handle_request(request)


def lose(cluster: LocalCluster) -> None:
    """Kill the worker node."""
    say(f"killed {cluster.down(VICTIM)} processes of node {VICTIM}")


def bring_back(cluster: LocalCluster) -> None:
    """Start it again, if it is gone."""
    cluster.up(*LOCAL_NODES)


@contextmanager
def beside(what: Callable[[], object] | None) -> Iterator[None]:
    """Do something while the block runs; its error is ours."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(what) if what is not None else None
        yield
        if done is not None:
            done.result()


def wait_for(true: Callable[[], object]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came for {PATIENCE_S:g} s")
        time.sleep(0.05)


def digest_of(folder: Path) -> str:
    """Of all files and their names."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(os.fsencode(path.relative_to(folder)) + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]
