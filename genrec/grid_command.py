"""``python -m genrec grid NAME...``: list, run and tell of grids (see genrec.stages.grid)."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from genrec.config import Cell, GridSettings, grid_cells, load_grids
from genrec.errors import DataError, GenrecError, SettingsError
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
    runs, failed = _runs(names, known, options, overrides)
    began = time.monotonic()

    def out_of_time() -> bool:
        minutes = options.max_minutes
        return minutes is not None and time.monotonic() - began >= minutes * 60

    for run, chosen in runs:
        if options.dry_run:
            _list(run, chosen, console)
        else:
            failed += _run_grid(run, chosen, _command(options, run.name, overrides), console, out_of_time)
    if failed:
        told = "\n".join(f"  {each}" for each in failed)
        raise GenrecError(f"failed, all others done; the same command tries again:\n{told}")


def _runs(
    names: list[str], known: Mapping[str, GridSettings], options: argparse.Namespace, overrides: list[str]
) -> tuple[list[tuple[GridRun, list[Cell]]], list[str]]:
    """Each grid with its chosen cells, and what keeps grids from being run: data that are not there.

    All definitions are looked at before the first cell is run; a wrong one ends the command. Absent data do so only
    if no other grid was asked for.
    """
    from genrec.stages.grid import GridRun

    reporter, runs, failed = StageProgress(), [], []
    for name in names:
        cells = grid_cells(name, known[name], options.config, overrides=overrides)
        try:
            run = GridRun(name, known[name], cells, reporter=reporter)
        except DataError as error:
            if len(names) == 1:
                raise
            failed.append(f"grid {name}: {error}")
            continue
        runs.append((run, run.select(options.arms, options.seeds)))
    return runs, failed


def _run_grid(
    run: GridRun, chosen: list[Cell], command: str, console: Console, out_of_time: Callable[[], bool]
) -> list[str]:
    """Run one grid, write its tables after every cell and print them; the failed cells with their errors."""
    from genrec.evaluation.grid_sheets import HTML, rich_table, sheets, write_grid
    from genrec.stages.grid_results import grid_report

    messages = Console(stderr=True, highlight=False)
    waiting = [cell for cell in chosen if not run.done(cell)]

    def begun(cell: Cell) -> None:
        place = f"cell {waiting.index(cell) + 1} of {len(waiting)}"
        messages.print(f"{run.name}, {place}: {cell.arm}, seed {cell.seed}", markup=False)

    def ended(cell: Cell) -> None:
        if cell.name in run.errors:
            messages.print(f"failed: {run.errors[cell.name]}", markup=False)
        write_grid(run.folder, grid_report(run, command))

    run.run(chosen, out_of_time=out_of_time, begun=begun, ended=ended)
    report = grid_report(run, command)
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
