"""What to ask back: the one thing that is missing, with what there is to choose from."""

from __future__ import annotations

from collections.abc import Mapping

from genrec.content.contracts import Action, Instruction, Slots
from genrec.content.instructor.catalog_view import CatalogView, plain_title
from genrec.content.instructor.understanding import Understanding

CHOICES = 5


def question_for(
    instruction: Instruction,
    catalog: CatalogView,
    slots: Slots,
    understood: Understanding,
    probabilities: Mapping[Action, float],
    lacking: str | None,
) -> str:
    """A question whose answer decides."""
    reference, shown = understood.reference, instruction.shown
    if reference.beyond:
        count = f"The list has {len(shown)} items" if shown else "There is no list before you yet"
        return f"{count}: which one do you mean by '{reference.words}'?"
    changes = probabilities["edit"] == max(probabilities.values()) or understood.intents["change"] > 0.3
    pointed = reference.kind != "none" and reference.item is None
    if lacking == "source" or ((changes or pointed) and slots.source_item is None and instruction.picture is None):
        if shown:
            named = "; ".join(
                f"{place}. {plain_title(catalog.titles[item])}" for place, item in enumerate(shown[:CHOICES], 1)
            )
            return f"Which one shall I change: {named}?"
        return "What shall I change? Send a picture or name an item."
    if lacking == "target" or (understood.intents["make"] > 0.3 and not slots.target):
        return "What should it show, and in which style?"
    if slots.source_item is not None:
        title = plain_title(catalog.titles[slots.source_item])
        return f"What shall I do with '{title}': another style, other colours, something added or removed?"
    if slots.target and probabilities["retrieve"] + probabilities["create"] > probabilities["clarify"]:
        return f"Shall I look for '{slots.target}' in the catalog, or make it new?"
    return "What are you after: a title, a kind of thing, a mood, or shall I make a picture of something?"
