"""``python -m genrec content evaluate fidelity`` and ``content train hazards``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genrec.config import Settings
from genrec.content.fidelity.evaluate import evaluate_all
from genrec.content.fidelity.hazards import WEIGHTS

BEAUTY = Path("../shared/data/amazon-beauty")
"""Where the preset `beauty` reads from, too."""


def run(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Train the head that knows hazards by meaning."""
    from genrec.content.fidelity.train_hazards import train

    figures = train(options.out or WEIGHTS)
    console.print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def evaluate(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Measure the checks on the test halves; print tables, and write ``fidelity.json`` below ``options.out``."""
    messages = Console(stderr=True)
    rows, marks = evaluate_all(settings.content.fidelity, "test", BEAUTY, lambda what: messages.print(what))
    table = Table(
        "check", "red-team cases", "recall", "clean cases", "false blocks", title="Fidelity checks, test half"
    )
    for row in rows:
        recall = f"{row.recall:.3f} ({row.found})" if row.cases else "-"
        table.add_row(row.check, str(row.cases), recall, str(row.clean), f"{row.false_block:.4f} ({row.blocked})")
    console.print(table)
    bits = Table("after", "bits read", "mark found", "pictures", title="Watermark of 32 bits")
    for name, share, found, count in marks:
        bits.add_row(name, f"{share:.4f}" if share else "-", f"{found:.2f}", str(count))
    console.print(bits)
    options.out.mkdir(parents=True, exist_ok=True)
    told = [
        {**{k: v for k, v in asdict(row).items() if k not in ("missed", "wronged")}, "recall": row.recall,
         "false_block": row.false_block}
        for row in rows
    ]  # fmt: skip
    result = {"half": "test", "checks": told, "watermark": marks}
    (options.out / "fidelity.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
