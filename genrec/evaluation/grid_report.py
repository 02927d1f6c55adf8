"""What a grid came to, as `grid.json` holds it. Its tables are made in :mod:`genrec.evaluation.grid_sheets`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from genrec.evaluation.matched import MatchedSteps
from genrec.evaluation.metrics import MetricRow
from genrec.evaluation.significance import Difference

JSON = "grid.json"
SCHEMA = 1

CellWord = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class CellRecord:
    """One arm with one seed.

    Attributes:
        arm, seed, run: which, and the name of its run folder.
        state: "failed" cells are tried again by the next command.
        key: of its evaluation's artifact.
        error: why it failed; "" otherwise.
        seconds: what this command spent on it; 0 for a cell that was there.
        training: steps, best step, seconds and why training stopped, of the host's own training.
    """

    arm: str
    seed: int
    run: str
    state: CellWord
    key: str
    error: str = ""
    seconds: float = 0.0
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matched:
    """An arm and what it is compared with at matched optimizer steps, one point a seed."""

    arm: str
    against: str
    segment: str
    seeds: list[int]
    points: list[MatchedSteps]


@dataclass(frozen=True)
class GridReport:
    """Everything that a grid came to.

    Attributes:
        name, about, dataset, command: what it is and how it is made again.
        control: the arm that the others are compared with, unless their definition names another.
        confidence, bootstrap_samples: of the intervals.
        versions, machine: what made it.
        cells: all of the grid, in the order of the work.
        baselines: names of the rows that no arm made.
        rows: baselines first, then the arms.
        differences: arms against their controls.
        against_baselines: arms against each baseline.
        matched: arms against their controls at matched steps, by ``matched_metric`` on validation targets.
        exposure_rows, exposure: the arms' exposure bias and its differences, where it was measured.
    """

    name: str
    about: str
    dataset: str
    command: str
    control: str
    confidence: float
    bootstrap_samples: int
    matched_metric: str
    versions: dict[str, str]
    machine: dict[str, Any]
    cells: list[CellRecord]
    baselines: list[str] = field(default_factory=list)
    rows: list[MetricRow] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    against_baselines: list[Difference] = field(default_factory=list)
    matched: list[Matched] = field(default_factory=list)
    exposure_rows: list[MetricRow] = field(default_factory=list)
    exposure: list[Difference] = field(default_factory=list)
