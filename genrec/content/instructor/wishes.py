"""Wishes drawn from a catalog: its titles, their words, kinds and years, and things that it has nothing for.

Two uses: as the target of a training instruction (:meth:`WishMaker.words`), and with a truth for the head of
sufficiency (:meth:`WishMaker.judged`): some items are hidden, so that titles of real items are wishes that
nothing satisfies.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import numpy as np
import yaml
from numpy.typing import NDArray

from genrec.content.instructor.catalog_view import CatalogView, plain_title
from genrec.content.instructor.told import told_films
from genrec.content.instructor.words import content_words, words
from genrec.content.instructor.works import TRAINED, works

KINDS_SAID = {
    "Action": ["action", "explosions", "action packed"],
    "Adventure": ["adventure", "adventurous"],
    "Animation": ["animated", "cartoon", "animation"],
    "Children's": ["children's", "kids", "family"],
    "Comedy": ["comedy", "funny", "hilarious", "comedic"],
    "Crime": ["crime", "gangster", "mafia"],
    "Documentary": ["documentary", "doc"],
    "Drama": ["drama", "dramatic", "sad", "moving"],
    "Fantasy": ["fantasy", "magical"],
    "Film-Noir": ["film noir", "noir"],
    "Horror": ["horror", "scary", "spooky", "creepy"],
    "Musical": ["musical", "singing"],
    "Mystery": ["mystery", "whodunit", "detective"],
    "Romance": ["romance", "romantic", "love"],
    "Sci-Fi": ["sci-fi", "science fiction", "space", "scifi", "futuristic"],
    "Thriller": ["thriller", "suspense", "suspenseful"],
    "War": ["war", "military"],
    "Western": ["western", "cowboy"],
}
"""MovieLens' kinds as people say them."""
_LABELS = (
    *("short", "light", "weird", "clever", "forgotten", "slow", "older", "newer", "modern", "cosy", "old", "gritty"),
    *("lesser-known", "uplifting", "stylish", "underrated", "feel-good", "fast-paced", "bleak", "gentle", "quirky"),
    *("dark", "silly", "soppy", "low-budget", "grim", "wholesome", "foreign", "british", "black and white"),
)
_PRAISE = ("good", "great", "decent", "proper", "popular", "famous", "award-winning", "nice", "fun", "solid", "real")
"""What is said of a wish without being part of it."""
_THINGS = ("movie", "film", "flick", "one", "movie", "film", "story")
_ABOUT = (
    *("{}", "{}", "{}", "{}", "a movie about {}", "a film with {}", "something about {}", "a story of {}"),
    *("anything about {}", "a film on {}", "something with {}", "films about {}"),
)
_RECALLED = (
    *("the one with {}", "the one about {}", "that film about {}", "what's that movie with {}"),
    *("isn't there one with {}", "I forgot the name, {}", "I remember {}"),
)
"""How people open what they recall having seen; what nobody filmed is asked for in the words above."""
CARRIED = "\x1f"
"""Parts what a wish carries along from the words that say the thing: "a film about" from "mozart"."""


@dataclass(frozen=True)
class Wish:
    """A wish with its truth: does an item that is not hidden satisfy it?

    Attributes:
        target: the thing wanted.
        constraints: what must hold.
        satisfied: the truth.
        family: how it was made.
        said: the whole sentence; empty: no more than the target.
        told: what is told of a film and was taken for the wish; empty: nothing.
    """

    target: str
    constraints: tuple[str, ...]
    satisfied: bool
    family: str
    said: str = ""
    told: str = ""


class WishMaker:
    """Draws wishes over one catalog."""

    def __init__(self, view: CatalogView, rng: random.Random) -> None:
        self.view = view
        self.rng = rng
        self.films = sum("Drama" in text for text in view.texts[:500]) > 20
        self.topics = yaml.safe_load(files(__package__).joinpath("topics.yaml").read_text(encoding="utf-8"))

    @cached_property
    def _kinds(self) -> list[frozenset[str]]:
        return [frozenset(kind for kind in KINDS_SAID if kind in text) for text in self.view.texts]

    @cached_property
    def _by_title(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for item, title in enumerate(self.view.titles):
            found[" ".join(words(plain_title(title)))].append(item)
        return found

    def title(self, item: int) -> str:
        """A title as it is said: without year; of a long one, its beginning."""
        title = plain_title(self.view.titles[item])
        if self.films:
            head = title.split(":")[0]
            return head if len(head) > 3 and self.rng.random() < 0.5 else title
        parts = re.sub(r"[,|/(\[].*", "", title).split()
        return " ".join(parts[: self.rng.randint(2, 6)])

    def words(self) -> str:
        """A wish as the target of an instruction, whether it can be met or not."""
        kind = self.rng.choices(["title", "kind", "topic", "keyword", "later", "person"], [38, 28, 14, 9, 8, 3])[0]
        if not self.films and kind in ("kind", "later", "person"):
            kind = "product"
        return str(getattr(self, f"_{kind}")())

    def _item(self) -> int:
        return self.rng.randrange(len(self.view))

    def _title(self) -> str:
        return self.title(self._item())

    def _article(self) -> str:
        return self.rng.choice(["a ", "some ", "", "", "any ", "a "])

    def _kind(self) -> str:
        return self._kinds_in_words(self._combination(self._item()))

    def _kinds_in_words(self, kinds: Sequence[str]) -> str:
        """Kinds as people say them: "a clever crime film", "westerns", "something to laugh about"."""
        rng, phrases = self.rng, self.topics["kinds"]
        label = rng.choice(_LABELS) if rng.random() < 0.3 else ""
        praise = rng.choice(_PRAISE) + " " + CARRIED if rng.random() < 0.2 else ""
        *before, last = kinds
        said = [rng.choice(KINDS_SAID[kind]) for kind in before]
        chance = rng.random()
        if chance < 0.35:
            return praise + " ".join(filter(None, [label, *said, rng.choice(phrases[last]["many"])]))
        if chance < 0.65:
            moods = phrases[last]["mood"]
            mood = " and ".join(rng.sample(moods, 2)) if rng.random() < 0.15 else rng.choice(moods)
            return " and ".join([*said, mood]) if said else mood
        said.append(rng.choice(KINDS_SAID[last]))
        if praise:
            praise = self._article() + praise
        article = "" if praise else self._article()
        return praise + article + " ".join(filter(None, [label, *said, rng.choice(_THINGS)])).strip()

    def like(self, said: str) -> str:
        """Another wish of the sort of ``said``: a title for a title, a kind for a kind."""
        if not self.films:
            return self._product()
        if self.view.named(said) is not None:
            return self._title() if self.rng.random() < 0.85 else self._later()
        if any(word in self.view.aliases for word in content_words(said)) and len(said.split()) < 6:
            return self._kind()
        return self._topic()

    def _combination(self, item: int) -> list[str]:
        kinds = sorted(self._kinds[item]) or ["Drama"]
        return self.rng.sample(kinds, min(len(kinds), self.rng.choice([1, 1, 2])))

    def _topic(self) -> str:
        if not self.films:
            return self._product()
        met = [phrase for phrases in told_films().values() for phrase in phrases]
        phrase = self.rng.choice(met if self.rng.random() < 0.6 else self.topics["absent"])
        if self.rng.random() < 0.25:
            return self._of_kind(phrase)
        opening = self.rng.choice(_RECALLED if self.rng.random() < 0.2 else _ABOUT)
        return opening.format(CARRIED + phrase)

    def _of_kind(self, phrase: str) -> str:
        """A kind of film about something."""
        kind = self.rng.choice([*(word for said in KINDS_SAID.values() for word in said), "documentary", "biopic"])
        thing = "" if kind in ("documentary", "biopic", "comedy", "drama", "thriller", "musical") else " film"
        about = self.rng.choice(["about", "about", "with", "set among", "on", "starring"])
        return f"{self.rng.choice(['a ', 'a ', ''])}{kind}{thing} {about} {phrase}"

    def _keyword(self) -> str:
        own = content_words(plain_title(self.view.titles[self._item()])) or ["story"]
        said = " ".join(self.rng.sample(own, min(len(own), self.rng.choice([1, 2]))))
        openings = ["the one with {0}{1}{0} in the title", "something with {0}{1}", "a film about {0}{1}", "{1}"]
        return self.rng.choice(openings if self.films else ["something with {0}{1}", "{1}"]).format(CARRIED, said)

    def _later(self) -> str:
        return self.rng.choice(works()[TRAINED])

    def _person(self) -> str:
        who = self.rng.choice(["Hitchcock", "Tom Hanks", "Meryl Streep", "Kubrick", "Audrey Hepburn", "Bruce Willis"])
        return self.rng.choice(["something with {0}{1}", "a {0}{1}{0} film", "films by {0}{1}"]).format(CARRIED, who)

    def _product(self) -> str:
        title = re.sub(r"[,|/(\[].*", "", self.view.titles[self._item()])
        parts = [part for part in title.split() if part.isalpha()] or ["cream"]
        said = " ".join(parts[-self.rng.randint(1, 3) :]).lower()
        return self._article() + self.rng.choice(["", "", "good ", "cheap ", "gentle ", "strong "]) + said

    def judged(self, hidden_N: NDArray[np.bool_], subjects: list[str]) -> Wish:
        """A wish with its truth where the items ``hidden_N`` are not there.

        Args:
            hidden_N: bool [N].
            subjects: things that no catalog holds (a purple elephant on the moon).
        """
        kinds = ["title", "slip", "combination", "topic", "theme", "subject", "like", "keyword", "extended"]
        weights = [24, 6, 20, 28, 14, 7, 4, 5, 6] if self.films else [30, 8, 0, 0, 0, 14, 4, 18, 8]
        kind = self.rng.choices(kinds, weights)[0]
        wish: Wish = getattr(self, f"_judged_{kind}")(hidden_N, subjects)
        return wish

    def _visible(self, item: int, hidden_N: NDArray[np.bool_]) -> bool:
        own = " ".join(words(plain_title(self.view.titles[item])))
        return any(not hidden_N[other] for other in self._by_title[own])

    def _holding(self, wish: str, hidden_N: NDArray[np.bool_], *, told: bool = True) -> bool:
        """Whether a visible item holds all content words of ``wish``, in what is told of it too unless not ``told``."""
        held = [
            set(self.view.holding(word).tolist() if told else self.view._postings.get(word, ()))
            for word in content_words(wish)
        ]
        return bool(held) and any(not hidden_N[item] for item in set.intersection(*held))

    def _judged_title(self, hidden_N: NDArray[np.bool_], _: list[str]) -> Wish:
        if self.films and self.rng.random() < 0.25:
            return Wish(self._later(), (), False, "later")
        item = self._item()
        said = self.title(item)
        return Wish(said, (), self._visible(item, hidden_N) or self._holding(said, hidden_N, told=False), "title")

    def _judged_like(self, hidden_N: NDArray[np.bool_], subjects: list[str]) -> Wish:
        wish = self._judged_title(hidden_N, subjects)
        said = self.rng.choice(["the movie {}", "something like {}", "{} film", "the one called {}"])
        return Wish(said.format(wish.target), (), wish.satisfied, "like")

    def _judged_slip(self, hidden_N: NDArray[np.bool_], subjects: list[str]) -> Wish:
        from genrec.content.instructor.generate import slip

        wish = self._judged_title(hidden_N, subjects)
        return Wish(slip(wish.target, self.rng), (), wish.satisfied, "slip")

    def _judged_extended(self, hidden_N: NDArray[np.bool_], subjects: list[str]) -> Wish:
        """A real title and something that it is not: a sequel, another setting."""
        item = self._item()
        extra = self.rng.choice(["{} as a musical on ice", "{} with penguins", "an underwater {}", "{} starring my dog",
                                 "{} in the stone age", "{} but everyone is a robot", "{} part nine"])  # fmt: skip
        return Wish(extra.format(self.title(item)), (), False, "extended")

    def _judged_combination(self, hidden_N: NDArray[np.bool_], _: list[str]) -> Wish:
        if self.rng.random() < 0.55:
            chosen = self._combination(self._item())
        else:
            chosen = self.rng.sample(sorted(KINDS_SAID), self.rng.choice([2, 3]))
        begin, end = 0, 9999
        said_years: tuple[str, ...] = ()
        if self.rng.random() < 0.5:
            begin = self.rng.choice([1930, 1940, 1950, 1960, 1970, 1980, 1990, 2000])
            end = begin + 9
            style = self.rng.randrange(3)
            said_years = (f"from the {begin}s" if style else f"from {begin + 5}",)
            if not style:
                begin = end = begin + 5
        kinds = set(chosen)
        years_N = self.view._years_N
        held = any(kinds <= self._kinds[item] and begin <= years_N[item] <= end for item in np.flatnonzero(~hidden_N))
        target = self._kinds_in_words(chosen).replace(CARRIED, "")
        return Wish(target, said_years, held, "combination")

    def _judged_topic(self, hidden_N: NDArray[np.bool_], _: list[str]) -> Wish:
        told = ""
        if self.rng.random() < 0.45:
            phrase, satisfied = self.rng.choice(self.topics["absent"]), False
        else:
            phrase = told = self.rng.choice(self.rng.choice(list(told_films().values())))
            satisfied = any(not hidden_N[item] for item in self._told_items.get(told, ()))
            if not satisfied and self.rng.random() < 0.7:
                return self._judged_topic(hidden_N, _)
        if self.rng.random() < (0.15 if satisfied else 0.35):
            return Wish(self._of_kind(phrase), (), satisfied, "topic", told=told)
        target = self.rng.choice(_ABOUT).format(phrase)
        # Who recalls a film has seen it somewhere; what nobody ever filmed is asked for, not recalled.
        recalled = self.rng.random() < (0.5 if satisfied else 0.2)
        opening = self.rng.choice(_RECALLED if recalled else ["{}"])
        return Wish(target, (), satisfied, "topic", opening.format(phrase), told)

    @cached_property
    def _told_items(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for phrase, item in self.view.told:
            found[phrase].append(item)
        return found

    def _judged_theme(self, hidden_N: NDArray[np.bool_], _: list[str]) -> Wish:
        """One or two neighbouring words of what is told of a film: sharks, a diner, storm chasers."""
        said = re.findall(r"[a-z'-]+", self.rng.choice(self.rng.choice(list(told_films().values()))).lower())
        places = [place for place, word in enumerate(said) if content_words(word) and len(word) > 3]
        if not places:
            return self._judged_theme(hidden_N, _)
        begin = self.rng.choice(places)
        length = 2 if begin + 1 in places and self.rng.random() < 0.6 else 1
        theme = " ".join(said[begin : begin + length])
        target = self.rng.choice((*_ABOUT, "{}", "{}", "anything with {}")).format(theme)
        return Wish(target, (), self._holding(theme, hidden_N), "theme")

    def _judged_subject(self, _: NDArray[np.bool_], subjects: list[str]) -> Wish:
        return Wish(self.rng.choice(subjects), (), False, "subject")

    def _judged_keyword(self, hidden_N: NDArray[np.bool_], _: list[str]) -> Wish:
        said = self._keyword() if self.films else self._product()
        said = said.split(CARRIED)[1] if CARRIED in said else said
        return Wish(said, (), self._holding(said, hidden_N), "keyword")
