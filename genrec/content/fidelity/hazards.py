"""What words mean, where no rule names them: a head on MiniLM sentence embeddings, one logistic output per hazard.

Trained by ``python -m genrec content train hazards`` on the development half of the red-team prompts, the rules' own
examples and clean titles and prompts (``train_hazards.py``); the weights are shipped (``weights/hazards``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from genrec.content.fidelity.text import plain
from genrec.encoders import TextEncoder
from genrec.encoders.minilm import MiniLMEncoder
from genrec.errors import ArtifactError

NONE, DEMEANING = "none", "demeaning"
WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "hazards"


@dataclass(eq=False)
class HazardModel:
    """Tells which hazard words mean.

    Attributes:
        encoder: the sentence encoder that the head was trained on.
        hazards: names of its outputs; the first, "none", is the words that mean no harm.
        weight_HE, bias_H: of the head; probabilities are their softmax.
    """

    encoder: TextEncoder
    hazards: tuple[str, ...]
    weight_HE: NDArray[np.float32]
    bias_H: NDArray[np.float32]

    @classmethod
    def load(cls, directory: Path = WEIGHTS, encoder: TextEncoder | None = None) -> HazardModel:
        """The shipped head.

        Raises:
            ArtifactError: it was trained on another sentence encoder.
        """
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        arrays = load_file(directory / "model.safetensors")
        encoder = MiniLMEncoder() if encoder is None else encoder
        if encoder.dimension != arrays["weight"].shape[1]:
            raise ArtifactError(f"{directory}: made for sentence embeddings of {arrays['weight'].shape[1]} dimensions")
        return cls(encoder, tuple(config["hazards"]), arrays["weight"], arrays["bias"])

    def probabilities(self, texts: list[str]) -> NDArray[np.float64]:
        """Float [len(texts), H], of each hazard, "none" first."""
        rows = self.encoder.encode([plain(text) for text in texts]).astype(np.float64)
        logits = rows @ self.weight_HE.T.astype(np.float64) + self.bias_H
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return result

    def worst(self, text: str, *, demeaning: bool = False) -> tuple[str, float]:
        """The likeliest hazard among the text's lines, and the probability that there is any.

        Args:
            text: words.
            demeaning: ask for words that demean a group, which are the bias check's, and for no other hazard.
        """
        lines = [line for line in text.splitlines() if line.strip()] or [""]
        asked = [i for i, name in enumerate(self.hazards) if i and (name == DEMEANING) == demeaning]
        told = self.probabilities(lines)[:, asked]
        line = int(told.sum(axis=1).argmax())
        return self.hazards[asked[int(told[line].argmax())]], float(told[line].sum())
