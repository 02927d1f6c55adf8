"""What people say of films that they remember: what happens in them, which catalogs of titles and kinds don't tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import yaml

from genrec.content.instructor.words import words


@lru_cache(maxsize=1)
def told_films() -> dict[str, tuple[str, ...]]:
    """Phrases by title (told.yaml), each said of that film alone as far as it was written."""
    table = yaml.safe_load(files(__package__).joinpath("told.yaml").read_text(encoding="utf-8"))
    return {str(title): tuple(phrases) for title, phrases in table.items()}


def items_told_of(titles: Sequence[str | None]) -> dict[str, list[int]]:
    """The items of each film of :func:`told_films`: of its name or, where there is none, with its name in theirs.

    A name of one word must be the whole title, but for an article: Rocky is not The Rocky Horror Picture Show.

    Args:
        titles: as people say them, by item index; None: not a film.
    """
    by_name: dict[str, list[int]] = defaultdict(list)
    for item, title in enumerate(titles):
        if title is not None:
            by_name[_name(title)].append(item)
    found = {}
    for film in told_films() if by_name else ():
        name = _name(film)
        held = [name] if name in by_name else []
        if not held and " " in name:
            held = [other for other in by_name if f" {name} " in f" {other} "]
        if held:
            found[film] = [item for other in held for item in by_name[other]]
    return found


def _name(title: str) -> str:
    """A title's words without the article that it begins with."""
    first, *rest = words(title)
    return " ".join(rest if rest and first in ("the", "a", "an") else [first, *rest])
