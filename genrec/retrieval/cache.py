"""Retrieval caches by Ray Data: the units of :mod:`genrec.retrieval.cache_units` done by pools of actors.

The interactions, the index and each BM25 shard are put into the object store once; actors on one node
share them without a copy, and Ray spills what does not fit. An actor loads its models once and holds one
block of queries and one shard at a time, so memory does not grow with the number of queries. The directory
must be storage that all nodes see, unless :class:`~genrec.retrieval.cache_apart.CacheApart` brings them its files.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.util.metrics import Counter, Histogram

from genrec.errors import SettingsError
from genrec.retrieval.cache_apart import CacheApart
from genrec.retrieval.cache_table import CacheKey
from genrec.retrieval.cache_units import CacheInputs, TextWorker, Unit, Worker
from genrec.retrieval.cache_work import CacheReport, build

log = logging.getLogger(__name__)

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]


def build_cache(directory: Path, inputs: CacheInputs, key: CacheKey, apart: CacheApart | None = None) -> CacheReport:
    """Build the cache with Ray's actors; equal to :func:`~genrec.retrieval.cache_work.build_cache_local`.

    A finished cache of the same key is left as it is; an unfinished one is gone on with.

    Args:
        directory: where the cache is or will be, on storage that all nodes see.
        inputs: what it is made from.
        key: ``inputs.key(...)``.
        apart: brings the cache's files to the nodes; None: they see the directory.

    Raises:
        ArtifactError: the directory holds a cache of another key.
        SettingsError: Ray is not running, or an encoder or item-kNN is missing that the settings need.
    """
    if not ray.is_initialized():
        raise SettingsError("ray: no cluster is connected; call ray.init first, or use build_cache_local")

    def execute(units: Sequence[Unit], make: Callable[..., Worker], given: Sequence[object]) -> Iterator[None]:
        actors = _actors(inputs.settings.workers, len(units))
        rows = [asdict(unit) for unit in units]
        # Few units at a time with each actor, in their order: an actor then seldom changes its shard.
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(units), 4 * actors))
        done = dataset.map_batches(
            _Actor,
            fn_constructor_args=(make, list(given), apart),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        units_of: collections.Counter[str] = collections.Counter()
        for batch in done.iter_batches(batch_size=1):
            units_of.update(map(str, batch["node"]))
            yield from (None for _ in batch["block"])
        told = ", ".join(f"{count} on node {node[:8]}" for node, count in sorted(units_of.items()))
        log.info("retrieval cache: %d units by %d actors: %s", sum(units_of.values()), actors, told)

    shards = inputs.settings.shard_users
    if apart is None:
        return build(directory, inputs, key, execute, share=ray.put, shard_users=shards)
    apart.bring_finished()
    report = build(directory, inputs, key, execute, share=ray.put, shard_users=shards, bring=apart.bring)
    apart.send_finished()
    return report


class _Actor:
    """Holds one worker, made from values of the object store."""

    def __init__(self, make: Callable[..., Worker], given: Sequence[object], apart: CacheApart | None) -> None:
        if apart is not None:
            apart.fetch_inputs()
        if make is TextWorker:  # the shards stay in the store until their turn
            *given, shards = given
            given = [*given, [_Fetch(shard) for shard in shards]]  # type: ignore[attr-defined]
        kind = {"kind": make.__name__.removesuffix("Worker").lower()}
        self.units = Counter("genrec_cache_units", "units of a retrieval cache done", tag_keys=("kind",))
        self.seconds = Histogram(
            "genrec_cache_unit_s", "time of a unit of a retrieval cache", boundaries=_SECONDS, tag_keys=("kind",)
        )
        self.units.set_default_tags(kind)
        self.seconds.set_default_tags(kind)
        self.worker = make(*[ray.get(value) if isinstance(value, ray.ObjectRef) else value for value in given])
        if apart is not None:
            self.worker = apart.around(self.worker)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for part, block, shard in zip(batch["part"], batch["block"], batch["shard"], strict=True):
            began = time.perf_counter()
            self.worker(Unit(str(part), int(block), int(shard)))
            self.units.inc()
            self.seconds.observe(time.perf_counter() - began)
        node = ray.get_runtime_context().get_node_id()
        return {"block": np.asarray(batch["block"]), "node": np.full(len(batch["block"]), node)}


class _Fetch:
    """Fetches a value from the object store when called."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __call__(self) -> Any:
        return ray.get(self.reference)


def _actors(workers: int | None, units: int) -> int:
    """As many actors as CPUs, one CPU left to Ray Data's own tasks."""
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    return max(1, min(cpus - 1 if workers is None else min(workers, cpus), units))
