"""What a tower learns from: drawings, each with the sentences that are true of it.

A drawing may be described by its name, its keywords, its name and style, or its name and colour; and a copy of it with
its hues turned by its name and the new colour. Sentences of two drawings of one concept can both be true of both; which
are is needed by the loss, so each sentence carries what it says: a concept, perhaps a style, perhaps a colour.

Shape letters: N pictures, H and W height and width.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genrec.content.contracts import FloatArray
from genrec.content.corpus import COLOURS, STYLES, read_corpus
from genrec.content.corpus.drawings import recoloured
from genrec.content.vision.tower import PIXELS
from genrec.encoders.minilm import MiniLMEncoder

NONE = -1
COLUMNS = ("concept", "name", "keywords", "style", "split", "colour", "hue", "unseen_colours", "png")


@dataclass(frozen=True)
class Sentence:
    """A text, and what it says of the picture besides the concept (``NONE``: nothing)."""

    text: str
    style: int = NONE
    colour: int = NONE


@dataclass
class Examples:
    """Pictures of one split.

    Attributes:
        pictures_N3HW: uint8, red green blue, white is 255.
        concept_N: index into ``names``.
        style_N: index into the corpus's styles.
        colour_N: main colour, index into its colours; ``NONE`` without one.
        turned_N: whether this is a copy with other hues.
        names: name of each concept.
        keywords: further words of each concept.
    """

    pictures_N3HW: Tensor
    concept_N: NDArray[np.int64]
    style_N: NDArray[np.int64]
    colour_N: NDArray[np.int64]
    turned_N: NDArray[np.bool_]
    names: list[str]
    keywords: list[tuple[str, ...]]
    rows_of: list[NDArray[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.concept_N, kind="stable")
        counts = np.bincount(self.concept_N, minlength=len(self.names))
        self.rows_of = np.split(order, np.cumsum(counts)[:-1])

    def sentences(self, row: int) -> list[Sentence]:
        """What may be said of a picture; the first is said most often."""
        concept, style, colour = (int(part[row]) for part in (self.concept_N, self.style_N, self.colour_N))
        name, look = self.names[concept], STYLES[style]
        coloured = f"{COLOURS[colour]} {colourless(name)}" if colour != NONE else ""
        if self.turned_N[row]:
            return [Sentence(coloured, colour=colour)]
        words = self.keywords[concept]
        said = [Sentence(name), Sentence(f"a {name}"), Sentence(f"{name}, {look} style", style)]
        if colour != NONE:
            said.append(Sentence(coloured, colour=colour))
        if words:
            said += [Sentence(", ".join(words[:4])), Sentence(", ".join([colourless(name), *words[-3:]]))]
        return said


def colourless(name: str) -> str:
    """A name without the colour words in it: "red apple" is "apple"."""
    return " ".join(word for word in name.split() if word not in COLOURS) or name


def read_examples(
    corpus: Path,
    split: str,
    *,
    wanted: Callable[[str], bool] | None = None,
    turned: int = 0,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Examples:
    """Read drawings, and make copies in other colours.

    Args:
        corpus: directory of the corpus, or its file.
        split: train or held-out.
        wanted: of which concepts; None: of all.
        turned: copies of each drawing that has a main colour, in as many other colours.
        seed: which colours.
        progress: told the share that is done.
    """
    rows = [row for row in read_corpus(corpus, COLUMNS).to_pylist() if row["split"] == split]
    rows = [row for row in rows if wanted is None or wanted(row["concept"])]
    rng = np.random.default_rng(seed)
    concepts: dict[str, int] = {}
    names: list[str] = []
    keywords: list[tuple[str, ...]] = []
    labels: list[tuple[int, int, int, bool]] = []
    pictures: list[NDArray[np.uint8]] = []
    for place, row in enumerate(rows):
        if row["concept"] not in concepts:
            concepts[row["concept"]] = len(names)
            names.append(row["name"])
            keywords.append(tuple(row["keywords"] or ()))
        concept, style = concepts[row["concept"]], STYLES.index(row["style"])
        with Image.open(io.BytesIO(row["png"]), formats=("PNG",)) as opened:
            picture = opened.convert("RGB")
        own = COLOURS.index(row["colour"]) if row["colour"] else NONE
        pictures.append(_pixels(picture))
        labels.append((concept, style, own, False))
        for colour in _other_colours(row, turned, rng):
            pictures.append(_pixels(recoloured(picture, colour, row["hue"])))
            labels.append((concept, style, COLOURS.index(colour), True))
        if progress is not None:
            progress((place + 1) / len(rows))
    columns = np.array(labels, dtype=np.int64).reshape(-1, 4)
    return Examples(
        torch.from_numpy(np.stack(pictures)) if pictures else torch.zeros(0, 3, PIXELS, PIXELS, dtype=torch.uint8),
        columns[:, 0],
        columns[:, 1],
        columns[:, 2],
        columns[:, 3].astype(bool),
        names,
        keywords,
    )


def sentence_vectors(examples: Examples, text: MiniLMEncoder) -> dict[str, FloatArray]:
    """Unit vector of all that can be said of these pictures."""
    said = {sentence.text for row in range(len(examples.concept_N)) for sentence in examples.sentences(row)}
    texts = sorted(said | set(examples.names))
    return dict(zip(texts, text.encode(texts), strict=True))


def _other_colours(row: Mapping[str, object], count: int, rng: np.random.Generator) -> list[str]:
    if not count or row["hue"] is None:
        return []
    unseen = row["unseen_colours"]
    assert isinstance(unseen, list), "a list column"
    free = [colour for colour in COLOURS if colour != row["colour"] and colour not in unseen]
    return [free[place] for place in rng.permutation(len(free))[:count]]


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.size != (PIXELS, PIXELS):
        picture = picture.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
