"""report.html: one self-contained page with the table, the plots and all that is needed to repeat the run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from genrec.config import Settings, resolved_yaml
from genrec.data.interactions import Interactions, Split
from genrec.evaluation.exposure import Exposure
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.metrics import MetricRow, PairedDifference
from genrec.evaluation.plots import (
    codebook_use,
    exposure_curves,
    metric_bars,
    popularity_against_score,
    training_curves,
)
from genrec.evaluation.tables import cells, headline_metrics, label
from genrec.tokenizer.sid_table import SidTable

VERSIONED = ("genrec", "torch", "ray", "deepspeed", "transformers", "numpy")


def write_report(
    out: Path,
    *,
    rows: Sequence[MetricRow],
    frames: Mapping[str, Sequence[EvalFrame]],
    interactions: Interactions,
    settings: Settings,
    sid_table: SidTable | None = None,
    curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    differences: Sequence[tuple[str, str, PairedDifference]] = (),
    commands: Sequence[str] = (),
    exposure: Sequence[Exposure] = (),
    split: Split = "test",
) -> None:
    """Write the page.

    Args:
        out: the HTML file.
        rows: all rows of all models, of one data set, in the order of the table.
        frames: model -> its frames, one a seed.
        interactions: the data set.
        settings: the resolved tree.
        sid_table: the semantic IDs, for the use of the codebook.
        curves: model -> rows of its metrics.jsonl.
        differences: (model a, model b, paired difference) to list.
        commands: what to type to get this page again.
        exposure: exposure bias of the generators.
        split: whose targets the rows are of.
    """
    assert rows, "a report of no rows"
    columns, lines = cells(rows, headline_metrics(rows))
    seeds = {row.model: ", ".join(map(str, row.seeds)) or "—" for row in rows}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genrec.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        dataset=rows[0].dataset,
        split={"valid": "validation", "test": "test"}[split],
        users=max((len(run.users) for runs in frames.values() for run in runs), default=0),
        columns=[(segment, label(metric)) for segment, metric in columns],
        lines=lines,
        seeds=seeds,
        rows=rows,
        bars=metric_bars(rows),
        differences=differences,
        exposure=exposure,
        exposure_plot=exposure_curves(exposure) if exposure else "",
        training=training_curves(curves) if curves else "",
        codebook=codebook_use(sid_table) if sid_table else "",
        popularity=popularity_against_score(frames, interactions) if frames else "",
        sid_version=sid_table.version if sid_table else "",
        levels=" × ".join(map(str, sid_table.level_sizes)) if sid_table else "",
        facts=dataset_facts(interactions),
        settings=settings,
        settings_yaml=resolved_yaml(settings),
        commands=commands,
        versions=versions(),
    )
    out.write_text(page, encoding="utf-8")


def dataset_facts(interactions: Interactions) -> dict[str, int]:
    """Counts that tell one data set from another."""
    counts = interactions.train_counts
    return {
        "users": interactions.n_users,
        "items": interactions.n_items,
        "interactions": len(interactions.items),
        "training interactions": int(interactions.train_end.sum()),
        "training prefixes": interactions.n_train_prefixes,
        "head items": int(interactions.head_items.sum()),
        "items without training interactions": int((counts == 0).sum()),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on."""
    found = {"Python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
