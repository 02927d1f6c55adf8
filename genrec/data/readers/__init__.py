"""Readers of raw files: one file a family, one small interface (:class:`Reader`)."""

from __future__ import annotations

from pathlib import Path

from genrec.config import DataSettings
from genrec.data.readers.amazon import EDITIONS, AmazonReader
from genrec.data.readers.base import Piece, Reader
from genrec.data.readers.feedback import WithFeedback
from genrec.data.readers.movielens import open_ml_1m, open_ml_100k
from genrec.data.readers.research import ResearchReader
from genrec.data.readers.table import TableReader
from genrec.errors import DataError

__all__ = ["Piece", "Reader", "open_reader"]


def open_reader(settings: DataSettings) -> Reader:
    """The reader that the settings name, on its files; with the endpoint's feedback after them, if it is asked for.

    Raises:
        DataError: files are absent.
    """
    reader = _open(settings)
    return reader if settings.feedback is None else WithFeedback(reader, Path(settings.feedback))


def _open(settings: DataSettings) -> Reader:
    path = None if settings.path is None else Path(settings.path)
    if settings.reader == "ml-100k":
        return open_ml_100k(path)
    if path is None:
        raise DataError(f"data.path: reader {settings.reader!r} needs a file or folder")
    if settings.reader == "ml-1m":
        return open_ml_1m(path)
    if settings.reader in EDITIONS:
        return AmazonReader(settings.reader, path)
    return TableReader(settings, path) if settings.reader == "table" else ResearchReader(path)
