"""What an instruction says, before the catalog is asked: intent, operation, spans, and what it points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.content.contracts import Instruction
from genrec.content.instructor import lexicon
from genrec.content.instructor.catalog_view import CatalogView
from genrec.content.instructor.heads import FACTS, INTENTS, NO_OPERATION, OPERATIONS, Committee, Heads, InstructionHeads
from genrec.content.instructor.reading import Reader, Reading
from genrec.content.instructor.references import Reference, resolve
from genrec.content.instructor.spans import Spans, spans_of
from genrec.content.instructor.words import content_words, fold, years

TURNS_READ = 2
"""Earlier turns that are read; what lies before them is forgotten."""


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
        sentence_E: embedding of the text.
    """

    intents: dict[str, float]
    operation: str | None
    likeliest: str
    continues: float
    spans: Spans
    earlier: tuple[Spans, ...]
    reference: Reference
    earlier_item: int | None
    sentence_E: NDArray[np.float32]


@dataclass(frozen=True)
class HeadsInput:
    """One instruction as the heads take it: token states with their turn, sentence embedding, facts."""

    states_TD: NDArray[np.float32]
    turn_T: NDArray[np.int64]
    sentence_E: NDArray[np.float32]
    facts_C: NDArray[np.float32]


def references(instruction: Instruction, catalog: CatalogView) -> tuple[Reference, int | None]:
    """What the text points at, and what the turns before it pointed at last."""
    antecedent: int | None = None
    for turn in instruction.turns[-TURNS_READ:]:
        pointed = resolve(turn, instruction.shown, catalog, antecedent=antecedent)
        antecedent = pointed.item if pointed.item is not None else antecedent
    return resolve(instruction.text, instruction.shown, catalog, antecedent=antecedent), antecedent


def facts_of(
    instruction: Instruction, reference: Reference, earlier_item: int | None, catalog: CatalogView
) -> NDArray[np.float32]:
    """float32 [C], in the order of FACTS."""
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
        "names_title": catalog.nearly_named(instruction.text) is not None,
        "asks": "?" in instruction.text,
        "content_words": np.log1p(len(told)) / 2,
        "no_content": not told,
    }
    return np.array([known[name] for name in FACTS], np.float32)


def heads_input(text: Reading, turns: Sequence[Reading], facts_C: NDArray[np.float32]) -> HeadsInput:
    """Turns, oldest first, and the text, one after another."""
    parts = [*turns, text]
    flags = [*([1] * len(turns)), 0]
    return HeadsInput(
        np.concatenate([part.states_TD for part in parts]),
        np.concatenate([np.full(len(part.states_TD), flag, np.int64) for part, flag in zip(parts, flags, strict=True)]),
        text.pooled_E,
        facts_C,
    )


def run_heads(heads: InstructionHeads | Committee, inputs: Sequence[HeadsInput]) -> tuple[torch.Tensor, ...]:
    """Pad and run a batch: logits of intents, operations, continuation and tags (padded)."""
    longest = max(1, max(len(each.states_TD) for each in inputs))
    width = inputs[0].states_TD.shape[1]
    states_BTD = torch.zeros(len(inputs), longest, width)
    mask_BT = torch.zeros(len(inputs), longest, dtype=torch.bool)
    turn_BT = torch.zeros(len(inputs), longest, dtype=torch.int64)
    for row, each in enumerate(inputs):
        length = len(each.states_TD)
        states_BTD[row, :length] = torch.from_numpy(np.asarray(each.states_TD, np.float32))
        mask_BT[row, :length] = True
        turn_BT[row, :length] = torch.from_numpy(each.turn_T)
    sentence_BE = torch.from_numpy(np.stack([each.sentence_E for each in inputs]))
    facts_BC = torch.from_numpy(np.stack([each.facts_C for each in inputs]))
    output = heads(states_BTD, mask_BT, turn_BT, sentence_BE, facts_BC)
    return output.intents_BI, output.operations_BO, output.continues_B, output.tags_BTG


def understand(instruction: Instruction, catalog: CatalogView, reader: Reader, heads: Heads) -> Understanding:
    """Read an instruction that has words."""
    reference, earlier_item = references(instruction, catalog)
    turns = instruction.turns[-TURNS_READ:]
    *turn_readings, reading = reader.read([*turns, instruction.text])
    given = heads_input(reading, turn_readings, facts_of(instruction, reference, earlier_item, catalog))
    with torch.inference_mode():
        intents, operations, continues, tags = run_heads(heads.instruction, [given])
        probabilities = (intents[0] / heads.config.temperature).softmax(-1).tolist()
        tags_TG = tags[0].log_softmax(-1).numpy()
        # A change has an operation; other texts may describe one that has nothing to work on.
        told = operations[0, :NO_OPERATION] if probabilities[INTENTS.index("change")] > 0.5 else operations[0]
        operation = int(told.argmax())
    spans, begin = [], 0
    for each in (*turn_readings, reading):
        end = begin + len(each.offsets)
        spans.append(spans_of(each.text, each.offsets, tags_TG[begin:end]))
        begin = end
    return Understanding(
        intents=dict(zip(INTENTS, probabilities, strict=True)),
        operation=OPERATIONS[operation] if operation < NO_OPERATION else None,
        likeliest=OPERATIONS[int(operations[0, :NO_OPERATION].argmax())],
        continues=float(continues[0].sigmoid()) if turns else 0.0,
        spans=spans[-1],
        earlier=tuple(reversed(spans[:-1])),
        reference=reference,
        earlier_item=earlier_item,
        sentence_E=reading.pooled_E,
    )
