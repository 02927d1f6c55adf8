"""What personal choosing, making and restyling is worth, always beside Random, Original and Unconditional.

The encoder chooses, the judge measures; users are simulated (see ``evaluation_users``), and what they liked later is
what a choice is compared with. Rows of every table:

- *Random*: a frame, window or drawing by chance.
- *Original*: what everyone sees: the first frame or window; of creations the drawing nearest to the words.
- *Unconditional*: the choice for the average of all users; of creations the picture made without a taste.
- *Ours*: the choice for this user.
- *Ceiling*: the choice of someone who knew the later likes and the judge. No method can be better.

Shape letters: N drawings, D dimension, F frames of a video, K liked items, U users.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genrec.content.contracts import FloatArray, ImageTextEncoder
from genrec.content.corpus import read_corpus
from genrec.content.evaluation_metrics import (
    Estimate,
    cosine_at,
    diversity,
    estimate,
    frechet_distance,
    nearest_train,
    precision_recall,
    sign_test,
)
from genrec.content.evaluation_users import SimulatedUser, fitted_scores, preference_vector, simulate_users
from genrec.content.video import best_window, choose_thumbnail

K = 10
VIDEOS, SHOTS = 20, 12
METHODS = ("Random", "Original", "Unconditional", "Ours", "Ceiling")
COLUMNS = ("concept", "name", "category", "subcategory", "style", "split", "png")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        method: who chose.
        cosine: Cosine@K.
        score: PS@K.
        over_original: Cosine@K less Original's, paired by user; none for Original.
        p: of a paired sign test over users.
        frechet, precision, recall, diversity, nearest: of all that was chosen, against held-out drawings and, the
            last, the nearest drawing that was trained on.
    """

    method: str
    cosine: Estimate
    score: Estimate
    over_original: Estimate | None
    p: float | None
    frechet: float
    precision: float
    recall: float
    diversity: float
    nearest: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Stage:
    """The drawings as both encoders see them, and the users over them.

    Args:
        corpus: directory of the corpus.
        encoder: chooses.
        judge: measures.
        users: how many are simulated.
        seed: of users, videos and random choices.
    """

    def __init__(
        self, corpus: Path, encoder: ImageTextEncoder, judge: ImageTextEncoder, *, users: int, seed: int = 0
    ) -> None:
        self.encoder, self.judge, self.seed = encoder, judge, seed
        self.rows = read_corpus(corpus, COLUMNS).to_pylist()
        pictures = [opened(row["png"]) for row in self.rows]
        self.seen_ND, self.judged_ND = encoder.images(pictures), judge.images(pictures)
        split = np.array([row["split"] for row in self.rows])
        self.trained, self.held_out = np.flatnonzero(split == "train"), np.flatnonzero(split == "held-out")
        subcategories, categories, concepts = (
            [row[name] for row in self.rows] for name in ("subcategory", "category", "concept")
        )
        self.users = simulate_users(subcategories, categories, concepts, users, seed)
        self.tastes_UD = np.stack([self._taste(user) for user in self.users])
        self.average_D = self.tastes_UD.mean(axis=0)

    def _taste(self, user: SimulatedUser) -> FloatArray:
        rows, liked = user.earlier
        return preference_vector(self.seen_ND[rows[liked]], self.seen_ND[rows[~liked]])

    def later_likes(self, user: SimulatedUser) -> FloatArray:
        """``[K, D]``, by the judge: what the user liked later."""
        rows, liked = user.later
        return self.judged_ND[rows[liked][:K]]

    def scores(self, user: SimulatedUser, pictures_MD: FloatArray) -> NDArray[np.float64]:
        """``[M]``: the user model's probability of a like, on the judge's vectors."""
        rows, liked = user.later
        return fitted_scores(self.judged_ND, rows, liked, pictures_MD)

    def videos(self) -> list[NDArray[np.int64]]:
        """Videos of held-out drawings: each shot shows one concept in all its styles, one a frame."""
        rng = np.random.default_rng(self.seed + 1)
        by_concept: dict[str, list[int]] = {}
        for row in self.held_out:
            by_concept.setdefault(self.rows[row]["concept"], []).append(int(row))
        shots = [np.array(rows) for rows in by_concept.values() if len(rows) == 4]
        return [
            np.concatenate([shots[place] for place in rng.choice(len(shots), min(SHOTS, len(shots)), replace=False)])
            for _ in range(VIDEOS)
        ]


def thumbnails(stage: Stage) -> list[Row]:
    """Which frame each method shows each user of each video."""

    def choose(frames: NDArray[np.int64], wish_D: FloatArray, vectors_ND: FloatArray) -> NDArray[np.int64]:
        (place,) = choose_thumbnail(vectors_ND[frames], wish_D)
        return frames[[place]]

    return _compare(stage, choose, lambda frames, rng: frames[[int(rng.integers(len(frames)))]], lambda f: f[:1])


def clips(stage: Stage, length: int = 4) -> list[Row]:
    """Which window of ``length`` frames each method shows each user of each video."""

    def choose(frames: NDArray[np.int64], wish_D: FloatArray, vectors_ND: FloatArray) -> NDArray[np.int64]:
        window = best_window(vectors_ND[frames], wish_D, shortest=length, longest=length)
        return frames[window.begin : window.end]

    def by_chance(frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        begin = int(rng.integers(len(frames) - length + 1))
        return frames[begin : begin + length]

    return _compare(stage, choose, by_chance, lambda frames: frames[:length])


Chooser = Callable[[NDArray[np.int64], FloatArray, FloatArray], NDArray[np.int64]]


def _compare(
    stage: Stage,
    choose: Chooser,
    by_chance: Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.int64]],
    first: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> list[Row]:
    rng = np.random.default_rng(stage.seed + 2)
    videos = stage.videos()
    shown: dict[str, list[list[NDArray[np.int64]]]] = {method: [] for method in METHODS}
    for user, taste_D in zip(stage.users, stage.tastes_UD, strict=True):
        later_D = stage.later_likes(user).mean(axis=0)
        shown["Random"].append([by_chance(frames, rng) for frames in videos])
        shown["Original"].append([first(frames) for frames in videos])
        shown["Unconditional"].append([choose(frames, stage.average_D, stage.seen_ND) for frames in videos])
        shown["Ours"].append([choose(frames, taste_D, stage.seen_ND) for frames in videos])
        shown["Ceiling"].append([choose(frames, later_D, stage.judged_ND) for frames in videos])
    vectors = {
        method: [stage.judged_ND[np.concatenate(choices)] for choices in per_user] for method, per_user in shown.items()
    }
    return table(stage, vectors)


def table(stage: Stage, vectors: Mapping[str, Sequence[FloatArray]]) -> list[Row]:
    """Rows of what each method showed each user.

    Args:
        stage: drawings and users.
        vectors: method -> for each user ``[M, D]``, the judge's vectors of what was shown.
    """
    cosines = {
        method: [
            cosine_at(shown_MD.mean(axis=0), stage.later_likes(user)) for user, shown_MD in _pairs(stage, per_user)
        ]
        for method, per_user in vectors.items()
    }
    scores = _preference_scores(stage, vectors)
    rows = []
    for method, per_user in vectors.items():
        all_MD = np.unique(np.concatenate(per_user), axis=0)
        reference_MD = stage.judged_ND[stage.held_out]
        apart = np.subtract(cosines[method], cosines["Original"]) if "Original" in cosines else None
        compared = apart is not None and method != "Original"
        precision, recall = precision_recall(all_MD, reference_MD) if len(all_MD) > 3 else (float("nan"),) * 2
        rows.append(
            Row(
                method,
                estimate(cosines[method]),
                estimate(scores[method]),
                estimate(apart) if compared and apart is not None else None,
                sign_test(apart) if compared and apart is not None else None,
                frechet_distance(all_MD, reference_MD) if len(all_MD) > 1 else float("nan"),
                precision,
                recall,
                float(np.mean([diversity(shown_MD) for shown_MD in per_user])),
                float(nearest_train(all_MD, stage.judged_ND[stage.trained]).mean()),
            )
        )
    return rows


def _preference_scores(stage: Stage, vectors: Mapping[str, Sequence[FloatArray]]) -> dict[str, list[float]]:
    """Method -> mean PS@K for each user; each user's model is fitted once."""
    scores: dict[str, list[float]] = {method: [] for method in vectors}
    for place, user in enumerate(stage.users):
        parts = [per_user[place] for per_user in vectors.values()]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        for method, of_part in zip(vectors, np.split(stage.scores(user, np.concatenate(parts)), ends), strict=True):
            scores[method].append(float(of_part.mean()))
    return scores


def _pairs(stage: Stage, per_user: Sequence[FloatArray]) -> list[tuple[SimulatedUser, FloatArray]]:
    return list(zip(stage.users, per_user, strict=True))


def opened(png: bytes) -> Image.Image:
    """A drawing of the corpus."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        return picture.convert("RGB")
