"""A text as the heads read it: MiniLM's token states of two layers, with where each token stands in the text.

The last layer knows what the sentence means; a middle one still knows the words and their place, which the tagger
needs.

Shape letters: T tokens, E width of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.encoders.minilm import MiniLMEncoder

MIDDLE_LAYER = 3
MAX_TOKENS = 192


@dataclass(frozen=True)
class Reading:
    """One text, read.

    Attributes:
        text: as given.
        states_TD: float32 [T, 2E], middle and last layer, special tokens left out.
        pooled_E: float32 [E], the sentence embedding, length 1.
        offsets: begin and end of each token in the text.
    """

    text: str
    states_TD: NDArray[np.float32]
    pooled_E: NDArray[np.float32]
    offsets: tuple[tuple[int, int], ...]


class Reader:
    """Reads texts with a frozen MiniLM."""

    def __init__(self, encoder: MiniLMEncoder) -> None:
        self.encoder = encoder

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Read texts in one batch; an empty text has no tokens and a zero embedding."""
        import torch

        if not texts:
            return []
        tokenizer, model, device = self.encoder._loaded
        batch = tokenizer(
            list(texts),
            truncation=True,
            max_length=MAX_TOKENS,
            padding=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets_BT2 = batch.pop("offset_mapping").tolist()
        mask_BT = batch["attention_mask"]
        with torch.inference_mode():
            hidden = model(**batch.to(device), output_hidden_states=True).hidden_states
            states_BTD = torch.cat([hidden[MIDDLE_LAYER], hidden[-1]], dim=-1).float().cpu()
        readings = []
        for row, text in enumerate(texts):
            length = int(mask_BT[row].sum())
            own = states_BTD[row, :length].numpy()
            last_TE = own[:, own.shape[1] // 2 :]
            pooled = last_TE.mean(0)
            pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12) if text.strip() else pooled * 0
            inner = slice(1, length - 1)
            places = tuple((int(begin), int(end)) for begin, end in offsets_BT2[row][inner])
            readings.append(Reading(text, np.ascontiguousarray(own[inner]), pooled.astype(np.float32), places))
        return readings
