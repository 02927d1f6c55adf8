"""Training of the instructor: instructions drawn from the grammar, wishes drawn from real catalogs.

The instructions teach the reader and its heads (genrec.content.instructor.train_reader), the wishes teach the head of
sufficiency. Then all is calibrated on instructions written by hand (genrec.content.instructor.calibration).

Shape letters: B texts, E width of their embeddings, F signs.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Sequence
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
from genrec.content.instructor.generate import Example, Grammar, InstructionMaker, assemble
from genrec.content.instructor.heads import Heads, HeadsConfig, SufficiencyHead
from genrec.content.instructor.reading import Reader
from genrec.content.instructor.train_reader import ReaderPlan, fit_reader, labelled
from genrec.content.instructor.wishes import WishMaker
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)
FIRST_SHARE = 0.8
"""Share of the instructions and wishes that are drawn over the first of several catalogs."""


@dataclass(frozen=True)
class TrainingPlan:
    """Sizes of a training."""

    instructions: int = 36_000
    wishes: int = 26_000
    epochs: int = 3
    batch: int = 64
    learning_rate: float = 1.5e-3
    adapter_rate: float = 1e-3
    members: int = 3
    seed: int = 0
    most_items: int = 2_500

    @property
    def reader(self) -> ReaderPlan:
        """What of it the reader's training takes."""
        return ReaderPlan(self.epochs, self.batch, self.learning_rate, self.adapter_rate, self.seed)


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
    full = CatalogView.build(catalogs[0].titles, catalogs[0].texts, encoder)
    views = [_view(items, plan, encoder, full if items is catalogs[0] else None) for items in catalogs]
    logger.info("catalogs embedded: %.0f s", time.monotonic() - began)
    heads = Heads(HeadsConfig(encoder=encoder.identity, members=plan.members))
    shares = _shares(len(views))
    examples: list[Example] = []
    for number, (view, share) in enumerate(zip(views, shares, strict=True)):
        examples += InstructionMaker(view, plan.seed + number).draw(int(plan.instructions * share))
    told = labelled(examples, Reader(encoder, heads.adapters))
    logger.info("%d instructions drawn: %.0f s", len(told), time.monotonic() - began)
    measured = fit_reader(heads, told, plan.reader, encoder)
    logger.info("reader and its heads: %s, %.0f s", measured, time.monotonic() - began)
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
                target,
                constraints=wish.constraints,
                embedding=embedding,
                hidden=hidden_N,
                said=wish.said or target,
                untold=wish.told,
            )
            signs.append(found.signs)
            meant.append(embedding)
            truth.append(float(wish.satisfied))
            held_out.append(zlib.crc32(wish.target.encode()) % 5 == 0)
    return np.stack(signs), np.stack(meant), np.array(truth, np.float32), np.array(held_out)
