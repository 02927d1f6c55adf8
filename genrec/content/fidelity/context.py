"""What the checks know besides the draft: whose it is, what it was made from, what the catalog says of the source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from genrec.content.contracts import Draft, Verdict


@dataclass(frozen=True)
class Ingredient:
    """A file that a draft was made from.

    Attributes:
        digest: content hash, as in ``Draft.ingredients``.
        owner: id of the user whose file it is; None: the catalog's.
        licence: SPDX id or URL; empty: unknown.
        title: for the provenance manifest.
        picture: it itself, where it is one.
    """

    digest: str
    owner: str | None = None
    licence: str = ""
    title: str = ""
    picture: Image.Image | None = None


@dataclass(frozen=True)
class ReviewContext:
    """What is known of a draft's origin.

    Attributes:
        user: who asked for it; None: nobody that is known.
        ingredients: what is known of the files in ``Draft.ingredients``.
        source_title, source_text: what the catalog says of ``Draft.source_item``.
        source_picture: the source's picture, for an edit of one.
        group: whom the audience belongs to, for pass rates per group; never shown, nor sent anywhere.
    """

    user: str | None = None
    ingredients: tuple[Ingredient, ...] = ()
    source_title: str = ""
    source_text: str = ""
    source_picture: Image.Image | None = None
    group: str = ""


@dataclass(frozen=True)
class Subject:
    """What a check is given: words alone (before anything is made), or a draft.

    Attributes:
        prompt: the words that ask.
        title: the words that will be shown.
        frames: pictures, none before anything is made.
        draft: the whole draft; None before anything is made.
        context: its origin.
    """

    prompt: str
    title: str = ""
    frames: tuple[Image.Image, ...] = ()
    draft: Draft | None = None
    context: ReviewContext = field(default_factory=ReviewContext)

    @property
    def words(self) -> str:
        """All words of it."""
        return "\n".join(part for part in (self.prompt, self.title) if part)


class Check(Protocol):
    """One of the checks. It may raise: the gate takes that for a failed verdict."""

    name: str

    def __call__(self, subject: Subject) -> Verdict:
        """What it says of ``subject``."""
        ...
