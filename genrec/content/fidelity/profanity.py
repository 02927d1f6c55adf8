"""Profane words: the linear model of alt-profanity-check (MIT), its numbers kept without pickles.

TF-IDF over single words, the mean of five linear models, each through its own sigmoid, as the package computes it
(``tests/unit/content/test_content_fidelity_models.py`` compares). Its threshold is ours: half of the titles that hold a
mild word (hell, dick) lie above .5.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from genrec.content.fidelity.text import readings

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "profanity"
WORD = re.compile(r"(?u)\b\w\w+\b")
THRESHOLD = 0.985
"""Chosen on the development half of the red-team sets and titles."""


@dataclass(frozen=True, eq=False)
class Profanity:
    """Tells how likely words are profane.

    Attributes:
        words: index of each word.
        idf_W, coefficients_5W, intercepts_5: of the models.
        slopes_5, offsets_5: of their sigmoids.
    """

    words: dict[str, int]
    idf_W: NDArray[np.float32]
    coefficients_5W: NDArray[np.float32]
    intercepts_5: NDArray[np.float32]
    slopes_5: NDArray[np.float32]
    offsets_5: NDArray[np.float32]

    @classmethod
    def load(cls, directory: Path = WEIGHTS) -> Profanity:
        """The shipped numbers."""
        words = json.loads((directory / "words.json").read_text(encoding="utf-8"))
        arrays = load_file(directory / "model.safetensors")
        return cls({word: index for index, word in enumerate(words)}, **arrays)

    def probability(self, text: str) -> float:
        """That ``text`` is profane."""
        found = [self.words[word] for word in WORD.findall(text.lower()) if word in self.words]
        margins_5 = self.intercepts_5.astype(np.float64)
        if found:
            index, counts = np.unique(found, return_counts=True)
            row = counts * self.idf_W[index].astype(np.float64)
            margins_5 = margins_5 + self.coefficients_5W[:, index] @ (row / np.linalg.norm(row))
        return float((1 / (1 + np.exp(self.slopes_5 * margins_5 + self.offsets_5))).mean())

    def found(self, text: str) -> bool:
        """Whether a line of the text, however it is spelt, is profane."""
        return any(self.probability(line) >= THRESHOLD for part in text.splitlines() for line in readings(part))
