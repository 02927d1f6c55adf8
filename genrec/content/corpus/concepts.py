"""What is drawn: concepts with their names, keywords and place in the taxonomy, and which of them training never sees.

A concept is one emoji without its skin-tone variants; flags are left out. What is held out depends on a hash of
names alone, so that every build, and every model trained on one, agrees: whole concepts, a concept in one style
(style x object), and a concept in a colour not its own (colour x object).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

STYLES = ("3d", "flat", "twitter", "google")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
HELD_OUT_CONCEPTS = 0.10
HELD_OUT_PAIRS = 0.06
LEFT_OUT = frozenset({"Flags", "Component"})


@dataclass(frozen=True)
class Concept:
    """One thing that is drawn.

    Attributes:
        code: Unicode code points in lower-case hex, joined by ``-``; the concept's id.
        name: its name in plain words.
        keywords: further words.
        category: top of the taxonomy.
        subcategory: below it.
    """

    code: str
    name: str
    keywords: tuple[str, ...]
    category: str
    subcategory: str

    @property
    def held_out(self) -> bool:
        """True if no drawing of it is ever trained on."""
        return share_of("concept", self.code) < HELD_OUT_CONCEPTS


def unseen_style(concept: Concept, style: str) -> bool:
    """True if the concept is trained on, but never in this style."""
    return not concept.held_out and share_of("style", concept.code, style) < HELD_OUT_PAIRS


def unseen_colour(concept: Concept, colour: str) -> bool:
    """True if the concept is trained on, but never recoloured to this colour."""
    return not concept.held_out and share_of("colour", concept.code, colour) < HELD_OUT_PAIRS


def read_concepts(emoji_json: bytes, keywords_json: bytes) -> list[Concept]:
    """Concepts in the order of the Unicode chart.

    Args:
        emoji_json: emoji.json of an emoji-datasource package.
        keywords_json: emoji-en-US.json of emojilib: character -> names.
    """
    keywords: Mapping[str, list[str]] = json.loads(keywords_json)
    concepts = []
    for entry in sorted(json.loads(emoji_json), key=lambda row: row["sort_order"]):
        if entry["category"] in LEFT_OUT:
            continue
        code = entry["unified"].lower()
        words = [_plain(word) for word in _of_character(keywords, code)]
        short = [_plain(word) for word in entry["short_names"]]
        name = words[0] if words else _plain(entry["name"] or short[0])
        others = dict.fromkeys(word for word in [*words, *short] if word != name and word[:1].isalpha())
        concepts.append(Concept(code, name, tuple(others), entry["category"], entry["subcategory"]))
    return concepts


def _of_character(keywords: Mapping[str, list[str]], code: str) -> list[str]:
    character = "".join(chr(int(point, 16)) for point in code.split("-"))
    bare = character.replace("\ufe0f", "")
    return keywords.get(character) or keywords.get(bare) or keywords.get(bare + "\ufe0f") or []


def _plain(words: str) -> str:
    return " ".join(words.replace("_", " ").replace("-", " ").split()).lower()


def share_of(*names: str) -> float:
    """A number from 0 to 1 that the names alone decide, for splits that everybody draws alike."""
    return int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:6], "big") / 2**48
