"""The creator: several pictures are made of what was asked for, and the best becomes a draft.

Best is preference * (likeness to the user's taste) + (1 - preference) * (likeness to the words), both cosines in the
image-text encoder's space (GeneRec, section 4.2, with the trade-off between personal and faithful named). The taste
that steers the making, and that chooses, is the user's vector, the vector of the item that the recommender would
name next, or both. A draft is not for showing: the fidelity checks come after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from genrec.config.content import PictureSettings
from genrec.content.contracts import Draft, FloatArray, ImageTextEncoder, PictureMaker, Progress
from genrec.content.creator.words import parse
from genrec.content.limits import checked_prompt
from genrec.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

NEXT_ITEM_SHARE = 0.5


@dataclass(frozen=True)
class Choice:
    """The candidates and how they were judged.

    Attributes:
        pictures: all that were made, in the order of their seeds.
        alignment_N: cosine of each to the words.
        preference_N: cosine of each to the taste; zeros without one.
        scores_N: what they were ranked by.
        best: index of the one that was kept.
    """

    pictures: tuple[Image.Image, ...]
    alignment_N: FloatArray
    preference_N: FloatArray
    scores_N: FloatArray
    best: int


@dataclass(frozen=True)
class Creator:
    """Makes drafts.

    Attributes:
        maker: who makes pictures.
        encoder: who judges them; None: the first picture is taken, and the draft says so.
        settings: how many candidates, and how much the user's preference counts.
    """

    maker: PictureMaker
    encoder: ImageTextEncoder | None = None
    settings: PictureSettings = field(default_factory=PictureSettings)

    def create(
        self,
        prompt: str,
        *,
        seed: int = 0,
        taste: FloatArray | None = None,
        next_item: FloatArray | None = None,
        negative: str = "",
        title: str | None = None,
        progress: Progress | None = None,
    ) -> Draft:
        """A draft of ``prompt``.

        Args:
            prompt: what is to be seen.
            seed: the same seed and conditions make the same draft.
            taste: ``[dimension]``, the user's vector in the encoder's space.
            next_item: ``[dimension]``, the vector of what the recommender would name next.
            negative: what must not be seen.
            title: to show; None: made of the prompt.
            progress: told after every denoising step; may raise to stop.

        Raises:
            DataError: an empty or too long prompt.
            SettingsError: a vector that is not of the encoder's space.
        """
        checked_prompt(prompt, negative)
        wanted = joint_taste(taste, next_item)
        choice = self.choose(prompt, seed=seed, taste=wanted, negative=negative, progress=progress)
        details: dict[str, str | float] = {
            "candidates": float(len(choice.pictures)),
            "alignment": float(choice.alignment_N[choice.best]),
            "preference": float(choice.preference_N[choice.best]),
            "chosen_by": "preference and alignment" if self.encoder is not None else "order: no encoder is configured",
            "conditioned_on": _conditions(taste, next_item),
        }
        return Draft(
            action="create",
            medium="image",
            title=title or title_of(prompt),
            frames=(choice.pictures[choice.best],),
            prompt=prompt,
            model=self.maker.name,
            seed=seed + choice.best,
            details=details,
        )

    def choose(
        self,
        prompt: str,
        *,
        seed: int,
        taste: FloatArray | None = None,
        negative: str = "",
        progress: Progress | None = None,
    ) -> Choice:
        """Make the candidates and rank them."""
        count = self.settings.candidates
        pictures = self.maker.create(prompt, count=count, seed=seed, taste=taste, negative=negative, progress=progress)
        alignment = preference = np.zeros(len(pictures), dtype=np.float32)
        if self.encoder is not None:
            seen_NE = self.encoder.images(pictures)
            (words_E,) = self.encoder.texts([parse(prompt).subject or prompt])
            alignment = seen_NE @ words_E
            if taste is not None:
                preference = seen_NE @ _unit(taste, self.encoder.dimension)
        share = self.settings.preference if taste is not None else 0.0
        scores = share * preference + (1 - share) * alignment
        return Choice(tuple(pictures), alignment, preference, scores, int(np.argmax(scores)))


def joint_taste(taste: FloatArray | None, next_item: FloatArray | None) -> FloatArray | None:
    """One vector of length 1 of what the user likes and what the recommender would name next; None without either."""
    parts = [
        (share, np.asarray(vector, np.float32).ravel())
        for share, vector in ((1 - NEXT_ITEM_SHARE, taste), (NEXT_ITEM_SHARE, next_item))
        if vector is not None and float(np.linalg.norm(vector)) > 0
    ]
    if not parts:
        return None
    if len({len(vector) for _, vector in parts}) > 1:
        raise SettingsError("taste and next_item are not of one space; give both in the image-text encoder's")
    mixed = np.sum([share * vector / np.linalg.norm(vector) for share, vector in parts], axis=0)
    length = float(np.linalg.norm(mixed))
    return (mixed / length).astype(np.float32) if length > 0 else None


def title_of(prompt: str) -> str:
    """A title by template: "a red apple in 3D style" becomes "Red apple, 3D"."""
    wish = parse(prompt)
    subject = wish.subject[:1].upper() + wish.subject[1:]
    style = {"3d": "3D", None: ""}.get(wish.style, wish.style or "")
    return ", ".join(part for part in (subject[:80], style) if part) or prompt[:80]


def taste_of(liked: Sequence[FloatArray], weights: Sequence[float] | None = None) -> FloatArray | None:
    """A user's vector: the weighted mean of what they liked, length 1; None if they liked nothing."""
    if not len(liked):
        return None
    mean = np.average(np.asarray(liked, np.float32), axis=0, weights=weights)
    length = float(np.linalg.norm(mean))
    return (mean / length).astype(np.float32) if length > 0 else None


def _unit(vector: FloatArray, dimension: int) -> FloatArray:
    flat = np.asarray(vector, np.float32).ravel()
    if len(flat) != dimension:
        raise SettingsError(f"taste: {len(flat)} values; the image-text encoder's space has {dimension}")
    return flat / max(float(np.linalg.norm(flat)), 1e-12)


def _conditions(taste: FloatArray | None, next_item: FloatArray | None) -> str:
    names = [name for name, given in (("taste", taste), ("next item", next_item)) if given is not None]
    return ", ".join(["words", *names])
