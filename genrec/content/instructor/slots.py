"""Slots of a decision, from the spans of the text and, where they still hold, of the turns before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from genrec.content.contracts import Instruction, Medium, Slots
from genrec.content.instructor.catalog_view import CatalogView, plain_title
from genrec.content.instructor.lexicon import SOFT, STYLED
from genrec.content.instructor.references import Reference
from genrec.content.instructor.spans import DETERMINERS, Spans, longest, medium_in, medium_of, trimmed
from genrec.content.instructor.understanding import Understanding
from genrec.content.instructor.words import content_words, fold, said_as, words, year_words

_MEDIUM_OF: dict[str, Medium] = {"animate": "video", "rewrite": "card"}
_EMPTY = frozenset(("the", "any", "a", "an", "that", "those", "these", "this", "more", "all", "no"))
_ANY = re.compile(r"^any (?:good |decent |other )?(?=\S)", re.IGNORECASE)
_DETERMINED = re.compile(rf"^(?:{DETERMINERS})\s+(?=\S)", re.IGNORECASE)
_OF_A_THING = ("add", "replace", "recolour")
"""Changes that name a thing, which a change said again names no second time."""
HOLDS = 0.5
"""Turns before are read along from this probability on."""


def fill_slots(instruction: Instruction, catalog: CatalogView, understood: Understanding) -> Slots:
    """What the instruction asks for, as far as it says so."""
    spans = understood.spans
    reference = understood.reference
    intent = max(understood.intents, key=lambda name: understood.intents[name])
    seeks, makes, changes = (intent == name for name in ("seek", "make", "change"))
    held = understood.earlier if understood.continues >= HOLDS else ()
    # A change that says what to change changes no more than that; "the third one too" repeats the turn before.
    repeated = () if changes and (spans.style or spans.target or spans.constraint or spans.negative) else held
    source = None if makes else _source(instruction, understood, held=bool(held), changes=changes)
    target = longest(spans.target)
    told_years: tuple[str, ...] = ()
    if seeks:
        target, told_years, spans = _sought(instruction.text, source, reference, spans, catalog)
        target = _work_said(instruction.text, target, understood.lacks)
    if target and changes:
        target = _changed_to(target, reference)
    if target and reference.kind != "none" and _only_points(target, reference.words, source, catalog, changes):
        target = None
    if target is None and (not changes or (repeated and understood.operation in _OF_A_THING)):
        target = next((found for found in (longest(each.target) for each in held) if found), None)
    if target is None and source is not None and understood.intents["seek"] > 0.5:
        target = plain_title(catalog.titles[source])
    style = None if seeks else next((each.style[-1] for each in (spans, *repeated) if each.style), None)
    if makes and target and style is None:
        style, target = _leading_style(target)
    described = bool(spans.style or spans.negative or spans.constraint)
    operation = understood.operation if changes or (intent == "vague" and (described or spans.target)) else None
    if makes:
        beside = [*filter(None, [target, style]), *spans.negative, *spans.constraint]
        medium = _medium_to_make(instruction, (spans, *held), beside)
    else:
        medium = _medium_of_change(operation, spans)
    if operation is None and not (seeks or makes) and described:
        operation = understood.likeliest
    constraints = dict.fromkeys((*told_years, *(value for each in (spans, *repeated) for value in each.constraint)))
    if operation == "recolour" and not target:
        operation, style, constraints = _or_restyle(style, constraints)
    negatives = dict.fromkeys(value for each in (spans, *repeated) for value in each.negative)
    return Slots(
        target=target,
        source_item=source,
        operation=operation,
        style=style,
        medium=medium,
        constraints=_distinct(constraints),
        negatives=tuple(value for value in _distinct(negatives) if not _is_meant(value, target, reference)),
    )


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Values without those that differ from an earlier one in letter case alone."""
    found: dict[str, str] = {}
    for value in values:
        found.setdefault(fold(value), value)
    return tuple(found.values())


def _sought(
    text: str, source: int | None, reference: Reference, spans: Spans, catalog: CatalogView
) -> tuple[str | None, tuple[str, ...], Spans]:
    """What is sought, the years said within it, and the spans that are left."""
    target = longest(spans.target)
    if source is not None and reference.kind in ("place", "title"):
        target = plain_title(catalog.titles[source])
    if target is None or _kind_said_beside(target, spans, catalog):
        target, spans = _instead_of_target(spans)
    told_years: tuple[str, ...] = ()
    if target and catalog.named(target) is None:
        target, told_years = years_apart(_ANY.sub("", target))
    if reference.kind in ("none", "this"):
        target = _title_said(text, target, catalog)
    if target and catalog.named(target) is None and not any(map(year_words, (*told_years, *spans.constraint))):
        told_years = years_behind(target, text)
    return target, told_years, spans


def _changed_to(target: str, reference: Reference) -> str | None:
    """The thing that a change names, without "her" or "that" and the title of the item that is changed."""
    target = _DETERMINED.sub("", target)
    return (_without(target, reference.words) or None) if reference.kind == "title" else target


def _is_meant(value: str, target: str | None, reference: Reference) -> bool:
    """Whether what shall be away says nothing, or is what is wanted or pointed at by its title."""
    said = set(words(value))
    kept = [_EMPTY, set(words(target or "")), set(words(reference.words)) if reference.kind == "title" else set()]
    return any(said <= each for each in kept)


def years_apart(target: str) -> tuple[str, tuple[str, ...]]:
    """A wish without the years in it, and those: "a 40s drama" is a drama, with "40s" as a constraint."""
    place = year_words(target)
    if place is None:
        return target, ()
    rest = trimmed(f"{target[: place[0]]} {target[place[1] :]}", "target")
    return (rest, (trimmed(target[slice(*place)], "constraint"),)) if content_words(rest) else (target, ())


def years_behind(target: str, text: str) -> tuple[str, ...]:
    """The years that a text names right behind what is wanted, though no span holds them."""
    _, said, behind = text.lower().partition(target.lower())
    place = year_words(behind)
    if not said or place is None or behind[: place[0]].strip(" ,;"):
        return ()
    return (trimmed(text[len(text) - len(behind) :][slice(*place)], "constraint"),)


def _or_restyle(style: str | None, constraints: dict[str, None]) -> tuple[str, str | None, dict[str, None]]:
    """A colour for the whole that is a style ("sepia", "black and white") is one."""
    if style is None and len(constraints) == 1 and STYLED.fullmatch(fold(*constraints)):
        return "restyle", next(iter(constraints)), {}
    return ("restyle" if style and not constraints else "recolour"), style, constraints


def _medium_to_make(instruction: Instruction, spans: Sequence[Spans], beside: Sequence[str]) -> Medium | None:
    """The medium that words tagged or before "of" name; a picture for a picture says nothing of it."""
    medium: Medium | None = medium_of([value for each in spans for value in each.medium])
    if medium is None:
        medium = medium_in(instruction.text, beside)
    if instruction.picture is not None and medium == "image":
        return None
    return medium


def _medium_of_change(operation: str | None, spans: Spans) -> Medium | None:
    """What is animated becomes a video; the words of a card stay a card's."""
    if operation == "animate" or (operation == "rewrite" and medium_of(spans.medium) == "card"):
        return _MEDIUM_OF[operation]
    return None


def _kind_said_beside(target: str, spans: Spans, catalog: CatalogView) -> bool:
    """Whether what was taken for a style is a kind of thing that the catalog has, and the target is none."""
    beside = " ".join(spans.style)
    kinds = [any(word in catalog.aliases for word in content_words(text)) for text in (beside, target)]
    return kinds == [True, False] and catalog.named(target) is None


def _instead_of_target(spans: Spans) -> tuple[str | None, Spans]:
    """Who seeks a "cartoon" or "animation" means the thing, not its style or medium."""
    if spans.style:
        return spans.style[0], replace(spans, style=())
    if spans.medium:
        return spans.medium[0], replace(spans, medium=())
    return None, spans


def _leading_style(target: str) -> tuple[str | None, str]:
    """The style that a thing to be made begins with: "3d" of "3d purple apple"."""
    match = STYLED.match(fold(target))
    rest = target[match.end() :].strip() if match else ""
    return (target[: match.end()], rest) if match and content_words(rest) else (None, target)


def _source(instruction: Instruction, understood: Understanding, *, held: bool, changes: bool) -> int | None:
    """The item that is meant: pointed at, meant by the turn before, or the only one there is."""
    reference = understood.reference
    if reference.item is None and changes:
        if held and understood.earlier_item is not None:
            return understood.earlier_item
        return _only(instruction) if reference.kind == "none" else None
    return reference.item


def _title_said(text: str, target: str | None, catalog: CatalogView) -> str | None:
    """The title that the text says, where the target found is another thing."""
    item = catalog.named(text)
    if item is None and target is None:
        item = catalog.nearly_named(text)
    if item is None:
        return target
    title = plain_title(catalog.titles[item])
    if target and set(words(title)) <= set(words(target)):
        beyond = [word for word in content_words(target) if word not in words(title) and word not in SOFT]
        return target if beyond else title
    if target and (catalog.named(target) is not None or not (len(content_words(title)) > 1 or as_a_name(title, text))):
        return target  # a word or two that happen to be a title as well
    return title


def _work_said(text: str, target: str | None, lacks: str) -> str | None:
    """The whole name of a known work, where the target is a part of it: "finding nemo" rather than "nemo"."""
    work = lacks.split()
    part = bool(work) and set(words(target or "")) < set(work)
    return (said_as(work, text) or target) if part else target


def as_a_name(title: str, text: str) -> bool:
    """Whether a text writes a title with its capital inside of a sentence, as only names are."""
    match = re.search(rf"[a-z,] {re.escape(title)}\b", text)
    return match is not None and title[0].isupper()


def _without(target: str, title: str) -> str:
    """A target without the title of the item that is changed: "Jaws for a whale" is a whale."""
    left = re.sub(rf"\b{re.escape(title)}\b(?:'s)?", " ", target, flags=re.IGNORECASE)
    if left == target:
        return target
    return trimmed(re.sub(r"^\W*(?:for|with|to|and|into|in|on)\s", "", left.strip()), "target")


def _only(instruction: Instruction) -> int | None:
    return instruction.shown[0] if len(instruction.shown) == 1 else None


def _only_points(target: str, pointing: str, source: int | None, catalog: CatalogView, changes: bool) -> bool:
    """Whether a target says no more than which item is meant."""
    said = set(words(target))
    if changes and source is not None and said <= {*words(catalog.titles[source]), "poster", "cover", "picture"}:
        return True
    return said <= set(words(pointing)) and (changes or not content_words(target))
