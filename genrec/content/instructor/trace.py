"""The reasons of a decision, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

from genrec.content.contracts import Action, Instruction, Slots
from genrec.content.instructor.catalog_view import CatalogView, Found, plain_title
from genrec.content.instructor.understanding import Understanding

_MEANT = {
    "seek": "find something",
    "change": "change something that is there",
    "make": "have something new made",
    "vague": "nothing that could be acted on yet",
}


def reasons(
    instruction: Instruction,
    catalog: CatalogView,
    slots: Slots,
    understood: Understanding,
    found: Found,
    sufficiency: float,
    action: Action,
    expected: Mapping[Action, float],
    lacking: str | None,
) -> tuple[str, ...]:
    """Why ``action``."""
    intent = max(understood.intents, key=lambda name: understood.intents[name])
    told = [f"The words ask to {_MEANT[intent]} (probability {understood.intents[intent]:.2f})."]
    if intent == "vague":
        told = [f"The words say {_MEANT[intent]} (probability {understood.intents[intent]:.2f})."]
    if understood.continues >= 0.5:
        told.append("It continues what was said before, so what it leaves open is taken from there.")
    if understood.reference.kind != "none":
        told.append(_pointed(instruction, catalog, understood))
    if intent in ("seek", "make") and found.items:
        nearest = plain_title(catalog.titles[found.items[0]])
        lacks = f", which says nothing of {', '.join(found.missing)}" if found.missing else ""
        told.append(
            f"Nearest in the catalog to '{slots.target or instruction.text}': '{nearest}'{lacks}; "
            f"the catalog satisfies with probability {sufficiency:.2f}."
        )
    if intent in ("seek", "make") and found.lacks:
        told.append(f"'{found.lacks}' is known, and this catalog does not have it.")
    if instruction.rejected:
        told.append(f"The last {instruction.rejected} items were rejected, which speaks against the catalog.")
    if lacking:
        told.append(f"The {lacking} is missing, so it is asked.")
    else:
        told.append(f"Of all actions, {action} has the least expected cost ({expected[action]:.2f}).")
    return tuple(told)


def _pointed(instruction: Instruction, catalog: CatalogView, understood: Understanding) -> str:
    reference = understood.reference
    if reference.item is not None:
        return f"'{reference.words}' is '{plain_title(catalog.titles[reference.item])}'."
    if reference.beyond:
        return f"'{reference.words}' is not in the list of {len(instruction.shown)}."
    if instruction.picture is not None:
        return f"'{reference.words}' is the picture that came along."
    return f"It cannot be told what '{reference.words}' is."
