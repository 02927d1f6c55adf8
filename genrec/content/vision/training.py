"""Training a picture tower against frozen sentence vectors: contrastive, with a learnt temperature.

A batch holds two drawings each of many concepts. A picture's own sentence competes with the other sentences of the
batch and with the plain names of *all* concepts: the text half is frozen, so names cost one matrix product and no
batch is too small. Sentences that are true of a picture though they were said of another (the same concept, no style
or colour that differs) are left out of its competition.

Sources: Radford et al. 2021 (CLIP, the symmetric loss); Zhai et al. 2022 (LiT, the locked half).

Shape letters: B pictures of a batch, C concepts, E dimension of the text space, S styles.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from genrec.content.contracts import FloatArray
from genrec.content.vision.augment import Augmentation
from genrec.content.vision.examples import NONE, Examples, Sentence
from genrec.content.vision.tower import ImageTower, TowerConfig, channels_last

MOST_SAID = 0.45
"""Share of pictures that are described by their first sentence; the others share the rest."""
SAME_NAME = 0.9999
"""Cosine from which two names are one."""


class TowerTraining(BaseModel):
    """How a tower is trained; ``encoder`` and ``judge`` differ in all that could make them err alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tower: TowerConfig
    augmentation: Augmentation = Augmentation()
    seed: int = 0
    steps: PositiveInt = 3000
    minutes: PositiveFloat | None = Field(None, description="train so long instead; the schedule follows the clock")
    concepts: PositiveInt = Field(64, description="concepts of a batch, two pictures each")
    own_share: float = Field(0.75, description="of the pictures drawn as they are; the others in another colour")
    rate: PositiveFloat = 2e-3
    decay: float = 0.05
    average: float = Field(0.998, description="of the weights that are kept, by exponential moving average")
    style_weight: float = 0.2
    bfloat16: bool = Field(
        True, description="products in bfloat16 with float32 weights; halves the time where CPUs have it"
    )


@dataclass(frozen=True)
class Batch:
    """Pictures, and the sentence said of each."""

    pictures_B3HW: Tensor
    texts_BE: Tensor
    true_BB: Tensor
    concept_B: Tensor
    style_B: Tensor


class Batches:
    """Draws batches.

    Args:
        examples: drawings of the training split.
        vectors: unit vector of every sentence, by text.
        settings: batch size, augmentation, seed.
    """

    def __init__(self, examples: Examples, vectors: Mapping[str, FloatArray], settings: TowerTraining) -> None:
        self.examples, self.vectors, self.settings = examples, vectors, settings
        self.rng = np.random.default_rng(settings.seed)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._queue: list[int] = []

    def draw(self) -> Batch:
        """The next batch: no concept twice before all were there once."""
        wanted = min(self.settings.concepts, len(self.examples.names))
        if len(self._queue) < wanted:
            self._queue = [int(concept) for concept in self.rng.permutation(len(self.examples.names))]
        concepts, self._queue = self._queue[:wanted], self._queue[wanted:]
        rows = np.concatenate([self._two_rows(concept) for concept in concepts])
        said = [self._sentence(int(row)) for row in rows]
        pictures_B3HW = self.examples.pictures_N3HW[torch.from_numpy(rows)].float() / 127.5 - 1
        return Batch(
            self.settings.augmentation(pictures_B3HW, self.generator).to(memory_format=torch.channels_last),
            torch.from_numpy(np.stack([self.vectors[sentence.text] for sentence in said])),
            torch.from_numpy(self._true(rows, said)),
            torch.from_numpy(self.examples.concept_N[rows]),
            torch.from_numpy(self.examples.style_N[rows]),
        )

    def _two_rows(self, concept: int) -> np.ndarray:
        rows = self.examples.rows_of[concept]
        turned = self.examples.turned_N[rows]
        weights = np.where(turned, (1 - self.settings.own_share) / max(1, turned.sum()), 0.0)
        weights += np.where(turned, 0.0, self.settings.own_share / max(1, (~turned).sum()))
        return self.rng.choice(rows, size=2, replace=len(rows) < 2, p=weights / weights.sum())

    def _sentence(self, row: int) -> Sentence:
        said = self.examples.sentences(row)
        if self.rng.random() < MOST_SAID:
            return said[0]
        return said[int(self.rng.integers(len(said)))]

    def _true(self, rows: np.ndarray, said: list[Sentence]) -> np.ndarray:
        """Bool ``[B, B]``: sentence of column j is true of the picture of row i."""
        concept_B, style_B, colour_B = (
            part[rows] for part in (self.examples.concept_N, self.examples.style_N, self.examples.colour_N)
        )
        says_style_B = np.array([sentence.style for sentence in said])
        says_colour_B = np.array([sentence.colour for sentence in said])
        same = concept_B[:, None] == concept_B[None, :]
        style = (says_style_B == NONE)[None, :] | (style_B[:, None] == says_style_B[None, :])
        colour = (says_colour_B == NONE)[None, :] | (colour_B[:, None] == says_colour_B[None, :])
        return same & style & colour


def contrastive_loss(vectors_BE: Tensor, batch: Batch, names_CE: Tensor, log_scale: Tensor) -> Tensor:
    """Both directions; a true sentence or picture of another row competes with none.

    Args:
        vectors_BE: unit vectors of the pictures.
        batch: sentences and truths.
        names_CE: unit vectors of all concepts' names.
        log_scale: logarithm of the inverse temperature.
    """
    scale = log_scale.clamp(max=math.log(100.0)).exp()
    logits_BB = scale * vectors_BE @ batch.texts_BE.T
    others_BB = batch.true_BB & ~torch.eye(len(logits_BB), dtype=torch.bool)
    closed_BB = logits_BB.masked_fill(others_BB, -torch.inf)
    names_BC = scale * vectors_BE @ names_CE.T
    own_BC = names_CE[batch.concept_B] @ names_CE.T > SAME_NAME
    names_BC = names_BC.masked_fill(own_BC, -torch.inf)
    target_B = torch.arange(len(logits_BB))
    to_text = functional.cross_entropy(torch.cat([closed_BB, names_BC], dim=1), target_B)
    to_picture = functional.cross_entropy(closed_BB.T, target_B)
    return (to_text + to_picture) / 2


def train_tower(
    examples: Examples,
    vectors: Mapping[str, FloatArray],
    settings: TowerTraining,
    report: Callable[[int, float, float], None] | None = None,
) -> ImageTower:
    """Train for ``settings.steps``, or for ``settings.minutes``, and return the averaged weights.

    Args:
        examples: drawings of the training split.
        vectors: unit vector of every sentence that :meth:`Examples.sentences` can say, and of every name.
        settings: how.
        report: told step, share that is done, and loss.
    """
    torch.manual_seed(settings.seed)
    tower = channels_last(ImageTower(settings.tower))
    kept = copy.deepcopy(tower).eval()
    log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
    weights = [value for value in tower.parameters() if value.ndim > 1]
    others = [value for value in tower.parameters() if value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": settings.decay}, {"params": [*others, log_scale], "weight_decay": 0.0}],
        lr=settings.rate,
        betas=(0.9, 0.98),
    )
    batches = Batches(examples, vectors, settings)
    names_CE = torch.from_numpy(np.stack([vectors[name] for name in examples.names]))
    step, begun = 0, time.monotonic()
    while (done := _done(step, begun, settings)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _share(done)
        batch = batches.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            vectors_BE, logits_BS = tower(batch.pictures_B3HW)
        loss = contrastive_loss(vectors_BE, batch, names_CE, log_scale)
        loss = loss + settings.style_weight * functional.cross_entropy(logits_BS, batch.style_B)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        _average(kept, tower, min(settings.average, step / (step + 10)))
        if report is not None:
            report(step, done, float(loss.detach()))
        step += 1
    return kept


def _done(step: int, begun: float, settings: TowerTraining) -> float:
    return step / settings.steps if settings.minutes is None else (time.monotonic() - begun) / (60 * settings.minutes)


def _share(done: float) -> float:
    """Of the highest rate: rises for a twentieth of the training, then falls along half a cosine."""
    return min(20 * done, 0.5 * (1 + math.cos(math.pi * min(1.0, done)))) + 1e-3


@torch.no_grad()
def _average(kept: ImageTower, tower: ImageTower, share: float) -> None:
    for mine, theirs in zip(kept.parameters(), tower.parameters(), strict=True):
        mine.lerp_(theirs, 1 - share)
    for own, other in zip(kept.buffers(), tower.buffers(), strict=True):
        own.copy_(other)
