"""Training examples of the creator: drawings as latents, the words to each, and the same drawings in other colours.

A drawing with one main hue is also shown with its hues turned to each colour word ("blue apple"), except in the
colours and styles that the corpus keeps unseen: composition can then be learned, and be measured honestly.
Everything is computed once and lies in memory; a batch is a gather.

Shapes: N examples, X texts, B batch, P patches, C components, T tokens, E text width.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genrec.content.corpus import COLOURS, STYLES, read_corpus
from genrec.content.corpus.drawings import recoloured
from genrec.content.creator.latents import PatchLatents, to_tensor
from genrec.content.creator.network import Conditions
from genrec.content.creator.words import WordEncoder, Words

logger = logging.getLogger(__name__)
STYLE_SHARES = {"3d": 0.36, "flat": 0.46, "twitter": 0.09, "google": 0.09}
COLOUR_SHARE = 0.13
RECOLOURED_STYLES = ("3d", "flat")
RARER = {"person-role": 0.4, "person-activity": 0.4, "person-sport": 0.4, "family": 0.4, "person-gesture": 0.5}


@dataclass
class Examples:
    """What is trained on.

    Attributes:
        latents_NPC: of drawings, half precision.
        style_N: index of the style.
        texts_N4: rows of ``words`` that describe the drawing; picked at random.
        taste_N: row of ``words`` whose vector stands for "something like this".
        weight_N: how often an example is drawn, summing to 1.
        words: of all texts.
    """

    latents_NPC: Tensor
    style_N: Tensor
    texts_N4: Tensor
    taste_N: Tensor
    weight_N: Tensor
    words: Words

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """Latents ``[B, P, C]`` and what they show; words, style and taste each left out at times."""
        rows = torch.multinomial(self.weight_N, size, replacement=True, generator=generator)
        text = self.texts_N4[rows, torch.randint(4, (size,), generator=generator)]
        chance = torch.rand(3, size, generator=generator)
        no_words, no_style, no_taste = chance[0] < 0.1, chance[1] < 0.1, chance[2] < 0.6
        taste = self.words.pooled_BE[self.taste_N[rows]].float()
        noise = torch.nn.functional.normalize(torch.randn(taste.shape, generator=generator), dim=-1)
        near = 0.25 + 0.5 * torch.rand(size, 1, generator=generator)
        taste = near * taste + (1 - near.square()).sqrt() * noise
        style = self.style_N[rows].masked_fill(no_style, len(STYLES))
        conditions = Conditions(
            self.words.states_BTE[text].float(),
            self.words.mask_BT[text],
            self.words.pooled_BE[text].float(),
            torch.nn.functional.normalize(taste, dim=-1) * ~no_taste[:, None],
            style,
        )
        return self.latents_NPC[rows].float(), conditions.without_words(no_words)


def load_examples(corpus: Path, latents: PatchLatents) -> Examples:
    """Examples of the corpus's training rows; fits ``latents`` to them."""
    rows = read_corpus(corpus).filter(_training(read_corpus(corpus, ["split"]))).to_pylist()
    pictures = [Image.open(io.BytesIO(row["png"])).convert("RGB") for row in rows]
    pixels = to_tensor(pictures, latents.size)
    logger.info("latents keep %.3f of the variance", latents.fit(pixels))
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    style_share = np.array([sum(row["style"] == style for row in rows) for style in STYLES])
    codes, styles, captions, tastes, weights = [latents.encode(pixels).half()], [], [], [], []
    for row in rows:
        own = number(row["name"])
        more = [number(f"{row['name']}, {', '.join(part)}") for part in _pairs(row["keywords"])]
        captions.append([own, own, own, *more, own][:4])
        tastes.append(own)
        style = STYLES.index(row["style"])
        styles.append(style)
        rare = RARER.get(row["subcategory"], 1.0)
        weights.append(rare * STYLE_SHARES[row["style"]] / style_share[style])
    plain = sum(weights)
    turned: list[Image.Image] = []
    for row, picture in zip(rows, pictures, strict=True):
        if row["hue"] is None or row["style"] not in RECOLOURED_STYLES or row["category"] == "People & Body":
            continue
        small = picture.resize((latents.size, latents.size), Image.Resampling.BOX)
        for colour in COLOURS:
            if colour in row["unseen_colours"]:
                continue
            turned.append(recoloured(small, colour, row["hue"]) if colour != row["colour"] else small)
            text = number(f"{colour} {_without_colour(row['name'])}")
            captions.append([text] * 4)
            tastes.append(number(row["name"]))
            styles.append(STYLES.index(row["style"]))
    if turned:
        codes.append(latents.encode(to_tensor(turned, latents.size)).half())
    share = COLOUR_SHARE / (1 - COLOUR_SHARE) * plain / max(len(turned), 1)
    weight = torch.tensor(weights + [share] * len(turned), dtype=torch.float32)
    words = WordEncoder()(list(texts))
    logger.info("%d drawings, %d recoloured, %d texts", len(rows), len(turned), len(texts))
    return Examples(
        torch.cat(codes),
        torch.tensor(styles),
        torch.tensor(captions),
        torch.tensor(tastes),
        weight / weight.sum(),
        Words(words.states_BTE.half(), words.mask_BT, words.pooled_BE.half()),
    )


def _training(table: object) -> object:
    import pyarrow.compute as pc

    return pc.equal(table["split"], "train")  # type: ignore[index]


def _pairs(keywords: list[str]) -> list[list[str]]:
    return [keywords[:2]] if keywords else []


def _without_colour(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if first in COLOURS and rest else name
