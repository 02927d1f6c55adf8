"""The prepare stage: raw files to catalog.parquet, sequences.parquet and splits.parquet.

Read in blocks, ids coded as integers on the way, so that what is held is 17 bytes an interaction (some
three times that while sorting) and the distinct ids; texts are held only of the items that stay. The
result does not depend on whether Ray is used.

Policies. The same user, item and second given twice is one interaction; a later repetition is a new one
(the `research` reader keeps everything). Interactions of one second stay in file order. The k-core is
iterated until stable. Items and users are numbered by their raw id if all raw ids are whole numbers,
else by first appearance in the files. Items that no interaction names are not in the catalog; items that
no metadata names are, called by their id.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrec.config import DataSettings
from genrec.data.blocks import blocks, place
from genrec.data.catalog import build_catalog
from genrec.data.filtering import Log, by_user_and_time, cold_items, head_items, k_core, relabelled, without_repetitions
from genrec.data.ids import IdTable, index_order
from genrec.data.interactions import Interactions
from genrec.data.readers import Reader, open_reader
from genrec.data.schema import CATALOG_FILE, SEQUENCES, SEQUENCES_FILE, SPLITS, SPLITS_FILE
from genrec.data.splits import SplitPositions, leave_one_out, temporal
from genrec.errors import DataError

logger = logging.getLogger(__name__)

RAY_FROM_BYTES = 64 << 20
"""Below this, starting a Ray Data pipeline costs more than reading."""

USERS_A_GROUP = 1 << 17


@dataclass(frozen=True, eq=False)
class _Prepared:
    interactions: Interactions
    user_ids: pa.Array
    item_ids: pa.Array
    timed: NDArray[np.bool_]
    split: SplitPositions
    counts: dict[str, int]


def raw_files(settings: DataSettings) -> list[Path]:
    """The input files, in reading order (for fingerprints).

    Raises:
        DataError: a file is absent.
    """
    return open_reader(settings).files()


def prepare(settings: DataSettings, out: Path, *, use_ray: bool | None = None) -> dict[str, Any]:
    """Write the three files into the existing directory ``out``.

    Args:
        settings: reader, filtering and split.
        out: where to; the files appear there together, or none does.
        use_ray: read by Ray Data (Ray must be initialised); None: where Ray runs and the files are large.

    Returns:
        counts: users, items, interactions, raw_interactions, repetitions_dropped, core_rounds,
        train_interactions, train_prefixes, valid_users, test_users, head_items, tail_items, cold_items,
        items_without_metadata; for the temporal split also valid_from and test_from (Unix seconds).

    Raises:
        DataError: naming file and line, or why nothing is left.
    """
    reader = open_reader(settings)
    ray_used = _ray_wanted(reader) if use_ray is None else use_ray
    prepared = _filtered(settings, reader, ray_used)
    interactions = prepared.interactions
    catalog, without = build_catalog(
        prepared.item_ids,
        blocks(reader, "items", use_ray=ray_used),
        interactions.train_counts,
        interactions.head_items,
        place=lambda order: place(reader, "items", order),
        drop_repeats=reader.repeats_metadata,
    )
    _write(out, catalog, prepared)
    metrics = _metrics(prepared, without)
    logger.info("prepared %s: %s", settings.reader, metrics)
    return metrics


def _ray_wanted(reader: Reader) -> bool:
    ray = sys.modules.get("ray")  # who initialised it has imported it; importing costs seconds
    size = sum(path.stat().st_size for path in reader.files())
    return ray is not None and size >= RAY_FROM_BYTES and bool(ray.is_initialized())


def _filtered(settings: DataSettings, reader: Reader, use_ray: bool) -> _Prepared:
    log, user_ids, item_ids = _read_log(reader, use_ray)
    counts = {"raw_interactions": len(log)}
    log = by_user_and_time(log, keep_order=reader.chronological)
    if not reader.chronological:
        log = without_repetitions(log)
    counts["repetitions_dropped"] = counts["raw_interactions"] - len(log)
    keep, counts["core_rounds"] = k_core(
        log.user, log.item, settings.min_user_interactions, settings.min_item_interactions
    )
    log = log.take(keep)
    if not len(log):
        raise DataError(
            f"{reader.files()[0]}: no interaction is left of {counts['raw_interactions']}; lower "
            f"data.min_user_interactions ({settings.min_user_interactions}) or data.min_item_interactions "
            f"({settings.min_item_interactions})"
        )
    user, users = relabelled(log.user)
    item, items = relabelled(log.item)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user))]).astype(np.int64)
    split = _split(settings, log, offsets)
    interactions = Interactions(
        items=item,
        offsets=offsets,
        train_end=split.train_end,
        valid_at=split.valid_at,
        test_at=split.test_at,
        n_items=len(items),
        head_items=np.zeros(len(items), np.bool_),
        times=log.time,
    )
    by_training = settings.head_rule == "training-counts"
    frequency = interactions.train_counts if by_training else np.bincount(item, minlength=len(items))
    interactions.head_items[:] = head_items(frequency, settings.head_share)
    return _Prepared(
        interactions, user_ids.take(pa.array(users)), item_ids.take(pa.array(items)), log.timed, split, counts
    )


def _read_log(reader: Reader, use_ray: bool) -> tuple[Log, pa.Array, pa.Array]:
    """The whole log as ranks in index order, and the raw ids by rank."""
    users, items = IdTable(), IdTable()
    times, timed = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for block in blocks(reader, "interactions", use_ray=use_ray):
        users.add(block.column("user_id"))
        items.add(block.column("item_id"))
        time = block.column("time")
        timed.append(pc.is_valid(time).to_numpy())
        times.append(pc.fill_null(time, 0).to_numpy())
    codes, ids = [], []
    for table in (users, items):
        code, values = table.finish()
        rank = index_order(values)
        codes.append(rank[code])
        ids.append(values.take(pa.array(np.argsort(rank))))
    log = Log(codes[0], codes[1], np.concatenate(times), np.concatenate(timed))
    if not len(log):
        raise DataError(f"{reader.files()[0]}:1: no interaction in the file")
    return log, ids[0], ids[1]


def _split(settings: DataSettings, log: Log, offsets: NDArray[np.int64]) -> SplitPositions:
    if settings.split == "leave-one-out":
        return leave_one_out(np.diff(offsets))
    if not log.timed.all():
        raise DataError(
            f"data.split temporal needs a time for every interaction; {int((~log.timed).sum())} of {len(log)} have none"
        )
    return temporal(log.time, offsets, settings.valid_share, settings.test_share)


def _write(out: Path, catalog: pa.Table, prepared: _Prepared) -> None:
    """All files under temporary names first, then renamed together."""
    partial = {name: out / f".{name}.partial" for name in (CATALOG_FILE, SEQUENCES_FILE, SPLITS_FILE)}
    try:
        pq.write_table(catalog, partial[CATALOG_FILE])
        _write_sequences(partial[SEQUENCES_FILE], prepared)
        columns = [prepared.split.train_end, prepared.split.valid_at, prepared.split.test_at]
        pq.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=SPLITS), partial[SPLITS_FILE])
        for name, path in partial.items():
            os.replace(path, out / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _write_sequences(path: Path, prepared: _Prepared) -> None:
    log, offsets = prepared.interactions, prepared.interactions.offsets
    assert log.times is not None
    with pq.ParquetWriter(path, SEQUENCES) as writer:
        for first in range(0, log.n_users, USERS_A_GROUP):
            last = min(first + USERS_A_GROUP, log.n_users)
            begin, end = int(offsets[first]), int(offsets[last])
            bounds = pa.array((offsets[first : last + 1] - begin).astype(np.int32))
            times = pa.array(log.times[begin:end], mask=~prepared.timed[begin:end])
            columns = [
                prepared.user_ids.slice(first, last - first),
                pa.ListArray.from_arrays(bounds, pa.array(log.items[begin:end])),
                pa.ListArray.from_arrays(bounds, times),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=SEQUENCES))


def _metrics(prepared: _Prepared, without_metadata: int) -> dict[str, Any]:
    log = prepared.interactions
    head = int(log.head_items.sum())
    metrics: dict[str, Any] = {
        "users": log.n_users,
        "items": log.n_items,
        "interactions": len(log.items),
        **prepared.counts,
        "train_interactions": int(log.train_end.sum()),
        "train_prefixes": log.n_train_prefixes,
        "valid_users": len(log.users_with("valid")),
        "test_users": len(log.users_with("test")),
        "head_items": head,
        "tail_items": log.n_items - head,
        "cold_items": int(cold_items(log).sum()),
        "items_without_metadata": without_metadata,
    }
    if prepared.split.times is not None:
        metrics["valid_from"], metrics["test_from"] = prepared.split.times
    return metrics
