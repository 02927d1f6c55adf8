"""The two tables that need a picture maker: creations for users, and restyling of drawings never trained on.

*Restyling*: a held-out concept has a drawing in style A and one in style B. The edit of A towards B should be closer
to the true B than A is, by the judge's cosine and by a distance of its feature maps (after LPIPS, Zhang et al. 2018:
channels scaled to unit length at each position, squared differences averaged; no learnt weights), paired over
concepts. Beside it stands what was kept: the cosine with the source.

Shape letters: B pictures, C channels, H and W height and width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from genrec.content.contracts import PictureMaker
from genrec.content.creator import Creator
from genrec.content.editor.restyling import Restyler
from genrec.content.evaluation import Row, Stage, opened, table
from genrec.content.evaluation_metrics import Estimate, estimate, sign_test
from genrec.content.vision.encoder import TowerEncoder, as_batch
from genrec.content.vision.tower import ImageTower, map_distance
from genrec.errors import DataError

WISHES = (
    "an animal",
    "something to eat",
    "a vehicle",
    "a face",
    "a plant",
    "a thing for sports",
    "clothing",
    "a building",
)


def creations(stage: Stage, creator: Creator, *, wishes: int = 2) -> tuple[list[Row], dict[str, list[Image.Image]]]:
    """Rows of what is made for each user, and the pictures of each method."""
    rng = np.random.default_rng(stage.seed + 3)
    words = stage.encoder.texts(WISHES)
    trained = stage.trained
    made: dict[str, list[list[Image.Image]]] = {name: [] for name in ("Random", "Original", "Unconditional", "Ours")}
    plain: dict[str, Image.Image] = {}
    for place, taste in enumerate(stage.tastes_UD):
        asked = [WISHES[(place * wishes + at) % len(WISHES)] for at in range(wishes)]
        nearest = [trained[int((stage.seen_ND[trained] @ words[WISHES.index(wish)]).argmax())] for wish in asked]
        made["Random"].append([opened(stage.rows[row]["png"]) for row in rng.choice(trained, wishes)])
        made["Original"].append([opened(stage.rows[row]["png"]) for row in nearest])
        for wish in asked:
            if wish not in plain:
                plain[wish] = creator.create(wish, seed=stage.seed).frames[0]
        made["Unconditional"].append([plain[wish] for wish in asked])
        made["Ours"].append([creator.create(wish, seed=stage.seed, taste=taste).frames[0] for wish in asked])
    vectors = {method: [stage.judge.images(pictures) for pictures in per_user] for method, per_user in made.items()}
    return table(stage, vectors), {method: [p for part in per_user for p in part] for method, per_user in made.items()}


@dataclass(frozen=True)
class Restyled:
    """What restyling did to drawings of concepts never trained on.

    Attributes:
        pairs: drawings edited, each of another concept.
        translated: how many of them by the style translator; the others by image-to-image diffusion.
        refused: drawings of which no edit kept the source.
        cosine_source, cosine_edit: with the true drawing in the other style, by the judge.
        gain: their difference, paired.
        gain_p: of a sign test.
        distance_source, distance_edit: of feature maps, likewise.
        nearer: distance_source less distance_edit, paired.
        nearer_p: of a sign test.
        kept: cosine of the edit with its source.
        style_before, style_after: probability of the wanted style, by the judge.
    """

    pairs: int
    translated: int
    refused: int
    cosine_source: Estimate
    cosine_edit: Estimate
    gain: Estimate
    gain_p: float
    distance_source: Estimate
    distance_edit: Estimate
    nearer: Estimate
    nearer_p: float
    kept: Estimate
    style_before: Estimate
    style_after: Estimate

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def restyling(
    stage: Stage,
    maker: PictureMaker,
    judge: TowerEncoder,
    *,
    strengths: tuple[float, ...],
    floor: float,
    pairs: int | None = None,
) -> tuple[Restyled, list[tuple[Image.Image, Image.Image, Image.Image]]]:
    """Edit held-out drawings from one style to another.

    Args:
        stage: the drawings, and the encoder that holds an edit to its source.
        maker: edits.
        judge: measures.
        strengths: of the editor.
        floor: of the editor.
        pairs: at most so many concepts; None: all that are held out.

    Returns:
        The figures, and (source, edit, true drawing) of each pair.

    Raises:
        DataError: no edit kept its source.
    """
    restyler = Restyler(maker, stage.encoder, strengths=strengths, floor=floor)
    triples, refused, translated, styles = [], 0, 0, []
    for source_row, target_row in _pairs(stage, pairs):
        source, target = (opened(stage.rows[row]["png"]) for row in (source_row, target_row))
        name, style = stage.rows[target_row]["name"], stage.rows[target_row]["style"]
        try:
            chosen = restyler.restyle(source, f"{name}, {style} style", style=style, seed=stage.seed)
        except DataError:
            refused += 1
            continue
        translated += chosen.model is not None
        triples.append((source, chosen.picture, target))
        styles.append(judge.styles.index(style))
    if not triples:
        raise DataError(f"restyling: none of {refused} edits kept its source; lower content.editor.floor")
    sources, edits, targets = (list(part) for part in zip(*triples, strict=True))
    vectors = {name: judge.images(part) for name, part in (("source", sources), ("edit", edits), ("target", targets))}
    alike = {name: (vectors[name] * vectors["target"]).sum(axis=1) for name in ("source", "edit")}
    apart = {
        name: perceptual_distance(judge.tower, part, targets) for name, part in (("source", sources), ("edit", edits))
    }
    gain, nearer = alike["edit"] - alike["source"], apart["source"] - apart["edit"]
    place = np.arange(len(styles))
    figures = Restyled(
        pairs=len(triples),
        translated=translated,
        refused=refused,
        cosine_source=estimate(alike["source"]),
        cosine_edit=estimate(alike["edit"]),
        gain=estimate(gain),
        gain_p=sign_test(gain),
        distance_source=estimate(apart["source"]),
        distance_edit=estimate(apart["edit"]),
        nearer=estimate(nearer),
        nearer_p=sign_test(nearer),
        kept=estimate((vectors["edit"] * vectors["source"]).sum(axis=1)),
        style_before=estimate(judge.style_shares(sources)[place, styles]),
        style_after=estimate(judge.style_shares(edits)[place, styles]),
    )
    return figures, triples


def _pairs(stage: Stage, count: int | None) -> list[tuple[int, int]]:
    """Rows of held-out drawings of one concept in two styles, each concept once."""
    rng = np.random.default_rng(stage.seed + 4)
    by_concept: dict[str, list[int]] = {}
    for row in stage.held_out:
        by_concept.setdefault(stage.rows[row]["concept"], []).append(int(row))
    pairs = []
    for concept in rng.permutation(sorted(by_concept)):
        if len(by_concept[concept]) > 1:
            source, target = rng.choice(by_concept[concept], 2, replace=False)
            pairs.append((int(source), int(target)))
    return pairs[:count]


def perceptual_distance(tower: ImageTower, ours: list[Image.Image], theirs: list[Image.Image]) -> np.ndarray:
    """``[B]``: mean squared difference of unit-length feature columns, averaged over the tower's blocks."""
    with torch.inference_mode():
        mine, others = (tower.maps(as_batch(part)) for part in (ours, theirs))
        return map_distance(mine, others).numpy()
