"""The results table: one line a model, one pair of columns a segment; for the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from genrec.evaluation.metrics import MetricRow

SEGMENTS = ("all", "head", "tail")
LABELS = {"hit": "H", "recall": "R", "ndcg": "N", "mrr": "MRR"}


@dataclass(frozen=True)
class Cell:
    """One number of the table, ready to print.

    Attributes:
        text: the value, four digits.
        interval: "[low, high]".
        short: "low–high" without leading zeros, for narrow columns.
        best: True for the highest value of its column.
    """

    text: str
    interval: str
    short: str
    best: bool


def label(metric: str) -> str:
    """The field's short name: "ndcg@10" -> "N@10"."""
    name, _, cutoff = metric.partition("@")
    return f"{LABELS.get(name, name)}@{cutoff}"


def headline_metrics(rows: Sequence[MetricRow]) -> tuple[str, str]:
    """Hit rate and NDCG at 10, or at the largest cutoff there is if 10 isn't among them."""
    cutoffs = {int(row.metric.partition("@")[2]) for row in rows}
    k = 10 if 10 in cutoffs else max(cutoffs)
    return f"hit@{k}", f"ndcg@{k}"


def cells(
    rows: Sequence[MetricRow], metrics: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[str, list[Cell | None]]]:
    """Arrange rows as a table.

    Returns:
        (columns as (segment, metric), model -> its cells in that order; None where there is no row).
        Models keep the order of ``rows``.
    """
    present = {row.segment for row in rows}
    columns = [(segment, metric) for segment in SEGMENTS if segment in present for metric in metrics]
    found = {(row.model, row.segment, row.metric): row for row in rows}
    models = list(dict.fromkeys(row.model for row in rows))
    best = {
        column: max((found[model, *column].value for model in models if (model, *column) in found), default=0.0)
        for column in columns
    }
    return columns, {
        model: [_cell(found.get((model, *column)), best[column]) for column in columns] for model in models
    }


def results_table(rows: Sequence[MetricRow]) -> Table:
    """The terminal's table: hit rate and NDCG overall, head and tail, the best of each column bold.

    The interval stands under the overall values only, so the table fits a narrow terminal.
    """
    dataset = ", ".join(dict.fromkeys(row.dataset for row in rows))
    columns, lines = cells(rows, headline_metrics(rows))
    table = Table(title=f"{escape(dataset)}: full ranking of the catalog")
    table.add_column("model", no_wrap=True)
    for segment, metric in columns:
        table.add_column(f"{segment}\n{label(metric)}", justify="right")
    for model, line in lines.items():
        texts = []
        for (segment, _), cell in zip(columns, line, strict=True):
            if cell is None:
                texts.append("")
                continue
            text = f"[bold]{cell.text}[/bold]" if cell.best else cell.text
            texts.append(f"{text}\n[dim]{cell.short}[/dim]" if segment == "all" else text)
        table.add_row(escape(model), *texts)
    return table


def _cell(row: MetricRow | None, best: float) -> Cell | None:
    if row is None:
        return None
    short = f"{row.low:.4f}–{row.high:.4f}".replace("0.", ".")
    return Cell(f"{row.value:.4f}", f"[{row.low:.4f}, {row.high:.4f}]", short, row.value == best > 0)
