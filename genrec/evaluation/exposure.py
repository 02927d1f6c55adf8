"""Exposure bias: how much worse a decoder writes after its own codes than after the true ones.

Training shows the decoder true prefixes; generating, it continues what it wrote itself (Bengio et al. 2015, arXiv
1506.03099; Ranzato et al. 2016, arXiv 1511.06732). Two measurements (genrec/evaluation/exposure_gauge.py):

* *Gap.* At each code position, the accuracy of the likeliest code after the true prefix (teacher-forced) less that
  after the model's own greedy prefix. Both choose among the children of their node of the trie, as decoding does. At
  the first position nothing was written yet, so there is no gap. A code counts where it is the target's there.
* *Curve.* Accuracy of the positions after the first, when a share of the true input codes is replaced: by random codes
  of the level, or by near ones (the most similar code embedding of the level), as a model's own errors tend to be. As
  a wrong prefix may lead nowhere, all codes of the level are candidates here.

A collision code means nothing after another prefix (it is mostly the first one, and "right" by that alone), so that
level is told among the positions, but counts neither in the mean gap nor in the curve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SHARES = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0)
KINDS = ("random", "near")
USER_METRICS = ("teacher-forced", "own-prefix", "exposure-gap")
"""What is kept of each user, so that models can be compared in pairs: :meth:`UserAccuracy.gains`."""


@dataclass(frozen=True)
class PositionAccuracy:
    """Accuracy at one code position.

    Attributes:
        position: 1 for the first code.
        teacher_forced, own_prefix: shares of users whose code was right.
        gap, low, high: teacher-forced less own prefix, and its interval over users.
    """

    position: int
    teacher_forced: float
    own_prefix: float
    gap: float
    low: float
    high: float


@dataclass(frozen=True)
class ErrorPoint:
    """Accuracy under injected errors, over the positions after the first (but a collision level).

    Attributes:
        kind: "random" or "near", what replaces an input code.
        share: probability that an input code is replaced.
        accuracy, low, high: mean over users and its interval.
    """

    kind: str
    share: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class UserAccuracy:
    """Share of right codes of each user U, over the positions after the first (but a collision level).

    Attributes:
        users_U: user indices.
        teacher_forced_U, own_prefix_U: after true codes, and after the model's own.
    """

    users_U: NDArray[np.int64]
    teacher_forced_U: NDArray[np.float64]
    own_prefix_U: NDArray[np.float64]

    def gains(self, users_R: NDArray[np.int64], metric: str) -> NDArray[np.float64]:
        """Float [R], one of :data:`USER_METRICS` of these users, all of whom were measured."""
        order = np.argsort(self.users_U)
        rows = order[np.searchsorted(self.users_U, users_R, sorter=order)]
        forced, own = self.teacher_forced_U[rows], self.own_prefix_U[rows]
        return dict(zip(USER_METRICS, (forced, own, forced - own), strict=True))[metric]


@dataclass(frozen=True)
class Exposure:
    """What was measured of one model.

    Attributes:
        model: its name in the tables.
        users: number of users.
        gap, low, high: mean gap of the positions after the first (but a collision level), and its interval over users.
        positions: the accuracies, by position.
        curve: the accuracies under errors, by kind and share.
        by_user: what the mean gap is the mean of.
    """

    model: str
    users: int
    gap: float
    low: float
    high: float
    positions: tuple[PositionAccuracy, ...]
    curve: tuple[ErrorPoint, ...]
    by_user: UserAccuracy = field(compare=False, repr=False)


def write_exposure(path: Path, measured: Sequence[Exposure]) -> None:
    """Write exposure.json: a list, one entry a model."""
    plain = [asdict(entry) for entry in measured]
    for entry in plain:
        del entry["by_user"]  # write_users
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def write_users(path: Path, measured: Sequence[Exposure]) -> None:
    """Write exposure.parquet: a row a model and user; models in the order measured."""
    parts = [
        pa.table(
            {
                "model": [entry.model] * len(entry.by_user.users_U),
                "user": entry.by_user.users_U,
                "teacher_forced": entry.by_user.teacher_forced_U,
                "own_prefix": entry.by_user.own_prefix_U,
            }
        )
        for entry in measured
    ]
    pq.write_table(pa.concat_tables(parts), path)


def read_users(path: Path) -> dict[str, UserAccuracy]:
    """Model -> what :func:`write_users` kept of it, in the order measured."""
    table = pq.read_table(path)
    names = np.array(table["model"].to_pylist())
    columns = [table[name].to_numpy() for name in ("user", "teacher_forced", "own_prefix")]
    return {
        name: UserAccuracy(*(column[names == name] for column in columns)) for name in dict.fromkeys(names.tolist())
    }
