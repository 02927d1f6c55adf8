"""The sweep on the terminal: a table that lives, or a line for each trial that ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tune.records import DONE, Record
from tune.result import table_value
from tune.sweep import Sweep

COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red", "running": "cyan", "waiting": "dim"}


class Terminal:
    """Shows the trials as they go.

    Args:
        sweep: whose.
        console: standard error, as a rule.
    """

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self._live: Live | None = None

    def __call__(self, record: Record, trials: Mapping[str, Record]) -> None:
        """A trial changed."""
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False)
                self._live.start()
            self._live.update(trials_table(self.sweep, trials), refresh=True)
        elif record.state in DONE:
            metric = self.sweep.definition.objective.maximise[0]
            told = record.error if record.state == "failed" else f"{metric} {table_value(record.last, metric)}"
            epoch = f" after {record.history[-1]['epoch']:.0f} epochs" if record.history else ""
            self.console.print(
                f"trial {record.order:>3} {record.state}{epoch}: {told}  {settings_text(record.params)} "
                f"seed={record.seed}",
                markup=False,
            )

    def stop(self) -> None:
        """Leave the last table standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def trials_table(sweep: Sweep, trials: Mapping[str, Record]) -> Table:
    """All trials, in the order of starting."""
    objective = sweep.definition.objective
    shown = list(dict.fromkeys([*objective.maximise, *([objective.keep] if objective.keep else []), "ndcg@10"]))
    table = Table(title=f"sweep {escape(sweep.name)}")
    table.add_column("#", justify="right")
    table.add_column("for")
    for key in sweep.definition.space:
        table.add_column(escape(short_names(sweep.definition.space)[key]), justify="right")
    for name in ("seed", "epoch", *shown, "minutes"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for record in trials.values():
        epoch = f"{record.history[-1]['epoch']:.0f}" if record.history else "—"
        table.add_row(
            str(record.order),
            ", ".join(record.roles),
            *(value_text(record.params.get(key)) for key in sweep.definition.space),
            str(record.seed),
            epoch,
            *(table_value(record.last, name) for name in shown),
            f"{record.seconds / 60:.1f}",
            f"[{COLOURS[record.state]}]{record.state}[/]",
        )
    return table


def short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
    return found


def value_text(value: Any) -> str:
    """A setting's value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_text(params: Mapping[str, Any]) -> str:
    """All settings of a point on one line."""
    names = short_names(params)
    return " ".join(f"{names[key]}={value_text(value)}" for key, value in params.items())
