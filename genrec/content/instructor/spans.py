"""Tagged tokens to slots: spans of the text, trimmed and named as creator and editor expect them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.content.contracts import Medium
from genrec.content.instructor.heads import SPANS, TAGS
from genrec.content.instructor.words import fold

MEDIUM_WORDS: tuple[tuple[Medium, str], ...] = (
    (
        "video",
        r"video|clip|animation|animated gif|gif|short film|reel|moving|motion|loop|vid|teaser|trailer|boomerang|film|"
        r"footage|animated|time-?lapse|stop[ -]motion|slideshow",
    ),
    (
        "card",
        r"card|blurb|description|text|summary|caption|tagline|title|copy|wording|synopsis|slogan|headline|"
        r"invitation|invite|verse|write-?up|bio",
    ),
    (
        "image",
        r"picture|image|drawing|illustration|painting|photo|pic|poster|icon|sticker|portrait|sketch|artwork|graphic|"
        r"rendering|render|wallpaper|cover|logo|art|banner|thumbnail|doodle|postcard",
    ),
)
DETERMINERS = "that|this|those|these|his|her|its|their|your"
_EDGE_WORDS = {
    "target": (
        r"^(?:of|for|me|us|to)\s+|"
        r"\s+(?:please|pls|thanks|thx|a|an|the|in|on|of|for|with|that|are|is|to|at|and|or|by|from|tonight|tonite)$"
    ),
    "style": r"^(?:in|as|like|the style of|style of|a|an|the|of)\s+|\s+(?:style|look|version|vibe|feel|effect|filter)$",
    "medium": r"^(?:a|an|the|some)\s+",
    "constraint": (
        r"^(?:and|but|so|to|ideally|preferably|possibly|maybe|perhaps|rather)\s+|"
        r"^(?:from(?= before| after)|down(?= to)|(?:that|which) (?:came out|was made|were made)(?= in))\s+|"
        r"\s+(?:and|but|or|please|pls|though|if possible|preferably|ideally|still|tops)$|"
        r"^(?:preferably|ideally|possibly|maybe|perhaps|rather|that|for|it)$"
    ),
    "negative": rf"^(?:no|not|without|any|a|an|the|but|except|{DETERMINERS})\s+(?=\S)|\s+(?:on|in|of|at|with|from)$",
}
_JOINS = {"target": r",? |,? and | & | \\+ ", "constraint": r" "}
"""What may stand between two spans that are one, by slot."""
_STARTS_G = np.array([not tag.startswith("I") for tag in TAGS])
_FOLLOWS_GG = np.array([[not tag.startswith("I") or before[1:] == tag[1:] for tag in TAGS] for before in TAGS])
_COMPOUND = re.compile(r"[^\W_]-[^\W_]|\d[:.]\d|n't")
_PUNCTUATION = " \t\n,.;:!?\"'()[]-–—…"


@dataclass(frozen=True)
class Spans:
    """What the tagger found in one text, by slot, in order."""

    target: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    medium: tuple[str, ...] = ()
    constraint: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


def spans_of(text: str, offsets: Sequence[tuple[int, int]], scores_TG: NDArray[np.float32]) -> Spans:
    """The likeliest tags as spans of ``text``; the pieces of one word share one tag."""
    begins: list[int] = []
    ends: list[int] = []
    rows: list[NDArray[np.float32]] = []
    for (begin, end), row in zip(offsets, scores_TG, strict=True):
        if ends and begin == ends[-1] and begin > 0 and _one_word(text, begin):
            ends[-1] = end
            continue
        begins.append(begin)
        ends.append(end)
        rows.append(row)
    places: list[tuple[int, int, str]] = []
    for begin, end, tag in zip(begins, ends, _likeliest(rows), strict=True):
        place, _, slot = TAGS[tag].partition("-")
        if place == "I":
            places[-1] = (places[-1][0], end, slot)
        elif place == "B":
            joins = _JOINS.get(slot) if places and places[-1][2] == slot else None
            if joins and re.fullmatch(joins, text[places[-1][1] : begin].lower()):
                places[-1] = (places[-1][0], end, slot)
            else:
                places.append((begin, end, slot))
    found: dict[str, list[str]] = {slot: [] for slot in SPANS}
    for begin, end, slot in places:
        value = trimmed(text[begin:end], slot)
        if value:
            found[slot].append(value)
    return Spans(**{slot: tuple(dict.fromkeys(values)) for slot, values in found.items()})


def _one_word(text: str, place: int) -> bool:
    """Whether what ends and what begins here are parts of one word: of letters, "ten-second", "hasn't", "16:9"."""
    if text[place - 1].isalnum() and text[place].isalnum():
        return True
    sign = place - 1 if text[place].isalnum() else place
    around = text[sign - 1 : sign + 2] if sign else ""
    return _COMPOUND.fullmatch(around) is not None


def _likeliest(rows: Sequence[NDArray[np.float32]]) -> list[int]:
    """The path of tags of highest score in which inside follows begin or inside of its own slot (Viterbi)."""
    if not rows:
        return []
    best_G = np.where(_STARTS_G, rows[0], -np.inf)
    back = []
    for row in rows[1:]:
        reached_GG = np.where(_FOLLOWS_GG, best_G[:, None], -np.inf)
        back.append(reached_GG.argmax(0))
        best_G = reached_GG.max(0) + row
    path = [int(best_G.argmax())]
    for came_G in reversed(back):
        path.append(int(came_G[path[-1]]))
    return path[::-1]


def longest(values: Sequence[str]) -> str | None:
    """The span that says most of its slot; None: there is none."""
    return max(values, key=len, default=None)


def trimmed(value: str, slot: str) -> str:
    """A span without punctuation and carrier words at its edges."""
    value = value.strip(_PUNCTUATION)
    for _ in range(3):
        value = re.sub(_EDGE_WORDS[slot], "", value, flags=re.IGNORECASE).strip(_PUNCTUATION)
    return re.sub(r"\s+", " ", value)


def medium_in(text: str, beside: Sequence[str]) -> Medium | None:
    """The medium that a text names outside of the phrases ``beside``, as "a picture of", "video:" (image or video)."""
    folded = fold(text)
    for phrase in beside:
        folded = folded.replace(fold(phrase), " ")
    for medium, pattern in MEDIUM_WORDS:
        carried = rf"\b(?:{pattern})s?(?: (?:of|with|showing|depicting|where|in which|about)\b|:)"
        if medium != "card" and re.search(carried, folded):
            return medium
    return None


def medium_of(values: Sequence[str]) -> Medium | None:
    """The medium that tagged words name."""
    for value in values:
        folded = fold(value)
        for medium, pattern in MEDIUM_WORDS:
            if re.search(rf"\b(?:{pattern})s?\b", folded):
                return medium
    return None
