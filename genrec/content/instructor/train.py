"""Training of the instructor: instructions drawn from the grammar, wishes drawn from real catalogs.

The instructions teach the readers and their heads (genrec.content.instructor.train_reader), the wishes teach the heads
of sufficiency (genrec.content.instructor.train_sufficiency); of both, some are as people wrote them. Then all is
calibrated on instructions written by hand (genrec.content.instructor.calibration).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.content.instructor.calibration import calibrate
from genrec.content.instructor.catalog_view import CatalogView
from genrec.content.instructor.catalogs import Items
from genrec.content.instructor.generate import Example, InstructionMaker
from genrec.content.instructor.heads import Heads, HeadsConfig, ReaderHeads
from genrec.content.instructor.plan import TrainingPlan, shares_of
from genrec.content.instructor.reading import Reader
from genrec.content.instructor.spoken import spoken
from genrec.content.instructor.train_reader import fit_reader, labelled
from genrec.content.instructor.train_sufficiency import fit_sufficiency
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)


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
    measured: dict[str, Any] = {}
    for number in range(plan.readers):
        seed = plan.seed + number
        own = _views(catalogs, plan.most_items, seed, encoder, full) if number else views
        torch.manual_seed(seed)
        learnt = ReaderHeads(heads.config)
        told = labelled(_drawn(own, plan.instructions, seed), Reader(encoder, learnt.adapters), seed)
        logger.info("reader %d: %d instructions drawn, %.0f s", number, len(told), time.monotonic() - began)
        found = fit_reader(learnt, told, plan, seed, encoder)
        logger.info("reader %d: %s, %.0f s", number, found, time.monotonic() - began)
        measured |= {f"reader_{number}_{name}": value for name, value in found.items()}
        heads.readers[number] = learnt
    measured |= fit_sufficiency(heads.rounded(), views, plan, encoder)
    logger.info("sufficiency: %s, %.0f s", measured, time.monotonic() - began)
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
    for number, (view, share) in enumerate(zip(views, shares_of(len(views)), strict=True)):
        examples += InstructionMaker(view, seed + number, () if number else spoken(view)).draw(
            int(instructions * share)
        )
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
