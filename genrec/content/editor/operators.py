"""Edits that need no model: crop, grey, brightness, contrast, mirror, and another main colour.

Where an instruction asks exactly for one of these, it is done exactly, on the source's own pixels, at its full size.
A word list decides, not a model: such words name the operation itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from genrec.content.corpus.concepts import COLOURS
from genrec.content.corpus.drawings import main_hue, recoloured
from genrec.errors import DataError


@dataclass(frozen=True)
class Operator:
    """One edit: what it is called, which words ask for it, what it does."""

    name: str
    words: str
    act: Callable[[Image.Image], Image.Image]


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)


def _closer(picture: Image.Image) -> Image.Image:
    """The middle two thirds."""
    across, down = (round(side / 6) for side in picture.size)
    return picture.crop((across, down, max(across + 1, picture.width - across), max(down + 1, picture.height - down)))


OPERATORS = (
    Operator(
        "grayscale",
        r"gr[ae]y ?scale|black[- ]and[- ]white|monochrome|desaturate\w*",
        lambda p: ImageOps.grayscale(p).convert("RGB"),
    ),
    Operator("sepia", r"sepia", lambda p: ImageOps.colorize(ImageOps.grayscale(p), "#2b1a0c", "#fff3dc")),
    Operator(
        "invert", r"invert(?:ed)?(?: (?:the )?colou?rs)?|negative (?:image|picture)", lambda p: ImageOps.invert(p)
    ),
    Operator("brighter", r"bright(?:er|en\w*)|lighter|lighten\w*", lambda p: ImageEnhance.Brightness(p).enhance(1.3)),
    Operator("darker", r"dark(?:er|en\w*)|dimmer", lambda p: ImageEnhance.Brightness(p).enhance(0.7)),
    Operator(
        "more contrast",
        r"(?:more|higher|increase\w*(?: the)?) contrast|punchier",
        lambda p: ImageEnhance.Contrast(p).enhance(1.35),
    ),
    Operator(
        "less contrast",
        r"(?:less|lower|reduce\w*(?: the)?) contrast",
        lambda p: ImageEnhance.Contrast(p).enhance(0.7),
    ),
    Operator(
        "more saturated",
        r"more (?:saturated|colou?rful|vivid)|more saturation",
        lambda p: ImageEnhance.Color(p).enhance(1.5),
    ),
    Operator(
        "less saturated",
        r"less (?:saturated|colou?rful|vivid)|more muted|paler",
        lambda p: ImageEnhance.Color(p).enhance(0.6),
    ),
    Operator("mirrored", r"mirror(?:ed)?|flip(?:ped)?(?: horizontally)?", ImageOps.mirror),
    Operator("upside down", r"upside[- ]down|flip(?:ped)? vertically", ImageOps.flip),
    Operator(
        "turned", r"rotate(?:d)?|turn(?:ed)? (?:it )?(?:by )?90", lambda p: p.transpose(Image.Transpose.ROTATE_270)
    ),
    Operator("square", r"square(?:d)?|crop(?:ped)? (?:it )?(?:to|into) a square", _square),
    Operator("cropped", r"crop(?:ped)?|closer|zoom(?:ed)?(?: in)?", _closer),
    Operator(
        "softer", r"blur(?:red|ry)?|soft(?:er|en\w*)", lambda p: p.filter(ImageFilter.GaussianBlur(max(p.size) / 128))
    ),
    Operator("sharper", r"sharp(?:er|en\w*)|crisper", lambda p: p.filter(ImageFilter.UnsharpMask(2, 150, 2))),
)

_FILLER = frozenset(
    [
        "a",
        "an",
        "and",
        "the",
        "this",
        "that",
        "it",
        "its",
        "image",
        "picture",
        "photo",
        "drawing",
        "icon",
        "one",
        "make",
        "making",
        "please",
        "could",
        "can",
        "you",
        "i",
        "want",
        "would",
        "like",
        "to",
        "be",
        "turn",
        "into",
        "in",
        "of",
        "with",
        "more",
        "bit",
        "little",
        "slightly",
        "much",
        "version",
        "give",
        "me",
        "show",
        "now",
        "but",
        "just",
        "do",
        "convert",
        "put",
        "colour",
        "color",
        "colours",
        "colors",
        "recolour",
        "recolor",
        "paint",
        "paint",
        "dye",
        "change",
    ]
)


def asked_operators(text: str, *, about: str = "") -> list[Operator]:
    """The operators that ``text`` asks for, in the order said; none if it asks for anything besides.

    Args:
        text: an instruction.
        about: words that name the picture itself (its title) and ask for nothing.
    """
    rest, found = f" {text.lower()} ", []
    # Longer patterns first in the table's own order: "flip vertically" before "flip".
    for operator in sorted(OPERATORS, key=lambda each: -_longest(each.words, rest)):
        match = re.search(rf"\b(?:{operator.words})\b", rest)
        if match:
            found.append((match.start(), operator))
            rest = rest[: match.start()] + " " * len(match.group()) + rest[match.end() :]
    known = _FILLER | set(re.findall(r"[a-z0-9]+", about.lower()))
    if any(word not in known for word in re.findall(r"[a-z0-9]+", rest)):
        return []
    return [operator for _, operator in sorted(found, key=lambda pair: pair[0])]


def _longest(words: str, text: str) -> int:
    return max((len(match.group()) for match in re.finditer(rf"\b(?:{words})\b", text)), default=0)


def asked_colour(text: str, *, about: str = "") -> str | None:
    """The colour that ``text`` asks the whole picture to have; None if it asks for anything besides."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    named = [word for word in words if word in COLOURS]
    known = _FILLER | set(re.findall(r"[a-z0-9]+", about.lower())) | set(COLOURS)
    if len(set(named)) != 1 or any(word not in known for word in words):
        return None
    return named[0]


def recolour(picture: Image.Image, colour: str) -> Image.Image:
    """The picture with its main colour turned into ``colour``; light and shade are kept.

    Raises:
        DataError: the picture is grey or of many colours, so it has no main colour to turn.
    """
    hue = main_hue(picture)
    if hue is None:
        raise DataError(f"recolour to {colour}: the picture has no main colour; ask for a restyling or a creation")
    return recoloured(picture, colour, hue)
