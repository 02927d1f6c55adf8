"""Sets that people wrote with what they expect (evaluation/*.jsonl), as instructions to train on; never the test.

A case tells its slots as values. Here they are found again in its words, so that the taggers learn from it as they do
from a sentence of sentences.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from genrec.content.contracts import Action
from genrec.content.instructor.catalog_view import CatalogView
from genrec.content.instructor.evaluate import Case, load_cases
from genrec.content.instructor.spans import MEDIUM_WORDS
from genrec.content.instructor.words import fold

SETS = ("dev", "check", "second", "third", "fourth")
"""The sets that train."""
_LETTERS = (("target", "T"), ("style", "S"), ("constraints", "C"), ("negatives", "N"))
_INTENTS: Mapping[Action, str] = {"retrieve": "seek", "create": "make", "edit": "change", "clarify": "vague"}
_WORDS_OF = dict(MEDIUM_WORDS)
Piece = tuple[str, str | None]


@dataclass(frozen=True)
class Spoken:
    """One case to train on.

    Attributes:
        case: as it was written.
        family: of this case, and of no other set.
        pieces: its text, parted where slots begin and end, with the letters of the slots.
        tagged: whether all of its slots were found again.
        intent: one of INTENTS.
        continues: whether the turns still hold; None: there are none, or it cannot be told.
    """

    case: Case
    family: str
    pieces: tuple[Piece, ...]
    tagged: bool
    intent: str
    continues: bool | None


def spoken(view: CatalogView) -> list[Spoken]:
    """The cases of all sets that train, but those without words.

    Args:
        view: of MovieLens-100K, whose titles they name.
    """
    return [_spoken(split, case) for split in SETS for case in load_cases(split, view) if case.instruction.text]


def _spoken(split: str, case: Case) -> Spoken:
    text, turns = case.instruction.text, " ".join(case.instruction.turns)
    pieces: list[Piece] = [(text, None)]
    tagged, earlier = True, False
    values = [(value, letter) for name, letter in _LETTERS for value in _several(case.slots.get(name))]
    for value, letter in sorted(values, key=lambda pair: -len(pair[0])):
        parted = _parted(pieces, re.escape(fold(value)), letter)
        if parted is not None:
            pieces = parted
        elif fold(value) in fold(turns):
            earlier = True
        elif not (letter == "T" and "source_item" in case.slots):  # an item pointed at is named by its title
            tagged = False
    medium = case.slots.get("medium")
    if medium is not None and case.action == "create":
        pieces = _parted(pieces, rf"\b(?:{_WORDS_OF[medium]})s?\b", "M") or pieces
    unmet = case.action == "create" and case.satisfiable is False
    intent = "seek" if unmet else _INTENTS[case.action]
    return Spoken(case, f"{split} {case.family}", tuple(pieces), tagged, intent, earlier or None)


def _several(values: Any) -> Iterable[str]:
    if values is None:
        return ()
    return (values,) if isinstance(values, str) else values


def _parted(pieces: list[Piece], pattern: str, letter: str) -> list[Piece] | None:
    """The pieces with the first match in one without a slot set apart; None: there is none."""
    for place, (text, slot) in enumerate(pieces):
        folded = fold(text)
        match = re.search(pattern, folded) if slot is None and len(folded) == len(text) else None
        if match:
            begin, end = match.span()
            apart = [(text[:begin], None), (text[begin:end], letter), (text[end:], None)]
            return [*pieces[:place], *(piece for piece in apart if piece[0]), *pieces[place + 1 :]]
    return None
