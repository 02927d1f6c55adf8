"""Training of a reader's adapters together with its heads of intent, operation, continuation and tags.

Families of templates and sentences that are held out, others for each seed, choose the epoch.

Shape letters: B instructions, T tokens, C context facts.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from genrec.content.instructor.generate import Example, Said
from genrec.content.instructor.heads import INTENTS, NO_OPERATION, OPERATIONS, TAGS, HeadsOutput, ReaderHeads
from genrec.content.instructor.plan import TrainingPlan
from genrec.content.instructor.reading import Reader, Tokens
from genrec.content.instructor.understanding import HeadsInput, facts_of, run_heads
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)
HELD_OUT = 0.12
"""Share of template families that train nothing."""
NOT_SCORED = -100


@dataclass(frozen=True)
class Labelled:
    """One instruction with what is expected of the heads."""

    given: HeadsInput
    intent: int
    operation: int
    continues: float
    tags_T: NDArray[np.int64]
    held_out: bool


def labelled(examples: Sequence[Example], reader: Reader, seed: int) -> list[Labelled]:
    """Examples in tokens, with their tags; the seed chooses the families that are held out."""
    texts = sorted({said.text for example in examples for said in (example.said, *example.turns)})
    tokens = dict(zip(texts, reader.tokens(texts), strict=True))
    return [_label(example, tokens, seed) for example in examples]


def _label(example: Example, tokens: dict[str, Tokens], seed: int) -> Labelled:
    said = (*example.turns, example.said)
    parts = tuple(tokens[each.text] for each in said)
    named = example.catalog.nearly_named(example.instruction.text)
    facts_C = facts_of(example.instruction, example.reference, example.earlier_item, named, example.catalog)
    facts_C[2] = float(example.picture)
    return Labelled(
        given=HeadsInput(parts, facts_C),
        intent=INTENTS.index(example.intent),
        operation=NO_OPERATION if example.operation is None else OPERATIONS.index(example.operation),
        continues=float("nan") if example.continues is None else float(example.continues),
        tags_T=np.concatenate([_tags(each, part) for each, part in zip(said, parts, strict=True)]),
        held_out=_is_held_out(example.said.family, seed),
    )


def _is_held_out(family: str, seed: int) -> bool:
    return zlib.crc32(f"{seed} {family}".encode()) % 1000 < HELD_OUT * 1000


def _tags(said: Said, part: Tokens) -> NDArray[np.int64]:
    """int64 [T], the tag of each token."""
    tags = np.full(len(part.ids), 0 if said.tagged else NOT_SCORED, np.int64)
    for begin, end, slot in said.spans:
        place = "B"
        for token, (token_begin, token_end) in enumerate(part.offsets):
            if token_begin < end and token_end > begin:
                tags[token] = TAGS.index(f"{place}-{slot}")
                place = "I"
    return tags


def fit_reader(
    heads: ReaderHeads, examples: Sequence[Labelled], plan: TrainingPlan, seed: int, encoder: MiniLMEncoder
) -> dict[str, float]:
    """Train adapters and instruction heads, and keep the best epoch.

    Args:
        heads: of one reader, trained in place.
        examples: what it learns from and is measured on.
        plan: epochs, batch and rates.
        seed: of the order of the examples and of what is dropped out.
        encoder: MiniLM; it stays as it is.

    Returns:
        what was measured on held-out families.
    """
    torch.manual_seed(seed)
    training = [each for each in examples if not each.held_out]
    held_out = [each for each in examples if each.held_out]
    heads.to(encoder.loaded.device)
    reader = Reader(encoder, heads.adapters, training=True)
    groups = [
        {"params": list(heads.instruction.parameters()), "lr": plan.learning_rate},
        {"params": list(heads.adapters.parameters()), "lr": plan.adapter_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    steps = plan.epochs * -(-len(training) // plan.batch)
    rates = [plan.learning_rate, plan.adapter_rate]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    order = np.random.default_rng(seed)
    best, kept = float("inf"), _copy(heads)
    for epoch in range(plan.epochs):
        heads.train()
        reader.model.train()
        for rows in _batches(training, plan.batch, order):
            loss = _loss(heads, reader, [training[row] for row in rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        heads.eval()
        reader.model.eval()
        with torch.inference_mode():
            losses = [_loss(heads, reader, held_out[begin : begin + 128]) for begin in range(0, len(held_out), 128)]
        value = float(torch.stack(losses).mean())
        logger.info("epoch %d: held-out loss %.4f", epoch + 1, value)
        if value < best:
            best, kept = value, _copy(heads)
    heads.load_state_dict(kept)
    heads.cpu().eval()
    return _measured(heads, Reader(encoder, heads.adapters), held_out)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _batches(training: Sequence[Labelled], size: int, order: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of like length together, batches in random order."""
    lengths = np.array([len(each.tags_T) for each in training]) + order.random(len(training)) * 4
    rows = np.argsort(lengths)
    batches = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    order.shuffle(batches)  # type: ignore[arg-type]
    return batches


def _loss(heads: ReaderHeads, reader: Reader, batch: Sequence[Labelled]) -> Tensor:
    """Loss of a batch; read in bfloat16, which newer processors do twice as fast."""
    with torch.autocast(reader.encoder.loaded.device.type, torch.bfloat16):
        output = run_heads(heads.instruction, reader, [each.given for each in batch])
    return _loss_of(output, batch)


def _loss_of(output: HeadsOutput, batch: Sequence[Labelled]) -> Tensor:
    device = output.intents_BI.device
    tags_BT = torch.full(output.tags_BTG.shape[:2], NOT_SCORED)
    for row, each in enumerate(batch):
        tags_BT[row, : len(each.tags_T)] = torch.from_numpy(each.tags_T)
    intents = torch.tensor([each.intent for each in batch], device=device)
    operations = torch.tensor([each.operation for each in batch], device=device)
    loss = functional.cross_entropy(output.intents_BI.float(), intents, label_smoothing=0.03)
    tags_BTG = output.tags_BTG.float().flatten(0, 1)
    loss = loss + functional.cross_entropy(tags_BTG, tags_BT.to(device).flatten(), ignore_index=NOT_SCORED)
    loss = loss + 0.5 * functional.cross_entropy(output.operations_BO.float(), operations)
    held = torch.tensor([each.continues for each in batch], device=device)
    told = ~held.isnan()
    if bool(told.any()):
        continues = output.continues_B.float()
        loss = loss + 0.3 * functional.binary_cross_entropy_with_logits(continues[told], held[told])
    return loss


def _measured(heads: ReaderHeads, reader: Reader, held_out: Sequence[Labelled]) -> dict[str, float]:
    """Shares of intents, operations and tags told right."""
    intents, operations, right_tags, tags = 0, 0, 0, 0
    with torch.inference_mode():
        for begin in range(0, len(held_out), 128):
            batch = held_out[begin : begin + 128]
            output = run_heads(heads.instruction, reader, [each.given for each in batch])
            meant = torch.tensor([(each.intent, each.operation) for each in batch])
            intents += int((output.intents_BI.argmax(-1) == meant[:, 0]).sum())
            operations += int((output.operations_BO.argmax(-1) == meant[:, 1]).sum())
            for row, each in enumerate(batch):
                found = output.tags_BTG[row, : len(each.tags_T)].argmax(-1).numpy()
                right_tags += int((found == each.tags_T).sum())
                tags += int((each.tags_T != NOT_SCORED).sum())
    return {
        "intent_accuracy": round(intents / max(len(held_out), 1), 4),
        "operation_accuracy": round(operations / max(len(held_out), 1), 4),
        "tag_accuracy": round(right_tags / max(tags, 1), 4),
        "instructions": len(held_out),
    }
