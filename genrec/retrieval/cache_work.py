"""Building a retrieval cache: plan the units, do what is missing, finish.

A unit whose file is there is not done again, which is all that resuming needs: a file appears whole, under
its final name, and the directory belongs to one key. Scratch files live in ``.work`` until the end;
``cache.json``, written last, says that the cache is finished.

``build_cache_local`` runs the units one after another in this process, with an unsharded index: the
reference. ``genrec.retrieval.cache.build_cache`` hands them to Ray Data's actors.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.errors import SettingsError
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.cache_table import (
    CACHE_FILE,
    REPRESENTATIONS,
    CacheKey,
    RetrievalCache,
    queries_of,
    read_plan,
    write_plan,
    write_whole,
)
from genrec.retrieval.cache_units import (
    WORK,
    CacheInputs,
    RowWorker,
    TextWorker,
    Unit,
    VectorWorker,
    Worker,
    npy_writer,
    unit_path,
)
from genrec.retrieval.retriever import REPRESENTATION, Retriever, needed_spaces, require_scorers

log = logging.getLogger(__name__)

Execute = Callable[[Sequence[Unit], Callable[..., Worker], Sequence[object]], Iterator[None]]
"""Runs units by workers made by the second argument from the third; yields once for each unit done."""


@dataclass(frozen=True)
class CacheReport:
    """What a build did: units by pass ("vectors", "text", "rows"), and those it found done."""

    done: Mapping[str, int]
    kept: Mapping[str, int]


def build_cache_local(directory: Path, inputs: CacheInputs, key: CacheKey) -> CacheReport:
    """Build the cache in this process, one unit after another, with one unsharded index.

    Raises:
        ArtifactError: the directory holds a cache of another key.
        SettingsError: the settings need an encoder or item-kNN that is not given.
    """

    def execute(units: Sequence[Unit], make: Callable[..., Worker], given: Sequence[object]) -> Iterator[None]:
        worker = make(*given)
        for unit in units:
            worker(unit)
            yield

    return build(directory, inputs, key, execute, share=lambda value: value, shard_users=None)


def build(
    directory: Path,
    inputs: CacheInputs,
    key: CacheKey,
    execute: Execute,
    *,
    share: Callable[[object], object],
    shard_users: int | None,
    bring: Callable[[Sequence[Path]], None] = lambda paths: None,
) -> CacheReport:
    """Plan the units, do what is missing by ``execute``, finish.

    Args:
        directory: where the cache is or will be; all workers must see it.
        inputs: what it is made from.
        key: of these inputs; what is there must have the same.
        execute: runs units.
        share: makes a large value available to the workers.
        shard_users: users of a BM25 shard; None: one shard.
        bring: fetches those of these files that workers elsewhere have made.
    """
    if (directory / CACHE_FILE).is_file():
        kept = RetrievalCache.open(directory, key).plan["blocks"]
        return CacheReport({"vectors": 0, "text": 0, "rows": 0}, {"rows": sum(kept.values())})
    _check(inputs)
    _begin(directory, key)
    run = _Passes(directory, execute, bring)
    data, settings = inputs.interactions, inputs.settings
    given = [share(inputs), directory]
    spaces = [space for space in inputs.encoders if space in (*needed_spaces(settings), REPRESENTATION)]
    user_blocks = range(inputs.blocks(data.n_users))
    run("vectors", [Unit(space, block) for space in spaces for block in user_blocks], VectorWorker, given)
    vectors = {space: _assembled(directory, space, len(user_blocks)) for space in spaces}

    blocks = {
        split: inputs.blocks(len(queries_of(data, split, settings.train_positions)[0])) for split in inputs.splits
    }
    rows = [Unit(split, block) for split, count in blocks.items() for block in range(count)]
    todo = run.missing("rows", rows)
    shards = _shards(inputs, shard_users) if todo else []
    if len(shards) > 1:
        searches = [Unit(unit.part, unit.block, shard) for shard in range(len(shards)) for unit in todo]
        run("text", searches, TextWorker, [*given, [share(shard) for shard in shards]])
    retriever = None
    if todo:
        retriever = Retriever.fit(
            data,
            settings,
            user_vectors=vectors,
            scorers=inputs.scorers,
            text=shards[0] if len(shards) == 1 else None,
        )
    run("rows", rows, RowWorker, [*given, share(retriever), len(shards)])

    scratch = directory / WORK / "unfinished"
    if REPRESENTATION in vectors:
        write_whole(directory / REPRESENTATIONS, npy_writer(vectors[REPRESENTATION]), scratch)
    write_plan(directory / CACHE_FILE, key, {"blocks": blocks, "block_queries": settings.block_queries}, scratch)
    shutil.rmtree(directory / WORK)
    return CacheReport(run.done, run.kept)


class _Passes:
    """Runs passes, leaving out what is there, and counts."""

    def __init__(self, directory: Path, execute: Execute, bring: Callable[[Sequence[Path]], None]) -> None:
        self.directory, self.execute, self.bring = directory, execute, bring
        self.done: dict[str, int] = {"vectors": 0, "text": 0, "rows": 0}
        self.kept: dict[str, int] = dict(self.done)

    def missing(self, kind: str, units: Sequence[Unit]) -> list[Unit]:
        self.bring([unit_path(self.directory, kind, unit) for unit in units])
        return [unit for unit in units if not unit_path(self.directory, kind, unit).is_file()]

    def __call__(self, kind: str, units: Sequence[Unit], make: Callable[..., Worker], given: Sequence[object]) -> None:
        todo = self.missing(kind, units)
        self.kept[kind] = len(units) - len(todo)
        log.info("retrieval cache, %s: %d units to do, %d are there", kind, len(todo), self.kept[kind])
        if todo:
            self.done[kind] = sum(1 for _ in self.execute(todo, make, given))
            self.bring([unit_path(self.directory, kind, unit) for unit in todo])


def _check(inputs: CacheInputs) -> None:
    """Find what is missing before any work is done."""
    missing = [space for space in needed_spaces(inputs.settings) if space not in inputs.encoders]
    if missing:
        raise SettingsError(
            f"retrieval: paths {list(inputs.settings.paths)} and rerank {inputs.settings.rerank!r} need an encoder "
            f"of histories for: {', '.join(missing)}"
        )
    require_scorers(inputs.settings, inputs.scorers)


def _begin(directory: Path, key: CacheKey) -> None:
    """Claim the directory for ``key``, or check that an unfinished build there is of the same."""
    plan = directory / WORK / CACHE_FILE
    if plan.is_file():
        read_plan(plan, key)
    else:
        write_plan(plan, key, {}, directory / WORK / "unfinished")


def _assembled(directory: Path, space: str, blocks: int) -> NDArray[np.float32]:
    paths = [unit_path(directory, "vectors", Unit(space, block)) for block in range(blocks)]
    return np.concatenate([np.load(path, allow_pickle=False) for path in paths])


def _shards(inputs: CacheInputs, shard_users: int | None) -> list[Bm25Users]:
    """The text index, whole or in shards; none if the settings don't search texts."""
    if "text" not in inputs.settings.paths:
        return []
    whole = Bm25Users.fit(inputs.interactions, inputs.item_texts, inputs.settings)
    step = whole.n_users if shard_users is None else shard_users
    if step >= whole.n_users:
        return [whole]
    return [whole.shard(begin, begin + step) for begin in range(0, whole.n_users, step)]
