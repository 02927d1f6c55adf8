"""Prepared files back into memory, checked: schema, ranges and the split's own logic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrec.data.interactions import Interactions
from genrec.data.schema import (
    CATALOG,
    CATALOG_FILE,
    SEQUENCES,
    SEQUENCES_FILE,
    SPLITS,
    SPLITS_FILE,
    read_list_values,
    read_parquet,
)
from genrec.errors import DataError


@dataclass(frozen=True, eq=False)
class Catalog:
    """The items, by index.

    Attributes:
        item_ids: raw ids, as the source and published semantic IDs spell them.
        titles: what people read.
        texts: what the text encoder reads.
        brands: None where unknown.
        categories: names, outermost first.
        image_urls: None where unknown.
        train_counts: int64 [N], training interactions.
        head_items: bool [N].
    """

    item_ids: list[str]
    titles: list[str]
    texts: list[str]
    brands: list[str | None]
    categories: list[list[str]]
    image_urls: list[str | None]
    train_counts: NDArray[np.int64]
    head_items: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Raw id -> item index."""
        return {item_id: index for index, item_id in enumerate(self.item_ids)}


def load_catalog(directory: Path) -> Catalog:
    """Read catalog.parquet.

    Raises:
        DataError: absent, of another schema, or with an id twice.
    """
    path = directory / CATALOG_FILE
    columns = _columns(path, CATALOG)
    catalog = Catalog(
        item_ids=columns["item_id"].to_pylist(),
        titles=columns["title"].to_pylist(),
        texts=columns["text"].to_pylist(),
        brands=columns["brand"].to_pylist(),
        categories=columns["categories"].to_pylist(),
        image_urls=columns["image_url"].to_pylist(),
        train_counts=columns["train_count"].to_numpy(),
        head_items=columns["head"].to_numpy(),
    )
    if len(catalog.index) != len(catalog):
        raise DataError(f"{path}: an item id occurs twice; prepare again")
    return catalog


def load_texts(directory: Path) -> list[str]:
    """What the text encoder reads of each item, without the rest of the catalog.

    Raises:
        DataError: absent or of another schema.
    """
    texts: list[str] = read_parquet(directory / CATALOG_FILE, CATALOG, ["text"]).column("text").to_pylist()
    return texts


def load_interactions(directory: Path, *, training: bool = False) -> Interactions:
    """Read sequences.parquet and splits.parquet (and the catalog's head column).

    ``times`` is None unless every interaction has one.

    Args:
        directory: what `prepare` wrote.
        training: only what training needs: neither times nor user ids are read, so that a worker holds four
            bytes an interaction and twenty a user.

    Raises:
        DataError: absent, of another schema, or not fitting one another.
    """
    head = _columns(directory / CATALOG_FILE, CATALOG, ["head"])["head"].to_numpy()
    path = directory / SEQUENCES_FILE
    items, offsets = read_list_values(path, SEQUENCES, "items")
    times: NDArray[np.int64] | None = None
    user_ids: list[str] = []
    if not training:
        rest = _columns(path, SEQUENCES, ["user_id", "times"])
        flat, time_offsets = _flattened(rest["times"])
        if not np.array_equal(offsets, time_offsets):
            raise DataError(f"{path}: items and times differ in length; prepare again")
        times = None if flat.null_count else flat.to_numpy()
        user_ids = rest["user_id"].to_pylist()
    split = _columns(directory / SPLITS_FILE, SPLITS)
    interactions = Interactions(
        items=items,
        offsets=offsets,
        train_end=split["train_end"].to_numpy(),
        valid_at=split["valid_at"].to_numpy(),
        test_at=split["test_at"].to_numpy(),
        n_items=len(head),
        head_items=head,
        times=times,
        user_ids=user_ids,
    )
    _check(interactions, directory)
    return interactions


def _columns(path: Path, schema: pa.Schema, names: list[str] | None = None) -> dict[str, pa.ChunkedArray]:
    table = read_parquet(path, schema, names)
    return {name: table.column(name) for name in table.column_names}


def _flattened(lists: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """The values of all lists in a row, and the lists' bounds in them."""
    lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in lists.chunks]
    flat = pa.chunked_array([chunk.flatten() for chunk in lists.chunks], lists.type.value_type)
    return flat.combine_chunks(), np.cumsum(np.concatenate([np.zeros(1), *lengths]), dtype=np.int64)


def _check(interactions: Interactions, directory: Path) -> None:
    lengths = np.diff(interactions.offsets)
    train_end, valid_at, test_at = interactions.train_end, interactions.valid_at, interactions.test_at
    if len(train_end) != interactions.n_users:
        raise DataError(
            f"{directory / SPLITS_FILE}: {len(train_end)} users, {SEQUENCES_FILE} has {interactions.n_users}"
        )
    if len(interactions.items) and not 0 <= interactions.items.min() <= interactions.items.max() < interactions.n_items:
        raise DataError(f"{directory / SEQUENCES_FILE}: an item index outside the catalog's {interactions.n_items}")
    fits = (train_end >= 0) & (train_end <= lengths) & (valid_at < lengths) & (test_at < lengths)
    # A target stands after all training data, the test target after the validation target.
    valid_later = (valid_at == -1) | (valid_at >= train_end)
    test_later = (test_at == -1) | (test_at >= np.maximum(train_end, valid_at + 1))
    bad = np.flatnonzero(~(fits & valid_later & test_later))
    if len(bad):
        raise DataError(
            f"{directory / SPLITS_FILE}: row {bad[0] + 1}: positions contradict the sequence; prepare again"
        )
