"""Training of the instructor's heads: instructions drawn from the grammar, wishes drawn from real catalogs.

Templates are split by family: those held out choose the epoch, and are measured. Then all is calibrated on instructions
written by hand (genrec.content.instructor.calibration).

Shape letters: B texts, T tokens, G tags, F signs.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genrec.content.instructor.calibration import calibrate
from genrec.content.instructor.catalog_view import CatalogView
from genrec.content.instructor.catalogs import Items
from genrec.content.instructor.generate import Example, Grammar, InstructionMaker, Said, assemble
from genrec.content.instructor.heads import (
    INTENTS,
    NO_OPERATION,
    OPERATIONS,
    TAGS,
    Heads,
    HeadsConfig,
    InstructionHeads,
    SufficiencyHead,
)
from genrec.content.instructor.reading import Reader, Reading
from genrec.content.instructor.understanding import HeadsInput, facts_of, heads_input, run_heads
from genrec.content.instructor.wishes import WishMaker
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)
HELD_OUT = 0.12
"""Share of template families kept for calibration."""
NOT_SCORED = -100
FIRST_SHARE = 0.8
"""Share of the instructions and wishes that are drawn over the first of several catalogs."""


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes of a training."""

    instructions: int = 14_000
    wishes: int = 9_000
    epochs: int = 5
    batch: int = 64
    learning_rate: float = 1.5e-3
    members: int = 3
    seed: int = 0
    most_items: int = 2_500


@dataclass(frozen=True)
class _Labelled:
    given: HeadsInput
    intent: int
    operation: int
    continues: float
    tags_T: NDArray[np.int64]
    held_out: bool


def train(
    catalogs: Sequence[Items], plan: TrainingPlan, out: Path, encoder: MiniLMEncoder | None = None
) -> dict[str, Any]:
    """Train all heads and save them in ``out``.

    Args:
        catalogs: the first is drawn from most.
        plan: sizes.
        out: directory of the heads.
        encoder: MiniLM; None: the installed package's.

    Returns:
        what was measured on held-out families.
    """
    began = time.monotonic()
    torch.manual_seed(plan.seed)
    encoder = encoder or MiniLMEncoder()
    reader = Reader(encoder)
    full = CatalogView.build(catalogs[0].titles, catalogs[0].texts, encoder)
    views = [_view(items, plan, encoder, full if items is catalogs[0] else None) for items in catalogs]
    logger.info("catalogs embedded: %.0f s", time.monotonic() - began)
    heads = Heads(HeadsConfig(encoder=encoder.identity, members=plan.members))
    shares = _shares(len(views))
    examples: list[Example] = []
    for number, (view, share) in enumerate(zip(views, shares, strict=True)):
        examples += InstructionMaker(view, plan.seed + number).draw(int(plan.instructions * share))
    labelled = _labelled(examples, reader)
    logger.info("%d instructions read: %.0f s", len(labelled), time.monotonic() - began)
    measured = fit_instruction_heads(heads, labelled, plan)
    logger.info("instruction heads: %s, %.0f s", measured, time.monotonic() - began)
    measured |= _fit_sufficiency(heads, views, plan, encoder)
    calibration = calibrate(heads, full, encoder)
    measured["seconds"] = round(time.monotonic() - began, 1)
    facts = {
        "plan": vars(plan),
        "catalogs": {items.name: min(len(items.titles), plan.most_items) for items in catalogs},
        "held_out_families": measured,
        "calibration": calibration,
    }
    heads.save(out, facts)
    logger.info("heads saved in %s: %s", out, measured)
    return measured


def _view(items: Items, plan: TrainingPlan, encoder: MiniLMEncoder, full: CatalogView | None) -> CatalogView:
    """What is drawn over: at most ``plan.most_items`` items; ``full`` where all are embedded already."""
    count = len(items.titles)
    if count <= plan.most_items:
        return full or CatalogView.build(items.titles, items.texts, encoder)
    kept = np.sort(np.random.default_rng(plan.seed).choice(count, plan.most_items, replace=False))
    return CatalogView.build([items.titles[i] for i in kept], [items.texts[i] for i in kept], encoder)


def _shares(catalogs: int) -> list[float]:
    """Of each catalog: most of the first."""
    return [FIRST_SHARE, *([(1 - FIRST_SHARE) / (catalogs - 1)] * (catalogs - 1))] if catalogs > 1 else [1.0]


def _is_held_out(family: str) -> bool:
    return zlib.crc32(family.encode()) % 1000 < HELD_OUT * 1000


def _labelled(examples: Sequence[Example], reader: Reader) -> list[_Labelled]:
    texts = sorted({said.text for example in examples for said in (example.said, *example.turns)}, key=len)
    readings: dict[str, Reading] = {}
    for begin in range(0, len(texts), 128):
        for reading in reader.read(texts[begin : begin + 128]):
            readings[reading.text] = replace(reading, states_TD=reading.states_TD.astype(np.float16))
    return [_label(example, readings) for example in examples]


def _label(example: Example, readings: dict[str, Reading]) -> _Labelled:
    turns = [readings[turn.text] for turn in example.turns]
    reading = readings[example.said.text]
    facts_C = facts_of(example.instruction, example.reference, example.earlier_item, example.catalog)
    facts_C[2] = float(example.picture)
    tags = [_tags(said, read) for said, read in zip((*example.turns, example.said), (*turns, reading), strict=True)]
    return _Labelled(
        given=heads_input(reading, turns, facts_C),
        intent=INTENTS.index(example.intent),
        operation=NO_OPERATION if example.operation is None else OPERATIONS.index(example.operation),
        continues=float("nan") if example.continues is None else float(example.continues),
        tags_T=np.concatenate(tags),
        held_out=_is_held_out(example.said.family),
    )


def _tags(said: Said, reading: Reading) -> NDArray[np.int64]:
    """int64 [T], the tag of each token."""
    tags = np.zeros(len(reading.offsets), np.int64)
    for begin, end, slot in said.spans:
        place = "B"
        for token, (token_begin, token_end) in enumerate(reading.offsets):
            if token_begin < end and token_end > begin:
                tags[token] = TAGS.index(f"{place}-{slot}")
                place = "I"
    return tags


def fit_instruction_heads(heads: Heads, labelled: Sequence[_Labelled], plan: TrainingPlan) -> dict[str, float]:
    """Train intent, operation, continuation and tags of every member, then fit the temperature."""
    for number, member in enumerate(heads.instruction.members):
        assert isinstance(member, InstructionHeads)
        torch.manual_seed(plan.seed * 100 + number)
        _fit_member(member, labelled, plan, plan.seed * 100 + number)
    return _calibrate_intents(heads, [each for each in labelled if each.held_out])


def _fit_member(network: InstructionHeads, labelled: Sequence[_Labelled], plan: TrainingPlan, seed: int) -> None:
    """Train one; keep the epoch that is best on held-out families."""
    training = [each for each in labelled if not each.held_out]
    held_out = [each for each in labelled if each.held_out]
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=0.02)
    steps = plan.epochs * -(-len(training) // plan.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=steps, pct_start=0.1)
    order = np.random.default_rng(seed)
    best, kept = float("inf"), {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(plan.epochs):
        network.train()
        for rows in _batches(training, plan.batch, order):
            loss = _loss(network, [training[row] for row in rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            losses = [_loss(network, held_out[begin : begin + 256]) for begin in range(0, len(held_out), 256)]
        value = float(torch.stack(losses).mean())
        logger.info("epoch %d: held-out loss %.4f", epoch + 1, value)
        if value < best:
            best, kept = value, {name: weight.clone() for name, weight in network.state_dict().items()}
    network.load_state_dict(kept)


def _batches(training: Sequence[_Labelled], size: int, order: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of like length together, batches in random order."""
    lengths = np.array([len(each.tags_T) for each in training]) + order.random(len(training)) * 4
    rows = np.argsort(lengths)
    batches = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    order.shuffle(batches)  # type: ignore[arg-type]
    return batches


def _loss(network: InstructionHeads, batch: Sequence[_Labelled]) -> Tensor:
    intents, operations, continues, tags = run_heads(network, [each.given for each in batch])
    tags_BT = torch.full(tags.shape[:2], NOT_SCORED)
    for row, each in enumerate(batch):
        tags_BT[row, : len(each.tags_T)] = torch.from_numpy(each.tags_T)
    loss = functional.cross_entropy(intents, torch.tensor([each.intent for each in batch]), label_smoothing=0.03)
    loss = loss + functional.cross_entropy(tags.flatten(0, 1), tags_BT.flatten(), ignore_index=NOT_SCORED)
    loss = loss + 0.5 * functional.cross_entropy(operations, torch.tensor([each.operation for each in batch]))
    held = torch.tensor([each.continues for each in batch])
    told = ~held.isnan()
    if bool(told.any()):
        loss = loss + 0.3 * functional.binary_cross_entropy_with_logits(continues[told], held[told])
    return loss


def _calibrate_intents(heads: Heads, held_out: Sequence[_Labelled]) -> dict[str, float]:
    """Fit the temperature on held-out families and measure there."""
    logits, operations, right_tags, tags = [], [], 0, 0
    with torch.inference_mode():
        for begin in range(0, len(held_out), 256):
            batch = held_out[begin : begin + 256]
            intents_BI, operations_BO, _, tags_BTG = run_heads(heads.instruction, [each.given for each in batch])
            logits.append(intents_BI)
            operations.append(operations_BO)
            for row, each in enumerate(batch):
                found = tags_BTG[row, : len(each.tags_T)].argmax(-1).numpy()
                right_tags, tags = right_tags + int((found == each.tags_T).sum()), tags + len(found)
    logits_BI = torch.cat(logits)
    truth_B = torch.tensor([each.intent for each in held_out])
    temperature = best_of(
        np.geomspace(0.5, 4.0, 60), lambda value: float(functional.cross_entropy(logits_BI / value, truth_B))
    )
    heads.config = replace(heads.config, temperature=round(temperature, 4))
    known = torch.tensor([each.operation for each in held_out])
    right = torch.cat(operations).argmax(-1) == known
    return {
        "intent_accuracy": round(float((logits_BI.argmax(-1) == truth_B).float().mean()), 4),
        "operation_accuracy": round(float(right.float().mean()), 4),
        "tag_accuracy": round(right_tags / max(tags, 1), 4),
        "temperature": round(temperature, 4),
        "instructions": len(held_out),
    }


def best_of(values: NDArray[np.float64], loss: Callable[[float], float]) -> float:
    """The value of least loss."""
    return float(min(values, key=loss))


def _fit_sufficiency(
    heads: Heads, views: Sequence[CatalogView], plan: TrainingPlan, encoder: MiniLMEncoder
) -> dict[str, float]:
    signs_BF, wish_BE, truth_B, held_out_B = judged_wishes(views, plan, encoder)
    training = torch.from_numpy(~held_out_B)
    signs, wish, truth = torch.from_numpy(signs_BF), torch.from_numpy(wish_BE), torch.from_numpy(truth_B)
    for number, head in enumerate(heads.sufficiency.members):
        assert isinstance(head, SufficiencyHead)
        torch.manual_seed(plan.seed * 100 + number)
        _fit_judge(head, signs[training], wish[training], truth[training])
    with torch.inference_mode():
        logits, expected = heads.sufficiency(signs[~training], wish[~training]), truth[~training]
        grid = [(scale, shift) for scale in np.geomspace(0.4, 2.0, 30) for shift in np.linspace(-1, 1, 21)]
        scale, shift = min(
            grid,
            key=lambda each: float(functional.binary_cross_entropy_with_logits(logits * each[0] + each[1], expected)),
        )
        accuracy = float(((logits * scale + shift > 0).float() == expected).float().mean())
    heads.config = replace(
        heads.config, sufficiency_scale=round(float(scale), 4), sufficiency_shift=round(float(shift), 4)
    )
    return {"sufficiency_accuracy": round(accuracy, 4), "wishes": int(held_out_B.sum())}


def _fit_judge(head: SufficiencyHead, signs: Tensor, wish: Tensor, truth: Tensor) -> None:
    head.mean.copy_(signs.mean(0))
    head.scale.copy_(signs.std(0).clamp_min(1e-3))
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-3, weight_decay=0.1)
    head.train()
    for _ in range(800):
        rows = torch.randint(0, len(truth), (512,))
        loss = functional.binary_cross_entropy_with_logits(head(signs[rows], wish[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head.eval()


def judged_wishes(
    views: Sequence[CatalogView], plan: TrainingPlan, encoder: MiniLMEncoder
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Searches for wishes: signs [B, F], embeddings [B, E], whether each is satisfied [B], which are held out [B]."""
    signs, meant, truth, held_out = [], [], [], []
    shares = _shares(len(views))
    for number, (view, share) in enumerate(zip(views, shares, strict=True)):
        draw = np.random.default_rng(plan.seed + number)
        instructions = InstructionMaker(view, plan.seed + 100 + number)
        maker = WishMaker(view, instructions.rng)
        grammar = Grammar(instructions.rng)
        subjects = [assemble(grammar.pieces("<subject>"))[0] for _ in range(400)]
        masks = [draw.random(len(view)) < 0.3 for _ in range(20)]
        wishes = [(maker.judged(masks[i % 20], subjects), masks[i % 20]) for i in range(int(plan.wishes * share))]
        # The tagger at times takes the whole sentence for the target: so does the search here.
        targets = [wish.said if wish.said and draw.random() < 0.3 else wish.target for wish, _ in wishes]
        embeddings = encoder.encode(targets)
        for (wish, hidden_N), target, embedding in zip(wishes, targets, embeddings, strict=True):
            found = view.search(
                target, constraints=wish.constraints, embedding=embedding, hidden=hidden_N, said=wish.said or target
            )
            signs.append(found.signs)
            meant.append(embedding)
            truth.append(float(wish.satisfied))
            held_out.append(zlib.crc32(wish.target.encode()) % 5 == 0)
    return np.stack(signs), np.stack(meant), np.array(truth, np.float32), np.array(held_out)
