"""Pictures and videos of catalog items, from a directory: ``<item id>.png``, ``.jpg``, ``.mp4`` ...

A file's name is the item's id as it stands in the catalog, percent-encoded where an id holds a character that a file
name should not (``/``, for one).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from genrec.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
VIDEOS = (".mp4", ".webm", ".mov", ".mkv")


class ItemMedia(Protocol):
    """What the editor asks of a catalog."""

    def title(self, item: int) -> str:
        """Title of the item with that index."""
        ...

    def picture(self, item: int) -> bytes | None:
        """Its picture file; none if it has none."""
        ...

    def video(self, item: int) -> bytes | None:
        """Its video file; none if it has none."""
        ...


class FolderMedia:
    """Media of a catalog's items in one directory.

    Args:
        folder: the directory; none: no item has media.
        item_ids: raw id of each item, by index.
        titles: title of each item, by index.

    Raises:
        DataError: the directory is not there.
    """

    def __init__(self, folder: Path | None, item_ids: Sequence[str], titles: Sequence[str]) -> None:
        if folder is not None and not folder.is_dir():
            raise DataError(f"content.editor.media: {folder} is no directory; give one of pictures named by item id")
        self.folder, self.item_ids, self.titles = folder, item_ids, titles

    def title(self, item: int) -> str:
        """Title of the item with that index."""
        return self.titles[self._known(item)]

    def picture(self, item: int) -> bytes | None:
        """Its picture file; none if it has none."""
        return self._file(item, PICTURES)

    def video(self, item: int) -> bytes | None:
        """Its video file; none if it has none."""
        return self._file(item, VIDEOS)

    def _file(self, item: int, endings: tuple[str, ...]) -> bytes | None:
        name = quote(self.item_ids[self._known(item)], safe="")
        if self.folder is None or name in (".", ".."):
            return None
        for ending in endings:
            path = self.folder / f"{name}{ending}"
            if path.is_file():
                return path.read_bytes()
        return None

    def _known(self, item: int) -> int:
        if not 0 <= item < len(self.item_ids):
            raise DataError(f"item {item}: the catalog has items 0 to {len(self.item_ids) - 1}")
        return item
