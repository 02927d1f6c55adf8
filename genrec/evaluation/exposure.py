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
from dataclasses import asdict, dataclass
from pathlib import Path

SHARES = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0)
KINDS = ("random", "near")


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
class Exposure:
    """What was measured of one model.

    Attributes:
        model: its name in the tables.
        users: number of users.
        gap, low, high: mean gap of the positions after the first (but a collision level), and its interval over users.
        positions: the accuracies, by position.
        curve: the accuracies under errors, by kind and share.
    """

    model: str
    users: int
    gap: float
    low: float
    high: float
    positions: tuple[PositionAccuracy, ...]
    curve: tuple[ErrorPoint, ...]


def write_exposure(path: Path, measured: Sequence[Exposure]) -> None:
    """Write exposure.json: a list, one entry a model."""
    path.write_text(json.dumps([asdict(entry) for entry in measured], indent=1) + "\n", encoding="utf-8")
