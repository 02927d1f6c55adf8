"""Stages on the terminal: a line for each that is done, a clock for the one that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from genrec.stages import Stage
    from genrec.stages.runner import State


class StageProgress:
    """Reports to standard error; without a terminal there are lines only."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._clock: Progress | None = None

    def begin(self, stage: Stage, *, resumed: bool) -> None:
        """Start the clock of a stage."""
        word = "resumed" if resumed else "working"
        self.stop()
        if not self.console.is_terminal:
            self.console.print(f"{stage.name:<9} {word}: {stage.about}")
            return
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self._clock = Progress(*columns, console=self.console, transient=True)
        self._clock.add_task(f"{stage.name:<9} {word}: {stage.about}", total=None)
        self._clock.start()

    def end(self, stage: Stage, key: str, state: State, seconds: float) -> None:
        """Say how a stage ended."""
        self.stop()
        took = "" if state == "up to date" else f" in {seconds:.1f} s"
        self.console.print(f"{stage.name:<9} {key}  {state}{took}")

    def stop(self) -> None:
        """Take the clock off the terminal."""
        if self._clock is not None:
            self._clock.stop()
            self._clock = None
