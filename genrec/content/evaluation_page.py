"""content.html: all that was measured of made items, on one page that needs no other file, with its contact sheets.

It is made of the JSON files and sheets that the evaluations wrote beside it, so each evaluation brings the page up to
date, whichever of them ran before.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

PAGE = "content.html"
_CREATOR = "How often a text is the nearest of all prompts' texts to its picture (@1), or among five; by the judge."
_EDITOR = "Simulated users; the encoder chooses, the judge measures by what they liked later. 95% intervals over users."
Json = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A table of texts, and pictures below it.

    Attributes:
        title: of the table.
        note: what it says, and how it was measured.
        columns: its head.
        lines: its cells.
        pictures: files beside the page.
    """

    title: str
    note: str
    columns: list[str]
    lines: list[list[str]]
    pictures: tuple[str, ...] = field(default=())


def write_page(directory: Path) -> Path:
    """Write the page of what lies in ``directory``.

    Args:
        directory: where evaluations wrote; with nothing in it the page is empty.
    """
    sheets: list[Sheet] = []
    for name, told in PARTS.items():
        path = directory / name
        if path.is_file():
            sheets += told(json.loads(path.read_text(encoding="utf-8")))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genrec.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pictures = {
        name: base64.b64encode((directory / name).read_bytes()).decode()
        for sheet in sheets
        for name in sheet.pictures
        if (directory / name).is_file()
    }
    page = environment.get_template("content.html.j2").render(sheets=sheets, pictures=pictures)
    (directory / PAGE).write_text(page, encoding="utf-8")
    return directory / PAGE


def _creator(told: Json) -> list[Sheet]:
    lines = [
        [
            row["group"],
            str(row["prompts"]),
            f"{row['precision_1']:.2f} ± {row['interval']:.2f}",
            f"{row['precision_5']:.2f}",
            f"{row['alignment']:.3f}",
            *("" if row[key] is None else f"{row[key]:.3f}" for key in ("nearest", "drawing_1")),
        ]
        for row in told["rows"]
    ]
    columns = ["pictures", "prompts", "R-precision@1", "@5", "cosine to the words", "nearest trained", "own drawing@1"]
    note = (
        f"{_CREATOR} {told['model']}, seed {told['seed']}; best of N in {told['seconds_median_best']:.2f} s (median)."
    )
    return [Sheet("Creations of words", note, columns, lines, ("creator.png",))]


def _editor(told: Json) -> list[Sheet]:
    sheets = []
    for name in ("thumbnails", "clips", "creations"):
        lines = [
            [
                row["method"],
                *(_interval(row[key]) for key in ("cosine", "score", "over_original")),
                *(f"{row[key]:.3f}" for key in ("frechet", "precision", "recall", "diversity", "nearest")),
            ]
            for row in told.get(name, ())
        ]
        columns = ["shown", "Cosine@10", "PS@10", "over Original", "Fréchet", "precision", "recall", "diversity",
                   "nearest trained"]  # fmt: skip
        pictures = ("creations.png",) if name == "creations" else ()
        if lines:
            sheets.append(Sheet(f"Users: {name}", _EDITOR, columns, lines, pictures))
    if "restyling" in told:
        figures = told["restyling"]
        lines = [
            [key, _interval(value) if isinstance(value, dict) else f"{value:.4g}"] for key, value in figures.items()
        ]
        note = "Source, edit and true drawing of concepts never trained on."
        sheets.append(Sheet("Restyling", note, ["measure", "value"], lines, ("restyling.png",)))
    return sheets


def _instructor(told: Json) -> list[Sheet]:
    figures = told["figures"]
    lines = [
        [
            metric,
            *("{:.3f} [{:.3f}, {:.3f}]".format(*rows[metric]) if metric in rows else "" for rows in figures.values()),
        ]
        for metric in figures["instructor"]
    ]
    confusion = [[action, *map(str, row)] for action, row in zip(told["actions"], told["confusion"], strict=True)]
    note = f"Instructions written by hand ({told['split']}); 95% intervals over families of paraphrase."
    return [
        Sheet("Deciding what to do", note, ["metric", *figures], lines),
        Sheet("Expected and given", note, ["expected", *told["actions"]], confusion),
    ]


def _fidelity(told: Json) -> list[Sheet]:
    lines = [
        [row["check"], str(row["cases"]), f"{row['recall']:.3f}", str(row["clean"]), f"{row['false_block']:.3f}"]
        for row in told["checks"]
    ]
    columns = ["check", "red-team cases", "recall", "clean cases", "false blocks"]
    marks = [[name, f"{bits:.3f}", f"{found:.2f}", str(count)] for name, bits, found, count in told["watermark"]]
    return [
        Sheet("Checks", f"Red-team cases of the {told['half']} half.", columns, lines),
        Sheet("Watermark", "32 bits.", ["after", "bits read", "mark found", "pictures"], marks),
    ]


def _interval(value: Json | None) -> str:
    return "" if value is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


PARTS: dict[str, Callable[[Json], list[Sheet]]] = {
    "creator.json": _creator,
    "editor.json": _editor,
    "instructor-test.json": _instructor,
    "fidelity.json": _fidelity,
}
