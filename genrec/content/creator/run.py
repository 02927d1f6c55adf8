"""One training of the creator from the corpus to shipped files, in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from genrec.content.corpus.build import ATTRIBUTION, attribution
from genrec.content.creator.examples import load_examples
from genrec.content.creator.latents import PatchLatents
from genrec.content.creator.network import Network
from genrec.content.creator.train import TrainOptions, train


def train_alone(
    corpus: Path,
    out: Path,
    options: TrainOptions,
    *,
    progress: Callable[[float], None] | None = None,
    wrap: Callable[[Network], nn.Module] | None = None,
    agree: Callable[[float], float] | None = None,
    rank: int = 0,
    device: torch.device | None = None,
) -> Path:
    """Read the corpus, train, write weights, config.json and ATTRIBUTION.md to ``out``; see :func:`train`."""
    latents = PatchLatents(components=options.shape.components)
    examples = load_examples(corpus, latents)
    train(examples, latents, out, options, progress=progress, wrap=wrap, agree=agree, rank=rank, device=device)
    if rank == 0:
        (out / ATTRIBUTION).write_text(attribution())
    return out
