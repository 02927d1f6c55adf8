"""Witnesses: picture towers that tell a restyling network how near its edit came, for drawings that they never saw.

A tower knows the concepts that it was trained on by heart: it gives both drawings of one nearly the same vector, and
has little to say about what still differs. On concepts that are new to it, where an edit will be judged, the vectors of
two styles lie far apart. So the training concepts are cut into folds, and each fold's pairs are judged by a tower that
learnt from the others (cross-fitting). They share neither weights nor training with the shipped encoder and the
judge, so that both can measure what was learnt, and three of them are harder to deceive than one.

They are wanted during training only, and are not shipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from genrec.content.corpus import STYLES
from genrec.content.corpus.concepts import share_of
from genrec.content.vision.augment import Augmentation
from genrec.content.vision.encoder import TOWER, load_encoder, save_encoder
from genrec.content.vision.examples import read_examples, sentence_vectors
from genrec.content.vision.tower import ImageTower, TowerConfig
from genrec.content.vision.training import TowerTraining, train_tower
from genrec.encoders.minilm import MiniLMEncoder

logger = logging.getLogger(__name__)
FOLDS = 3


def fold_of(concept: str) -> int:
    """The fold of a concept: its witness never saw it."""
    return int(share_of("witness", concept) * FOLDS)


def recipe(fold: int, steps: int) -> TowerTraining:
    """How the witness of a fold is trained."""
    return TowerTraining(
        tower=TowerConfig(
            block="residual",
            widths=(32, 64, 96),
            depths=(1, 1, 1),
            pool="places",
            hidden=(384,),
            dimension=384,
            styles=STYLES,
        ),
        augmentation=Augmentation(turn=8, shift=0.06, zoom=0.12, mirror=0.0, soften=0.3),
        steps=steps,
        average=0.99,
        seed=10 + fold,
    )


def witnesses(corpus: Path, directory: Path, steps: int, *, left_out: Callable[[str], bool]) -> list[ImageTower]:
    """One tower for each fold, read from ``directory`` or trained and written there.

    Args:
        corpus: directory of the corpus.
        directory: of the witnesses, ``fold-0`` and so on.
        steps: of each one's training.
        left_out: concepts that no witness may see.
    """
    text = MiniLMEncoder()
    folders = [directory / f"fold-{fold}" for fold in range(FOLDS)]
    missing = [fold for fold, folder in enumerate(folders) if not (folder / TOWER).is_file()]
    vectors = sentence_vectors(read_examples(corpus, "train"), text) if missing else {}
    for fold in missing:

        def known(concept: str, fold: int = fold) -> bool:
            return fold_of(concept) != fold and not left_out(concept)

        examples, settings = read_examples(corpus, "train", wanted=known), recipe(fold, steps)
        tower = train_tower(examples, vectors, settings)
        logger.info("witness of fold %d: %d concepts, %d steps", fold, len(examples.names), steps)
        save_encoder(folders[fold], tower, text.identity, {"training": settings.model_dump(mode="json")})
    return [load_encoder(directory=folder, text=text).tower.requires_grad_(False) for folder in folders]
