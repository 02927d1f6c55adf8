"""Raw string ids to integer codes, block by block, without a Python object per row.

Each block is dictionary-encoded by Arrow; the blocks' dictionaries are merged whenever the unmerged
ones outgrow the merged one, so memory stays near twice the distinct ids plus four bytes a row, and the
work near linear.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MERGE_IDS = 1 << 20


class IdTable:
    """Codes 0, 1, … in the order in which ids first appear."""

    def __init__(self) -> None:
        self._values = pa.array([], pa.large_string())
        self._pending: list[pa.DictionaryArray] = []
        self._pending_ids = 0
        self._codes: list[NDArray[np.int32]] = []

    def add(self, ids: pa.ChunkedArray) -> None:
        """Append a block of ids."""
        for chunk in ids.chunks:
            encoded = chunk.dictionary_encode()
            self._pending.append(encoded)
            self._pending_ids += len(encoded.dictionary)
        if self._pending_ids > max(MERGE_IDS, len(self._values)):
            self._merge()

    def finish(self) -> tuple[NDArray[np.int32], pa.Array]:
        """All codes (int32 [E]) and the ids they stand for (large_string, by code); empties the table."""
        self._merge()
        codes = np.concatenate(self._codes) if self._codes else np.empty(0, np.int32)
        self._codes = []
        return codes, self._values

    def _merge(self) -> None:
        if not self._pending:
            return
        # An empty first chunk carries the known ids, so that they keep their codes.
        known = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._values)
        merged = pa.chunked_array([known, *self._pending]).unify_dictionaries()
        self._values = merged.chunk(0).dictionary
        self._codes.extend(chunk.indices.to_numpy() for chunk in merged.chunks[1:])
        self._pending, self._pending_ids = [], 0


def index_order(ids: pa.Array) -> NDArray[np.int32]:
    """int32 [n], the rank of each id: by number if all are plain whole numbers, else by first appearance.

    So item "1" of a published data set with dense ids becomes index 0, the row of its published codes.
    """
    if len(ids) and pc.all(pc.match_substring_regex(ids, "^(0|[1-9][0-9]{0,17})$")).as_py():
        order = np.argsort(ids.cast(pa.int64()).to_numpy(), kind="stable")
        ranks = np.empty(len(ids), np.int32)
        ranks[order] = np.arange(len(ids), dtype=np.int32)
        return ranks
    return np.arange(len(ids), dtype=np.int32)
