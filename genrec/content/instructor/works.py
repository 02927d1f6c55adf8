"""Works that people ask for by name and that a catalog may not have: films, series, shows and games (works.txt)."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache

from genrec.content.instructor.lexicon import SOFT
from genrec.content.instructor.lists import written_lists
from genrec.content.instructor.told import told_films
from genrec.content.instructor.words import STOP, plain_words, stem, unarticled, words

TRAINED = "asked for in training"
"""The list of works.txt that wishes are made of."""
_BESIDE_WORDS = "not no nothing never unlike instead without than except but like saw seen after enough"
_BESIDE = frozenset(_BESIDE_WORDS.split())
NEAR = 3
"""Words before a name that tell whether it is wanted."""
THING = 4
"""Phrases told of films from which a word in them is a thing, and not the name of a work."""


@lru_cache(maxsize=1)
def works() -> dict[str, list[str]]:
    """The names of works.txt by the list that they stand in."""
    return written_lists("works.txt")


def works_named(target: str, said: str) -> list[list[str]]:
    """Works that a wish names, each in stems.

    A name of several telling words counts wherever it is said, but for one that is only compared with or turned down
    ("nothing like"); any other only where the wish says nothing else, and not if it may as well be a thing ("cars").

    Args:
        target: the thing wanted.
        said: all that the user said.
    """
    wish, full = unarticled(plain_words(target)), plain_words(f"{said} {target}")
    alone = list(dict.fromkeys(word for word in wish if word not in STOP and word not in SOFT))
    found = []
    for word in dict.fromkeys(full):
        for name in _by_first_word().get(word, ()):
            telling = [each for each in name if each not in STOP]
            if _holds(full, name) if len(telling) > 1 else wish == name or alone == telling == name:
                found.append([stem(each) for each in name])
    return found


def _holds(text: list[str], name: list[str]) -> bool:
    """Whether a name is said, and not beside a word that sets the wish off from it."""
    places = [place for place in range(len(text) - len(name) + 1) if text[place : place + len(name)] == name]
    return any(_BESIDE.isdisjoint(text[max(place - NEAR, 0) : place]) for place in places)


@lru_cache(maxsize=1)
def _by_first_word() -> dict[str, list[list[str]]]:
    """Names in words, without an article in front, by their first; not single words that several films are told by."""
    told = Counter(word for phrases in told_films().values() for phrase in phrases for word in set(words(phrase)))
    found: dict[str, list[list[str]]] = defaultdict(list)
    for name in (name for names in works().values() for name in names):
        said = unarticled(plain_words(name))
        if len(said) > 1 or told[stem(said[0])] < THING:
            found[said[0]].append(said)
    return found
