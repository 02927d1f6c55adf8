"""Running a grid: cell after cell in order of importance, each as far as its evaluation.

Cells are ordinary runs, so a stage that several arms share is made once, what is finished is skipped, and a killed
grid goes on where it was. A cell that fails is written down with its error and tried again by the next command.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genrec.config import Cell, GridSettings
from genrec.errors import GenrecError, SettingsError
from genrec.evaluation.grid_report import JSON, CellRecord, CellWord
from genrec.stages.declared import STAGES
from genrec.stages.evaluation import BASELINES
from genrec.stages.folder import RESERVED
from genrec.stages.runner import Pipeline, Reporter
from genrec.stages.stage import Stage

logger = logging.getLogger(__name__)

TARGET = "evaluate"
COMPARED = ("cutoffs", "seen_items", "bootstrap_samples", "confidence")
"""Leaves of the evaluation that all arms share, or their rows could not stand in one table."""


class GridRun:
    """All cells of one grid and what became of them.

    Args:
        name: the grid's; its tables are written to ``<run.directory>/<name>/``.
        grid: its definition.
        cells: all of its cells, in the order of the work.
        stages: by name, in order.
        reporter: who is told how the stages go on.

    Raises:
        SettingsError: the arms cannot be compared, or the grid has the name of a folder that genrec uses itself.
        DataError: the raw files cannot be found.
    """

    def __init__(
        self,
        name: str,
        grid: GridSettings,
        cells: Sequence[Cell],
        *,
        stages: Mapping[str, Stage] = STAGES,
        reporter: Reporter | None = None,
    ) -> None:
        if name in RESERVED:
            raise SettingsError(f"grids.{name}: {name!r} is a folder that genrec uses itself; take another name")
        for arm in grid.arms:
            if arm in BASELINES:
                raise SettingsError(f"grids.{name}.arms.{arm}: {arm!r} is a baseline's row; give the arm another name")
        self.name, self.grid, self.cells = name, grid, list(cells)
        self.pipelines = {cell.name: Pipeline(cell.settings, stages=stages, reporter=reporter) for cell in cells}
        self._require_comparable()
        self.folder = Path(self.cells[0].settings.run.directory) / name
        self.seconds: dict[str, float] = {}
        self.errors = self._earlier_errors()

    def select(self, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Cell]:
        """The cells of these arms and seeds (None: of all).

        Raises:
            SettingsError: an arm or a seed that the grid doesn't have.
        """
        for option, wanted, known in (("arms", arms, list(self.grid.arms)), ("seeds", seeds, list(self.grid.seeds))):
            for value in wanted or ():
                if value not in known:
                    told = ", ".join(map(str, known))
                    raise SettingsError(f"--{option} {value}: grid {self.name!r} has {option} {told}")
        return [
            cell for cell in self.cells if (arms is None or cell.arm in arms) and (seeds is None or cell.seed in seeds)
        ]

    def done(self, cell: Cell) -> bool:
        """True if the cell's evaluation is finished; nothing is verified."""
        pipeline = self.pipelines[cell.name]
        return pipeline.store.has(TARGET, pipeline.plans[TARGET].key)

    def key(self, cell: Cell) -> str:
        """Address of the cell's evaluation."""
        return self.pipelines[cell.name].plans[TARGET].key

    def to_make(self, cells: Sequence[Cell]) -> dict[str, int]:
        """Stage -> how many artifacts these cells still need; one that several share counts once."""
        missing: set[tuple[str, str]] = set()

        def need(pipeline: Pipeline, stage: str) -> None:
            item = pipeline.plans[stage]
            if (stage, item.key) in missing or pipeline.store.has(stage, item.key):
                return
            missing.add((stage, item.key))
            for source in item.stage.inputs:
                need(pipeline, source)

        for cell in cells:
            need(self.pipelines[cell.name], TARGET)
        counts = Counter(stage for stage, _ in missing)
        return {stage: counts[stage] for stage in self.pipelines[self.cells[0].name].plans if counts[stage]}

    def run(
        self,
        cells: Sequence[Cell],
        *,
        out_of_time: Callable[[], bool] = lambda: False,
        begun: Callable[[Cell], None] = lambda cell: None,
        ended: Callable[[Cell], None] = lambda cell: None,
    ) -> None:
        """Bring cells up to date, in order; failures are kept in ``errors``.

        Args:
            cells: of :meth:`select`.
            out_of_time: asked before a cell that is not done; True leaves it missing.
            begun: called before a cell that is not done.
            ended: called after it, also where it failed.
        """
        for cell in cells:
            if self.done(cell) or out_of_time():
                continue
            self.errors.pop(cell.name, None)
            begun(cell)
            began = time.monotonic()
            self.open(cell)
            self.seconds[cell.name] = round(time.monotonic() - began, 3)
            ended(cell)

    def open(self, cell: Cell) -> Path | None:
        """The cell's evaluation, made if need be; None (and an entry in ``errors``) if that fails.

        Whatever goes wrong in one arm must not end the others: not a mistake in its settings, nor memory that ran
        out or a defect of ours, whose traceback is logged.
        """
        try:
            path = self.pipelines[cell.name].ensure(TARGET)
        except GenrecError as error:
            self.errors[cell.name] = str(error)
            logger.warning("%s failed: %s", cell.name, error)
        except Exception as error:
            self.errors[cell.name] = f"{type(error).__name__}: {error}"
            logger.exception("%s failed", cell.name)
        else:
            self.errors.pop(cell.name, None)
            return path
        return None

    def record(self, cell: Cell) -> CellRecord:
        """What became of a cell, without its training."""
        error = self.errors.get(cell.name, "")
        state: CellWord = "failed" if error else "done" if self.done(cell) else "missing"
        return CellRecord(
            cell.arm, cell.seed, cell.name, state, self.key(cell), error, self.seconds.get(cell.name, 0.0)
        )

    def _earlier_errors(self) -> dict[str, str]:
        """Errors of the last command, of cells that are still what they were and were not made since."""
        try:
            cells = json.loads((self.folder / JSON).read_bytes())["cells"]
            failed = {(cell["run"], cell["key"]): cell["error"] for cell in cells if cell["state"] == "failed"}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        keys = {(cell.name, self.key(cell)): cell for cell in self.cells if not self.done(cell)}
        return {run: error for (run, key), error in failed.items() if (run, key) in keys}

    def _require_comparable(self) -> None:
        first = self.cells[0]
        for cell in self.cells:
            where = f"grids.{self.name}.arms.{cell.arm}"
            pipelines = (self.pipelines[first.name], self.pipelines[cell.name])
            if len({pipeline.plans["prepare"].key for pipeline in pipelines}) > 1:
                raise SettingsError(
                    f"{where}: its data are not those of arm {first.arm!r}; arms are compared on the same users, so "
                    "make it a grid of its own"
                )
            for leaf in COMPARED:
                own, other = (getattr(c.settings.evaluation, leaf) for c in (cell, first))
                if own != other:
                    raise SettingsError(
                        f"{where}.overrides.evaluation.{leaf}: {own!r} differs from arm {first.arm!r} ({other!r}); "
                        f"set it in grids.{self.name}.overrides, for all arms"
                    )
