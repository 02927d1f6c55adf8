"""``python -m genrec content train encoder|judge``: a picture tower, its figures, its model card."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from genrec.config import Settings
from genrec.content.contracts import FloatArray
from genrec.content.corpus import STYLES
from genrec.content.corpus.build import ATTRIBUTION, attribution
from genrec.content.vision.augment import Augmentation
from genrec.content.vision.encoder import save_encoder
from genrec.content.vision.examples import Examples, read_examples, sentence_vectors
from genrec.content.vision.figures import figures
from genrec.content.vision.tower import ImageTower, TowerConfig
from genrec.content.vision.training import TowerTraining, train_tower
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)

DIMENSION = 384
RECIPES = {
    "encoder": TowerTraining(
        tower=TowerConfig(block="residual", widths=(48, 96, 192), depths=(1, 1, 1), dimension=DIMENSION, styles=STYLES),
        steps=900,
        seed=0,
    ),
    "judge": TowerTraining(
        tower=TowerConfig(
            block="patch",
            widths=(16, 48),
            depths=(0, 1),
            pool="places",
            hidden=(704, 704),
            dimension=DIMENSION,
            styles=STYLES,
        ),
        # Never mirrored: "facing right" and "left arrow" are names.
        augmentation=Augmentation(turn=8, shift=0.06, zoom=0.12, mirror=0.0, hide=0.15, soften=0.3),
        concepts=96,
        steps=3000,
        rate=1e-3,
        seed=1,
    ),
}
TURNED = 3
"""Copies of a drawing in other colours."""


def run(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Train ``options.part`` (encoder or judge) and write its directory."""
    out = options.out or Path(f"content-{options.part}")
    recipe = RECIPES[options.part]
    changes = {name: value for name in ("steps", "minutes", "seed") if (value := getattr(options, name)) is not None}
    recipe = TowerTraining(**{**recipe.model_dump(), **changes})
    written = train(options.part, recipe, options.corpus, out, console)
    console.print(f"{out}: " + ", ".join(f"{name} {value:g}" for name, value in written.items()))


def train(name: str, recipe: TowerTraining, corpus: Path, out: Path, console: Console) -> dict[str, float]:
    """Read the corpus, train, measure on held-out concepts, write.

    Args:
        name: what the card calls it.
        recipe: how.
        corpus: directory of the corpus.
        out: directory to write.
        console: where progress goes.

    Returns:
        The figures.
    """
    begun, used = time.monotonic(), time.process_time()
    text = MiniLMEncoder()
    examples = read_examples(corpus, "train", turned=TURNED, seed=recipe.seed)
    vectors = sentence_vectors(examples, text)
    console.print(
        f"{len(examples.pictures_N3HW)} pictures of {len(examples.names)} concepts, {len(vectors)} sentences "
        f"({time.process_time() - used:.0f} s of CPU)"
    )
    losses: list[float] = []

    def report(step: int, done: float, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % 50 == 0:
            spent = time.process_time() - used
            console.print(f"step {step + 1}, {done:.0%}: loss {np.mean(losses[-50:]):.3f}, {spent:.0f} s of CPU")

    tower = train_tower(examples, vectors, recipe, report)
    held_out = read_examples(corpus, "held-out", turned=2, seed=0)
    measured = figures(*answers(tower, held_out), held_out, text)
    spent = {"cpu_seconds": time.process_time() - used, "seconds": time.monotonic() - begun}
    cost = {"steps": len(losses), **{name: round(value) for name, value in spent.items()}}
    about: dict[str, Any] = {"held_out": measured, "training": recipe.model_dump(mode="json"), "cost": cost}
    save_encoder(out, tower, text.identity, about)
    (out / "MODEL_CARD.md").write_text(model_card(name, recipe, tower, measured, cost))
    (out / ATTRIBUTION).write_text(attribution())
    return measured


def answers(tower: ImageTower, examples: Examples) -> tuple[FloatArray, FloatArray]:
    """Unit vectors and style logits of all pictures."""
    vectors, logits = [], []
    with torch.inference_mode():
        for part in examples.pictures_N3HW.split(256):  # type: ignore[no-untyped-call]
            vectors_BE, logits_BS = tower(part.float() / 127.5 - 1)
            vectors.append(vectors_BE.numpy())
            logits.append(logits_BS.numpy())
    return np.concatenate(vectors), np.concatenate(logits)


def model_card(
    name: str, recipe: TowerTraining, tower: ImageTower, measured: dict[str, float], cost: dict[str, int]
) -> str:
    """The card that lies beside the weights."""
    count = sum(value.numel() for value in tower.parameters())
    use = {
        "encoder": "thumbnails, clips, preference scores, near-duplicates and the best of N",
        "judge": "evaluation only: it never chooses what is shown, and shares no architecture with the encoder",
    }.get(name, "your own")
    lines = [
        f"# {name}: pictures in the space of all-MiniLM-L6-v2",
        "",
        f"A picture tower of {count:,} parameters ({recipe.tower.block} blocks, 64-pixel input), locked to the frozen",
        "sentence encoder all-MiniLM-L6-v2 (LiT), contrastive with a learnt temperature. Own code.",
        "",
        f"**For:** {use}. **Not for:** photographs as such (it has seen drawings only), faces, reading text, or any",
        "decision about a person.",
        "",
        "**Trained on:** the captioned default corpus (`python -m genrec content corpus`): drawings of about 1,450",
        "concepts in four styles and their copies in other colours. Never seen: the split `held-out` (whole concepts),",
        "`unseen-style` (concept and style) and `unseen_colours` (concept and colour). Credits: ATTRIBUTION.md.",
        "",
        f"**Again:** `python -m genrec content train {name} --corpus DIR --out DIR --steps {cost['steps']}`"
        f" ({cost['steps']} steps of {2 * recipe.concepts} pictures, seed {recipe.seed}, {cost['cpu_seconds']} s of"
        " CPU on one core).",
        "",
        "| held-out concepts | value |",
        "|---|---|",
        *(f"| {label} | {value:g} |" for label, value in measured.items()),
        "",
        f"`r@1`: a drawing ranks the names of {measured['choices']:g} concepts that were never trained on (chance "
        f"{1 / measured['choices']:.4f}). `colour`: chooses among seven colours of its own name. `style`: its head "
        "among four.",
        "",
    ]
    return "\n".join(lines)
