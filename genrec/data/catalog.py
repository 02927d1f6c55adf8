"""Item metadata to the catalog table: one row an item, in index order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrec.data.ids import IdTable
from genrec.data.readers.base import item_record, items_table
from genrec.data.schema import CATALOG, ITEMS
from genrec.errors import DataError


def build_catalog(
    item_ids: pa.Array,
    blocks: Iterable[pa.Table],
    train_counts: NDArray[np.int64],
    head: NDArray[np.bool_],
    *,
    place: Callable[[int], str],
    drop_repeats: bool,
) -> tuple[pa.Table, int]:
    """Join metadata blocks to the items that stayed.

    Args:
        item_ids: raw ids by item index.
        blocks: metadata of schema ITEMS; rows of other items are passed over, block by block.
        train_counts: int64 [N].
        head: bool [N].
        place: ``order`` -> file:line, for messages.
        drop_repeats: identical records of one id are one; differing ones stay an error.

    Returns:
        a table of schema CATALOG, and how many of its items have no metadata (they are called by their id).

    Raises:
        DataError: an id has two records.
    """
    known = {item_id: index for index, item_id in enumerate(item_ids.to_pylist())}
    all_ids, orders, kept = IdTable(), [np.empty(0, np.int64)], [_indexed(items_table([]), known)]
    for block in blocks:
        if not drop_repeats:
            all_ids.add(block.column("item_id"))
            orders.append(block.column("order").to_numpy())
        kept.append(_indexed(block.cast(ITEMS), known))
    _refuse_repeats(*all_ids.finish(), np.concatenate(orders), place)
    rows = pa.concat_tables(kept).combine_chunks()
    if drop_repeats:
        rows = _without_identical(rows, place)
    have = rows.column("index").to_numpy()
    missing = np.setdiff1d(np.arange(len(item_ids)), have)
    blank = items_table([item_record(item_id, 0) for item_id in item_ids.take(pa.array(missing)).to_pylist()])
    together = pa.concat_tables([rows.drop_columns(["index", "order"]), blank.drop_columns(["order"])])
    where = np.empty(len(item_ids), np.int64)
    where[np.concatenate([have, missing])] = np.arange(len(item_ids))
    table = together.take(pa.array(where)).append_column("train_count", pa.array(train_counts))
    return table.append_column("head", pa.array(head)).cast(CATALOG), len(missing)


def _indexed(block: pa.Table, known: Mapping[str, int]) -> pa.Table:
    """The rows of known items, with their index."""
    index = np.array([known.get(item_id, -1) for item_id in block.column("item_id").to_pylist()], np.int64)
    return block.append_column("index", pa.array(index)).filter(pa.array(index >= 0))


def _refuse_repeats(
    codes: NDArray[np.int32], ids: pa.Array, orders: NDArray[np.int64], place: Callable[[int], str]
) -> None:
    if len(codes) == len(ids):
        return
    sorted_rows = np.argsort(codes, kind="stable")
    again = np.flatnonzero(codes[sorted_rows[1:]] == codes[sorted_rows[:-1]])
    second = int(sorted_rows[again + 1].min())
    first = int(np.flatnonzero(codes == codes[second])[0])
    raise _repeat(ids[int(codes[second])].as_py(), int(orders[first]), int(orders[second]), place)


def _without_identical(rows: pa.Table, place: Callable[[int], str]) -> pa.Table:
    first_of: dict[int, int] = {}
    keep = []
    columns = rows.drop_columns(["order"])
    for row, index in enumerate(rows.column("index").to_pylist()):
        first = first_of.setdefault(index, row)
        if first == row:
            keep.append(row)
        elif columns.slice(first, 1).to_pylist() != columns.slice(row, 1).to_pylist():
            order = rows.column("order")
            raise _repeat(rows.column("item_id")[row].as_py(), order[first].as_py(), order[row].as_py(), place)
    return rows.take(pa.array(keep, pa.int64()))


def _repeat(item_id: str, first: int, second: int, place: Callable[[int], str]) -> DataError:
    return DataError(f"{place(second)}: item {item_id!r} was already described at {place(first)}; keep one of them")
