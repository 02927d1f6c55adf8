"""Training of the reader's adapters together with the heads of intent, operation, continuation and tags.

The members of the committee learn side by side over one reader; each gets its own loss, and the reader their mean.
Held-out families of templates choose the epoch.

Shape letters: B instructions, T tokens, C context facts.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from genrec.content.instructor.generate import Example, Said
from genrec.content.instructor.heads import INTENTS, NO_OPERATION, OPERATIONS, TAGS, Heads, HeadsOutput, averaged
from genrec.content.instructor.reading import Reader, Tokens
from genrec.content.instructor.understanding import HeadsInput, facts_of, run_heads
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)
HELD_OUT = 0.12
"""Share of template families that train nothing."""
NOT_SCORED = -100


@dataclass(frozen=True)
class ReaderPlan:
    """Sizes of a training of the reader.

    Attributes:
        epochs: over all instructions.
        batch: instructions a step.
        learning_rate: of the heads, at its highest.
        adapter_rate: of the adapters.
        seed: the same seed trains the same weights.
    """

    epochs: int
    batch: int
    learning_rate: float
    adapter_rate: float
    seed: int


@dataclass(frozen=True)
class Labelled:
    """One instruction with what is expected of the heads."""

    given: HeadsInput
    intent: int
    operation: int
    continues: float
    tags_T: NDArray[np.int64]
    held_out: bool


def labelled(examples: Sequence[Example], reader: Reader) -> list[Labelled]:
    """Examples in tokens, with their tags."""
    texts = sorted({said.text for example in examples for said in (example.said, *example.turns)})
    tokens = dict(zip(texts, reader.tokens(texts), strict=True))
    return [_label(example, tokens) for example in examples]


def _label(example: Example, tokens: dict[str, Tokens]) -> Labelled:
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
        held_out=_is_held_out(example.said.family),
    )


def _is_held_out(family: str) -> bool:
    return zlib.crc32(family.encode()) % 1000 < HELD_OUT * 1000


def _tags(said: Said, part: Tokens) -> NDArray[np.int64]:
    """int64 [T], the tag of each token."""
    tags = np.zeros(len(part.ids), np.int64)
    for begin, end, slot in said.spans:
        place = "B"
        for token, (token_begin, token_end) in enumerate(part.offsets):
            if token_begin < end and token_end > begin:
                tags[token] = TAGS.index(f"{place}-{slot}")
                place = "I"
    return tags


def fit_reader(
    heads: Heads, examples: Sequence[Labelled], plan: ReaderPlan, encoder: MiniLMEncoder
) -> dict[str, float]:
    """Train adapters and instruction heads, keep the best epoch, then fit the temperature.

    Returns:
        what was measured on held-out families.
    """
    torch.manual_seed(plan.seed)
    training = [each for each in examples if not each.held_out]
    held_out = [each for each in examples if each.held_out]
    learning = nn.ModuleList([heads.adapters, heads.instruction]).to(encoder.loaded.device)
    reader = Reader(encoder, heads.adapters, training=True)
    groups = [
        {"params": list(heads.instruction.parameters()), "lr": plan.learning_rate},
        {"params": list(heads.adapters.parameters()), "lr": plan.adapter_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    steps = plan.epochs * -(-len(training) // plan.batch)
    rates = [plan.learning_rate, plan.adapter_rate]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    order = np.random.default_rng(plan.seed)
    best, kept = float("inf"), _copy(learning)
    for epoch in range(plan.epochs):
        heads.train()
        reader.model.train()
        for rows in _batches(training, plan.batch, order):
            loss = _loss(heads, reader, [training[row] for row in rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        heads.eval()
        reader.model.eval()
        with torch.inference_mode():
            losses = [_loss(heads, reader, held_out[begin : begin + 128]) for begin in range(0, len(held_out), 128)]
        value = float(torch.stack(losses).mean())
        logger.info("epoch %d: held-out loss %.4f", epoch + 1, value)
        if value < best:
            best, kept = value, _copy(learning)
    learning.load_state_dict(kept)
    learning.cpu()
    return _calibrate_intents(heads, Reader(encoder, heads.adapters), held_out)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _batches(training: Sequence[Labelled], size: int, order: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of like length together, batches in random order."""
    lengths = np.array([len(each.tags_T) for each in training]) + order.random(len(training)) * 4
    rows = np.argsort(lengths)
    batches = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    order.shuffle(batches)  # type: ignore[arg-type]
    return batches


def _loss(heads: Heads, reader: Reader, batch: Sequence[Labelled]) -> Tensor:
    """Mean loss of the members; read in bfloat16, which newer processors do twice as fast."""
    with torch.autocast(reader.encoder.loaded.device.type, torch.bfloat16):
        outputs = run_heads(heads.instruction, reader, [each.given for each in batch])
    return torch.stack([_loss_of(output, batch) for output in outputs]).mean()


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


def _calibrate_intents(heads: Heads, reader: Reader, held_out: Sequence[Labelled]) -> dict[str, float]:
    """Fit the temperature on held-out families and measure there."""
    logits, operations, right_tags, tags = [], [], 0, 0
    with torch.inference_mode():
        for begin in range(0, len(held_out), 128):
            batch = held_out[begin : begin + 128]
            output = averaged(run_heads(heads.instruction, reader, [each.given for each in batch]))
            logits.append(output.intents_BI)
            operations.append(output.operations_BO)
            for row, each in enumerate(batch):
                found = output.tags_BTG[row, : len(each.tags_T)].argmax(-1).numpy()
                right_tags, tags = right_tags + int((found == each.tags_T).sum()), tags + len(found)
    logits_BI = torch.cat(logits)
    truth_B = torch.tensor([each.intent for each in held_out])
    grid = np.geomspace(0.5, 4.0, 60)
    temperature = round(
        float(min(grid, key=lambda each: float(functional.cross_entropy(logits_BI / each, truth_B)))), 4
    )
    heads.config = replace(heads.config, temperature=temperature)
    known = torch.tensor([each.operation for each in held_out])
    right = torch.cat(operations).argmax(-1) == known
    return {
        "intent_accuracy": round(float((logits_BI.argmax(-1) == truth_B).float().mean()), 4),
        "operation_accuracy": round(float(right.float().mean()), 4),
        "tag_accuracy": round(right_tags / max(tags, 1), 4),
        "temperature": temperature,
        "instructions": len(held_out),
    }
