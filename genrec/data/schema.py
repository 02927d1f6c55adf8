"""The declared Arrow schemas: what readers hand over and what ``prepare`` leaves behind.

Every table is checked against its schema where it crosses a file, so a foreign or older Parquet file
is an error with a name, never a surprise further up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrec.errors import DataError

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.large_string(), nullable=False),
        pa.field("item_id", pa.large_string(), nullable=False),
        pa.field("time", pa.int64()),  # Unix seconds; null only where the source has none
        pa.field("rating", pa.float32()),  # null where the source has none
        pa.field("order", pa.int64(), nullable=False),  # rises with the place in the raw files
    ]
)
"""A block of raw interactions. While a reader parses, ``order`` counts the lines of its piece."""

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.large_string(), nullable=False),
        pa.field("title", pa.large_string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),  # what the text encoder reads
        pa.field("brand", pa.large_string()),
        pa.field("categories", pa.list_(pa.large_string()), nullable=False),
        pa.field("image_url", pa.large_string()),
        pa.field("order", pa.int64(), nullable=False),
    ]
)
"""A block of raw item metadata."""

CATALOG = pa.schema(
    [
        pa.field("item_id", pa.large_string(), nullable=False),  # the raw id; the row number is the item index
        pa.field("title", pa.large_string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("brand", pa.large_string()),
        pa.field("categories", pa.list_(pa.large_string()), nullable=False),
        pa.field("image_url", pa.large_string()),
        pa.field("train_count", pa.int64(), nullable=False),
        pa.field("head", pa.bool_(), nullable=False),
    ]
)
"""catalog.parquet: one row an item."""

SEQUENCES = pa.schema(
    [
        pa.field("user_id", pa.large_string(), nullable=False),  # the raw id; the row number is the user index
        pa.field("items", pa.list_(pa.int32()), nullable=False),  # item indices, oldest first
        pa.field("times", pa.list_(pa.int64()), nullable=False),  # Unix seconds, null for unknown
    ]
)
"""sequences.parquet: one row a user."""

SPLITS = pa.schema(
    [
        pa.field("train_end", pa.int32(), nullable=False),
        pa.field("valid_at", pa.int32(), nullable=False),
        pa.field("test_at", pa.int32(), nullable=False),
    ]
)
"""splits.parquet: one row a user, positions in the user's own sequence (see Interactions)."""

CATALOG_FILE, SEQUENCES_FILE, SPLITS_FILE = "catalog.parquet", "sequences.parquet", "splits.parquet"
LIST_ROWS = 1 << 16
"""Lists decoded at once by :func:`read_list_values`."""


def read_parquet(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file that must have exactly this schema.

    Args:
        path: the file.
        schema: all of its columns.
        columns: those to read; None: all. The others cost nothing.

    Raises:
        DataError: absent, not Parquet, or with other columns or types.
    """
    with _checked(path, schema) as file:
        table = file.read(columns=None if columns is None else list(columns))
        table.validate(full=True)
        return table


def read_list_values(path: Path, schema: pa.Schema, column: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All values of a list column in a row, and the lists' bounds [rows + 1] in them.

    Read in pieces straight into one array: nothing else of the file is held.

    Raises:
        DataError: as :func:`read_parquet`, or a list or value is null.
    """
    with _checked(path, schema) as file:
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        leaf = next(n for n in range(len(file.schema)) if file.schema.column(n).path.split(".")[0] == column)
        room = sum(group.column(leaf).num_values for group in groups)  # an empty list counts as one
        values = np.empty(room, dtype=schema.field(column).type.value_type.to_pandas_dtype())
        offsets = np.zeros(file.metadata.num_rows + 1, dtype=np.int64)
        rows = filled = 0
        for batch in file.iter_batches(LIST_ROWS, columns=[column]):
            batch.validate(full=True)
            lists = batch.column(0)
            flat = lists.flatten()
            if lists.null_count or flat.null_count:
                raise DataError(f"{path}: {column}: a list or a value is null; prepare again")
            values[filled : filled + len(flat)] = flat.to_numpy()
            offsets[rows + 1 : rows + 1 + len(lists)] = filled + np.cumsum(lists.value_lengths().to_numpy())
            rows, filled = rows + len(lists), filled + len(flat)
        return values[:filled], offsets


@contextmanager
def _checked(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    try:
        # Read through an own handle: a path would also be searched for partition names.
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            if not file.schema_arrow.equals(schema):
                raise DataError(
                    f"{path}: columns {_described(file.schema_arrow)}, expected {_described(schema)}; prepare again"
                )
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run the prepare stage") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); prepare again") from error


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema)
