"""``content evaluate creator``: does a picture show what was asked, is it new, and how long does it take.

R-precision: among the texts of 100 prompts, is the picture's own the nearest (@1), or among the five nearest (@5)? It
is told by the judge, an encoder trained apart from the one that chooses the best of N. Prompts are names of concepts
that were trained on, and compositions that never were: a colour on a thing, or a thing in a style. The same figures
for real drawings are the judge's own ceiling, those for noise its floor. Novelty is the distance to the nearest
drawing of the training part, beside the distance that held-out real drawings have to it.

Shapes: N prompts, M drawings, E the judge's space.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from genrec.config import Settings
from genrec.content.contracts import FloatArray, ImageTextEncoder
from genrec.content.corpus import COLOURS, read_corpus
from genrec.content.corpus.drawings import recoloured
from genrec.content.creator.creator import Creator
from genrec.content.creator.words import parse

PROMPTS = 100
SHEET = 48
SHEET_COLUMNS = 12
STYLES_ASKED = ("flat", "3d")
COLUMNS = ["concept", "name", "style", "split", "category", "colour", "hue", "unseen_colours", "png"]


@dataclass(frozen=True)
class Row:
    """What one group of pictures scored.

    Attributes:
        group: which pictures.
        prompts: how many.
        precision_1: R-precision@1.
        precision_5: R-precision@5.
        interval: half width of the 95% interval of precision_1.
        alignment: mean cosine of picture and its own text, by the judge.
        nearest: mean cosine to the nearest drawing trained on; None where it was not asked.
        drawing_1: how often the picture is nearest to the real drawing of its own prompt, among those of all prompts.
    """

    group: str
    prompts: int
    precision_1: float
    precision_5: float
    interval: float
    alignment: float
    nearest: float | None
    drawing_1: float | None


def evaluate(options: argparse.Namespace, settings: Settings, console: Console) -> None:
    """Measure the creator of the settings; writes creator.json and creator.png to ``options.out``.

    Raises:
        ArtifactError: the judge's or the encoder's weights are missing.
    """
    from genrec.content.creator.command import chooser
    from genrec.content.providers import load_maker
    from genrec.content.vision import load_encoder

    pictures = settings.content.pictures
    begin = time.perf_counter()
    maker = load_maker(pictures)
    creator = Creator(maker, chooser(), pictures)
    loaded = time.perf_counter() - begin
    options.out.mkdir(parents=True, exist_ok=True)
    report = measure(creator, load_encoder("judge"), options.corpus, options.out, seed=options.seed)
    report |= {"seconds_to_load": loaded, "model": maker.name}
    (options.out / "creator.json").write_text(json.dumps(report, indent=1) + "\n")
    _show(report, console)
    console.print(f"{options.out / 'creator.json'}, {options.out / 'creator.png'}")


def measure(
    creator: Creator, judge: ImageTextEncoder, corpus: Path, out: Path, *, seed: int, prompts: int = PROMPTS
) -> dict[str, Any]:
    """All figures, as JSON values; writes the contact sheet."""
    rows = read_corpus(corpus, COLUMNS).to_pylist()
    generator = np.random.default_rng(seed)
    seen = seen_prompts(rows, generator, prompts)
    unseen = unseen_prompts(rows, generator, prompts)
    trained_ME = judge.images([_picture(row) for row in rows if row["split"] == "train"])
    found: list[Row] = []
    sheets: list[tuple[str, list[str], list[Image.Image]]] = []
    seconds: list[float] = []
    begin = time.perf_counter()
    Creator(creator.maker, None, creator.settings.model_copy(update={"candidates": 1})).create(seen[0][0], seed=seed)
    first_picture = time.perf_counter() - begin
    for group, wanted in (("seen concepts", seen), ("unseen compositions", unseen)):
        firsts, bests = [], []
        for place, (prompt, _) in enumerate(wanted):
            begin = time.perf_counter()
            choice = creator.choose(prompt, seed=seed + 1000 * place)
            seconds.append(time.perf_counter() - begin)
            firsts.append(choice.pictures[0])
            bests.append(choice.pictures[choice.best])
        found.append(score(f"{group}, first picture", wanted, firsts, judge, trained_ME, drawings=True))
        found.append(
            score(f"{group}, best of {creator.settings.candidates}", wanted, bests, judge, trained_ME, drawings=True)
        )
        sheets.append((group, [prompt for prompt, _ in wanted[:SHEET]], bests[:SHEET]))
    held = _first_each([row for row in rows if row["split"] == "held-out"], generator, prompts)
    found.append(score("real drawings of seen concepts", seen, [_picture(r) for _, r in seen], judge, None))
    wanted = [(f"{row['name']} in {row['style']} style", row) for row in held]
    found.append(score("real drawings held out", wanted, [_picture(r) for r in held], judge, trained_ME))
    noise = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8), "RGB") for _ in range(len(seen))]
    found.append(score("noise", seen, noise, judge, None, drawings=True))
    contact_sheet(sheets).save(out / "creator.png")
    return {
        "rows": [asdict(row) for row in found],
        "seconds_first_picture": first_picture,
        "seconds_median_best": float(np.median(seconds)),
        "prompts": {"seen": [p for p, _ in seen], "unseen": [p for p, _ in unseen]},
        "seed": seed,
    }


def seen_prompts(rows: list[dict[str, Any]], generator: np.random.Generator, count: int) -> list[tuple[str, Any]]:
    """Names of concepts in styles they were trained in, each concept once; and the drawing that was trained on."""
    known = [row for row in rows if row["split"] == "train" and row["style"] in STYLES_ASKED]
    return [(f"{row['name']} in {row['style']} style", row) for row in _first_each(known, generator, count)]


def unseen_prompts(rows: list[dict[str, Any]], generator: np.random.Generator, count: int) -> list[tuple[str, Any]]:
    """Half things in a colour, half things in a style, of which no drawing was trained on."""
    coloured = [
        row
        for row in rows
        if row["split"] == "train"
        and row["style"] in STYLES_ASKED
        and row["hue"] is not None
        and row["category"] != "People & Body"
        and any(colour != row["colour"] for colour in row["unseen_colours"])
    ]
    styled = [row for row in rows if row["split"] == "unseen-style"]
    half = count // 2
    prompts = []
    for row in _first_each(coloured, generator, half):
        colour = next(colour for colour in row["unseen_colours"] if colour != row["colour"])
        name = " ".join(word for word in row["name"].split() if word not in COLOURS) or row["name"]
        prompts.append((f"{colour} {name} in {row['style']} style", {**row, "turned": colour}))
    prompts += [(f"{row['name']} in {row['style']} style", row) for row in _first_each(styled, generator, count - half)]
    return prompts


def score(
    group: str,
    wanted: list[tuple[str, Any]],
    pictures: list[Image.Image],
    judge: ImageTextEncoder,
    trained_ME: FloatArray | None,
    *,
    drawings: bool = False,
) -> Row:
    """R-precision of ``pictures``, the i-th made of the i-th prompt."""
    pictures_NE = judge.images(pictures)
    cosines_NN = pictures_NE @ judge.texts([parse(prompt).subject for prompt, _ in wanted]).T
    own_N = np.diagonal(cosines_NN)
    place_N = (cosines_NN > own_N[:, None]).sum(axis=1)
    first = float((place_N < 1).mean())
    targets_NE = judge.images([_target(row) for _, row in wanted]) if drawings else None
    return Row(
        group,
        len(wanted),
        first,
        float((place_N < 5).mean()),
        1.96 * float(np.sqrt(first * (1 - first) / len(wanted))),
        float(own_N.mean()),
        None if trained_ME is None else float((pictures_NE @ trained_ME.T).max(axis=1).mean()),
        None
        if targets_NE is None
        else float(((pictures_NE @ targets_NE.T).argmax(axis=1) == np.arange(len(wanted))).mean()),
    )


def contact_sheet(groups: list[tuple[str, list[str], list[Image.Image]]], side: int = 128) -> Image.Image:
    """Pictures under one another by group, each with its prompt."""
    line, head = side + 30, 24
    lines = [-(-len(prompts) // SHEET_COLUMNS) for _, prompts, _ in groups]
    sheet = Image.new("RGB", (SHEET_COLUMNS * side, sum(lines) * line + head * len(groups)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (group, prompts, pictures), count in zip(groups, lines, strict=True):
        draw.text((4, top + 6), group, fill="black")
        top += head
        for place, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
            left, upper = place % SHEET_COLUMNS * side, top + place // SHEET_COLUMNS * line
            sheet.paste(picture.resize((side - 8, side - 8), Image.Resampling.LANCZOS), (left + 4, upper))
            words = prompt.replace(" in ", " - ").removesuffix(" style")
            draw.text((left + 4, upper + side - 6), words[:20], fill="black")
            draw.text((left + 4, upper + side + 6), words[20:40], fill="black")
        top += count * line
    return sheet


def _first_each(rows: list[dict[str, Any]], generator: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """``count`` rows in random order, no concept twice."""
    chosen: dict[str, dict[str, Any]] = {}
    for place in generator.permutation(len(rows)):
        chosen.setdefault(rows[place]["concept"], rows[place])
        if len(chosen) == count:
            break
    return list(chosen.values())


def _picture(row: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(row["png"])).convert("RGB")


def _target(row: dict[str, Any]) -> Image.Image:
    """The real drawing of a prompt; for a colour that training never showed, with its hues turned to it."""
    return recoloured(_picture(row), row["turned"], row["hue"]) if "turned" in row else _picture(row)


def _show(report: dict[str, Any], console: Console) -> None:
    table = Table("pictures", "prompts", "R-precision@1", "@5", "alignment", "nearest trained", "own drawing@1")
    for row in report["rows"]:
        table.add_row(
            row["group"],
            str(row["prompts"]),
            f"{row['precision_1']:.2f} ± {row['interval']:.2f}",
            f"{row['precision_5']:.2f}",
            f"{row['alignment']:.3f}",
            *("" if row[key] is None else f"{row[key]:.3f}" for key in ("nearest", "drawing_1")),
        )
    console.print(table)
    console.print(
        f"models loaded in {report['seconds_to_load']:.1f} s, first picture after "
        f"{report['seconds_first_picture']:.1f} s; then {report['seconds_median_best']:.2f} s the best of N"
    )
