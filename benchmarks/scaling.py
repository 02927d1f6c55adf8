"""Throughput with one and with two workers, each on a node of its own: pretraining, retrieval caches, serving.

The nodes are local ones (``cluster up-local``): a head without work and two workers, every process with one thread, so
that a machine needs two idle cores. The ideal is twice the throughput of one worker; what is missing is the exchange of
gradients, Ray's own processes, and in serving the clients and the ingress, which share the cores. Runs of one and of
two workers take turns. From the seconds of one core for a training target, a user of the cache and a list it also
prints what 10^6 and 10^8 users would cost (docs/scaling.md has the model).
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT, say, spread

if TYPE_CHECKING:
    from cluster.local import LocalCluster
    from genrec.retrieval.cache_table import CacheKey
    from genrec.retrieval.cache_units import CacheInputs

WORKERS = (1, 2)
PHASES = ("pretraining", "caches", "serving")
CLIENTS, LIST_LENGTH = 8, 10
MOST_OF_A_NODE = 1.5
"""CPUs of a worker, of a node's two: no two workers share a node."""
LOCAL_NODES = (1 + max(WORKERS), 2, 200)
"""Nodes, CPUs of each worker node, and MiB of each object store."""
TARGETS_OF_A_USER, EPOCHS = 5.9, 10
"""Beauty: 131,413 training prefixes of 22,363 users; passes over them."""
LISTS_OF_A_USER_A_DAY, PEAK = 5, 3
"""Assumed: how often a user is shown a list, and the busiest hour by the mean one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--turns", type=int, default=2, help="runs of one and of two workers, taking turns")
    parser.add_argument("--users", type=int, default=4000, help="caches: users, each asked for once")
    parser.add_argument("--seconds", type=float, default=10.0, help="serving: of load")
    parser.add_argument("--batch-size", type=int, default=512, help="pretraining: targets of a global batch")
    parser.add_argument("--steps", type=int, default=2, help="pretraining: steps of a round; three rounds are timed")
    parser.add_argument("--tiny", action="store_true", help="small models and few users, to try the command")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every phase with one and with two workers, turn by turn."""
    if args.tiny:
        args.turns, args.users, args.seconds, args.steps, args.batch_size = 1, 200, 2.0, 1, 64
    measure: dict[str, Callable[[argparse.Namespace, Path], dict[int, list[float]]]] = {
        "pretraining": pretraining,
        "caches": caches,
        "serving": serving,
    }
    with tempfile.TemporaryDirectory(prefix="g") as folder, local_nodes(Path(folder)):
        rates = {phase: measure[phase](args, Path(folder) / phase) for phase in args.phases}
    seconds = {phase: 1 / median(found[1]) for phase, found in rates.items()}
    ratios = {phase: round(median(found[2]) / median(found[1]), 2) for phase, found in rates.items()}
    first = args.phases[0]
    return {
        "name": "scaling",
        "ours": round(median(rates[first][2]), 2),
        "theirs": round(median(rates[first][1]), 2),
        "unit": f"{first}: units a second with two workers and with one",
        "ratio": ratios[first],
        "ideal": 2.0,
        "equal": all(rate > 0 for found in rates.values() for each in found.values() for rate in each),
        "ratios": ratios,
        "units": {"pretraining": "targets", "caches": "users", "serving": "lists"},
        "per_second": {
            phase: {str(workers): spread(each) for workers, each in found.items()} for phase, found in rates.items()
        },
        "core_seconds_per_unit": {phase: round(value, 6) for phase, value in seconds.items()},
        "cost": {f"{users:.0e} users": cost(seconds, users, args.users) for users in (10**6, 10**8)},
    }


def cost(seconds: dict[str, float], users: int, measured_users: int) -> dict[str, float]:
    """Core hours of a training and of a cache, and cores that serve the peak.

    A training target costs the same whoever it is of. A user of the cache is compared with all others, so exact search
    costs the square of the users; ``caches_linear`` is what it would cost if each met only as many as were measured.
    """
    told: dict[str, float] = {}
    if "pretraining" in seconds:
        told["pretraining_core_hours"] = users * TARGETS_OF_A_USER * EPOCHS * seconds["pretraining"] / 3600
    if "caches" in seconds:
        told["caches_linear_core_hours"] = users * seconds["caches"] / 3600
        told["caches_exact_core_hours"] = told["caches_linear_core_hours"] * users / measured_users
    if "serving" in seconds:
        told["serving_cores_at_peak"] = users * LISTS_OF_A_USER_A_DAY / 86400 * PEAK * seconds["serving"]
    return {name: float(f"{value:.3g}") for name, value in told.items()}


def median(values: list[float]) -> float:
    """Of the runs."""
    return statistics.median(values)


@contextmanager
def local_nodes(folder: Path) -> Iterator[LocalCluster]:
    """A head and two workers, and this process joined to them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S"] = "120"  # all actors begin at once
    from cluster.local import LocalCluster
    from genrec.config import ClusterSettings

    cluster = LocalCluster(ClusterSettings(name="scaling"), folder)
    try:
        cluster.up(*LOCAL_NODES)
        # The token must be known before Ray is imported.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token_file)}
        import ray

        paths = os.pathsep.join((os.fspath(ROOT), os.fspath(ROOT / "tests")))
        ray.init(
            address=cluster.gcs_address(),
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
        )
        yield cluster
        ray.shutdown()
    finally:
        cluster.down()


def turns(args: argparse.Namespace, phase: str, one: Callable[[int], list[float]]) -> dict[int, list[float]]:
    """Rates by number of workers."""
    rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(args.turns):
        for workers in WORKERS:
            rates[workers] += one(workers)
            say(f"{phase}, {workers} workers: {rates[workers][-1]:.1f} units/s")
    return rates


def pretraining(args: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """Targets a second by DDP; a worker takes most of a node, so that two are on two nodes."""
    from benchmarks.workers import BeautyFactory, train

    factory = BeautyFactory(args.batch_size)
    if args.tiny:
        small = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 32, "d_ff": 64, "heads": 2, "d_head": 16}
        factory = replace(factory, shape=tuple(small.items()), users=200)

    def one(workers: int) -> list[float]:
        return train(factory, "ddp", workers, args.steps, 3, MOST_OF_A_NODE).rates

    return turns(args, "pretraining", one)


def caches(args: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """Users a second: neighbours by their texts, from each worker's first block to the last.

    So the start of the actors and the index, which the driver builds, are left out, and told beside.
    """
    from genrec.retrieval.cache import build_cache

    def one(workers: int) -> list[float]:
        inputs, key = cache_inputs(args.users, workers)
        target = folder / f"{workers}"
        shutil.rmtree(target, ignore_errors=True)
        began = time.perf_counter()
        build_cache(target, inputs, key)
        whole = time.perf_counter() - began
        done = sorted(path.stat().st_mtime_ns for path in target.glob("split=*/*.parquet"))
        working = (done[-1] - done[workers - 1]) * 1e-9 * len(done) / (len(done) - workers)
        say(f"caches, {workers} workers: {whole:.1f} s, of which {whole - working:.1f} s to begin")
        return [inputs.interactions.n_users / working]

    return turns(args, "caches", one)


def cache_inputs(users: int, workers: int) -> tuple[CacheInputs, CacheKey]:
    """A cache of so many of Beauty's users, one moment each, about forty blocks."""
    from benchmarks.shapes import beauty_sequences, interactions_of
    from genrec.config import RetrievalSettings
    from genrec.retrieval.cache_units import CacheInputs

    sequences = beauty_sequences()[0][:users]
    items = 1 + max(int(item) for sequence in sequences for item in sequence)
    data = interactions_of(sequences, items)
    texts = [f"item {index % 97} of shelf {index % 31} and maker {index % 53}" for index in range(items)]
    settings = RetrievalSettings(
        paths=("text",), rerank="paths", vote_sources=(), block_queries=max(10, users // 40), workers=workers
    )
    inputs = CacheInputs(data, settings, texts, splits=("valid",))
    return inputs, inputs.key(checkpoint="0" * 16, sid_version="0" * 16, data="0" * 16)


def serving(args: argparse.Namespace, folder: Path) -> dict[int, list[float]]:
    """Lists a second over HTTP, from clients of this process; a replica takes most of a node."""

    def one(workers: int) -> list[float]:
        with serving_at(folder / f"{workers}", {"replicas": workers, "cpus_per_replica": MOST_OF_A_NODE}) as port:
            load(port, 1.0)
            rate = [load(port, args.seconds)]
        shutil.rmtree(folder)
        return rate

    return turns(args, "serving", one)


@contextmanager
def serving_at(folder: Path, serving: dict[str, Any]) -> Iterator[int]:
    """A tiny bundle served on the connected Ray, its proxy on the head; yields the port."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    from benchmarks.serving import _port, _tiny
    from genrec.config import Settings
    from serve.app import build

    bundle, port = _tiny(folder), _port()
    settings = Settings.model_validate(
        {
            "run": {"directory": str(folder), "name": "served"},
            "serve": {"cached_lists": 0, "content": False, **serving},
        }
    )
    (folder / "served").mkdir()
    serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host="127.0.0.1", port=port))
    try:
        serve.run(build(settings, bundle), name="served", route_prefix="/")
        yield port
    finally:
        serve.shutdown()


def load(port: int, seconds: float) -> float:
    """Lists a second that clients get who each ask again as soon as they are answered."""
    import httpx

    answered, deadline = [0] * CLIENTS, time.perf_counter() + seconds

    def ask(client: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            while time.perf_counter() < deadline:
                user = f"u{(client + CLIENTS * answered[client]) % 240}"
                reply = http.post("/v1/recommendations", json={"user_id": user, "k": LIST_LENGTH})
                reply.raise_for_status()
                answered[client] += 1

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / seconds
