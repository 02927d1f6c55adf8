"""Slots of a decision, from the spans of the text and, where they still hold, of the turns before."""

from __future__ import annotations

from dataclasses import replace

from genrec.content.contracts import Instruction, Slots
from genrec.content.instructor.catalog_view import CatalogView, plain_title
from genrec.content.instructor.spans import medium_in, medium_of
from genrec.content.instructor.understanding import Understanding
from genrec.content.instructor.words import content_words, words

HOLDS = 0.5
"""Turns before are read along from this probability on."""


def fill_slots(instruction: Instruction, catalog: CatalogView, understood: Understanding) -> Slots:
    """What the instruction asks for, as far as it says so."""
    spans = understood.spans
    held = understood.earlier if understood.continues >= HOLDS else ()
    changes = understood.intents["change"] > max(understood.intents["seek"], understood.intents["make"])
    reference = understood.reference
    source = reference.item
    if source is None and held and changes:
        source = understood.earlier_item
    if source is None and changes and reference.kind == "none":
        source = _only(instruction)
    if understood.intents["make"] > max(understood.intents["seek"], understood.intents["change"]):
        source = None
    target = _longest(spans.target)
    seeks = understood.intents["seek"] > max(understood.intents["make"], understood.intents["change"])
    if seeks and source is not None and reference.kind in ("place", "title"):
        target = plain_title(catalog.titles[source])
    if seeks and target is None and spans.style:
        target, spans = spans.style[0], replace(spans, style=())
    if seeks and reference.kind in ("none", "this"):
        target = _title_said(instruction.text, target, catalog)
    if target and reference.kind != "none" and _only_points(target, reference.words, source, catalog, changes):
        target = None
    if target is None and not changes:
        target = next((found for found in (_longest(each.target) for each in held) if found), None)
    if target is None and source is not None and understood.intents["seek"] > 0.5:
        target = plain_title(catalog.titles[source])
    style = next((each.style[-1] for each in (spans, *held) if each.style), None)
    medium = next((found for found in (medium_of(each.medium) for each in (spans, *held)) if found), None)
    if medium is None and not seeks:
        medium = medium_in(instruction.text, [*filter(None, [target]), *spans.negative, *spans.constraint])
    constraints = dict.fromkeys((*spans.constraint, *(value for each in held for value in each.constraint)))
    negatives = dict.fromkeys((*spans.negative, *(value for each in held for value in each.negative)))
    return Slots(
        target=target,
        source_item=source,
        operation=understood.operation if changes else None,
        style=style,
        medium=medium,
        constraints=tuple(constraints),
        negatives=tuple(negatives),
    )


def _title_said(text: str, target: str | None, catalog: CatalogView) -> str | None:
    """The title that the text says, where the target found is another thing."""
    item = catalog.named(text)
    if item is None:
        return target
    title = plain_title(catalog.titles[item])
    return target if target and set(words(title)) <= set(words(target)) else title


def _longest(values: tuple[str, ...]) -> str | None:
    return max(values, key=len) if values else None


def _only(instruction: Instruction) -> int | None:
    return instruction.shown[0] if len(instruction.shown) == 1 else None


def _only_points(target: str, pointing: str, source: int | None, catalog: CatalogView, changes: bool) -> bool:
    """Whether a target says no more than which item is meant."""
    said = set(words(target))
    if changes and source is not None and said <= {*words(catalog.titles[source]), "poster", "cover", "picture"}:
        return True
    return said <= set(words(pointing)) and (changes or not content_words(target))
