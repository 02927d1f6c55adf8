"""``python -m genrec grid NAME...``: list, run and tell of grids (see genrec.stages.grid)."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from genrec.config import Cell, GridSettings, grid_cells, load_grids
from genrec.errors import GenrecError, SettingsError
from genrec.progress import StageProgress

if TYPE_CHECKING:
    from genrec.stages.grid import GridRun

ALL = "all"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options."""
    parser.add_argument("grids", nargs="+", metavar="NAME", help=f"of the settings file; {ALL}: every one, in order")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and which are done; run nothing")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="begin no cell after so many minutes")
    parser.add_argument(
        "--arms", nargs="+", metavar="ARM", help="run only these arms; the tables hold all that is done"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="run only these seeds")


def run_grids(options: argparse.Namespace, overrides: list[str], console: Console) -> None:
    """Run the grids that the options name.

    Args:
        options: parsed, with :func:`add_options`.
        overrides: ``section.key=value`` over every arm.
        console: where the tables go.

    Raises:
        SettingsError: a grid, arm or seed that is not there, or a wrong definition.
        GenrecError: cells failed; told after everything else was done.
    """
    if options.preset is not None:
        raise SettingsError(f"--preset {options.preset}: a grid names its own; change it in grids.NAME.preset")
    known = load_grids(options.config)
    names = list(known) if options.grids == [ALL] else options.grids
    for name in names:
        if name not in known:
            raise SettingsError(f"grid {name!r} is not in the file; it has: {', '.join(known) or 'none'}")
    began = time.monotonic()

    def out_of_time() -> bool:
        minutes = options.max_minutes
        return minutes is not None and time.monotonic() - began >= minutes * 60

    failed = [cell for name in names for cell in _run_grid(name, known[name], options, overrides, console, out_of_time)]
    if failed:
        told = "\n".join(f"  {cell}" for cell in failed)
        raise GenrecError(f"failed, all others done; the same command tries again:\n{told}")


def _run_grid(
    name: str,
    grid: GridSettings,
    options: argparse.Namespace,
    overrides: list[str],
    console: Console,
    out_of_time: Callable[[], bool],
) -> list[str]:
    """Run one grid; the failed cells with their errors."""
    from genrec.evaluation.grid_report import HTML, rich_table, sheets, write_grid
    from genrec.stages.grid import GridRun
    from genrec.stages.grid_results import grid_report

    messages = Console(stderr=True, highlight=False)
    cells = grid_cells(name, grid, options.config, overrides=overrides)
    run = GridRun(name, grid, cells, reporter=StageProgress(messages))
    chosen = run.select(options.arms, options.seeds)
    if options.dry_run:
        _list(run, chosen, console)
        return []
    waiting = [cell for cell in chosen if not run.done(cell)]

    def begun(cell: Cell) -> None:
        messages.print(f"cell {waiting.index(cell) + 1} of {len(waiting)}: {cell.arm}, seed {cell.seed}")

    def ended(cell: Cell) -> None:
        if cell.name in run.errors:
            messages.print(f"failed: {run.errors[cell.name]}", markup=False)
        write_grid(run.folder, grid_report(run, _command(options, name, overrides)))

    run.run(chosen, out_of_time=out_of_time, begun=begun, ended=ended)
    report = grid_report(run, _command(options, name, overrides))
    write_grid(run.folder, report)
    for sheet in sheets(report):
        console.print(rich_table(sheet))
    sys.stdout.write(f"tables: {run.folder / HTML}\n")
    return [f"{cell.name}: {run.errors[cell.name]}" for cell in chosen if cell.name in run.errors]


def _list(run: GridRun, chosen: list[Cell], console: Console) -> None:
    table = Table(title=f"{run.name}: {run.grid.about}", title_justify="left")
    for column in ("arm", "seed", "run", "state"):
        table.add_column(column)
    for cell in chosen:
        table.add_row(cell.arm, str(cell.seed), cell.name, run.record(cell).state)
    console.print(table)
    missing = ", ".join(f"{count} × {stage}" for stage, count in run.to_make(chosen).items())
    console.print(f"to be made: {missing or 'nothing'}")


def _command(options: argparse.Namespace, name: str, overrides: list[str]) -> str:
    """What makes the grid again; ``--strategy`` stands among the overrides."""
    config = ["--config", options.config] if options.config else []
    return shlex.join(
        ["python", "-m", "genrec", "grid", name, *config, *(part for o in overrides for part in ("--set", o))]
    )
