"""Edits of items that there are: thumbnails, clips, changed pictures, cards."""

from genrec.content.editor.editor import Editor, style_named
from genrec.content.editor.media import FolderMedia, ItemMedia
from genrec.content.editor.restyling import Attempt, Restyler, choose

__all__ = ["Attempt", "Editor", "FolderMedia", "ItemMedia", "Restyler", "choose", "style_named"]
