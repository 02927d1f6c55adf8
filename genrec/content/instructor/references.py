"""What "the second one", "it" or "the Jaws poster" refer to in the list that is before the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from genrec.content.instructor.catalog_view import CatalogView, plain_title
from genrec.content.instructor.words import content_words, fold, plain_words, slip_of, stem, words

Kind = Literal["none", "place", "title", "this"]
KINDS: tuple[Kind, ...] = ("none", "place", "title", "this")

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_THING = (
    r"(?:one|item|picture|pic|image|photo|poster|cover|card|thumbnail|movie|film|title|result|option|suggestion|entry|"
    r"choice|pick|recommendation|product|thing|drawing|video|clip|row|tile)"
)
_ORDINAL = re.compile(
    rf"\b(?:the |that |your |ur )?({'|'.join(_ORDINALS)}|\d{{1,2}}(?:st|nd|rd|th))"
    rf"(?= {_THING}(?:'s)?\b|[ ,.;:!?]*$|[,.;:!?]| (?:from|in|on|of|and|but|to|into|look|please|pls|as|with|"
    r"without|is|was|at|by|needs|should|could|can|has|had|looks|seems|deserves|gets?|too|again|just|only|where|instead|then|"
    r"likewise|also|wants|reads|feels|would|will|must|because|so|than|like)\b|"
    r" (?:summary|blurb|text|description|caption|title|teaser|tagline)\b)"
)
_NUMBER = re.compile(
    rf"(?:#|\b(?:number|no\.?|nr\.?|num|item|result|option|picture|pic|position|place|entry|card|poster|photo|image|cover|"
    r"film|movie|thumbnail|slot|tile|row|pick|choice) ?#?)"
    rf" ?(\d{{1,2}}|{'|'.join(_CARDINALS)})\b"
)
_BARE_NUMBER = re.compile(
    rf"\b(?:love|like|take|on|for|from|to|with) (\d{{1,2}})(?=[,.;:!?]|$)|"
    rf"\b(?:now|on) ({'|'.join(_CARDINALS)})[.!]*$|"
    r"^(\d{1,2})(?=,| (?:but|was|is|as|in|with|without|needs|wants|looks|please|pls)\b)"
)
_ROW = r"(?:list|row|page|screen|stack|pile|results?|selection|bunch|lot)"
_OF_ALL = rf" (?:of|in) (?:the|this|that|your) {_ROW}| of (?:them|these|those|all)"
_LAST = re.compile(
    rf"\b(?:the )?(?:(second|third|next)[ -](?:to[ -])?last|(last) but one|(penultimate)|"
    rf"(?:last|final|rightmost|lowest|bottom)(?= {_THING}|{_OF_ALL}))(?: {_THING})?"
)
_SIDE = re.compile(
    rf"\b(?:the |that )?(?:{_THING} (?:on|to|at) the (?:far |very )?(left|right)|"
    rf"(left|right)(?: hand| most)? {_THING}\b)"
)
_LAST_BARE = re.compile(r"\b(?:the )?(last|bottom|final) one\b|\b(?:at|on) the (bottom|end)\b")
_TOP = re.compile(
    rf"\b(?:the )?(?:top|topmost|leftmost|uppermost)(?: {_THING}|{_OF_ALL})|"
    r"\b(?:at|on) the (?:very )?(?:top|beginning|start)\b"
)
_MIDDLE = re.compile(rf"\b(?:the )?middle (?:{_THING}|1)\b|\bthe (?:one|{_THING}) in the middle\b")
_FROM_END = re.compile(rf"\b({'|'.join(_ORDINALS)}) (?:{_THING} )?from (?:the )?(?:bottom|end|right|last)\b")
_THIS = re.compile(
    rf"\b(?:it|its|this|that|these|those|them|the same|same|(?:this|that) {_THING}|the {_THING})\b", re.IGNORECASE
)
_NAMED_THING = re.compile(rf"\b([a-z0-9]+)(?:'s)? {_THING}\b|\b(?=[a-z])([a-z0-9]{{4,}})'s\b")
_NOT_THIS = re.compile(
    r"\b(?:it's|it is) (?:for|my|a gift)\b|\bthat (?:is|has|was|are|makes?|looks?|says|fits|would)\b"
)


@dataclass(frozen=True)
class Reference:
    """What a text points at.

    Attributes:
        kind: how it points: not at all, by place, by title, or by "this".
        item: the item; None where it cannot be told.
        words: those that point.
        beyond: it names a place that the list does not have.
    """

    kind: Kind = "none"
    item: int | None = None
    words: str = ""
    beyond: bool = False


def resolve(text: str, shown: Sequence[int], catalog: CatalogView, *, antecedent: int | None = None) -> Reference:
    """What ``text`` refers to.

    Args:
        text: the user's words.
        shown: the list before the user, best first.
        catalog: has the titles.
        antecedent: the item that an earlier turn pointed at.
    """
    folded = fold(text)
    place = _place(folded, len(shown))
    if place is not None:
        number, said = place
        if not shown:
            return Reference("place", None, said, beyond=True)
        inside = -len(shown) <= number < len(shown)
        return Reference("place", shown[number] if inside else None, said, beyond=not inside)
    named = _titled(folded, shown, catalog)
    if named is not None:
        return Reference("title", named, plain_title(catalog.titles[named]))
    match = _THIS.search(_NOT_THIS.sub(" ", folded))
    if match:
        item = antecedent if antecedent is not None else (shown[0] if len(shown) == 1 else None)
        return Reference("this", item, match[0])
    return Reference()


def _place(folded: str, length: int) -> tuple[int, str] | None:
    """The place in the list, from 0, negative from its end."""
    match = _FROM_END.search(folded)
    if match:
        return -_ORDINALS.index(match[1]) - 1, match[0]
    match = _LAST.search(folded)
    if match:
        back = {"second": 2, "next": 2, "third": 3}.get(match[1] or "", 2 if match[2] or match[3] else 1)
        return -back, match[0]
    match = _LAST_BARE.search(folded)
    if match:
        return -1, match[0]
    match = _SIDE.search(folded)
    if match:
        return (0 if "left" in (match[1], match[2]) else -1), match[0]
    match = _MIDDLE.search(folded)
    if match and length:
        return (length - 1) // 2, match[0]
    match = _NUMBER.search(folded) or _BARE_NUMBER.search(folded)
    if match:
        word = next(filter(None, match.groups()))
        return (int(word) if word.isdigit() else _CARDINALS.index(word) + 1) - 1, match[0]
    match = _ORDINAL.search(folded)
    if match:
        word = match[1]
        digits = re.match(r"\d+", word)
        return (int(digits[0]) if digits else _ORDINALS.index(word) + 1) - 1, match[0]
    match = _TOP.search(folded)
    return (0, match[0]) if match else None


def _titled(folded: str, shown: Sequence[int], catalog: CatalogView) -> int | None:
    """The shown item whose title the text says: all of its words, in their order."""
    said, exactly = (f" {' '.join(each(folded))} " for each in (words, plain_words))
    best, most = None, (0, False)
    for item in shown:
        title = plain_title(catalog.titles[item])
        for name in (title, title.split(":")[0]):
            spelled = " ".join(words(name))
            found = len(spelled), f" {' '.join(plain_words(name))} " in exactly  # Alien rather than Aliens
            if content_words(name) and f" {spelled} " in said and found > most:
                best, most = item, found
    return best if best is not None else _nearly_titled(folded, shown, catalog)


def _nearly_titled(folded: str, shown: Sequence[int], catalog: CatalogView) -> int | None:
    """The one shown item that is named by a word of its title ("the Wonka poster"), or with a slip of the keys."""
    said = words(folded)
    own = {item: content_words(plain_title(catalog.titles[item])) for item in shown}
    pointed = {stem(match[1] or match[2]) for match in _NAMED_THING.finditer(folded)}
    found = {item for item, told in own.items() if pointed & set(told)}
    if not found:
        for item, told in own.items():
            title = words(plain_title(catalog.titles[item]).split(":")[0])
            spelled = " ".join(title)
            runs = (" ".join(said[place : place + len(title)]) for place in range(len(said) - len(title) + 1))
            if told and len(spelled) > 5 and any(slip_of(run, spelled) for run in runs):
                found.add(item)
    return found.pop() if len(found) == 1 else None
