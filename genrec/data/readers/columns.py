"""Text columns to interaction blocks: vectorised with pyarrow, and only a failure looks line by line."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from genrec.data.readers.text import LineError, line_orders
from genrec.data.schema import INTERACTIONS

WHOLE_SECONDS = r"^-?[0-9]{1,18}(\.0*)?$"
NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"


def parse_delimited(text: str, names: Sequence[str], delimiter: str, *, quoted: bool = False) -> pa.Table:
    """Split lines into string columns.

    Raises:
        LineError: a line has another number of fields.
    """
    data = pa.py_buffer(text.encode())
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=data.size + 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quoted else False, ignore_empty_lines=False
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.large_string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise _field_count_error(text, len(names), delimiter, quoted, str(error)) from error
    if len(table) != text.count("\n") + 1:
        raise LineError(0, "a field of this or a later line holds a line break; remove it")
    return table.combine_chunks()


def _field_count_error(text: str, expected: int, delimiter: str, quoted: bool, message: str) -> LineError:
    for line, content in enumerate(text.split("\n")):
        try:
            fields = (
                next(csv.reader([content], delimiter=delimiter, strict=True)) if quoted else content.split(delimiter)
            )
        except csv.Error as error:
            return LineError(line, str(error))
        if len(fields) != expected:
            return LineError(line, f"{len(fields)} fields, expected {expected}")
    return LineError(0, message)


def interactions_block(
    user: pa.Array,
    item: pa.Array,
    time: pa.Array | None,
    rating: pa.Array | None = None,
    order: pa.Array | None = None,
) -> pa.Table:
    """Check columns and make a block of schema INTERACTIONS.

    Args:
        user: ids, strings or integers.
        item: ids, strings or integers.
        time: Unix seconds: integers, whole floats, timestamps or their text; None: unknown.
        rating: numbers or their text; empty or null: none given.
        order: line of each row; default: its row number.

    Raises:
        LineError: a missing id, a time that is no whole number of seconds, a NaN rating.
    """
    count = len(user)
    columns = [
        _ids(user, "user"),
        _ids(item, "item"),
        pa.nulls(count, pa.int64()) if time is None else _seconds(time),
        pa.nulls(count, pa.float32()) if rating is None else _ratings(rating),
        line_orders(count) if order is None else order,
    ]
    return pa.Table.from_arrays(columns, schema=INTERACTIONS)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _ids(column: pa.Array | pa.ChunkedArray, what: str) -> pa.Array:
    column = _flat(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise LineError(0, f"{what} ids are {column.type}, expected strings or integers")
    _refuse(pc.is_null(column), column, f"{what} id is missing")
    strings = column.cast(pa.large_string())
    _refuse(pc.equal(strings, ""), strings, f"{what} id is missing")
    return strings


def _seconds(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    column = _flat(column)
    _refuse(pc.is_null(column), column, "time is missing")
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())
    message = "time {} is not a whole number of seconds"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            _refuse(pc.invert(pc.match_substring_regex(column, WHOLE_SECONDS)), column, message)
            return pc.replace_substring_regex(column, r"\..*$", "").cast(pa.int64())
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        whole = np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2.0**53)
        _refuse(pa.array(~whole), column, message)
    elif not pa.types.is_integer(column.type):
        raise LineError(0, f"times are {column.type}, expected whole seconds or timestamps")
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise LineError(0, f"time: {error}") from error


def _ratings(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    column = _flat(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
        bad = pc.fill_null(pc.invert(pc.match_substring_regex(column, NUMBER)), False)
        _refuse(bad, column, "rating {} is not a number")
    elif not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise LineError(0, f"ratings are {column.type}, expected numbers")
    numbers = column.cast(pa.float32(), safe=False)
    _refuse(pc.fill_null(pc.invert(pc.is_finite(numbers)), False), column, "rating {} is not a number")
    return numbers


def _refuse(bad: pa.Array, column: pa.Array, message: str) -> None:
    first = pc.index(bad, True).as_py()
    if first >= 0:
        raise LineError(first, message.format(repr(column[first].as_py())))
