"""What an instruction says, before the catalog is asked: intent, operation, spans, and what it points at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.content.contracts import Instruction
from genrec.content.instructor import lexicon
from genrec.content.instructor.catalog_view import CatalogView, plain_title
from genrec.content.instructor.heads import (
    FACTS,
    INTENTS,
    NO_OPERATION,
    OPERATIONS,
    Heads,
    HeadsOutput,
    InstructionHeads,
    averaged,
)
from genrec.content.instructor.reading import TURNS_READ, Reader, Tokens
from genrec.content.instructor.references import Reference, resolve
from genrec.content.instructor.spans import Spans, longest, spans_of
from genrec.content.instructor.words import content_words, fold, words, years

SAID_ALONE = 0.9
"""Probability that who says a title of the catalog or a kind of item, and nothing else, seeks it."""
_NEGATED = re.compile(r"\b(?:not|no|without|except|but|never|other)\b")
_GREETING = re.compile(r"\b(?:hi|hello|hey)\b")


@dataclass(frozen=True)
class Understanding:
    """One instruction, understood.

    Attributes:
        intents: probability of each of INTENTS, calibrated.
        operation: None where no change is described.
        likeliest: operation, if there is one.
        continues: probability that the turns before still hold.
        spans: of the text.
        earlier: spans of the turns, the newest first.
        reference: what the text points at.
        earlier_item: what the turns pointed at last.
        lacks: a known work that the text names and the catalog does not have, in stems; empty: none.
    """

    intents: dict[str, float]
    operation: str | None
    likeliest: str
    continues: float
    spans: Spans
    earlier: tuple[Spans, ...]
    reference: Reference
    earlier_item: int | None
    lacks: str = ""


@dataclass(frozen=True)
class HeadsInput:
    """One instruction as reader and heads take it: turns, oldest first, and text in tokens; facts."""

    parts: tuple[Tokens, ...]
    facts_C: NDArray[np.float32]


def references(instruction: Instruction, catalog: CatalogView) -> tuple[Reference, int | None]:
    """What the text points at, and what the turns before it pointed at last."""
    antecedent: int | None = None
    for turn in instruction.turns[-TURNS_READ:]:
        pointed = resolve(turn, instruction.shown, catalog, antecedent=antecedent)
        antecedent = pointed.item if pointed.item is not None else antecedent
    return resolve(instruction.text, instruction.shown, catalog, antecedent=antecedent), antecedent


def facts_of(
    instruction: Instruction, reference: Reference, earlier_item: int | None, named: int | None, catalog: CatalogView
) -> NDArray[np.float32]:
    """What is known of the situation beside the words.

    Args:
        instruction: with words.
        reference: what they point at.
        earlier_item: what the turns pointed at last.
        named: the item whose title the words nearly say (:meth:`CatalogView.nearly_named`).
        catalog: that the instruction is about.

    Returns:
        float32 [C], in the order of FACTS.
    """
    folded = fold(instruction.text)
    told = content_words(instruction.text)
    known = {
        "list_shown": bool(instruction.shown),
        "one_shown": len(instruction.shown) == 1,
        "picture": instruction.picture is not None,
        "turns": bool(instruction.turns),
        "points_by_place": reference.kind == "place",
        "points_by_title": reference.kind == "title",
        "points_by_this": reference.kind == "this",
        "pointed_item_known": reference.item is not None,
        "points_beyond": reference.beyond,
        "earlier_item_known": earlier_item is not None,
        "says_making": lexicon.MAKING.search(folded) is not None,
        "says_seeking": lexicon.SEEKING.search(folded) is not None,
        "says_changing": lexicon.CHANGING.search(folded) is not None,
        "says_style": lexicon.STYLED.search(folded) is not None,
        "says_kind": any(word in catalog.aliases for word in told),
        "says_year": years(folded)[0] is not None,
        "recalls": lexicon.RECALLING.search(folded) is not None,
        "names_title": named is not None,
        "asks": "?" in instruction.text,
        "content_words": np.log1p(len(told)) / 2,
        "no_content": not told,
    }
    return np.array([known[name] for name in FACTS], np.float32)


def is_a_title(text: str, title: str) -> bool:
    """Whether the words that say something are words of a title, and no more: its item is sought."""
    if _NEGATED.search(fold(text)):
        return False
    told = _telling(text)
    return bool(told) and set(words(plain_title(title))).issuperset(told)


def is_a_kind(text: str, catalog: CatalogView) -> bool:
    """Whether the words that say something are words for kinds of items, and no more, and nothing is to be done."""
    folded = fold(text)
    if any(pattern.search(folded) for pattern in (_NEGATED, _GREETING, lexicon.MAKING, lexicon.CHANGING)):
        return False
    told = _telling(text)
    return bool(told) and all(catalog.kinds_of(word) for word in told)


def _telling(text: str) -> list[str]:
    """Content words but those of quality and occasion."""
    return [word for word in content_words(text) if word not in lexicon.SOFT]


def run_heads(heads: InstructionHeads, reader: Reader, inputs: Sequence[HeadsInput]) -> HeadsOutput:
    """Read a batch: what one reader's heads say of it; tags are padded."""
    read = reader.read([each.parts for each in inputs])
    facts_BC = torch.from_numpy(np.stack([each.facts_C for each in inputs])).to(read.states_BTD.device)
    output: HeadsOutput = heads(read.states_BTD, read.mask_BT, read.turn_BT, read.sentence_BE, facts_BC)
    return output


def understand(
    instruction: Instruction, catalog: CatalogView, readers: Sequence[Reader], heads: Heads
) -> Understanding:
    """Read an instruction that has words.

    Args:
        instruction: with words.
        catalog: that it is about.
        readers: one for each of ``heads.readers``, in their order.
        heads: trained and calibrated.
    """
    reference, earlier_item = references(instruction, catalog)
    named = catalog.nearly_named(instruction.text)
    turns = instruction.turns[-TURNS_READ:]
    parts = readers[0].tokens([*turns, instruction.text])
    given = HeadsInput(tuple(parts), facts_of(instruction, reference, earlier_item, named, catalog))
    with torch.inference_mode():
        learnt = zip(heads.read_by(), readers, strict=True)
        said = averaged([run_heads(each.instruction, reader, [given]) for each, reader in learnt])
        probabilities = (said.intents_BI[0] / heads.config.temperature).softmax(-1).tolist()
        operations, tags_TG = said.operations_BO, said.tags_BTG[0].numpy()
        # A change has an operation; other texts may describe one that has nothing to work on.
        told = operations[0, :NO_OPERATION] if probabilities[INTENTS.index("change")] > 0.5 else operations[0]
        operation = int(told.argmax())
    spans, begin = [], 0
    for each in parts:
        end = begin + len(each.offsets)
        spans.append(spans_of(each.text, each.offsets, tags_TG[begin:end]))
        begin = end
    intents = dict(zip(INTENTS, probabilities, strict=True))
    alone = not turns and instruction.picture is None
    titled = named is not None and is_a_title(instruction.text, catalog.titles[named])
    if alone and (titled or (not instruction.shown and is_a_kind(instruction.text, catalog))):
        intents = {name: (1 - SAID_ALONE) / (len(intents) - 1) for name in intents} | {"seek": SAID_ALONE}
    lacks = catalog.lacking(longest(spans[-1].target) or instruction.text, instruction.text)
    if lacks:
        intents |= {"seek": intents["seek"] + intents["vague"], "vague": 0.0}  # whoever names a work wants it
    return Understanding(
        intents=intents,
        operation=OPERATIONS[operation] if operation < NO_OPERATION else None,
        likeliest=OPERATIONS[int(operations[0, :NO_OPERATION].argmax())],
        continues=float(said.continues_B[0].sigmoid()) if turns else 0.0,
        spans=spans[-1],
        earlier=tuple(reversed(spans[:-1])),
        reference=reference,
        earlier_item=earlier_item,
        lacks=lacks,
    )
