"""Build and read the corpus: one Parquet file with the drawings as PNG and their words, and what must be attributed.

Columns: see ``SCHEMA``. The same packages give the same rows in the same order. The file is written beside
its place and renamed, so a killed build leaves no half of one.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.content.corpus.concepts import COLOURS, STYLES, read_concepts, unseen_colour, unseen_style
from genrec.content.corpus.drawings import Drawings, colour_word, main_hue
from genrec.content.corpus.packages import FLUENT_3D, FLUENT_FLAT, GOOGLE, KEYWORDS, PACKAGES, TWITTER, members
from genrec.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)
VERSION = 1
CORPUS = "corpus.parquet"
ATTRIBUTION = "ATTRIBUTION.md"
README = "README.md"
PACKAGE_OF = {"twitter": TWITTER, "google": GOOGLE, "3d": FLUENT_3D, "flat": FLUENT_FLAT}
COLUMNS = {
    "concept": "code points of the emoji, the concept's id (the same in each style)",
    "name": "its name: red apple",
    "keywords": "further words, a list",
    "category": "top of the taxonomy: Food & Drink",
    "subcategory": "below it: food-fruit",
    "style": "3d, flat, twitter or google",
    "caption": "name and style in words: red apple, 3d style",
    "split": "train; held-out: the concept is in no training row; unseen-style: the concept is, but not in this style",
    "colour": "word for its main hue; null if it is grey or has many colours",
    "hue": "main hue, 0 to 1; null likewise",
    "unseen_colours": "colours in which no model is trained to see or make this concept, a list",
    "licence": "of the drawing",
    "source": "npm package and version",
    "png": "the picture: RGB PNG on white, square",
}


def build_corpus(
    packages: Path,
    out: Path,
    *,
    size: int = 64,
    styles: Sequence[str] = STYLES,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Draw every concept in every style and write the corpus.

    Args:
        packages: directory of npm tarballs (see :func:`genrec.content.corpus.packages.fetch`).
        out: directory that gets ``corpus.parquet``, ``ATTRIBUTION.md`` and ``README.md``.
        size: side of a picture in pixels.
        styles: which styles to draw.
        progress: told the share that is done.

    Returns:
        Path of the Parquet file.

    Raises:
        DataError: a tarball is missing or broken, or a style is unknown.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for style in styles:
        if style not in STYLES:
            raise DataError(f"--styles {style}: unknown; styles are {', '.join(STYLES)}")
    emoji = members(packages, TWITTER, "emoji.json")[""]
    concepts = read_concepts(emoji, members(packages, KEYWORDS, "dist/emoji-en-US.json")[""])
    drawings = Drawings(packages)
    rows: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for done, concept in enumerate(concepts):
        for style in styles:
            picture = drawings.draw(concept, style, size)
            if picture is None:
                continue
            hue = main_hue(picture)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", compress_level=9)
            package = PACKAGE_OF[style]
            split = "held-out" if concept.held_out else "unseen-style" if unseen_style(concept, style) else "train"
            row = {
                "concept": concept.code,
                "name": concept.name,
                "keywords": list(concept.keywords),
                "category": concept.category,
                "subcategory": concept.subcategory,
                "style": style,
                "caption": f"{concept.name}, {style} style",
                "split": split,
                "colour": None if hue is None else colour_word(hue),
                "hue": hue,
                "unseen_colours": [colour for colour in COLOURS if unseen_colour(concept, colour)],
                "licence": package.licence.split(" (", maxsplit=1)[0],
                "source": f"{package.name}@{package.version}",
                "png": buffer.getvalue(),
            }
            for name, value in row.items():
                rows[name].append(value)
        if progress is not None:
            progress((done + 1) / len(concepts))
    table = pa.table({name: pa.array(values, type=_types()[name]) for name, values in rows.items()})
    about = {"genrec.corpus": json.dumps({"version": VERSION, "size": size, "styles": list(styles)})}
    out.mkdir(parents=True, exist_ok=True)
    path = out / CORPUS
    partial = out / f".{CORPUS}.partial"
    pq.write_table(table.replace_schema_metadata(about), partial, compression="zstd", row_group_size=512)
    os.replace(partial, path)
    (out / ATTRIBUTION).write_text(attribution())
    (out / README).write_text(_readme(table, size))
    logger.info("%d drawings of %d concepts", table.num_rows, len(concepts))
    return path


def read_corpus(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The corpus as an Arrow table.

    Raises:
        DataError: there is none at ``path``, or it lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / CORPUS if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"--corpus {file}: not there; build it with `python -m genrec content corpus --out {file.parent}`"
        )
    try:
        return pq.read_table(file, columns=None if columns is None else list(columns))
    except pa.ArrowException as error:
        raise DataError(f"--corpus {file}: not a corpus of this genrec ({error}); build it again") from error


def _types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    lists = dict.fromkeys(("keywords", "unseen_colours"), pa.list_(pa.string()))
    return dict.fromkeys(COLUMNS, pa.string()) | lists | {"hue": pa.float32(), "png": pa.binary()}


def attribution() -> str:
    """Who made the drawings and the words, and under which licence; it goes wherever they go."""
    lines = ["# Attribution", "", "Drawings and words of the default corpus, and of what was trained on it.", ""]
    lines += ["| package | holder | licence | source |", "|---|---|---|---|"]
    lines += [f"| {p.name} {p.version} | {p.holder} | {p.licence} | {p.source} |" for p in PACKAGES]
    lines += [
        "",
        "Twemoji is licensed under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/): give credit as above, and",
        "say that the drawings were changed: here they were put on white and brought to another size.",
    ]
    return "\n".join(lines) + "\n"


def _readme(table: pa.Table, size: int) -> str:
    counts = {split: table["split"].to_pylist().count(split) for split in ("train", "held-out", "unseen-style")}
    lines = [f"# Captioned drawings, {size} px", "", f"{table.num_rows} rows: {counts}.", ""]
    lines += ["| column | what it is |", "|---|---|", *(f"| {name} | {about} |" for name, about in COLUMNS.items())]
    return "\n".join(lines) + "\n"
