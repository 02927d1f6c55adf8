"""Pairs of drawings of one concept in two styles: what the style translator learns from.

Only rows of the corpus's split ``train`` are read. A few of their concepts, chosen by a hash, are kept for choosing
between variants; what is held out by the corpus is for the evaluation alone.

Shape letters: N drawings, P pairs, B batch, H = W = 64 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genrec.content.corpus import STYLES, read_corpus
from genrec.content.corpus.concepts import share_of
from genrec.content.creator.witnesses import FOLDS, fold_of
from genrec.content.vision.augment import Augmentation
from genrec.content.vision.encoder import as_batch
from genrec.errors import DataError

VALIDATION_SHARE = 0.08
PLACED = Augmentation(turn=6, shift=0.06, zoom=0.1, mirror=0.3, brightness=0)
"""Colours are left alone: each style has its own palette, and that is what is to be learnt."""


@dataclass(frozen=True)
class Pairs:
    """Drawings and which of them show one concept in two styles.

    Attributes:
        pixels_N3HW: uint8.
        style_N: index of each style.
        fold_N: whose witness never saw the concept.
        learnt_P2: rows (from, to) to learn from.
        kept_P2: rows of the concepts kept for validation.
    """

    pixels_N3HW: Tensor
    style_N: Tensor
    fold_N: NDArray[np.int64]
    learnt_P2: NDArray[np.int64]
    kept_P2: NDArray[np.int64]


def read_pairs(corpus: Path) -> Pairs:
    """All ordered pairs of the training split.

    Raises:
        DataError: no concept of it is drawn in two styles.
    """
    rows = [row for row in read_corpus(corpus, ("concept", "style", "split", "png")).to_pylist()
            if row["split"] == "train"]  # fmt: skip
    of_concept: dict[str, list[int]] = {}
    pictures = []
    for place, row in enumerate(rows):
        of_concept.setdefault(row["concept"], []).append(place)
        with Image.open(io.BytesIO(row["png"]), formats=("PNG",)) as opened:
            pictures.append(opened.convert("RGB"))
    parts: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for concept, places in of_concept.items():
        parts[kept_apart(concept)] += [(one, other) for one in places for other in places if one != other]
    if not parts[False]:
        raise DataError(f"--corpus {corpus}: no concept is drawn in two styles; build it with all of them")
    pixels = ((as_batch(pictures) + 1) * 127.5).round().to(torch.uint8).contiguous()
    styles = torch.tensor([STYLES.index(row["style"]) for row in rows])
    folds = np.array([fold_of(row["concept"]) for row in rows])
    learnt, kept = (np.array(parts[apart], dtype=np.int64).reshape(-1, 2) for apart in (False, True))
    return Pairs(pixels, styles, folds, learnt, kept)


def kept_apart(concept: str) -> bool:
    """True if the concept is for choosing between variants."""
    return share_of("restyler", concept) < VALIDATION_SHARE


def batches(pairs: Pairs, size: int, *, seed: int, behind: int = 0) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """A fold, sources and targets of it ``[B, 3, H, W]``, changed alike, and wanted styles ``[B]``, for ever.

    Seed and steps ``behind`` decide their order: a training that goes on does not see the same beginning again.
    """
    rng = np.random.default_rng([seed, behind])
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    of_fold = [np.flatnonzero(pairs.fold_N[pairs.learnt_P2[:, 0]] == fold) for fold in range(FOLDS)]
    waiting = [rng.permutation(places) for places in of_fold]
    while True:
        for fold in rng.permutation([fold for fold in range(FOLDS) if len(of_fold[fold])]):
            if len(waiting[fold]) < min(size, len(of_fold[fold])):
                waiting[fold] = rng.permutation(of_fold[fold])
            rows, waiting[fold] = np.split(waiting[fold], [size])
            rows_B2 = pairs.learnt_P2[rows]
            both_B6HW = torch.cat([pairs.pixels_N3HW[rows_B2[:, side]] for side in (0, 1)], dim=1).float() / 127.5 - 1
            both_B6HW = PLACED(both_B6HW, generator)
            yield int(fold), both_B6HW[:, :3], both_B6HW[:, 3:], pairs.style_N[rows_B2[:, 1]]
