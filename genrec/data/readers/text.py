"""Text files in bounded chunks of whole lines, plain or gzipped, with exact line numbers in errors.

Parsers get the text of a chunk and raise :class:`LineError` with the line's index in it; file and
absolute line are added here, so that only a failure pays for counting lines.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa

from genrec.data.readers.base import Piece
from genrec.errors import DataError

PIECE_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20


class LineError(Exception):
    """A line of a chunk cannot be parsed."""

    def __init__(self, line: int, message: str) -> None:
        """Line: index in the chunk, from 0."""
        super().__init__(message)
        self.line = line


def is_gzip(path: Path) -> bool:
    """True for names ending in .gz."""
    return path.suffix == ".gz"


def text_pieces(path: Path) -> list[Piece]:
    """Cut a text file into pieces for parallel reading; a gzipped one can only be read as a whole.

    Raises:
        DataError: the file is empty.
    """
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}:1: the file is empty")
    if is_gzip(path):
        return [Piece(path)]
    return [Piece(path, start, min(start + PIECE_BYTES, size)) for start in range(0, size, PIECE_BYTES)]


def parse_chunks(
    piece: Piece, parse: Callable[[str], pa.Table], *, encoding: str = "utf-8", skip_header: bool = False
) -> Iterator[pa.Table]:
    """Parse a piece chunk by chunk, shifting each block's ``order`` from chunk to piece.

    Args:
        piece: the bytes to read.
        parse: text of whole lines (no line end after the last) -> block whose ``order`` is the line in it.
        encoding: of the file.
        skip_header: the file's first line is no data.

    Raises:
        DataError: naming file and line: unreadable bytes, a blank line, or what ``parse`` objects to.
    """
    for first, data in line_chunks(piece):
        try:
            text = _decoded(data, encoding)
            header = skip_header and piece.start == 0 and first == 0
            if header:
                text = text.partition("\n")[2]
            if not text:
                continue
            block = _parse_shifted(parse, text, 1 if header else 0)
        except LineError as error:
            raise DataError(f"{locate(piece, first + error.line)}: {error}") from error
        position = block.schema.get_field_index("order")
        shifted = block.column("order").to_numpy() + (first + (1 if header else 0))
        yield block.set_column(position, block.schema.field("order"), pa.array(shifted, pa.int64()))


def _parse_shifted(parse: Callable[[str], pa.Table], text: str, shift: int) -> pa.Table:
    try:
        return parse(text)
    except LineError as error:
        raise LineError(error.line + shift, str(error)) from error


def line_chunks(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a piece, about CHUNK_BYTES at a time, with the index of the first in the piece.

    Raises:
        DataError: the gzip stream is damaged or cut off.
    """
    first = 0
    with _opened(piece) as stream:
        left = None if piece.end is None else piece.end - stream.tell()
        while left is None or left > 0:
            try:
                data = stream.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
                if data and not data.endswith(b"\n"):
                    data += stream.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                line = _lines_before_damage(piece.file) + 1
                raise DataError(f"{piece.file}:{line}: the gzip data is damaged or cut off here ({error})") from error
            if not data:
                break
            if left is not None:
                left -= len(data)
            yield first, data
            first += data.count(b"\n")


def _lines_before_damage(path: Path) -> int:
    lines = 0
    with gzip.open(path, "rb") as stream:
        try:
            while data := stream.read1(1 << 12):
                lines += data.count(b"\n")
        except (EOFError, zlib.error, gzip.BadGzipFile):
            pass
    return lines


def first_line(path: Path, encoding: str = "utf-8") -> str:
    """The header of a text file, without its line end.

    Raises:
        DataError: empty, not text, or damaged.
    """
    for _, data in line_chunks(Piece(path, 0, None if is_gzip(path) else 1)):
        try:
            return data.partition(b"\n")[0].decode(encoding).rstrip("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:1: not {encoding} text ({error.reason} at byte {error.start})") from error
    raise DataError(f"{path}:1: the file is empty")


def locate(piece: Piece, line: int) -> str:
    """``file:line`` of line ``line`` (from 0) of a piece."""
    if piece.start == 0:
        return f"{piece.file}:{line + 1}"
    before = 0
    with piece.file.open("rb") as stream:
        left = piece.start - 1
        while left > 0 and (data := stream.read(min(CHUNK_BYTES, left))):
            before += data.count(b"\n")
            left -= len(data)
    return f"{piece.file}:{before + 1 + line + 1}"


def line_orders(count: int) -> pa.Array:
    """``order`` of a block in which each line is one row."""
    return pa.array(np.arange(count, dtype=np.int64))


def _opened(piece: Piece) -> IO[bytes]:
    if is_gzip(piece.file):
        return cast(IO[bytes], gzip.open(piece.file, "rb"))
    stream = piece.file.open("rb")
    if piece.start:
        # The line that holds the byte before `start` belongs to the piece before.
        stream.seek(piece.start - 1)
        stream.readline()
    return stream


def _decoded(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start)
        raise LineError(line, f"not {encoding} text ({error.reason})") from error
    text = text.replace("\r\n", "\n").rstrip("\n")
    blank = 0 if text.startswith("\n") else text.find("\n\n")
    if blank >= 0:
        raise LineError(text.count("\n", 0, blank) + (0 if blank == 0 else 1), "blank line")
    return text
