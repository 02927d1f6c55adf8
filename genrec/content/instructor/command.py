"""``python -m genrec content train instructor`` and ``... evaluate instructor``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from genrec.config import Settings
from genrec.content.contracts import ACTIONS, Action
from genrec.errors import DataError, SettingsError

RETRIEVE: Action = "retrieve"
LEAST = {"instructions": 100, "wishes": 100, "epochs": 1, "readers": 1}
"""Sizes of a training that the command takes, and the least of each; fewer would leave nothing to hold out."""


def run(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Train the heads.

    Args:
        options: ``corpus``: directory with amazon-beauty and amazon-scientific, to train on their titles too;
            ``out``: where the heads go (default: the shipped ones'); ``instructions``, ``wishes``, ``epochs``,
            ``readers`` and ``seed``: other than the plan's.
        settings: section content.instructor.
        console: tells what was measured on held-out templates.
    """
    given = {name: value for name in (*LEAST, "seed") if (value := getattr(options, name)) is not None}
    for name, least in LEAST.items():
        if given.get(name, least) < least:
            raise SettingsError(f"--{name} {given[name]}: give at least {least}")
    from genrec.content.instructor.catalogs import movies, products
    from genrec.content.instructor.instructor import weights_directory
    from genrec.content.instructor.plan import TrainingPlan
    from genrec.content.instructor.train import train

    catalogs = [movies()]
    if options.corpus is not None:
        found = [path for name in ("amazon-beauty", "amazon-scientific") if (path := options.corpus / name).is_dir()]
        if not found:
            raise DataError(f"--corpus {options.corpus}: neither amazon-beauty nor amazon-scientific is in it")
        catalogs += [products(path) for path in found]
    out = options.out or weights_directory(settings.content.instructor)
    plan = TrainingPlan(**given)
    measured = train(catalogs, plan, Path(out))
    table = Table("on held-out templates", "value")
    for name, value in measured.items():
        table.add_row(name, str(value))
    console.print(table)


def evaluate(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Print and write how well the instructor decides on the hand-written set ``split``, beside two rules."""
    import torch

    from genrec.content.instructor import evaluate as measuring
    from genrec.content.instructor.catalog_view import CatalogView
    from genrec.content.instructor.catalogs import movies
    from genrec.content.instructor.instructor import load_instructor

    torch.set_num_threads(1)
    instructor = load_instructor(settings.content.instructor)
    items = movies()
    view = CatalogView.build(items.titles, items.texts, instructor.encoder, Path(options.out) / "embeddings")
    split = options.split
    cases, dev = measuring.load_cases(split, view), measuring.load_cases("dev", view)
    instructor.decide(cases[0].instruction, view)  # loads the model, so that the first time is not counted
    decisions, took = measuring.decide_all(instructor, view, cases)
    figures: dict[str, dict[str, tuple[float, float, float]]] = {"instructor": measuring.measure(cases, decisions)}
    by_bm25, threshold = measuring.bm25_threshold(view, dev, cases)
    rules: dict[str, Sequence[Action]] = {
        "always retrieve": [RETRIEVE] * len(cases),
        f"BM25 >= {threshold:.1f}": by_bm25,
    }
    families = [case.family for case in cases]
    expected = [case.action for case in cases]
    for name, given in rules.items():
        figures[name] = measuring.with_intervals(
            lambda rows, given=given: measuring.action_metrics(  # type: ignore[misc]
                [expected[row] for row in rows], [given[row] for row in rows]
            ),
            families,
        )
    matrix = measuring.confusion(cases, decisions)
    ordered = sorted(took)
    milliseconds = {"median": ordered[len(ordered) // 2], "p95": ordered[int(len(ordered) * 0.95)]}
    console.print(f"{len(cases)} instructions of {len(set(families))} families, written by hand ({split})")
    console.print(_table(figures))
    console.print(_matrix(matrix.tolist()))
    console.print(
        f"per decision, one thread: median {milliseconds['median']:.0f} ms, 95% within {milliseconds['p95']:.0f} ms"
    )
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    body: dict[str, Any] = {
        "split": split,
        "figures": figures,
        "confusion": matrix.tolist(),
        "actions": ACTIONS,
        "milliseconds": milliseconds,
    }
    (out / f"instructor-{split}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def _table(figures: dict[str, dict[str, tuple[float, float, float]]]) -> Table:
    table = Table("metric", *figures, title="95% intervals over families")
    for metric in figures["instructor"]:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*rows[metric]) if metric in rows else "" for rows in figures.values()]
        table.add_row(metric, *cells)
    return table


def _matrix(matrix: list[list[int]]) -> Table:
    table = Table("expected \\ given", *ACTIONS)
    for action, row in zip(ACTIONS, matrix, strict=True):
        table.add_row(action, *(str(count) for count in row))
    return table
