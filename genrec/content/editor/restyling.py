"""Edits by a model, held to their source: the strongest change that still shows the same thing.

An image-to-image model has one dial, its strength. Too little changes nothing, too much draws something else. So
each step of a ladder of strengths is tried; an edit counts only while its content stays like the source (cosine in
the encoder's space above a floor), and of those that count the one that matches the wish best is taken. If none
counts, the editor says so instead of showing something that is no edit.

A wish for one of the styles that the maker learnt to translate needs no ladder: the drawing is translated in one pass,
and the ladder is climbed only where that lost the source, or where the picture is no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from genrec.content.contracts import ImageTextEncoder, PictureMaker, Progress, StyleTranslating
from genrec.content.vision.encoder import TowerEncoder
from genrec.errors import DataError


@dataclass(frozen=True)
class Attempt:
    """One step of the ladder.

    Attributes:
        strength: what the model was given.
        match: how well the wish is met: probability of the style, or cosine with the words.
        likeness: cosine with the source.
        picture: the edit.
        model: who made it; none: the maker's own image-to-image.
    """

    strength: float
    match: float
    likeness: float
    picture: Image.Image
    model: str | None = None


def choose(attempts: Sequence[Attempt], floor: float) -> Attempt:
    """The best match among those whose likeness reaches the floor; ties go to the one more like its source.

    Raises:
        DataError: none reaches it.
    """
    kept = [attempt for attempt in attempts if attempt.likeness >= floor]
    if not kept:
        best = max((attempt.likeness for attempt in attempts), default=float("nan"))
        raise DataError(
            f"no edit keeps the source: likeness at most {best:.2f}, content.editor.floor asks {floor:.2f}; "
            "lower the floor, add smaller strengths, or ask for a creation"
        )
    return max(kept, key=lambda attempt: (attempt.match, attempt.likeness))


class Restyler:
    """Climbs the ladder with one model and one encoder.

    Args:
        maker: the image-to-image model.
        encoder: of likeness and match.
        strengths: the ladder, each above 0 and at most 1.
        floor: least cosine with the source.
    """

    def __init__(
        self, maker: PictureMaker, encoder: ImageTextEncoder, *, strengths: Sequence[float], floor: float
    ) -> None:
        if not strengths or not all(0 < strength <= 1 for strength in strengths):
            raise DataError(f"content.editor.strengths: {list(strengths)}; give numbers above 0 and at most 1")
        self.maker, self.encoder, self.floor = maker, encoder, floor
        self.strengths = sorted(strengths)

    def attempts(
        self,
        picture: Image.Image,
        prompt: str,
        *,
        style: str | None,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Attempt]:
        """Every step of the ladder.

        Args:
            picture: the source.
            prompt: what is to be seen, in words.
            style: a style that the encoder can name; none: the match is the cosine with ``prompt``.
            seed: of the model.
            progress: told after each step.
        """
        (source_D,) = self.encoder.images([picture])
        made = []
        for place, strength in enumerate(self.strengths):
            made.append(self.maker.restyle(picture, prompt, strength=strength, seed=seed))
            if progress is not None:
                progress((place + 1) / len(self.strengths))
        likeness = self.encoder.images(made) @ source_D
        match = self._match(made, prompt, style)
        return [
            Attempt(strength, float(fits), float(alike), edit)
            for strength, fits, alike, edit in zip(self.strengths, match, likeness, made, strict=True)
        ]

    def restyle(
        self,
        picture: Image.Image,
        prompt: str,
        *,
        style: str | None = None,
        style_alone: bool = True,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Attempt:
        """The translation into ``style``, or the strongest edit that keeps its source.

        Args:
            picture: the source.
            prompt: what is to be seen, in words.
            style: a style that the encoder can name; none: none of them is asked for.
            style_alone: whether nothing but the style is to change.
            seed: of the model.
            progress: told after each step.

        Raises:
            DataError: no edit keeps its source.
        """
        if style is not None and style_alone:
            translated = self.translated(picture, prompt, style)
            if translated is not None and translated.likeness >= self.floor:
                return translated
        return choose(self.attempts(picture, prompt, style=style, seed=seed, progress=progress), self.floor)

    def translated(self, picture: Image.Image, prompt: str, style: str) -> Attempt | None:
        """The drawing in ``style``, by what the maker learnt from pairs; none: it learnt none, or is shown none."""
        made = self.maker.translate(picture, style) if isinstance(self.maker, StyleTranslating) else None
        if made is None:
            return None
        edit, model = made
        before, after = self.encoder.images([picture, edit])
        return Attempt(1.0, float(self._match([edit], prompt, style)[0]), float(before @ after), edit, model)

    def _match(self, made: Sequence[Image.Image], prompt: str, style: str | None) -> np.ndarray:
        if style is not None and isinstance(self.encoder, TowerEncoder) and style in self.encoder.styles:
            shares_NS = self.encoder.style_shares(made)
            return np.asarray(shares_NS[:, self.encoder.styles.index(style)])
        words = prompt if style is None else f"{prompt}, {style} style"
        return np.asarray(self.encoder.images(made) @ self.encoder.texts([words])[0])
