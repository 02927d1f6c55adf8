"""Lines of JSON to records, with the line named where one is not what it should be.

Python's parser is used rather than pyarrow's, which ends the process (a segmentation fault, seen with
pyarrow 26) on a line such as ``null``: raw files are foreign data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from genrec.data.readers.text import LineError


def parse_json_lines(text: str, loads: Callable[[str], Any] = json.loads) -> list[dict[str, Any]]:
    """One object a line.

    Raises:
        LineError: a line that is not JSON or not an object.
    """
    records = []
    for line, content in enumerate(text.split("\n")):
        try:
            record = loads(content)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise LineError(line, f"not a JSON object ({error})") from error
        if not isinstance(record, dict):
            raise LineError(line, f"expected an object, got {type(record).__name__}")
        records.append(record)
    return records


def id_of(record: dict[str, Any], key: str, line: int) -> str:
    """An id field as a string.

    Raises:
        LineError: absent, empty, or neither string nor integer.
    """
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise LineError(line, f"{key!r} is {value!r}, expected an id (string or integer)")
    return str(value)


def seconds_of(record: dict[str, Any], key: str, line: int, unit: int = 1) -> int:
    """A time field in whole seconds, from a number of 1/``unit`` seconds.

    Raises:
        LineError: absent or not a whole number.
    """
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**62:
        raise LineError(line, f"{key!r} is {value!r}, expected a whole number")
    return value // unit


def rating_of(record: dict[str, Any], key: str, line: int) -> float | None:
    """A rating field; absent or null: None.

    Raises:
        LineError: not a finite number.
    """
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise LineError(line, f"{key!r} is {value!r}, expected a number")
    return float(value)


def text_of(value: Any) -> str:
    """A text field that may be a string, a list of strings, or something else to ignore."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(filter(None, map(text_of, value)))
    return ""


def names_of(value: Any) -> list[str]:
    """Names in a string or in lists nested to any depth, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [name for part in value for name in names_of(part)]
    return []
