"""Training of the instructor: instructions drawn from the grammar, wishes drawn from real catalogs.

The instructions teach the readers and their heads (genrec.content.instructor.train_reader), the wishes teach the heads
of sufficiency. Then all is calibrated on instructions written by hand (genrec.content.instructor.calibration).

Shape letters: B texts, E width of their embeddings, F signs.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Sequence
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
from genrec.content.instructor.heads import Heads, HeadsConfig, ReaderHeads, SufficiencyHead
from genrec.content.instructor.plan import TrainingPlan
from genrec.content.instructor.reading import Reader
from genrec.content.instructor.train_reader import fit_reader, labelled
from genrec.content.instructor.wishes import WishMaker
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)
FIRST_SHARE = 0.8
"""Share of the instructions and wishes that are drawn over the first of several catalogs."""


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
    encoder = encoder or MiniLMEncoder()
    full = CatalogView.build(catalogs[0].titles, catalogs[0].texts, encoder)
    torch.manual_seed(plan.seed)
    heads = Heads(HeadsConfig(encoder=encoder.identity, readers=plan.readers))
    views = _views(catalogs, plan.most_items, plan.seed, encoder, full)
    logger.info("catalogs embedded: %.0f s", time.monotonic() - began)
    measured: dict[str, Any] = dict(_fit_sufficiency(heads, views, plan, encoder))
    logger.info("sufficiency: %s, %.0f s", measured, time.monotonic() - began)
    for number in range(plan.readers):
        seed = plan.seed + number
        if number:
            views = _views(catalogs, plan.most_items, seed, encoder, full)
        torch.manual_seed(seed)
        learnt = ReaderHeads(heads.config)
        told = labelled(_drawn(views, plan.instructions, seed), Reader(encoder, learnt.adapters), seed)
        logger.info("reader %d: %d instructions drawn, %.0f s", number, len(told), time.monotonic() - began)
        found = fit_reader(learnt, told, plan, seed, encoder)
        logger.info("reader %d: %s, %.0f s", number, found, time.monotonic() - began)
        measured |= {f"reader_{number}_{name}": value for name, value in found.items()}
        heads.readers[number] = learnt
    calibration = calibrate(heads.rounded(), full, encoder)
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


def _drawn(views: Sequence[CatalogView], instructions: int, seed: int) -> list[Example]:
    """Instructions over these catalogs."""
    examples: list[Example] = []
    for number, (view, share) in enumerate(zip(views, _shares(len(views)), strict=True)):
        examples += InstructionMaker(view, seed + number).draw(int(instructions * share))
    return examples


def _views(
    catalogs: Sequence[Items], most_items: int, seed: int, encoder: MiniLMEncoder, first: CatalogView
) -> list[CatalogView]:
    """What is drawn over: at most ``most_items`` of each catalog; all of the first are embedded already."""
    views = []
    for items in catalogs:
        count = len(items.titles)
        if count <= most_items:
            whole = items is catalogs[0]
            views.append(first if whole else CatalogView.build(items.titles, items.texts, encoder))
            continue
        kept = np.sort(np.random.default_rng(seed).choice(count, most_items, replace=False))
        views.append(CatalogView.build([items.titles[i] for i in kept], [items.texts[i] for i in kept], encoder))
    return views


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
        right = (heads.sufficiency(signs[~training], wish[~training]) > 0) == (truth[~training] > 0)
    return {"sufficiency_accuracy": round(float(right.float().mean()), 4), "wishes": len(right)}


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
