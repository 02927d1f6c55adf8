"""Made items among a catalog's: table, catalog, trie and index with them, as one new state that replaces the old.

Nothing of the old state is changed, so whoever answers with it goes on undisturbed; the swap is one assignment. An
asset stands behind the catalog's items: index N, N + 1, ... What was trained on the catalog alone (the models that
vote, retrieved users) is shown each asset's stand-in, its nearest catalog item.

Shape letters: N catalog items, A assets, B queries, T history items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.content.library.asset import Asset
from genrec.content.library.placement import Placement
from genrec.content.library.store import Library
from genrec.data.load import Catalog
from genrec.tokenizer.sid_table import SidTable

CATEGORY = "made by a machine"
"""Category of every asset, so that a filter can ask for them."""


@dataclass(frozen=True, eq=False)
class Inserted:
    """A catalog and its table with assets.

    Attributes:
        n_catalog: N, items of the catalog itself.
        assets: A assets, by index - N.
        table: semantic IDs of N + A items.
        catalog: of N + A items.
        stand_in_A: int64 [A], the catalog item that each asset is taken for by what knows the catalog alone.
        proved: ids of the assets whose trial is over.
    """

    n_catalog: int
    assets: tuple[Asset, ...]
    table: SidTable
    catalog: Catalog
    stand_in_A: NDArray[np.int64]
    proved: frozenset[str] = frozenset()

    def known(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        """Items [...] with each asset's stand-in in its place; -1 stays."""
        result = np.asarray(items, dtype=np.int64).copy()
        made = result >= self.n_catalog
        result[made] = self.stand_in_A[result[made] - self.n_catalog]
        return result

    def asset(self, item: int) -> Asset | None:
        """The asset of an index; None for an item of the catalog."""
        return self.assets[item - self.n_catalog] if item >= self.n_catalog else None

    @cached_property
    def on_trial(self) -> dict[int, Asset]:
        """Assets that are tried out under a budget, not ranked with the rest, by their index."""
        return {
            item: asset
            for item, asset in enumerate(self.assets, self.n_catalog)
            if asset.personal or asset.asset_id not in self.proved
        }


def insert(
    catalog: Catalog,
    table: SidTable,
    assets: Sequence[Asset],
    placed: Mapping[str, tuple[Sequence[int], int]],
    proved: frozenset[str] = frozenset(),
) -> Inserted:
    """Catalog and table with assets behind their items.

    Args:
        catalog: N items.
        table: their IDs.
        assets: in the order that they get.
        placed: semantic ID and stand-in of each, by asset id.
        proved: ids of the assets whose trial is over.
    """
    codes = np.asarray([placed[asset.asset_id][0] for asset in assets], dtype=np.int32).reshape(-1, table.n_levels)
    return Inserted(
        n_catalog=len(catalog),
        assets=tuple(assets),
        table=table.extended(codes) if len(assets) else table,
        catalog=_with(catalog, assets),
        stand_in_A=np.asarray([placed[asset.asset_id][1] for asset in assets], dtype=np.int64),
        proved=proved,
    )


def placed_assets(
    library: Library, placement: Placement, assets: Sequence[Asset]
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Semantic ID and stand-in of each asset; those without get theirs now, and keep them over restarts.

    IDs of retired assets stay taken: an ID never means two things.
    """
    table = placement.table
    held = library.places(table.version)
    fresh = [asset for asset in assets if asset.asset_id not in held]
    if fresh:
        old = np.asarray([codes for codes, _ in held.values()], dtype=np.int32).reshape(-1, table.n_levels)
        taken = table.extended(old) if len(old) else table
        texts = [asset.text for asset in fresh]
        codes_AL, nearest_A = placement.codes(texts, taken), placement.nearest(texts)
        library.place(
            table.version,
            {
                asset.asset_id: (tuple(int(code) for code in codes), int(item))
                for asset, codes, item in zip(fresh, codes_AL, nearest_A, strict=True)
            },
        )
        held = library.places(table.version)  # another process may have been first
    return {asset.asset_id: held[asset.asset_id] for asset in assets}


def _with(catalog: Catalog, assets: Sequence[Asset]) -> Catalog:
    """A new catalog; the old one's lists are not touched."""
    count = len(assets)
    return dataclasses.replace(
        catalog,
        item_ids=[*catalog.item_ids, *(asset.asset_id for asset in assets)],
        titles=[*catalog.titles, *(asset.title for asset in assets)],
        texts=[*catalog.texts, *(asset.text for asset in assets)],
        brands=[*catalog.brands, *([None] * count)],
        categories=[*catalog.categories, *([CATEGORY] for _ in assets)],
        image_urls=[*catalog.image_urls, *([None] * count)],
        train_counts=np.concatenate([catalog.train_counts, np.zeros(count, dtype=catalog.train_counts.dtype)]),
        head_items=np.concatenate([catalog.head_items, np.zeros(count, dtype=bool)]),
    )


class CatalogRetriever:
    """A retriever that is asked about the catalog's items alone.

    Args:
        retriever: fitted on the catalog.
        inserted: tells assets' stand-ins.
    """

    def __init__(self, retriever: Any, inserted: Inserted) -> None:
        self._retriever, self._inserted = retriever, inserted

    def retrieve(
        self,
        histories_BT: NDArray[np.int64],
        users_B: NDArray[np.int64],
        encoders: Any,
        *,
        seen_BT: NDArray[np.int64] | None = None,
        **more: Any,
    ) -> Any:
        """As the retriever itself, for the stand-ins of assets in histories."""
        if seen_BT is not None:
            seen_BT = np.where(seen_BT >= self._inserted.n_catalog, -1, seen_BT)
        known_BT = self._inserted.known(histories_BT)
        return self._retriever.retrieve(known_BT, users_B, encoders, seen_BT=seen_BT, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._retriever, name)
