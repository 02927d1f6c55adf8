"""Raw files to Arrow blocks, in this process or over a Ray cluster, in the same order either way.

On Ray, each piece is a task of a streaming Ray Data pipeline whose order is preserved; a block is at
most a few megabytes, so neither a worker nor the driver ever holds a file. A worker's DataError travels
back as a row, so the message reaches the user as it is, without retries and remote stack traces.
On a cluster, the files must be at the same path on each node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa

from genrec.data.readers.base import Piece, Reader
from genrec.data.schema import INTERACTIONS, ITEMS
from genrec.errors import DataError

PIECE_SHIFT = 40
"""``order`` = number of the piece << 40 | line in the piece."""

Kind = Literal["interactions", "items"]
_PROBLEM = "problem"


def blocks(reader: Reader, kind: Kind, *, use_ray: bool) -> Iterator[pa.Table]:
    """All blocks of one kind; ``order`` rises over all pieces.

    Raises:
        DataError: naming file and line.
    """
    pieces = reader.interaction_pieces() if kind == "interactions" else reader.item_pieces()
    if use_ray and pieces:
        return _on_ray(reader, kind, pieces)
    return (block for number in range(len(pieces)) for block in _read(reader, kind, pieces, number))


def place(reader: Reader, kind: Kind, order: int) -> str:
    """``file:line`` of a row's ``order``."""
    pieces = reader.interaction_pieces() if kind == "interactions" else reader.item_pieces()
    return reader.where(pieces[order >> PIECE_SHIFT], order & ((1 << PIECE_SHIFT) - 1))


def _read(reader: Reader, kind: Kind, pieces: list[Piece], number: int) -> Iterator[pa.Table]:
    read = reader.read_interactions if kind == "interactions" else reader.read_items
    for block in read(pieces[number]):
        position = block.schema.get_field_index("order")
        orders = pa.array(block.column("order").to_numpy() + (number << PIECE_SHIFT), pa.int64())
        yield block.set_column(position, block.schema.field("order"), orders)


def _on_ray(reader: Reader, kind: Kind, pieces: list[Piece]) -> Iterator[pa.Table]:
    import ray.data

    schema = _nullable(INTERACTIONS if kind == "interactions" else ITEMS)

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for number in batch.column("piece").to_pylist():
            try:
                for block in _read(reader, kind, pieces, number):
                    problem = pa.nulls(len(block), pa.large_string())
                    yield block.cast(schema.remove(len(schema) - 1)).append_column(_PROBLEM, problem)
            except DataError as error:
                yield pa.Table.from_pylist([{_PROBLEM: str(error), "order": number << PIECE_SHIFT}], schema=schema)

    data = ray.data.from_items([{"piece": n} for n in range(len(pieces))], override_num_blocks=len(pieces))
    done = data.map_batches(read, batch_size=1, batch_format="pyarrow")
    done.context.execution_options.preserve_order = True
    done.context.enable_progress_bars = False
    for block in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        assert isinstance(block, pa.Table)
        _raise_problem(block)
        yield block.drop_columns([_PROBLEM])


def _raise_problem(block: pa.Table) -> None:
    problems = block.column(_PROBLEM)
    if problems.null_count < len(problems):
        raise DataError(problems.drop_null()[0].as_py())


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_nullable(True) for f in schema] + [pa.field(_PROBLEM, pa.large_string())])
