"""``python -m genrec content evaluate editor``: thumbnails, clips, creations for users and restyling, in one report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from genrec.config import Settings
from genrec.content.contracts import PictureMaker
from genrec.content.evaluation import Row, Stage, clips, thumbnails
from genrec.errors import ArtifactError

USERS, CREATION_USERS = 100, 40
TILE = 96


def evaluate(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Measure choices and edits; writes editor.json and contact sheets to ``options.out``.

    Raises:
        ArtifactError: the encoder's or the judge's weights are missing.
    """
    from genrec.content.providers import load_maker
    from genrec.content.vision import load_encoder

    encoder, judge = load_encoder(), load_encoder("judge")
    options.out.mkdir(parents=True, exist_ok=True)
    stage = Stage(options.corpus, encoder, judge, users=USERS, seed=options.seed)
    report: dict[str, Any] = {"seed": options.seed, "users": len(stage.users)}
    for name, rows in (("thumbnails", thumbnails(stage)), ("clips", clips(stage))):
        report[name] = [row.as_json() for row in rows]
        console.print(as_table(f"{name}, {len(stage.users)} simulated users", rows))
    try:
        maker = load_maker(settings.content.pictures)
    except ArtifactError as error:
        console.print(f"creations and restyling are left out: {error}")
    else:
        report |= _making(options, settings, maker, console)
    (options.out / "editor.json").write_text(json.dumps(report, indent=1) + "\n")
    console.print(str(options.out / "editor.json"))


def _making(options: argparse.Namespace, settings: Settings, maker: PictureMaker, console: Console) -> dict[str, Any]:
    from genrec.content.creator import Creator
    from genrec.content.evaluation_making import creations, restyling
    from genrec.content.vision import load_encoder

    encoder, judge = load_encoder(), load_encoder("judge")
    few = Stage(options.corpus, encoder, judge, users=CREATION_USERS, seed=options.seed)
    rows, pictures = creations(few, Creator(maker, encoder, settings.content.pictures))
    console.print(as_table(f"creations, {len(few.users)} simulated users", rows))
    sheet([pictures[name][:12] for name in pictures]).save(options.out / "creations.png")
    editor = settings.content.editor
    figures, triples = restyling(few, maker, judge, strengths=editor.strengths, floor=editor.floor)
    found = Table("restyling of held-out concepts", "value", title=f"{figures.pairs} pairs, {figures.refused} refused")
    for name, value in figures.as_json().items():
        found.add_row(name, str(getattr(figures, name)) if isinstance(value, dict) else f"{value:.4g}")
    console.print(found)
    sheet([list(column) for column in zip(*triples[:16], strict=True)]).save(options.out / "restyling.png")
    return {"creations": [row.as_json() for row in rows], "restyling": figures.as_json(), "model": maker.name}


def as_table(title: str, rows: Sequence[Row]) -> Table:
    """Rows for the terminal."""
    names = ("Cosine@10", "PS@10", "over Original", "p", "Fréchet", "precision", "recall", "diversity", "nearest train")
    answer = Table("shown", *names, title=title)
    for row in rows:
        over = "" if row.over_original is None else str(row.over_original)
        p = "" if row.p is None else f"{row.p:.1g}"
        others = (row.frechet, row.precision, row.recall, row.diversity, row.nearest)
        answer.add_row(row.method, str(row.cosine), str(row.score), over, p, *(f"{value:.3f}" for value in others))
    return answer


def sheet(lines: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures in lines, for a person to look at."""
    answer = Image.new("RGB", (TILE * max(len(line) for line in lines), TILE * len(lines)), "white")
    for down, line in enumerate(lines):
        for across, picture in enumerate(line):
            small = picture.resize((TILE - 6, TILE - 6), Image.Resampling.LANCZOS)
            answer.paste(small, (across * TILE + 3, down * TILE + 3))
    return answer
