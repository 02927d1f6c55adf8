"""What people say of films that they remember: what happens in them, which catalogs of titles and kinds don't tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import yaml

from genrec.content.instructor.words import plain_words, unarticled, words


@lru_cache(maxsize=1)
def told_films() -> dict[str, tuple[str, ...]]:
    """Phrases by title (told.yaml), each said of that film alone as far as it was written."""
    table = yaml.safe_load(files(__package__).joinpath("told.yaml").read_text(encoding="utf-8"))
    return {str(title): tuple(phrases) for title, phrases in table.items()}


def items_told_of(titles: Sequence[str | None]) -> dict[str, list[int]]:
    """The items of each film of :func:`told_films`.

    They are those of exactly its name; else those of its name but for an article or an ending (Aliens is no Alien where
    both are there); else, for a name of two words or more, those that begin with it (Star Wars: Episode IV).

    Args:
        titles: as people say them, by item index; None: not a film.
    """
    exact: dict[str, list[int]] = defaultdict(list)
    loose: dict[str, list[int]] = defaultdict(list)
    beginning: dict[str, set[str]] = defaultdict(set)
    for item, title in enumerate(titles):
        name = _loose(title or "")
        if title is None or not name:
            continue
        exact[_exact(title)].append(item)
        loose[name].append(item)
        beginning[name.split()[0]].add(name)
    found = {}
    for film in told_films() if loose else ():
        name = _loose(film)
        held = exact.get(_exact(film)) or loose.get(name)
        if not held and " " in name:
            longer = sorted(other for other in beginning[name.split()[0]] if other.startswith(f"{name} "))
            held = [item for other in longer for item in loose[other]]
        if held:
            found[film] = held
    return found


def _exact(title: str) -> str:
    """A title's own words."""
    return " ".join(plain_words(title))


def _loose(title: str) -> str:
    """A title's stems without the article that it begins with; empty where it has no letters that are read."""
    return " ".join(unarticled(words(title)))
