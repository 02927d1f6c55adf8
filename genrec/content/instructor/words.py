"""Words as the catalog's search sees them: folded, cut to stems, without those that say nothing of the thing.

Also the years and decades that a wish names. English only: other languages go through the sentence embedding alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_DECADES = {
    "twenties": 1920,
    "thirties": 1930,
    "forties": 1940,
    "fifties": 1950,
    "sixties": 1960,
    "seventies": 1970,
    "eighties": 1980,
    "nineties": 1990,
    "noughties": 2000,
    "naughties": 2000,
}
_LONG = r"(?:18[89]|19\d|20\d)\d"
_DECADE = re.compile(r"\b(?:(early|mid|late)[ -])?(?:the )?(?:(18(?=9)|19|20)(\d0)|'?(\d0))'?s\b")
_DECADE_WORD = re.compile(rf"\b(?:(early|mid|late)[ -])?({'|'.join(_DECADES)})\b")
_BETWEEN = re.compile(rf"\b(?:between|from) ({_LONG}) (?:and|to|until) ({_LONG})\b")
_BEFORE = re.compile(rf"\b(?:before|pre|older than|earlier than|prior to)[ -](?:the )?({_LONG}|\d0s|[a-z]+ies)(?:s\b)?")
_AFTER = re.compile(rf"\b(?:after|since|newer than|later than|post)[ -](?:the )?({_LONG})\b")
_NOT_AFTER = re.compile(
    rf"\b(?:nothing|not|none|no|never) (?:made |shot )?(?:after|since|newer than|later than|post)[ -]({_LONG})\b"
)
_NOT_BEFORE = re.compile(
    rf"\b(?:nothing|not|none|no|never) (?:made |shot )?(?:before|older than|earlier than)[ -]({_LONG})\b"
)
_OR_LATER = re.compile(rf"\b({_LONG}) (?:(?:or|and) (?:later|newer|after|up)|onwards?)\b")
_OR_EARLIER = re.compile(rf"\b({_LONG}) (?:or|and) (?:earlier|older|before)\b")
_YEAR = re.compile(rf"\b({_LONG})\b")
_BEFORE_YEARS = re.compile(r"(?:\b(?:made|shot|released|filmed|set) )?\b(?:(?:from|of|in|out of) )?(?:the )?$")
_SHORT_YEAR = re.compile(r"(?<!\w)'(\d\d)\b")
FIRST_YEAR, LAST_YEAR = 1880, 2100
_ARTICLES = ("the", "a", "an")
_WRITTEN_TWICE = """
boulevard=blvd doctor=dr mister=mr saint=st versus=vs two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10
eleven=11 twelve=12 thirteen=13 ii=2 iii=3 iv=4 vi=6
"""
_WRITTEN = dict(pair.split("=") for pair in _WRITTEN_TWICE.split())
_SCIENCE_FICTION = re.compile(r"\bscience[ -]fiction\b")
_ALIKE = 0.84
"""Share of equal letters from which one spelling is another with a slip of the keys."""

_STOP_WORDS = """
came come comes coming a an the of in on at to for from with by and or but is are was were be been am i i'm i'd
i'll i've me my mine we us our you your it its it's he his him she her they them their this that these those
there here what which who whose whom how when where why as if so than then too very really just any some all
also not no nor do does did done have has had can could would should will shall may might must let lets let's
get got give gave find search look looking show want wanted need like love please plz pls thanks thank hey hi
hello ok okay something anything thing things stuff one ones movie movies film films flick flicks picture
pictures product products item items title titled called named about around into kind sort type bit more most
much many good great best nice watch see buy recommend suggest set star starring made make where's what's that's
don't dont doesn't isn't out up down over again other another only still even ever own same such between both
each few go going gonna wanna gotta feel feels feeling mood tonight today evening weekend plus via etc pick
option options someone somebody people's year years old era decade time happen happens seen catalog catalogue
list selection collection available shop store offer carry stock
above across after against along already although among anyway because before behind below beneath beside besides
beyond cannot couldn't didn't during else except hadn't hasn't haven't hence her his however inside instead into
itself keep keeps lately lot mine must nearly needs off onto ought ours outside per rather shouldn't since someday
sort soon still though through throughout till tonite toward towards under unless until unto upon wasn't weren't
whenever wherever whether whichever while whilst whoever whose within without won't wouldn't yes yet yours
"""
STOP = frozenset(_STOP_WORDS.split())
"""Function words, and the words that carry a wish without being part of it."""


def fold(text: str) -> str:
    """Lower case, accents off, quotes straight."""
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'").replace("\u2018", "'"))
    return "".join(char for char in text if not unicodedata.combining(char)).lower()


def stem(word: str) -> str:
    """A light stem: possessive and plural off; words that titles write in two ways in one of them."""
    word = word.removesuffix("'s").replace("'", "")
    if word in _WRITTEN:
        return _WRITTEN[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def plain_words(text: str) -> list[str]:
    """All words, folded, in order."""
    return _WORD.findall(fold(text))


def words(text: str) -> list[str]:
    """Stems of all words, in order."""
    return [stem(word) for word in plain_words(text)]


def said_as(stems: Sequence[str], text: str) -> str | None:
    """How a text says these words (stems), one behind another; None: it does not."""
    places = list(_WORD.finditer(fold(text)))
    told = [stem(place[0]) for place in places]
    for begin in range(len(told) - len(stems) + 1):
        if told[begin : begin + len(stems)] == list(stems) and len(fold(text)) == len(text):
            return text[places[begin].start() : places[begin + len(stems) - 1].end()]
    return None


def unarticled(said: list[str]) -> list[str]:
    """Words without the article that they begin with, if more than it is said."""
    return said[1:] if said[1:] and said[0] in _ARTICLES else said


def content_words(text: str) -> list[str]:
    """Distinct stems of the words that say something of the thing, in order; "science fiction" is one of them."""
    said = _WORD.findall(_SCIENCE_FICTION.sub("scifi", fold(text)))
    found = (word for word in said if word not in STOP and stem(word) not in STOP)
    return list(dict.fromkeys(map(stem, found)))


def slip_of(said: str, meant: str) -> bool:
    """True if ``said`` is ``meant``, but for a slip of the keys; both folded."""
    return SequenceMatcher(None, said, meant).ratio() > _ALIKE


def years(text: str) -> tuple[tuple[int, int] | None, str]:
    """The span of years that a text names, and the text without it.

    Returns:
        first and last year (None: no years named), and what is left of the folded text.
    """
    folded = fold(text)
    found = _years_in(folded)
    if found is None:
        return None, folded
    span, begin, end = found
    return span, folded[:begin] + " " + folded[end:]


def year_words(text: str) -> tuple[int, int] | None:
    """Where a text names years, from the preposition before them: begin and end; None: it names none."""
    folded = fold(text)
    found = _years_in(folded)
    if found is None or len(folded) != len(text):
        return None
    _, begin, end = found
    before = _BEFORE_YEARS.search(folded[:begin])
    return (before.start() if before else begin), end


def _years_in(folded: str) -> tuple[tuple[int, int], int, int] | None:
    """First and last year that a folded text names, and where."""
    for pattern, span in (
        (_BETWEEN, lambda m: (int(m[1]), int(m[2]))),
        (_NOT_AFTER, lambda m: (FIRST_YEAR, int(m[1]))),
        (_NOT_BEFORE, lambda m: (int(m[1]), LAST_YEAR)),
        (_OR_LATER, lambda m: (int(m[1]), LAST_YEAR)),
        (_OR_EARLIER, lambda m: (FIRST_YEAR, int(m[1]))),
        (_BEFORE, _before),
        (_AFTER, lambda m: (int(m[1]) + 1, LAST_YEAR)),
        (_DECADE, _decade),
        (_DECADE_WORD, lambda m: _part(_DECADES[m[2]], m[1])),
        (_YEAR, lambda m: (int(m[1]), int(m[1]))),
        (_SHORT_YEAR, lambda m: (_full(int(m[1])), _full(int(m[1])))),
    ):
        match = pattern.search(folded)
        found = span(match) if match else None
        if match and found:
            return found, match.start(), match.end()
    return None


def _full(year: int) -> int:
    """'97 is 1997, '04 is 2004."""
    return year + (2000 if year < 20 else 1900)


def _part(begin: int, part: str | None) -> tuple[int, int]:
    low, high = {"early": (0, 3), "mid": (4, 6), "late": (7, 9)}.get(part or "", (0, 9))
    return begin + low, begin + high


def _decade(match: re.Match[str]) -> tuple[int, int]:
    begin = int(match[2] + match[3]) if match[2] else int("19" + match[4])
    if not match[2] and int(match[4]) < 20:
        begin += 100  # the 00s and 10s
    return _part(begin, match[1])


def _before(match: re.Match[str]) -> tuple[int, int] | None:
    word = match[1]
    if word.isdigit():
        return FIRST_YEAR, int(word) - 1
    if word.endswith("0s"):
        return FIRST_YEAR, int("19" + word[:2]) - 1
    return (FIRST_YEAR, _DECADES[word] - 1) if word in _DECADES else None
