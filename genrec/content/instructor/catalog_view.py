"""The catalog as the instructor sees it: is there an item that satisfies a wish?

Two views of every item are compared with the wish: its meaning (MiniLM embeddings of text, of title and, where the item
is a film, of what people say of it: genrec.content.instructor.told) and its words. For the words, each content word of
the wish weighs its inverse document frequency and is covered by an item that holds it, that it is told of, that belongs
to a category the word stands for ("scary": Horror), or that holds its nearest spelling. What the best item leaves
uncovered is the strongest sign that nothing satisfies; :attr:`Found.signs` are the features from which the learned head
(genrec.content.instructor.heads) tells a probability.

Shape letters: N items, E embedding width, F signs, P phrases told of items.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genrec.content.instructor.lexicon import RECALLING, SOFT, SOFT_SHARE
from genrec.content.instructor.spelling import Spelling
from genrec.content.instructor.told import items_told_of, told_films
from genrec.content.instructor.words import STOP, content_words, fold, slip_of, stem, unarticled, words, years
from genrec.content.instructor.works import works_named
from genrec.encoders.cache import EmbeddingCache

if TYPE_CHECKING:
    from genrec.data.load import Catalog
    from genrec.encoders.protocol import TextEncoder

FloatArray = NDArray[np.float32]
SIGNS = (
    "coverage",
    "full_matches",
    "text_cosine",
    "title_cosine",
    "title_zscore",
    "cosine_margin",
    "title_said",
    "understood",
    "unknown",
    "heaviest_missing",
    "content_words",
    "years_named",
    "years_met",
    "coverage_of_best",
    "cosine_of_best",
    "title_named",
    "kinds_said",
    "kinds_share",
    "recalled",
    "plain_missing",
    "told_cosine",
    "told_margin",
)
"""Names of the features of :attr:`Found.signs`."""
SHORTEST_LIKE, LONGEST_LIKE = 7, 60
"""Characters of a text that is compared with whole titles."""
TOLD_FROM, TOLD_WEIGHT = 0.4, 1.5
"""Cosine from which what is told of an item counts, and what it counts in the order of items."""
_NONE = np.empty(0, np.int64)
_ITEM_YEAR = re.compile(r"\(((?:18|19|20)\d\d)\)")
_PARENTHESES = re.compile(r"\s*\([^)]*\)")
_SECOND_TITLE = re.compile(r":| or: ", re.IGNORECASE)
_ARTICLE_LAST = re.compile(r"^(.*), (the|a|an|il|le|la|les|der|die|das|el)$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        items: indices, best first.
        scores: of these items.
        signs: float32 [F], features of how well the wish is met, in the order of SIGNS.
        embedding: float32 [E], of the wish; zeros where none was given.
        missing: content words of the wish that the best item does not cover.
        lacks: a known work that the wish names and this catalog does not have; empty: none.
    """

    items: tuple[int, ...]
    scores: tuple[float, ...]
    signs: FloatArray
    embedding: FloatArray
    missing: tuple[str, ...] = ()
    lacks: str = ""

    @property
    def ruled_out(self) -> bool:
        """Whether nothing can satisfy: no item is of the years named, or a known work is named that is not here."""
        named, met = (float(self.signs[SIGNS.index(name)]) for name in ("years_named", "years_met"))
        return bool(self.lacks) or (named > 0 and not met)


@dataclass(frozen=True, eq=False)
class CatalogView:
    """Search over one catalog; built once, read by any number of threads.

    Attributes:
        titles: what people read, by item index.
        texts: title, brand, categories and description, by item index.
        text_NE: embeddings of the texts, rows of length 1.
        title_NE: embeddings of the titles.
        aliases: words for kinds.
        told: phrases with the item that each is told of.
        told_PE: embeddings of the phrases.
    """

    titles: Sequence[str]
    texts: Sequence[str]
    text_NE: FloatArray
    title_NE: FloatArray
    aliases: dict[str, frozenset[str]] = field(default_factory=dict)
    told: Sequence[tuple[str, int]] = ()
    told_PE: FloatArray | None = None

    @classmethod
    def build(
        cls, titles: Sequence[str], texts: Sequence[str], encoder: TextEncoder, cache: Path | None = None
    ) -> CatalogView:
        """Embed titles and texts; about a minute for 10,000 items on one core.

        Args:
            titles: by item index.
            texts: by item index.
            encoder: the instructor's own (:attr:`Instructor.encoder`).
            cache: directory where embeddings are kept by text for the next time.
        """
        titles, texts = list(titles), list(texts)
        told = told_of(titles)
        said = [*texts, *(plain_title(title) for title in titles), *(phrase for phrase, _ in told)]
        if cache is None:
            embeddings = encoder.encode(said)
        else:
            kept = EmbeddingCache(cache / encoder.identity, encoder.dimension)
            embeddings = kept.embed(said, lambda missing: [(np.arange(len(missing)), encoder.encode(missing))])
        text_NE, title_NE, told_PE = np.split(embeddings, [len(texts), len(texts) + len(titles)])
        return cls(titles, texts, text_NE, title_NE, load_aliases(), told, told_PE)

    @classmethod
    def of_catalog(cls, catalog: Catalog, encoder: TextEncoder, cache: Path | None = None) -> CatalogView:
        """The view of a bundle's catalog; see :meth:`build`."""
        return cls.build(catalog.titles, catalog.texts, encoder, cache)

    def extended(
        self, titles: Sequence[str], texts: Sequence[str], text_AE: FloatArray, title_AE: FloatArray
    ) -> CatalogView:
        """A second view with further items behind these, embedded by the same encoder."""
        return CatalogView(
            [*self.titles, *titles],
            [*self.texts, *texts],
            np.concatenate([self.text_NE, text_AE]),
            np.concatenate([self.title_NE, title_AE]),
            self.aliases,
            self.told,
            self.told_PE,
        )

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def item_by_title(self) -> dict[str, int]:
        """The first item of each title."""
        return {title: item for item, title in reversed(list(enumerate(self.titles)))}

    @cached_property
    def _postings(self) -> dict[str, NDArray[np.int64]]:
        found: dict[str, list[int]] = defaultdict(list)
        for item, text in enumerate(self.texts):
            for word in dict.fromkeys(words(f"{self.titles[item]} {text}")):
                found[word].append(item)
        return {word: np.array(items, np.int64) for word, items in found.items()}

    @cached_property
    def _years_N(self) -> NDArray[np.int64]:
        found = (_ITEM_YEAR.search(f"{title} {text}") for title, text in zip(self.titles, self.texts, strict=True))
        return np.array([int(match[1]) if match else 0 for match in found], np.int64)

    @cached_property
    def _title_words(self) -> list[frozenset[str]]:
        return [frozenset(content_words(plain_title(title))) or frozenset(words(title)) for title in self.titles]

    @cached_property
    def _named_by(self) -> dict[str, list[tuple[int, list[str]]]]:
        """Items with the words that name them, by the rarest word of each; those that no text names are left out.

        An item is named by its title, and by more than a word of it: without its article, and by what stands before a
        second title where no other item has that.
        """
        found: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
        for item, (title, first) in enumerate(zip(*self._names, strict=True)):
            for said in dict.fromkeys(map(tuple, (title, unarticled(title), first or title))):
                telling = [word for word in said if word not in STOP and word not in self.aliases]
                shortened = len(said) < len(title)
                alone = len(said) == 1
                common = alone and (shortened or len(said[0]) < 5 or len(self._postings.get(said[0], ())) > 3)
                if telling and not common:
                    found[min(telling, key=lambda word: len(self._postings.get(word, ())))].append((item, [*said]))
        return found

    @cached_property
    def _names(self) -> tuple[list[list[str]], list[list[str]]]:
        """Words of the titles, and of what stands in each before a second title; empty where it is not its alone."""
        plain = [plain_title(title) for title in self.titles]
        titles = [words(title) for title in plain]
        first = [words(_SECOND_TITLE.split(title)[0]) for title in plain]
        counts = Counter(map(tuple, (*titles, *first)))
        return titles, [name if counts[tuple(name)] == 1 else [] for name in first]

    @cached_property
    def _words_spelled(self) -> Spelling:
        return Spelling([word for word in self._postings if len(word) > 3])

    @cached_property
    def _titles_spelled(self) -> tuple[Spelling, NDArray[np.int64]]:
        """Titles and, where one item alone has it, what stands before a second title; the item of each."""
        titles, first = self._names
        own = [item for item, name in enumerate(first) if name]
        names = [*titles, *(first[item] for item in own)]
        return Spelling([" ".join(name) for name in names]), np.array([*range(len(titles)), *own], np.int64)

    def _near_spelling(self, word: str) -> str | None:
        if len(word) < 5 or not word.isalpha():
            return None
        near = self._words_spelled.nearest(word)
        return None if near is None else self._words_spelled.texts[near]

    def _weight(self, count: int) -> float:
        return float(np.log1p(len(self) / (count + 0.5)))

    @cached_property
    def _told_postings(self) -> dict[str, list[int]]:
        """Places in ``told`` by content word."""
        found: dict[str, list[int]] = defaultdict(list)
        for place, (phrase, _) in enumerate(self.told):
            for word in dict.fromkeys(content_words(phrase)):
                found[word].append(place)
        return found

    @cached_property
    def _kinds(self) -> frozenset[str]:
        return frozenset().union(*self.aliases.values())

    def kinds_of(self, word: str) -> frozenset[str]:
        """Stems of the categories that a word (a stem) is, or stands for; empty: it is no word for a kind."""
        return self.aliases.get(word, frozenset()) | (self._kinds & {word})

    def holding(self, word: str, untold: str = "") -> NDArray[np.int64]:
        """The items whose title, text or what is told of them (but for the phrase ``untold``) holds a word."""
        own = self._postings.get(word, _NONE)
        told = (self.told[place] for place in self._told_postings.get(word, ()))
        items = [item for phrase, item in told if phrase != untold]
        return np.union1d(own, np.array(items, np.int64)) if items else own

    def _items_of(self, word: str, untold: str = "") -> tuple[NDArray[np.int64], str]:
        """The items that cover a word, and how it was read: word, alias, spelling or unknown."""
        own = self.holding(word, untold)
        groups = [own] if len(own) else []
        meant = [self._postings[name] for name in self.aliases.get(word, ()) if name in self._postings]
        if meant or groups:
            return np.unique(np.concatenate([*groups, *meant])), "alias" if meant else "word"
        near = self._near_spelling(word)
        if near is not None:
            return self._postings[near], "spelling"
        return _NONE, "unknown"

    def _covered(
        self, wish: Sequence[str], untold: str
    ) -> tuple[FloatArray, list[tuple[str, float, str, NDArray[np.int64]]]]:
        covered_N = np.zeros(len(self), np.float32)
        read = []
        for word in wish:
            items, how = self._items_of(word, untold)
            full = self._weight(len(items)) * (SOFT_SHARE if word in SOFT and how != "alias" else 1.0)
            covered_N[items] += full * (0.8 if how == "spelling" else 1.0)
            read.append((word, full, how, items))
        return covered_N, read

    def search(
        self,
        target: str,
        k: int = 10,
        *,
        constraints: Sequence[str] = (),
        negatives: Sequence[str] = (),
        embedding: FloatArray | None = None,
        encoder: TextEncoder | None = None,
        hidden: NDArray[np.bool_] | None = None,
        said: str = "",
        untold: str = "",
    ) -> Found:
        """The items that satisfy a wish best.

        Args:
            target: the thing wanted, in the user's words.
            k: length of the list.
            constraints: what must hold; years and words for kinds are read from them.
            negatives: items that hold one of these words come last.
            embedding: float32 [E] of the target; None: by the encoder, or the words alone.
            encoder: embeds the target where no embedding is given.
            hidden: bool [N], items to pass over.
            said: all that the user said, of which ``target`` is a part.
            untold: a phrase told of items that is not to help: the one that the wish was made of.
        """
        spelled = self._spelled_like(target, hidden) if self.named(target, hidden) is None else None
        if spelled is not None:
            target = plain_title(self.titles[spelled])
        full = " ".join([target, *constraints])
        span, _ = years(full)
        if span is not None:  # "nothing newer than 1940": the whole sentence tells on which side
            span = years(said)[0] or span
        if not self._years_N.any():
            span = None
        wish = content_words(years(target)[1])
        # Of the constraints only years and kinds can be judged; a price or an ending stands in no title.
        wish += [word for word in content_words(" ".join(constraints)) if word in self.aliases and word not in wish]
        if embedding is None and encoder is not None:
            embedding = encoder.encode([target])[0]
        covered_N, read = self._covered(wish, untold)
        total = sum(weight for _, weight, _, _ in read)
        allowed_N = np.ones(len(self), bool)
        if span is not None:
            allowed_N = (self._years_N >= span[0]) & (self._years_N <= span[1])
        kinds = {kind for word in wish for kind in self.kinds_of(word)}
        for word in (word for negative in negatives for word in content_words(negative)):
            # Of romances without weddings only those that hold a wedding go, though weddings are a word for romances.
            wanted = not kinds.isdisjoint(self.kinds_of(word))
            allowed_N[self.holding(word) if wanted else self._items_of(word)[0]] = False
        seen_N = np.ones(len(self), bool) if hidden is None else ~hidden
        coverage_N = covered_N / total if total else np.ones(len(self), np.float32)
        text_N = np.zeros(len(self), np.float32) if embedding is None else self.text_NE @ embedding
        title_N = np.zeros(len(self), np.float32) if embedding is None else self.title_NE @ embedding
        told_N = self._told_cosines(embedding, untold)
        said_N = self._said(frozenset(words(full)), read)
        named = self.named(said or target, hidden)
        if named is None:
            named = self._named_mended(target, hidden) if spelled is None else spelled
        if named is not None:
            said_N[named] = 1.0
        score_N = coverage_N + 0.6 * said_N * coverage_N + 0.5 * text_N + 0.5 * title_N
        score_N += TOLD_WEIGHT * np.maximum(told_N - TOLD_FROM, 0)
        if named is not None:
            score_N[named] += 0.5
        score_N = np.where(seen_N, score_N - 3.0 * ~allowed_N, -np.inf)
        top = np.argsort(-score_N, kind="stable")[:k]
        top = top[np.isfinite(score_N[top])]
        best = int(top[0]) if len(top) else 0
        usable_N = allowed_N & seen_N
        signs = self._signs(coverage_N, text_N, title_N, said_N, usable_N, best, read, total, span)
        signs |= _signs_of_words(read, total, best)
        signs |= _signs_of_told(told_N[usable_N])
        signs["title_named"] = float(named is not None and allowed_N[named])
        signs["recalled"] = float(RECALLING.search(fold(said)) is not None)
        signs_F = np.array([signs[name] for name in SIGNS], np.float32)
        missing = tuple(word for word, _, _, items in read if best not in items)
        scores = tuple(float(score_N[item]) for item in top)
        meant = np.zeros(self.text_NE.shape[1], np.float32) if embedding is None else embedding
        lacks = self.lacking(target, said or target)
        return Found(tuple(int(item) for item in top), scores, signs_F, meant, missing, lacks)

    def lacking(self, target: str, said: str) -> str:
        """A known work that a wish names (:func:`works_named`) and no item is; empty: none."""
        named = works_named(target, said)
        here = self.named(said) if named else None
        title = set() if here is None else set(words(plain_title(self.titles[here])))
        for work in named:
            holding = [self._postings.get(word, _NONE) for word in work]
            if title.issubset(work) and not len(reduce(np.intersect1d, holding)):
                return " ".join(work)
        return ""

    def _told_cosines(self, embedding: FloatArray | None, untold: str) -> FloatArray:
        """float32 [N], the likest phrase that is told of each item; 0 where nothing is."""
        told_N = np.zeros(len(self), np.float32)
        if embedding is not None and self.told_PE is not None and len(self.told):
            cosines_P = self.told_PE @ embedding
            if untold:
                cosines_P[[phrase == untold for phrase, _ in self.told]] = 0
            np.maximum.at(told_N, self._told_item_P, cosines_P)
        return told_N

    @cached_property
    def _told_item_P(self) -> NDArray[np.int64]:
        return np.array([item for _, item in self.told], np.int64)

    def named(self, text: str, hidden: NDArray[np.bool_] | None = None) -> int | None:
        """The item whose title ``text`` says word by word; one word alone where it is rare and stands for no kind.

        Args:
            text: what the user says.
            hidden: bool [N], items to pass over.
        """
        return self._named(words(text), hidden)

    def nearly_named(self, text: str, hidden: NDArray[np.bool_] | None = None) -> int | None:
        """As :meth:`named`, where words that the catalog does not know are read as those they are a slip of.

        A text that is no more than a title may have slips in several words.
        """
        found = self._named_mended(text, hidden)
        return self._spelled_like(text, hidden) if found is None else found

    def _named_mended(self, text: str, hidden: NDArray[np.bool_] | None) -> int | None:
        """As :meth:`named`, each word that is a slip read as what it is a slip of."""
        return self._named([self._mended(word) for word in words(text)], hidden)

    def _spelled_like(self, text: str, hidden: NDArray[np.bool_] | None) -> int | None:
        """The one item whose whole title, or what stands there before a second one, ``text`` is but for slips."""
        said = " ".join(words(text))
        if len(said) < SHORTEST_LIKE or len(said) > LONGEST_LIKE:
            return None
        spelling, items = self._titles_spelled
        near = spelling.nearest(said, None if hidden is None else hidden[items])
        return int(items[near]) if near is not None and slip_of(said, spelling.texts[near]) else None

    def _mended(self, word: str) -> str:
        if word in self._postings or word in STOP:
            return word
        near = self._near_spelling(word)
        return near if near is not None and slip_of(word, near) else word

    def _named(self, said: Sequence[str], hidden: NDArray[np.bool_] | None) -> int | None:
        best, length = None, 0
        for item, title in (each for word in dict.fromkeys(said) for each in self._named_by.get(word, ())):
            if len(title) <= length or (hidden is not None and hidden[item]):
                continue
            if any(said[place : place + len(title)] == title for place in range(len(said) - len(title) + 1)):
                best, length = int(item), len(title)
        return best

    def _said(self, said: frozenset[str], read: Sequence[tuple[str, float, str, NDArray[np.int64]]]) -> FloatArray:
        """float32 [N], the share of each title's words that the wish says."""
        said_N = np.zeros(len(self), np.float32)
        candidates = [items for _, _, how, items in read if how in ("word", "spelling") and len(items) < 400]
        for item in np.unique(np.concatenate(candidates)) if candidates else ():
            title = self._title_words[item]
            hits = sum(1 for word in title if word in said or stem(word) in said)
            said_N[item] = hits / max(len(title), 1)
        return said_N

    def _signs(
        self,
        coverage_N: FloatArray,
        text_N: FloatArray,
        title_N: FloatArray,
        said_N: FloatArray,
        usable_N: NDArray[np.bool_],
        best: int,
        read: Sequence[tuple[str, float, str, NDArray[np.int64]]],
        total: float,
        span: tuple[int, int] | None,
    ) -> dict[str, float]:
        if not usable_N.any():
            usable_N = np.ones_like(usable_N)
            met = 0.0
        else:
            met = 1.0
        coverage, text, title = coverage_N[usable_N], text_N[usable_N], title_N[usable_N]
        ten = np.sort(title)[-10:]
        understood = sum(weight for _, weight, how, _ in read if how != "unknown") / total if total else 1.0
        missing = [weight for _, weight, _, items in read if best not in items]
        return {
            "coverage": coverage.max() * met,
            "full_matches": np.log1p((coverage >= 0.99).sum()) * met,
            "text_cosine": text.max(),
            "title_cosine": title.max(),
            "title_zscore": (title.max() - title_N.mean()) / (title_N.std() + 1e-6) / 5,
            "cosine_margin": ten[-1] - ten.mean(),
            "title_said": (said_N * coverage_N)[usable_N].max(),
            "understood": understood,
            "unknown": 1.0 - understood,
            "heaviest_missing": max(missing, default=0.0) / self._weight(0),
            "content_words": np.log1p(len(read)),
            "years_named": float(span is not None),
            "years_met": met if span is not None else 0.0,
            "coverage_of_best": coverage_N[best],
            "cosine_of_best": max(text_N[best], title_N[best]),
        }


def _signs_of_words(
    read: Sequence[tuple[str, float, str, NDArray[np.int64]]], total: float, best: int
) -> dict[str, float]:
    """What kind of words the wish is made of."""
    kinds = [weight for _, weight, how, _ in read if how == "alias"]
    missing = [word for word, _, _, items in read if best not in items and word not in SOFT]
    return {
        "kinds_said": float(np.log1p(len(kinds))),
        "kinds_share": sum(kinds) / total if total else 0.0,
        "plain_missing": float(np.log1p(len(missing))),
    }


def _signs_of_told(told_N: FloatArray) -> dict[str, float]:
    """How like the wish is what is told of one item, and by how much more than the mean of the ten likest."""
    if not len(told_N):
        return {"told_cosine": 0.0, "told_margin": 0.0}
    ten = np.partition(told_N, -10)[-10:] if len(told_N) > 10 else told_N
    return {"told_cosine": float(ten.max()), "told_margin": float(ten.max() - ten.mean())}


def told_of(titles: Sequence[str]) -> list[tuple[str, int]]:
    """What people say of the films among these, each phrase with its item."""
    # A year tells a film from a shampoo of the same name.
    films = items_told_of([plain_title(title) if _ITEM_YEAR.search(title) else None for title in titles])
    return [(phrase, item) for film, items in films.items() for item in items for phrase in told_films()[film]]


def plain_title(title: str) -> str:
    """A title as people say it: no year, no second title in brackets, the article first."""
    plain = _PARENTHESES.sub("", title).strip() or title
    match = _ARTICLE_LAST.match(plain)
    return f"{match[2]} {match[1]}" if match else plain


def load_aliases() -> dict[str, frozenset[str]]:
    """Word -> stems of the categories that it stands for."""
    found: dict[str, set[str]] = defaultdict(set)
    table = json.loads(files(__package__).joinpath("aliases.json").read_text(encoding="utf-8"))
    for category, meant in table.items():
        for word in meant.split():
            found[stem(word)].add(stem(category))
    return {word: frozenset(categories) for word, categories in found.items()}
