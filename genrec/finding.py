"""Finding items and users by what people type, and which items of a catalog a filter leaves.

Letters count alike in upper and lower case. Work is done by pyarrow over whole columns: a catalog of a million titles
takes tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrec.data.load import Catalog


@dataclass(frozen=True)
class Filter:
    """Which items may be listed.

    Attributes:
        title: every word of it must stand somewhere in an item's title; empty: no matter.
        categories: an item must be of at least one; empty: no matter.
        items: raw ids, the only ones allowed; None: no matter.
    """

    title: str = ""
    categories: tuple[str, ...] = ()
    items: tuple[str, ...] | None = None


NO_FILTER = Filter()


class Finder:
    """Searches one catalog and its users.

    Args:
        catalog: the items.
        user_ids: raw ids of the known users, by index.
    """

    def __init__(self, catalog: Catalog, user_ids: Sequence[str]) -> None:
        self.catalog = catalog
        self._user_ids = user_ids

    @cached_property
    def _titles(self) -> pa.Array:
        return pa.array(self.catalog.titles, pa.large_string())

    @cached_property
    def _users(self) -> pa.Array:
        return pa.array(list(self._user_ids), pa.large_string())

    @cached_property
    def categories(self) -> dict[str, NDArray[np.int64]]:
        """Items of each category, by its name in lower case."""
        members: dict[str, list[int]] = {}
        for index, names in enumerate(self.catalog.categories):
            for name in names:
                members.setdefault(name.casefold(), []).append(index)
        return {name: np.asarray(indices, dtype=np.int64) for name, indices in members.items()}

    def left_out(self, where: Filter) -> NDArray[np.int64]:
        """Indices of the items that the filter leaves out; ids that the catalog lacks must have been refused before."""
        allowed_N = np.ones(len(self.catalog), dtype=bool)
        if where.items is not None:
            named_N = np.zeros(len(self.catalog), dtype=bool)
            named_N[[self.catalog.index[item] for item in where.items]] = True
            allowed_N &= named_N
        if where.title.strip():
            allowed_N &= _containing(self._titles, where.title)
        if where.categories:
            of_one_N = np.zeros(len(self.catalog), dtype=bool)
            for name in where.categories:
                of_one_N[self.categories.get(name.casefold(), np.empty(0, np.int64))] = True
            allowed_N &= of_one_N
        return np.flatnonzero(~allowed_N)

    def items(self, query: str, limit: int) -> list[int]:
        """Items whose titles hold every word of ``query``: titles that begin with it first, then by popularity."""
        found = np.flatnonzero(_containing(self._titles, query)) if query.strip() else np.arange(len(self.catalog))
        begins = np.array(
            [self.catalog.titles[i].casefold().startswith(query.strip().casefold()) for i in found], dtype=bool
        )
        order = np.lexsort((found, -self.catalog.train_counts[found], ~begins))
        return [int(index) for index in found[order][:limit]]

    def users(self, query: str, limit: int) -> list[int]:
        """Users whose ids hold ``query``, those that begin with it first, in the order of the data."""
        if not query.strip():
            return list(range(min(limit, len(self._user_ids))))
        begin = pc.starts_with(self._users, query.strip(), ignore_case=True).to_numpy(zero_copy_only=False)
        found = np.flatnonzero(_containing(self._users, query))
        return [int(index) for index in found[np.argsort(~begin[found], kind="stable")][:limit]]


def _containing(texts: pa.Array, query: str) -> NDArray[np.bool_]:
    found_N = np.ones(len(texts), dtype=bool)
    for word in query.split():
        found_N &= pc.match_substring(texts, word, ignore_case=True).to_numpy(zero_copy_only=False)
    return found_N
